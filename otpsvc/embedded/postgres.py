"""How the private PostgreSQL is made, run and seen to be ready.

It must never listen on a port, and what it logs must not carry values out of the tables: the
statements that failed and the details of an error stay out of its log.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from otpsvc.embedded.binaries import POSTGRES_MAJOR, Binaries
from otpsvc.embedded.errors import EmbeddedError
from otpsvc.embedded.identity import Identity
from otpsvc.embedded.processes import command_line, last_lines
from otpsvc.embedded.watch import run_to_end

PORT = 5432
SOCKET_NAME = f".s.PGSQL.{PORT}"
USER = DATABASE = "otpsvc"
# Fast shutdown, then immediate, then none at all; recovery at the next start covers the latter two.
STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
INITDB_TIMEOUT_S = 60.0

_PID_LINE, _STATUS_LINE = 0, 7


def server_command(program: Path, data_dir: Path, socket_dir: Path, *, durable: bool) -> list[str]:
    """Return the command line; without ``durable`` a power loss may destroy the data."""
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    command = [str(program), "-D", str(data_dir), "-p", str(PORT)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return command


def url(socket_dir: Path, database: str = DATABASE) -> str:
    """Return the address in the form that asyncpg reads; the private directory is the password."""
    return f"postgresql://{USER}@/{database}?host={quote(str(socket_dir))}&port={PORT}"


def create_data_dir(
    binaries: Binaries,
    data_dir: Path,
    *,
    identity: Identity,
    log: Path,
    lock: int,
    durable: bool,
    say: Callable[[str], None],
) -> None:
    """Make the data directory with an empty database in it, unless it is there already.

    It is made beside its place and then renamed, so that it is never found half made. Raises
    EmbeddedError when that fails, takes too long, or the data is another release's.
    """
    if data_dir.exists():
        _check_release(data_dir)
        give_to(data_dir, identity)
        return
    say("creating the PostgreSQL data directory (once, about a second)")
    unfinished = data_dir.with_name(data_dir.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    give_to(unfinished, identity)
    initdb = [str(binaries.initdb), "-D", str(unfinished), "--username", USER, "--encoding=UTF8"]
    initdb += ["--locale=C", "--auth-local=trust", "--auth-host=reject", "--no-instructions"]
    # The server started alone, without clients, can make the database without a client library.
    alone = [str(binaries.postgres), "--single", "-D", str(unfinished), "-c", "exit_on_error=on"]
    if not durable:
        initdb.append("--no-sync")
        alone += ["-c", "fsync=off"]
    statement = f"CREATE DATABASE {DATABASE} TEMPLATE template0\n"
    for command, text in ((initdb, ""), ([*alone, "postgres"], statement)):
        status = run_to_end(command, identity, log=log, lock=lock, timeout_s=INITDB_TIMEOUT_S, text=text)
        if status != 0:
            ended = f"took over {INITDB_TIMEOUT_S:.0f} s" if status is None else "failed"
            raise EmbeddedError(f"Creating the PostgreSQL data directory {ended}; the end of {log}:{last_lines(log)}")
    unfinished.rename(data_dir)


def is_ready(data_dir: Path, pid: int) -> bool:
    """Say whether the server with this process id takes connections, by its own status file."""
    lines = _status_lines(data_dir)
    return len(lines) > _STATUS_LINE and lines[_PID_LINE : _STATUS_LINE + 1 : _STATUS_LINE] == [
        str(pid),
        "ready",
    ]


def recorded_pid(data_dir: Path) -> int | None:
    """Return the process id in the status file of a server, alive or long gone."""
    lines = _status_lines(data_dir)
    return int(lines[_PID_LINE]) if lines and lines[_PID_LINE].isdecimal() else None


def forget_foreign_pid(data_dir: Path) -> None:
    """Remove a status file whose process id now belongs to some other program.

    PostgreSQL would take that program for its former self and refuse to start, which is common in
    containers, where ids start anew. Only while holding the lock on the whole directory.
    """
    pid = recorded_pid(data_dir)
    if pid is not None and str(data_dir) not in command_line(pid):
        (data_dir / "postmaster.pid").unlink(missing_ok=True)


def give_to(directory: Path, identity: Identity) -> None:
    """Make the identity the owner of the directory and all in it, if it is not already."""
    uid, gid = identity.file_owner
    if directory.stat().st_uid == uid:
        return
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            os.chown(Path(folder, name), uid, gid, follow_symlinks=False)
        os.chown(folder, uid, gid, follow_symlinks=False)


def _check_release(data_dir: Path) -> None:
    try:
        release = (data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
    except OSError:
        release = "no known release"
    if release != str(POSTGRES_MAJOR):
        raise EmbeddedError(
            f"The data in {data_dir} was made by PostgreSQL {release} and this is "
            f"{POSTGRES_MAJOR}: move it away to start with an empty database."
        )


def _status_lines(data_dir: Path) -> list[str]:
    try:
        text = (data_dir / "postmaster.pid").read_text(encoding="utf-8")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]
