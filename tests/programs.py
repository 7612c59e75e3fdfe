"""The command `otpsvc` as a process of its own: started, listened to, ended, and looked for when it should be gone."""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE_S = 60.0
KEYRING = "one:" + "0123456789abcdef" * 4
# Where the services of this test process count; left in the default place, their files would stay there.
METRICS = tempfile.mkdtemp(prefix="otpsvc-tests-")
atexit.register(shutil.rmtree, METRICS, ignore_errors=True)


class Program:
    """One running `otpsvc …`; what it says goes to files beside `directory`, so that no pipe ever fills."""

    def __init__(self, *arguments: str, directory: Path, variables: Mapping[str, str] | None = None) -> None:
        self._stdout, self._stderr = directory / "stdout.txt", directory / "stderr.txt"
        directory.mkdir(parents=True, exist_ok=True)
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "otpsvc", *arguments],
                cwd=directory,
                env=environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait_to_say(self, words: str) -> None:
        """Wait until it has said `words`; fail at once if it ends without."""
        wait_until(lambda: words in self.stdout + self.stderr or self.process.poll() is not None, f"{words!r}")
        assert words in self.stdout + self.stderr, self.stdout + self.stderr

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the status it ends with."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return the status it ends with."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it in any case; safe to call when it has ended."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


def production(redis_url: str, database_url: str) -> dict[str, str]:
    """The environment of a production process, on a port of its own."""
    return {
        "OTPSVC_REDIS_URL": redis_url,
        "OTPSVC_DATABASE_URL": database_url,
        "OTPSVC_KEYS_MASTERS": KEYRING,
        "OTPSVC_HTTP_PORT": str(free_port()),
        "OTPSVC_METRICS_DIRECTORY": METRICS,
    }


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without what could set up the service, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTPSVC_") and name != "PORT"}
    return {**kept, **(variables or {})}


def wait_until(is_so: Callable[[], bool], what: str = "it") -> None:
    """Wait for something that must come true."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"waited {PATIENCE_S:.0f} s for {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> set[int]:
    """The processes that one started, and those that they started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def is_running(pid: int) -> bool:
    """Say whether a process is there and not merely waiting to be counted."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2][:1] != "Z"
    except OSError:
        return False


def working_in(directory: Path) -> dict[int, str]:
    """The processes whose command line names something in this directory, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(") ")[2][:1]
            except OSError:
                continue
            if f"{directory}/" in command and state != "Z":
                found[int(entry.name)] = command
    return found
