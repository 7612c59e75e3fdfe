"""A cable between a pool and PostgreSQL that a test can cut or let hang."""

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit


class Cable:
    """A relay between the pool and the server's socket: plugged in, cut (refuses), or hung (says nothing)."""

    def __init__(self, server_socket: Path, directory: Path) -> None:
        self._server_socket = server_socket
        self.directory = directory
        self._socket = directory / server_socket.name
        self._relays: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._is_swallowing = asyncio.Event()

    async def plug_in(self) -> None:
        self._flows.set()
        self._listener = await asyncio.start_unix_server(self._relay, self._socket)

    def hang(self) -> None:
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    def lose_what_comes(self) -> None:
        """Let the connections of now swallow all that the server says; later ones are not harmed."""
        self._is_swallowing.set()
        self._is_swallowing = asyncio.Event()

    async def cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._socket.unlink(missing_ok=True)
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._carry(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._server_socket)
        try:
            ways = [
                asyncio.create_task(self._copy(reader, to_server)),
                asyncio.create_task(self._copy(from_server, writer, self._is_swallowing)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in (writer, to_server):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_swallowing: asyncio.Event | None = None
    ) -> None:
        while data := await reader.read(65_536):
            await self._flows.wait()
            if is_swallowing is not None and is_swallowing.is_set():
                continue
            writer.write(data)
            await writer.drain()


def address_over(cable: Cable, database_url: str) -> str:
    """The address of the same database at the near end of the cable."""
    parts = urlsplit(database_url)
    port = parse_qs(parts.query)["port"][0]
    return f"postgresql://{parts.netloc}{parts.path}?host={quote(str(cable.directory))}&port={port}"


def server_socket(database_url: str) -> Path:
    """The socket file of a server."""
    query = parse_qs(urlsplit(database_url).query)
    return Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"
