#!/usr/bin/env python3
"""The way from a fresh clone to a running command, for `make` and for people without it.

It takes the newest Python that really works, keeps one virtual environment in this checkout exactly
as the lock files in `requirements/` say, and then turns into the command that was asked for.

Never in this file: anything outside the standard library, syntax newer than Python 3.6 (an old
Python must get far enough to find a newer one, hence the quoted annotations), or a write outside
`.venv*`.
"""

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from find_python import (
    NO_VENV,
    SUPPORTED,
    USABLE,
    CannotGoOnError,
    Python,
    all_pythons,
    named_python,
    newest_python,
    probe,
)

try:
    import fcntl
except ImportError:
    sys.exit("error: otpsvc runs on Linux and macOS only; on Windows, run it inside WSL 2")

ROOT = Path(__file__).resolve().parent


def requirements(lock: str) -> Path:
    """Give the path of a lock file."""
    return ROOT / "requirements" / f"{lock}.txt"


def digest(lock: str) -> str:
    """Fingerprint everything that an installation depends on."""
    content = requirements(lock).read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(content).hexdigest()


class Environment:
    """A virtual environment of this checkout, and what is known to be in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stamp = home / "otpsvc-installed.json"
        self.unfinished = home / "otpsvc-unfinished"
        self.log = home / "install.log"

    def command(self, name: str) -> str:
        """Give the path of a program in it."""
        return str(self.home / "bin" / name)

    def recorded(self) -> "dict[str, Any]":
        """Read what the last finished installation wrote down."""
        try:
            return dict(json.loads(self.stamp.read_text()))
        except (OSError, ValueError):
            return {}

    def is_sound(self, wanted: "Python | None") -> bool:
        """Say whether to keep it: finished, not moved, its pip there, its Python the right one."""
        if self.unfinished.exists() or not list(self.home.glob("lib/*/site-packages/pip/__main__.py")):
            return False
        if self.recorded().get("home", str(self.home)) != str(self.home):
            return False
        its = probe(self.command("python"))
        is_wanted = not wanted or os.path.realpath(its.path) == os.path.realpath(wanted.path)
        return is_wanted and its.verdict in (USABLE, NO_VENV)

    def holds(self, lock: str) -> bool:
        """Say whether this lock, or `dev` which contains `run`, is installed as it now reads."""
        done = self.recorded().get("done", {})
        enough = [lock, "dev"] if lock == "run" else [lock]
        return any(done.get(name) == digest(name) for name in enough)

    def make(self, base: Python, lock_fd: int) -> None:
        """Make it anew. It counts as unfinished until the first installation has ended."""
        if os.path.lexists(str(self.home)):
            ours = (self.home / "pyvenv.cfg").exists() or self.unfinished.exists()
            if self.home.is_symlink() or not ours:
                raise CannotGoOnError(f"{self.home} is not a virtual environment: move it away")
            shutil.rmtree(str(self.home))
        self.home.mkdir()
        self.unfinished.touch()
        status, said = listen([base.path, "-I", "-m", "venv", str(self.home)], lock_fd)
        if status:
            self.log.write_text(said)
            raise CannotGoOnError(f"{base.label} could not make {self.home}; see {self.log}")

    def install(self, lock: str, lock_fd: int) -> None:
        """Bring it to what the lock says: hashes checked, wheels only; then the project itself."""
        started = time.monotonic()
        if self.recorded():
            say(f"bringing {self.home.name} up to date: at most {announced(lock)}")
        else:
            say(f"installing {announced(lock)} into {self.home.name}: once, about a minute")
        self.unfinished.touch()
        pip = [self.command("python"), "-I", "-m", "pip", "install", "--log", str(self.log)]
        steps = [["--require-hashes", "--only-binary", ":all:", "-r", str(requirements(lock))]]
        if lock != "lock":
            steps.append(["--no-index", "--no-deps", "--no-build-isolation", "-e", str(ROOT)])
        for step in steps:
            with contextlib.suppress(FileNotFoundError):
                self.log.unlink()
            status, said = listen(pip + step, lock_fd)
            if status:
                self.unfinished.unlink()  # pip takes back what it began; only a kill leaves halves
                raise CannotGoOnError(explain(said, self.log))
        # A lock that has changed since it was installed is no longer held, even if it changes back.
        done = {name: was for name, was in self.recorded().get("done", {}).items() if was == digest(name)}
        done[lock] = digest(lock)
        self.stamp.write_text(json.dumps({"home": str(self.home), "done": done}))
        self.unfinished.unlink()
        say(f"done in {time.monotonic() - started:.0f} s")


def search_path() -> str:
    """Say where programs are looked for."""
    return os.environ.get("PATH", os.defpath)


def announced(lock: str) -> str:
    """Say what an installation will download, from the first line of its lock file."""
    text = requirements(lock).read_text()
    size = re.match(r"# (\d+ packages?), (about \d+ MB)", text)
    return "{} ({})".format(*size.groups()) if size else f"the packages of requirements/{lock}.txt"


def say(text: str) -> None:
    """Tell the person what is going on, at once even when stdout is a pipe."""
    print(text, flush=True)


def listen(command: "list[str]", lock_fd: int) -> "tuple[int, str]":
    """Run a step of the installation, counting packages on a terminal; return status and output.

    The step inherits the lock: should we be killed, nobody else starts before it has ended.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock_fd,),
    )
    said = []
    try:
        for raw in process.stdout or ():
            said.append(raw.decode(errors="replace"))
            if sys.stdout.isatty() and said[-1].startswith("Collecting "):
                count = sum(line.startswith("Collecting ") for line in said)
                print(f"  {count} {said[-1].split()[1]:<60.60}", end="\r", flush=True)
        return process.wait(), "".join(said)
    finally:
        if sys.stdout.isatty():
            print(" " * 70, end="\r")
        if process.poll() is None:
            process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def explain(said: str, log: Path) -> str:
    """Turn pip's failure into one clear line."""
    words = said + (log.read_text(errors="replace") if log.exists() else "")
    missing = re.search(r"No matching distribution found for (\S+)", words)
    errors = re.findall(r"ERROR: (.+)", words) or [said.strip()[-200:] or "pip said nothing"]
    if "DO NOT MATCH THE HASHES" in words:
        line = "a downloaded package is not the one in the lock (its hash differs): not installed"
    elif re.search(r"Retrying \(Retry|ConnectionPool|Could not fetch URL (?!.*: 404 )", words):
        tried = re.search(r"Looking in indexes: (.+)", words)
        where = "tried " + tried.group(1).strip() if tried else "tried pip's default one"
        line = f"could not reach the package index ({where}): installing needs the network, "
        line += "a mirror (PIP_INDEX_URL) or a directory with the wheels (PIP_FIND_LINKS)"
    elif missing:
        line = f"no ready-made package of {missing.group(1)} for this machine; needed: {SUPPORTED}"
    else:
        line = f"pip failed: {errors[-1]}"
    return f"{line}\n  pip's own words: {log}"


