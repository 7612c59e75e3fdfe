"""The one private directory that holds the data, the logs and the lock.

One run at a time may use it: the lock is a kernel lock on an open file, which the guard shares,
so that it is free only when the servers are down. The permissions of a directory that is not
recognisably ours must never be changed, in case a setting names somebody's home.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from otpsvc.embedded import postgres
from otpsvc.embedded.errors import EmbeddedError
from otpsvc.embedded.identity import Identity, first_closed_parent
from otpsvc.embedded.processes import end_process, is_running

USUAL_NAME = ".otpsvc"
LOCK_NAME = "lock"
RECORD_NAME = "running.json"
LOCK_WAIT_S = 25.0
DYING_WAIT_S = 1.0

_SOCKET_PREFIX = "otpsvc-"
_SHORT_TEMP_DIRS = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - a private one is made below
# The shortest limit of the systems we run on (macOS), one less for the closing zero byte.
_LONGEST_SOCKET_PATH = 103
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+")
_END_STEPS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def open_data_dir(data_dir: Path) -> int:
    """Make the directory if needed, lock it for this process and return the lock's descriptor.

    Raises EmbeddedError when it belongs to or is open to others, or another run uses it (naming
    its process id).
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = data_dir.stat()
    if found.st_uid != os.geteuid():
        raise EmbeddedError(
            f"{data_dir} belongs to the user with uid {found.st_uid}: run as that user, or choose "
            "another directory with OTPSVC_DATA_DIR."
        )
    is_ours = data_dir.name == USUAL_NAME or (data_dir / LOCK_NAME).exists()
    if stat.S_IMODE(found.st_mode) & 0o077 and not is_ours:
        raise EmbeddedError(
            f"{data_dir} is open to other users: chmod 700 it, or choose a directory of its own with OTPSVC_DATA_DIR."
        )
    lock = _lock(data_dir / LOCK_NAME)
    data_dir.chmod(0o700)
    return lock


def _lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        asked_at = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _refuse_or_wait(path, lock, time.monotonic() - asked_at)
            else:
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return lock
    except BaseException:
        os.close(lock)
        raise


def _refuse_or_wait(path: Path, lock: int, waited_s: float) -> None:
    """Wait a moment when the owner is gone: its guard is still ending the servers."""
    text = os.pread(lock, 32, 0).decode(errors="replace").strip()
    owner = int(text) if text.isdecimal() else None
    # One that was killed just now may still be seen for a moment.
    patience_s = DYING_WAIT_S if owner is not None and is_running(owner) else LOCK_WAIT_S
    if waited_s > patience_s:
        named = f"pid {owner}" if owner is not None else "of unknown pid"
        raise EmbeddedError(
            f"Another otpsvc dev ({named}) is using {path.parent}: stop it first, or choose "
            "another directory with OTPSVC_DATA_DIR."
        )
    time.sleep(0.05)


def end_leftovers(data_dir: Path) -> None:
    """End servers that a killed run left behind, and remove its sockets. Only under the lock.

    Raises EmbeddedError when one of them will not end.
    """
    record_path = data_dir / RECORD_NAME
    record = _read_record(record_path)
    servers = record.get("servers")
    pids = {pid for pid in servers.values() if isinstance(pid, int)} if isinstance(servers, dict) else set()
    postgres_pid = postgres.recorded_pid(data_dir / "postgres")
    if postgres_pid is not None:
        pids.add(postgres_pid)
    for pid in sorted(pids):
        if not end_process(pid, f"{data_dir}/", _END_STEPS):
            raise EmbeddedError(f"A server of an earlier run (pid {pid}) will not end: end it with kill -9 {pid}.")
    postgres.forget_foreign_pid(data_dir / "postgres")
    if isinstance(record.get("socket_dir"), str):
        _remove_socket_dir(Path(record["socket_dir"]))
    record_path.unlink(missing_ok=True)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _remove_socket_dir(socket_dir: Path) -> None:
    try:
        found = socket_dir.lstat()
    except OSError:
        return
    if socket_dir.name.startswith(_SOCKET_PREFIX) and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        shutil.rmtree(socket_dir, ignore_errors=True)


def make_socket_dir(identity: Identity, record: Path) -> Path:
    """Make a private directory whose path is short enough for sockets, and a part for PostgreSQL.

    The system's temporary directory is taken, or a shorter one where that is too long. The name is
    written to ``record`` first, so that the next start finds it however soon this one is killed.
    """
    name = f"{_SOCKET_PREFIX}{secrets.token_hex(6)}"
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), *_SHORT_TEMP_DIRS)):
        example = parent / name / "pg" / postgres.SOCKET_NAME
        too_long = len(os.fsencode(example)) > _LONGEST_SOCKET_PATH
        # PostgreSQL reads its socket directory as a list with commas and quotes.
        if too_long or not _PLAIN.issuperset(str(parent)) or not os.access(parent, os.W_OK | os.X_OK):
            continue
        if identity.kind == "account" and first_closed_parent(parent / "x", identity):
            continue
        socket_dir = parent / name
        record.write_text(json.dumps({"socket_dir": str(socket_dir)}), encoding="utf-8")
        socket_dir.mkdir(mode=0o700)
        (socket_dir / "pg").mkdir(mode=0o700)
        return socket_dir
    raise EmbeddedError(
        "No temporary directory is usable for sockets: set TMPDIR to a writable directory with a "
        f"plain path of at most {_LONGEST_SOCKET_PATH - 38} characters."
    )
