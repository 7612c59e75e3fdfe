"""The parent's end of the guard: starting it, hearing from it, letting go of it.

The guard lives exactly as long as the pipe to it is open. The writing end must never be handed
to another process, which is why it is left to Python's default of closing it in children.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from otpsvc.embedded.identity import Identity
from otpsvc.embedded.processes import as_child, bare_environment, last_lines, script

# Longer than the guard's own waits together (20 s), after which it has killed everything.
GUARD_END_TIMEOUT_S = 25.0


@dataclass(frozen=True)
class ServerPlan:
    """What the guard needs to know about one server; signals are listed gentlest first."""

    name: str
    command: Sequence[str]
    log: str
    stop_signals: Sequence[int]
    input: str = ""


class Guard:
    """A running guard process. Not for use from several threads at once."""

    def __init__(
        self,
        plans: Sequence[ServerPlan],
        *,
        log: Path,
        lock: int,
        socket_dir: Path | None = None,
        record: Path | None = None,
    ) -> None:
        """Start the guard, and through it the servers. It shares the lock until it has ended.

        At the end it removes ``socket_dir``; while servers run, ``record`` says which.
        """
        self._log = log
        self._unread = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*script("guard.py"), *([] if socket_dir is None else [str(socket_dir)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                env=bare_environment(),
                pass_fds=(lock,),
                # Ctrl-C goes to the whole foreground group; the servers must outlast the service.
                start_new_session=True,
                bufsize=0,
            )
        plan = {
            "parent_pid": os.getpid(),
            "record": None if record is None else str(record),
            "servers": [asdict(server) for server in plans],
        }
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(plan).encode() + b"\n")

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def next_answer(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the guard's next answer, or None when there is none within the time.

        A guard that has gone answers ``{"ended": "guard", "status": …}``.
        """
        stream = self._process.stdout
        if stream is None or stream.closed:
            return None
        if b"\n" not in self._unread:
            readable, _, _ = select.select([stream], [], [], timeout_s)
            if not readable:
                return None
            read = stream.read(65536)
            if not read:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(GUARD_END_TIMEOUT_S)
                return {"ended": "guard", "status": self._process.returncode}
            self._unread += read
        line, found, rest = self._unread.partition(b"\n")
        if not found:
            return None
        self._unread = rest
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_words(self) -> str:
        """Return the end of what the guard wrote about its own failure."""
        return last_lines(self._log)

    def let_go(self) -> None:
        """Have the guard end the servers and itself, and wait for that; it is bounded."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(GUARD_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(GUARD_END_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


def run_to_end(
    command: Sequence[str],
    identity: Identity,
    *,
    log: Path,
    lock: int,
    timeout_s: float,
    text: str = "",
) -> int | None:
    """Run a short-lived program with ``text`` as its input and its output added to ``log``.

    Returns its exit status, or None when it was killed at the time-out. It is guarded as the
    servers are, because initdb's own children would outlive a killed initdb.
    """
    kill = (signal.SIGKILL,) * 3
    plan = ServerPlan("program", as_child(command, identity, signal.SIGKILL), str(log), kill, text)
    guard = Guard([plan], log=log, lock=lock)
    give_up_at = time.monotonic() + timeout_s
    try:
        while (left_s := give_up_at - time.monotonic()) > 0:
            answer = guard.next_answer(left_s)
            if answer is not None and "ended" in answer:
                status: int = answer["status"]
                return status
        return None
    finally:
        guard.let_go()
