"""From clone to running command, with real environments, real pip and real make.

The checkout is a small stand-in that needs no network: our bootstrap and Makefile around a project
without dependencies whose `otpsvc` notes how it was started and ended.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap import Environment
from find_python import probe

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 60
UNREACHABLE = "http://someone:secret@127.0.0.1:9/simple"

BACKEND = """
import zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    info, name = "otpsvc-1.dist-info", "otpsvc-1-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.write("service.py")
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: otpsvc\\nVersion: 1\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/entry_points.txt", "[console_scripts]\\notpsvc = service:main\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""
SERVICE = """
import json, os, pathlib, signal, sys, time

def main():
    notes = pathlib.Path("notes.json")
    def end(*_):
        notes.with_suffix(".ended").touch()
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    keep = ("PORT", "OTPSVC_PARENT_PID")
    told = {"pid": os.getpid(), "argv": sys.argv[1:], "env": {name: os.environ.get(name) for name in keep}}
    notes.with_suffix(".new").write_text(json.dumps(told))
    notes.with_suffix(".new").rename(notes)
    if "--stay" in sys.argv:
        time.sleep(60)
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


class Checkout:
    """A stand-in checkout and ways to start things in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.notes = root / "notes.json"
        bin_dir = root / "bin"
        bin_dir.mkdir(parents=True)
        for name in ("bootstrap.py", "find_python.py", "Makefile"):
            shutil.copy(ROOT / name, root)
        (root / "requirements").mkdir()
        for lock in ("run", "dev"):
            (root / "requirements" / f"{lock}.txt").write_text("# 0 packages, about 0 MB to download.\n")
        for name, text in {"backend.py": BACKEND, "service.py": SERVICE, "pyproject.toml": PYPROJECT}.items():
            (root / name).write_text(text)
        # make and its shell come from the system, Python only from here.
        for program in ("make", "sh", "awk", "echo"):
            found = shutil.which(program)
            assert found, f"{program} is needed by these tests"
            (bin_dir / program).symlink_to(found)
        base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        python = bin_dir / "python3"
        python.write_text(f'#!{shutil.which("sh")}\nexec "{base}" "$@"\n')
        python.chmod(0o755)
        self.env = {"PATH": str(bin_dir), "HOME": str(root), "PIP_CONFIG_FILE": os.devnull}

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        """Start a command in it, with one output for all it says."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *command: str, **env: str) -> tuple[int, str]:
        """Run a command in it to its end; return its status and what it said."""
        with self.start(*command, **env) as process:
            said, _ = process.communicate(timeout=DEADLINE_S)
        return process.returncode, said

    def bootstrap(self, *arguments: str, **env: str) -> tuple[int, str]:
        """Run its bootstrap."""
        return self.call(str(self.root / "bin" / "python3"), "bootstrap.py", *arguments, **env)

    def lock(self, name: str, text: str) -> None:
        """Replace one of its lock files."""
        (self.root / "requirements" / f"{name}.txt").write_text(text)


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds; fail if it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("clone") / "otpsvc")
    status, said = checkout.bootstrap("install")
    assert status == 0, said
    assert said.splitlines()[0] == ("installing 0 packages (about 0 MB) into .venv: once, about a minute")
    assert "done in" in said
    return checkout


@pytest.fixture
def checkout(installed: Checkout) -> Iterator[Checkout]:
    installed.notes.unlink(missing_ok=True)
    installed.notes.with_suffix(".ended").unlink(missing_ok=True)
    yield installed
    for lock in ("run", "dev"):
        installed.lock(lock, "# 0 packages, about 0 MB to download.\n")


def test_a_second_run_touches_nothing_and_needs_no_network(checkout: Checkout) -> None:
    before = (checkout.venv / "otpsvc-installed.json").stat().st_mtime_ns
    status, said = checkout.bootstrap("install", PIP_INDEX_URL=UNREACHABLE)
    assert (status, said) == (0, f"ready: {checkout.venv}\n")
    assert (checkout.venv / "otpsvc-installed.json").stat().st_mtime_ns == before


def test_run_becomes_the_service_with_its_arguments_and_environment(checkout: Checkout) -> None:
    with checkout.start("python3", "bootstrap.py", "run", "--once", PORT="9000") as process:
        process.communicate(timeout=DEADLINE_S)
    told = json.loads(checkout.notes.read_text())
    assert told["argv"] == ["dev", "--once"]
    assert told["pid"] == process.pid
    assert told["env"] == {"PORT": "9000", "OTPSVC_PARENT_PID": None}


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_make_hands_the_port_on(checkout: Checkout, how: str) -> None:
    if how == "environment":
        status, said = checkout.call("make", "run", PORT="9000")
    else:
        status, said = checkout.call("make", "run", "PORT=9000")
    assert status == 0, said
    assert json.loads(checkout.notes.read_text())["env"]["PORT"] == "9000"


def test_the_service_ends_when_make_is_killed(checkout: Checkout) -> None:
    make = checkout.start("make", "run", "ARGS=--stay")
    with make:
        eventually(checkout.notes.exists)
        assert json.loads(checkout.notes.read_text())["env"]["OTPSVC_PARENT_PID"] == str(make.pid)
        make.kill()
    if sys.platform.startswith("linux"):
        eventually(checkout.notes.with_suffix(".ended").exists)
    else:
        os.kill(json.loads(checkout.notes.read_text())["pid"], signal.SIGTERM)


def test_make_ends_when_the_service_is_killed(checkout: Checkout) -> None:
    with checkout.start("make", "run", "ARGS=--stay") as make:
        eventually(checkout.notes.exists)
        os.kill(json.loads(checkout.notes.read_text())["pid"], signal.SIGKILL)
        make.communicate(timeout=DEADLINE_S)
    assert make.returncode != 0


def test_an_environment_that_was_left_half_made_is_made_again(checkout: Checkout) -> None:
    (checkout.venv / "otpsvc-unfinished").touch()
    (checkout.venv / "rubbish").touch()
    status, said = checkout.bootstrap("install")
    assert status == 0
    assert "done in" in said
    assert not (checkout.venv / "rubbish").exists()
    assert not (checkout.venv / "otpsvc-unfinished").exists()


def test_an_environment_is_kept_only_while_it_is_whole_and_here(checkout: Checkout) -> None:
    environment = Environment(checkout.venv)
    assert environment.is_sound(None)
    assert not environment.is_sound(probe(sys.executable)._replace(path="/another/python3"))
    python, stamp = checkout.venv / "bin" / "python", checkout.venv / "otpsvc-installed.json"
    was_python, was_stamp = python.readlink(), stamp.read_text()
    python.unlink()
    python.symlink_to(checkout.root / "gone")
    assert not environment.is_sound(None)
    python.unlink()
    python.symlink_to(was_python)
    stamp.write_text(json.dumps({**json.loads(was_stamp), "home": "/where/the/checkout/was"}))
    assert not environment.is_sound(None)
    stamp.write_text(was_stamp)
    assert environment.is_sound(None)


def test_a_directory_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "clone")
    (checkout.venv / "precious").mkdir(parents=True)
    status, said = checkout.bootstrap("install")
    assert status == 1
    assert said == f"error: {checkout.venv} is not a virtual environment: move it away\n"
    assert (checkout.venv / "precious").exists()


def test_dev_contains_run_and_a_changed_lock_is_installed(checkout: Checkout) -> None:
    checkout.bootstrap("install", "dev")
    checkout.lock("run", "# changed\n")
    assert "up to date" not in checkout.bootstrap("install")[1]
    checkout.lock("dev", "# changed too\n")
    assert "bringing .venv up to date" in checkout.bootstrap("install")[1]


def test_without_the_index_there_is_one_clear_line(checkout: Checkout) -> None:
    checkout.lock("run", f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    status, said = checkout.bootstrap("install", PIP_INDEX_URL=UNREACHABLE, PIP_RETRIES="1")
    _, error, where = said.splitlines()
    assert status == 1
    assert error.startswith("error: could not reach the package index (tried http://")
    assert "PIP_INDEX_URL" in error
    assert "PIP_FIND_LINKS" in error
    assert "secret" not in said
    assert where == f"  pip's own words: {checkout.venv / 'install.log'}"
    assert (checkout.venv / "install.log").read_text()
    checkout.lock("run", "# 0 packages, about 0 MB to download.\n")
    status, said = checkout.bootstrap("install")
    assert status == 0, said
    assert (checkout.venv / "lib").exists()


def test_a_package_without_a_wheel_for_this_machine(checkout: Checkout, tmp_path: Path) -> None:
    checkout.lock("run", f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    status, said = checkout.bootstrap("install", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert status == 1
    assert "error: no ready-made package of idna==3.10 for this machine; needed: Linux" in said


def test_a_download_that_is_not_the_locked_one_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "idna-3.10-py3-none-any.whl").write_bytes(b"not the real one")
    checkout.lock("run", f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    status, said = checkout.bootstrap("install", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert status == 1
    assert "error: a downloaded package is not the one in the lock" in said


def test_two_installations_take_turns(checkout: Checkout) -> None:
    with (checkout.root / "bootstrap.py").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = checkout.start("python3", "bootstrap.py", "install")
        assert waiting.stdout
        assert "waiting for it" in waiting.stdout.readline()
        assert waiting.poll() is None
    with waiting:
        said, _ = waiting.communicate(timeout=DEADLINE_S)
    assert said == f"ready: {checkout.venv}\n"


def test_no_usable_python_is_one_clear_error_and_no_stack(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "clone")
    empty = tmp_path / "empty"
    empty.mkdir()
    started_by = str(checkout.root / "bin" / "python3")
    status, said = checkout.call(started_by, "bootstrap.py", "run", PATH=str(empty))
    assert (status, said.splitlines()[0][:29]) == (1, "error: no CPython 3.11 to 3.1")
    status, said = checkout.call(started_by, "bootstrap.py", "run", PYTHON="no-such-python")
    assert status == 1
    assert said.startswith("error: PYTHON=no-such-python: ")
    assert len(said.splitlines()) == 1


def test_make_works_past_a_python3_that_fails_and_says_when_there_is_none(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "clone")
    bin_dir = checkout.root / "bin"
    good = (bin_dir / "python3").rename(bin_dir / "python3.12")
    (bin_dir / "python3").write_text("#!/bin/sh\nexit 127\n")
    (bin_dir / "python3").chmod(0o755)
    status, said = checkout.call("make", "--silent", "pythons")
    assert status == 0, said
    assert said.startswith(".".join(map(str, sys.version_info[:3])))
    good.unlink()
    status, said = checkout.call("make", "run")
    assert status != 0
    assert "no Python that starts was found: install Python 3.11 or newer" in said


def test_help_names_every_command(checkout: Checkout) -> None:
    status, said = checkout.call("make")
    assert status == 0
    assert [line.split()[1] for line in said.splitlines()] == [
        "run", "test", "check", "lint", "bench", "chaos", "soak", "lock", "help",
    ]  # fmt: skip
    assert checkout.bootstrap("help")[0] == 0
    status, said = checkout.bootstrap("rum")
    assert status == 2
    assert said.startswith("usage: ")