@contextlib.contextmanager
def alone() -> "Iterator[int]":
    """Let one installation at a time work in this checkout; the lock ends with its holders."""
    with Path(__file__).open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another installation is under way in this checkout: waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield held.fileno()


def ready(lock: str) -> Environment:
    """Return an environment that holds the lock, touching nothing if it already does."""
    name = os.environ.get("PYTHON")
    wanted = named_python(name) if name else None
    suffix = "-{}.{}".format(*wanted.version) if wanted else ""
    environment = Environment(ROOT / (".venv-lock" if lock == "lock" else f".venv{suffix}"))
    with alone() as lock_fd:
        is_sound = environment.is_sound(wanted)
        if not is_sound:
            environment.make(wanted or newest_python(search_path()), lock_fd)
        if not is_sound or not environment.holds(lock):
            environment.install(lock, lock_fd)
    return environment


def become(program: str, *arguments: str) -> None:
    """Turn into the program, so that signals and exit statuses are its own."""
    os.chdir(str(ROOT))
    os.execv(program, [program, *arguments])  # noqa: S606 - this is what the file is for


def run(arguments: "list[str]") -> None:
    """Start the service with its own stores (PORT=9000 moves it)."""
    become(ready("run").command("otpsvc"), "dev", *arguments)


def test(arguments: "list[str]") -> None:
    """Run the tests; arguments go to pytest."""
    # One more than a small machine has cores: half of the time a test waits for a store, a process or a deadline.
    workers = str(min(4, max(3, os.cpu_count() or 1)))
    become(ready("dev").command("python"), "-m", "pytest", "-n", workers, *arguments)


