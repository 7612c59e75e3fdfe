"""A way to the store that loses an answer when told to: the call arrives and runs, the connection ends instead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LossyWay:
    """Forwards bytes both ways. While `to_lose` is above zero, the next script calls lose their answers."""

    def __init__(self, store_socket: str) -> None:
        self._store_socket = store_socket
        self.to_lose = 0
        self.lost = 0
        self.connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a new connection on."""
        self.connections.add(asyncio.create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be one connection."""
        store_reader, store_writer = await asyncio.open_unix_connection(self._store_socket)
        is_losing = False

        async def forth() -> None:
            nonlocal is_losing
            while data := await reader.read(65_536):
                if b"EVALSHA" in data and self.to_lose:
                    self.to_lose -= 1
                    is_losing = True
                store_writer.write(data)

        async def back() -> None:
            while data := await store_reader.read(65_536):
                if is_losing:
                    self.lost += 1
                    return
                writer.write(data)

        ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, store_writer):
                end.close()
                await asyncio.gather(end.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def lossy_way(redis_url: str, folder: Path) -> AsyncIterator[tuple[LossyWay, str]]:
    """Give a lossy way and the address to reach the store through it."""
    socket = folder / "w.sock"
    way = LossyWay(unquote(urlsplit(redis_url).path))
    async with await asyncio.start_unix_server(way.accept, socket):
        yield way, f"unix://{socket}"
        await asyncio.gather(*way.connections)
