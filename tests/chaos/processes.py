"""Processes of the service, to be started by the dozen and killed.

A process is forked from a server that has the service imported and nothing running: starting one takes a tenth of what
a fresh interpreter takes, and there are some fifty in the short suite. From then on it is a process like any other.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.programs import PATIENCE_S, environment

READY = {"serve": "otpsvc serves on", "worker": "otpsvc worker delivers"}

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.chaos.program"])


class Process:
    """One `otpsvc serve` or `otpsvc worker`; what it says goes to a file that all of its kind share."""

    def __init__(self, command: str, number: int, *, directory: Path, variables: Mapping[str, str]) -> None:
        self.command = command
        self.name = f"{command}-{number}"
        self.log = directory / f"{command}.log"
        with self.log.open("ab") as log:
            self._said_before = log.tell()
        self._process = _forks.Process(
            target=_become, args=(command, str(directory), str(self.log), environment(variables)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What was said in its file since it started."""
        with self.log.open("rb") as log:
            log.seek(self._said_before)
            return log.read().decode()

    @property
    def is_alive(self) -> bool:
        return self._process.exitcode is None

    async def ready(self) -> None:
        """Wait until it works; fail at once if it ends."""
        async with asyncio.timeout(PATIENCE_S):
            while READY[self.command] not in self.said:
                assert self.is_alive, self.said
                await asyncio.sleep(0.02)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; give its status, negative for a signal."""
        give_up_at = time.monotonic() + timeout_s
        while (status := self._process.exitcode) is None:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{self.name} does not end")
            await asyncio.sleep(0.02)
        return status

    def ask_to_end(self) -> None:
        """Ask it to end, as its operator does."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word; safe to call when it has ended."""
        self._process.kill()
        self._process.join(PATIENCE_S)


def _become(command: str, directory: str, log: str, variables: Mapping[str, str]) -> None:
    """Turn this fork into the command."""
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = variables.get("PYTHONPATH", "").split(":")
    said = os.open(log, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, descriptor in ((0, nothing), (1, said), (2, said)):
        os.dup2(descriptor, stream)
    sys.argv[:] = ["otpsvc", command]
    from tests.chaos.program import run

    run()
