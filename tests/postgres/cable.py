"""A wire to PostgreSQL that a test can cut at any step: before the server hears it, or before it can answer."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path


class Cable:
    """Passes everything on. `cut_at` is how many more things the client may say; `is_heard`: is the last one heard?"""

    def __init__(self, server: str) -> None:
        self._server = server
        self.n_said = 0
        self.cut_at: int | None = None
        self.is_heard = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        except OSError:
            writer.close()
            return
        answers = asyncio.create_task(self._pass_back(server_reader, writer))
        try:
            while said := await reader.read(65536):
                self.n_said += 1
                is_cut = self.cut_at is not None and self.n_said > self.cut_at
                if is_cut and self.is_heard:
                    answers.cancel()
                    await asyncio.gather(answers, return_exceptions=True)
                    server_writer.write(said)
                    # Heard and done: the server closes when it finds nobody there.
                    server_writer.write_eof()
                    while await server_reader.read(65536):
                        pass
                if is_cut:
                    break
                server_writer.write(said)
                await server_writer.drain()
        except OSError:
            pass
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            for end in (writer, server_writer):
                end.close()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while answer := await reader.read(65536):
                writer.write(answer)
                await writer.drain()
            writer.close()


@contextlib.asynccontextmanager
async def open_cable(database_url: str, directory: Path) -> AsyncIterator[tuple[Cable, str]]:
    """Lay a cable to a server on a unix socket; give it and the address at its near end."""
    host = re.search(r"host=([^&]+)", database_url)
    port = re.search(r"port=(\d+)", database_url)
    assert host
    assert port
    name = f".s.PGSQL.{port[1]}"
    cable = Cable(f"{host[1]}/{name}")
    listener = await asyncio.start_unix_server(cable.serve, directory / name)
    try:
        yield cable, database_url.replace(host[1], str(directory))
    finally:
        listener.close()
        await listener.wait_closed()