def lint(arguments: "list[str]") -> None:
    """Check style, format and types."""
    environment = ready("dev")
    checks = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
    failed = []
    for check_command in checks:
        program = environment.command(check_command[0])
        if subprocess.call([program, *check_command[1:], *arguments], cwd=str(ROOT)):
            failed.append(" ".join(check_command))
    if failed:
        raise CannotGoOnError("failed: " + ", ".join(failed))


def check(arguments: "list[str]") -> None:
    """Lint, then test."""
    lint([])
    test(arguments)


def bench(arguments: "list[str]") -> None:
    """Measure send and verify against a no-op route of the same server."""
    become(ready("dev").command("python"), "-m", "benchmarks", *arguments)


def chaos(arguments: "list[str]") -> None:
    """Kill every process at every step, cut and stop the stores: the long form, about half an hour."""
    become(ready("dev").command("python"), "-m", "pytest", "-m", "chaos", *arguments)


def soak(arguments: "list[str]") -> None:
    """Send ten million codes (--codes N for fewer) and see that nothing grows."""
    become(ready("dev").command("python"), "-m", "tests.soak", *(arguments or ["--codes", "10000000"]))


def install(arguments: "list[str]") -> None:
    """Install what `run` needs, or with `dev` what the tests need, and stop there."""
    lock = (arguments or ["run"])[0]
    if lock not in ("run", "dev"):
        raise CannotGoOnError(f"install knows run and dev, not {lock}")
    say(f"ready: {ready(lock).home}")


def lock(arguments: "list[str]") -> None:
    """Write requirements/ anew from pyproject.toml; --upgrade takes the newest versions."""
    become(ready("lock").command("python"), "requirements/lock.py", *arguments)


def pythons(_: "list[str]") -> None:
    """List the Pythons that would do, the newest first."""
    for python in all_pythons(search_path()):
        if python.verdict == USABLE:
            say("{} {}".format(".".join(map(str, python.version)), python.path))


COMMANDS = {
    command.__name__: command for command in (run, test, check, lint, bench, chaos, soak, lock, install, pythons)
}


def end_with_make() -> None:
    """Have Linux end us when the make that started us is killed, also as what we turn into.

    The Makefile tells its process id; `otpsvc dev` watches the same variable, which also covers
    other systems and a shell in between.
    """
    make = os.environ.get("OTPSVC_PARENT_PID")
    if make != str(os.getppid()) or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):
        set_parent_death_signal = 1
        libc = importlib.import_module("ctypes").CDLL(None)
        libc.prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)
    if str(os.getppid()) != make:
        sys.exit("error: make ended")


def prepare_environ() -> None:
    """Take away what would bend the environment or pip's work, and let neither ask or wait long."""
    for name in ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
        os.environ.pop(name, None)
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"):
        os.environ.pop(name, None)
    os.environ.update(PIP_USER="0", PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    os.environ.setdefault("PIP_RETRIES", "2")


def main(arguments: "list[str]") -> int:
    """Do what the first argument says; return the exit status if it comes back."""
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: python3 bootstrap.py COMMAND [ARGUMENTS]\n")
        for name, command in COMMANDS.items():
            print("  {:<8} {}".format(name, (command.__doc__ or "").splitlines()[0]))
        return 0 if arguments[:1] in ([], ["help"], ["--help"], ["-h"]) else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end_with_make()
    prepare_environ()
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except CannotGoOnError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
