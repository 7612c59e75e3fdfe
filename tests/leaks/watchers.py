"""What only shows while it happens: commands that Redis sees, queries under way, and the arguments of processes."""

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import asyncpg

from tests.programs import descendants

_LOOK_EVERY_S = 0.05


class Watcher:
    """Something that looks all the time, in a thread of its own, for the body of a `with`."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no more; a second call does nothing."""
        self._stopping.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Look once, now."""
        raise NotImplementedError


class Monitor(Watcher):
    """Writes down every command that Redis runs, also those of scripts."""

    def __init__(self, redis_url: str, path: Path) -> None:
        super().__init__()
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(unquote(urlsplit(redis_url).path))
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"

    def _run(self) -> None:
        with self._socket, self.path.open("wb") as file:
            while data := self._socket.recv(1 << 20):
                file.write(data)
                file.flush()

    def stop(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        super().stop()


class Queries(Watcher):
    """Remembers the text of every query that PostgreSQL was seen to run."""

    def __init__(self, database_url: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self._url = database_url

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            while not self._stopping.is_set():
                # The parameters of a query are no part of its text here; whoever puts a value into the text is seen.
                rows = await connection.fetch("SELECT query FROM pg_stat_activity")
                self.seen.update(row["query"] for row in rows if row["query"])
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            await connection.close()


class Processes(Watcher):
    """Remembers the arguments and the environment of every process that we started, and of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, set[bytes]] = {}

    def look(self) -> None:
        """Look at all of them."""
        for pid in descendants(os.getpid()):
            place = Path("/proc") / str(pid)
            with contextlib.suppress(OSError):
                self.seen.setdefault(pid, set()).update(
                    (place / name).read_bytes().replace(b"\0", b"\n") for name in ("cmdline", "environ", "comm")
                )
