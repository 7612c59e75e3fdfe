"""Servers that a test may stop, starve, kill and promote: each a process of its own, ended when its block ends.

The servers that all tests share (tests/conftest.py) must never be treated like that. Should the test process die, the
kernel ends these too.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from otpsvc.embedded.binaries import find_binaries
from otpsvc.embedded.child import PARENT_PID
from otpsvc.embedded.identity import Identity
from otpsvc.embedded.processes import as_child, bare_environment
from tests.programs import free_port

PATIENCE_S = 60.0
_APPEND_ONLY, _KEPT = "appendonlydir", "kept"
PRIMARY = "store"  # the name under which the sentinels know the primary
SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "enable-debug-command": "local",
    "repl-diskless-sync-delay": "0",
    "logfile": "log.txt",
}


class Server:
    """One Valkey on a port and on a unix socket. What it knows is kept in `folder` over a restart."""

    def __init__(self, folder: Path, arguments: list[str], port: int) -> None:
        self.folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = arguments
        # The library's types allow for answers of every kind of server.
        self.raw: Any = redis.asyncio.Redis(port=port)

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 's.sock'}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Run it; return when it answers."""
        me = Identity("own", os.getuid(), os.getgid())
        self.process = subprocess.Popen(  # noqa: ASYNC220 - begun in a moment, and a kill must not need the loop
            as_child(self._arguments, me, signal.SIGKILL),
            cwd=self.folder,
            env={**bare_environment(), PARENT_PID: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await until(self.answers, f"the server on port {self.port}")

    async def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log.txt").read_text()
        try:
            return bool(await self.raw.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        """End it as a crash would; safe to call when it has ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Take all its processor time away: what is sent to it waits."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self) -> None:
        """Crash it and let it read its append-only file."""
        self.kill()
        await self.start()

    def remember(self) -> None:
        """Put aside what its append-only file holds now; to be called while nobody writes."""
        shutil.rmtree(self.folder / _KEPT, ignore_errors=True)
        shutil.copytree(self.folder / _APPEND_ONLY, self.folder / _KEPT)

    async def lose_the_rest(self) -> None:
        """Crash it and let it read what was put aside: what it wrote since has never reached the disk."""
        self.kill()
        shutil.rmtree(self.folder / _APPEND_ONLY)
        shutil.copytree(self.folder / _KEPT, self.folder / _APPEND_ONLY)
        await self.start()

    async def close(self) -> None:
        self.kill()
        await self.raw.aclose()


@asynccontextmanager
async def running(**settings: str) -> AsyncIterator[Server]:
    """Run one server, with these settings beside the usual ones (an underscore stands for a hyphen)."""
    with tempfile.TemporaryDirectory(prefix="otp") as name:
        port = free_port()
        given = SETTINGS | {"port": str(port), "unixsocket": "s.sock", "dir": name}
        given |= {key.replace("_", "-"): value for key, value in settings.items()}
        words = [word for key, value in given.items() for word in (f"--{key}", *(value.split() or [""]))]
        server = Server(Path(name), [str(find_binaries().valkey_server), *words], port)
        try:
            await server.start()
            yield server
        finally:
            await server.close()


@asynccontextmanager
async def replica_of(primary: Server, **settings: str) -> AsyncIterator[Server]:
    """Run a server that follows another; when the block begins it has all on its disk that the other has."""
    async with running(**settings) as server, primary.raw.client() as asking:
        await server.raw.replicaof("127.0.0.1", str(primary.port))

        async def is_in_step() -> bool:
            await asking.set("anything", "")  # a wait looks at what its own connection wrote last
            await asking.delete("anything")
            return bool((await asking.waitaof(0, 1, 100))[1] == 1)

        await until(is_in_step, "the replica to be in step")
        yield server


@asynccontextmanager
async def sentinels_of(primary: Server, number: int = 1, *, settings: str = "") -> AsyncIterator[list[Server]]:
    """Run sentinels that promote the replica when a majority of them misses the primary for half a second."""
    async with AsyncExitStack() as stack:
        running_ones = []
        for _ in range(number):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="otp")))
            port = free_port()
            (folder / "sentinel.conf").write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile log.txt\n{settings}\n"
                f"sentinel monitor {PRIMARY} 127.0.0.1 {primary.port} {number // 2 + 1}\n"
                f"sentinel down-after-milliseconds {PRIMARY} 500\n"
                f"sentinel failover-timeout {PRIMARY} 3000\n"
            )
            server = Server(folder, [str(find_binaries().valkey_server), "sentinel.conf", "--sentinel"], port)
            stack.push_async_callback(server.close)
            if "requirepass" in settings:
                server.raw = redis.asyncio.Redis(port=port, password=settings.split()[1])
            await server.start()
            running_ones.append(server)

        async def know_all() -> bool:
            states = [await server.raw.sentinel_master(PRIMARY, return_responses=True) for server in running_ones]
            return all(state["num-slaves"] == 1 and state["num-other-sentinels"] == number - 1 for state in states)

        await until(know_all, "the sentinels to know each other and the replica")
        yield running_ones


def sentinel_url(*ports: int, login: str = "", query: str = "") -> str:
    """The address of the primary behind these sentinels."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis+sentinel://{login}{hosts}/{PRIMARY}{query}"


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for something that must come true."""
    give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
    while not await is_so():
        assert asyncio.get_running_loop().time() < give_up_at, f"waited {PATIENCE_S:.0f} s for {what}"
        await asyncio.sleep(0.02)
