"""How the servers' processes are started, and how a process of an earlier run is recognised.

A process that this run did not start may be signalled only after its command line was seen to
name our data directory: process ids are used again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from otpsvc.embedded.identity import Identity

_HERE = Path(__file__).resolve().parent
_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def script(name: str) -> list[str]:
    """Return the start of a command that runs one of this package's plain scripts quickly."""
    return [sys.executable, "-I", "-S", str(_HERE / name)]


def as_child(command: Sequence[str], identity: Identity, death_signal: int) -> list[str]:
    """Return ``command`` wrapped so that it runs under ``identity`` and ends with its parent."""
    spec = {
        "death_signal": int(death_signal),
        "kind": identity.kind,
        "uid": identity.uid,
        "gid": identity.gid,
    }
    return [*script("child.py"), json.dumps(spec), *command]


def bare_environment() -> dict[str, str]:
    """Return the few variables a server may see: none of our secrets, no PG* settings."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def command_line(pid: int) -> str:
    """Return the command line of a live process, or an empty string when there is none.

    A dead process that its parent did not collect yet has none either.
    """
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""
    listed = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return listed.stdout.strip()


def is_running(pid: int) -> bool:
    """Say whether a live process has this id."""
    return bool(command_line(pid))


def end_process(pid: int, mark: str, steps: Iterable[tuple[int, float]]) -> bool:
    """End a process that is not our child, if its command line holds ``mark``.

    ``steps`` are signals with the seconds to wait after each. Returns whether it is gone.
    """
    for number, wait_s in steps:
        if mark not in command_line(pid):
            return True
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        give_up_at = time.monotonic() + wait_s
        while mark in command_line(pid) and time.monotonic() < give_up_at:
            time.sleep(0.02)
    return mark not in command_line(pid)


def last_lines(log: Path, count: int = 8) -> str:
    """Return the end of a log, indented, to be shown below an error."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except OSError:
        lines = []
    return "".join(f"\n    {line}" for line in lines)
