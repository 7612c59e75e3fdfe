"""Starts the two private stores together, and stops them together.

This is the launcher behind ``otpsvc dev`` and behind the tests. The order matters: lock before
touching anything, end what a killed run left, and only then start. Every wait is bounded.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from otpsvc.embedded import postgres, valkey
from otpsvc.embedded.binaries import Binaries, find_binaries
from otpsvc.embedded.data_dir import RECORD_NAME, end_leftovers, make_socket_dir, open_data_dir
from otpsvc.embedded.errors import EmbeddedError
from otpsvc.embedded.identity import Identity, IdentityProbe, choose_identity
from otpsvc.embedded.processes import as_child, last_lines
from otpsvc.embedded.watch import Guard, ServerPlan, run_to_end

START_TIMEOUT_S = 30.0

_PROBE_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.01
_TITLES = {"redis": "Valkey", "postgres": "PostgreSQL"}


@dataclass(frozen=True)
class Stores:
    """Where the running stores answer, in the forms that redis-py and asyncpg read."""

    redis_url: str
    database_url: str
    socket_dir: Path

    def database(self, name: str) -> str:
        """Return the address of another database on the same server."""
        return postgres.url(self.socket_dir / "pg", name)


class RunningStores:
    """Both stores, up until ``stop`` or until this process ends in whatever way."""

    def __init__(self, stores: Stores, guard: Guard, lock: int, data_dir: Path, pids: dict[str, int]) -> None:
        self.stores = stores
        self.server_pids = pids
        self._guard = guard
        self._lock: int | None = lock
        self._data_dir = data_dir

    @property
    def redis_url(self) -> str:
        """Address of the Valkey, for redis-py."""
        return self.stores.redis_url

    @property
    def database_url(self) -> str:
        """Address of the PostgreSQL database ``otpsvc``, for asyncpg."""
        return self.stores.database_url

    @property
    def guard_pid(self) -> int:
        """Process id of the guard."""
        return self._guard.pid

    def failure(self) -> str | None:
        """Return one line about a store that ended by itself since the start, or None.

        Does not wait. Both stores are down, or going down, once this returns a line.
        """
        if self._lock is None:
            return None
        answer = self._guard.next_answer(0)
        if answer is None or "ended" not in answer:
            return None
        title = _TITLES.get(answer["ended"], "The guard of the stores")
        return f"{title} ended by itself (status {answer['status']})."

    def stop(self) -> None:
        """Stop both stores and wait for it, at most about 25 s. A second call does nothing."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            _end(self._guard, self._data_dir, self.stores.socket_dir)
        finally:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def start_stores(
    data_dir: Path,
    *,
    durable: bool = True,
    say: Callable[[str], None] = lambda _line: None,
    works: IdentityProbe | None = None,
) -> RunningStores:
    """Start a private Valkey and a private PostgreSQL on ``data_dir`` and wait until both answer.

    ``durable=False`` leaves out the waits for the disk (tests). ``say`` gets a short line before
    a slow step. ``works`` replaces the probe of what root may do here. Raises EmbeddedError, whose
    message says what happened and what to do; nothing keeps running then.
    """
    data_dir = data_dir.absolute()
    try:
        binaries = find_binaries()
        lock = open_data_dir(data_dir.resolve())
        try:
            return _start_locked(data_dir.resolve(), lock, binaries, durable=durable, say=say, works=works)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise EmbeddedError(
            f"The embedded stores cannot use {error.filename or data_dir}: {error.strerror}."
        ) from error


def _start_locked(
    data_dir: Path,
    lock: int,
    binaries: Binaries,
    *,
    durable: bool,
    say: Callable[[str], None],
    works: IdentityProbe | None,
) -> RunningStores:
    end_leftovers(data_dir)
    logs = {name: _fresh_log(data_dir / f"{name}.log") for name in _TITLES}
    probe = works or partial(_can_run_as, binaries.postgres, logs["postgres"], lock)
    identity = choose_identity(probe, (data_dir, binaries.postgres))
    _let_pass(data_dir, identity)
    postgres.create_data_dir(
        binaries,
        data_dir / "postgres",
        identity=identity,
        log=logs["postgres"],
        lock=lock,
        durable=durable,
        say=say,
    )
    (data_dir / "redis").mkdir(mode=0o700, exist_ok=True)
    record = data_dir / RECORD_NAME
    socket_dir = make_socket_dir(identity, record)
    postgres.give_to(socket_dir / "pg", identity)
    _let_pass(socket_dir, identity)
    plans = _plans(binaries, data_dir, socket_dir, identity, logs, durable=durable)
    guard = Guard(
        plans,
        socket_dir=socket_dir,
        record=record,
        log=_fresh_log(data_dir / "guard.log"),
        lock=lock,
    )
    try:
        pids = _wait_until_ready(guard, data_dir, socket_dir, logs)
    except BaseException:
        _end(guard, data_dir, socket_dir)
        raise
    stores = Stores(valkey.url(socket_dir), postgres.url(socket_dir / "pg"), socket_dir)
    return RunningStores(stores, guard, lock, data_dir, pids)


def _plans(
    binaries: Binaries,
    data_dir: Path,
    socket_dir: Path,
    identity: Identity,
    logs: dict[str, Path],
    *,
    durable: bool,
) -> list[ServerPlan]:
    redis = valkey.server_command(binaries.valkey_server, data_dir / "redis", socket_dir, durable=durable)
    sql = postgres.server_command(binaries.postgres, data_dir / "postgres", socket_dir / "pg", durable=durable)
    own = Identity("own", os.geteuid(), os.getegid())
    return [
        ServerPlan(
            "redis",
            as_child(redis, own, signal.SIGTERM),
            str(logs["redis"]),
            valkey.STOP_SIGNALS,
        ),
        ServerPlan(
            "postgres",
            as_child(sql, identity, signal.SIGINT),
            str(logs["postgres"]),
            postgres.STOP_SIGNALS,
        ),
    ]


def _wait_until_ready(guard: Guard, data_dir: Path, socket_dir: Path, logs: dict[str, Path]) -> dict[str, int]:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    pids: dict[str, int] = {}
    waiting = set(_TITLES)
    while waiting:
        answer = guard.next_answer(_LOOK_EVERY_S) or {}
        if "ended" in answer:
            name, status = answer["ended"], answer["status"]
            detail = _end_of(logs[name]) if name in logs else guard.last_words()
            title = _TITLES.get(name, "The guard of the embedded stores")
            raise EmbeddedError(f"{title} ended at its start (status {status}){detail}")
        pids = answer.get("started", pids)
        if pids:
            if valkey.is_ready(socket_dir):
                waiting.discard("redis")
            if postgres.is_ready(data_dir / "postgres", pids["postgres"]):
                waiting.discard("postgres")
        if waiting and time.monotonic() > give_up_at:
            name = min(waiting)
            raise EmbeddedError(f"{_TITLES[name]} did not answer within {START_TIMEOUT_S:.0f} s{_end_of(logs[name])}")
    return pids


def _end(guard: Guard, data_dir: Path, socket_dir: Path) -> None:
    guard.let_go()
    # Only a guard that was itself killed leaves anything for these two.
    end_leftovers(data_dir)
    shutil.rmtree(socket_dir, ignore_errors=True)


def _can_run_as(program: Path, log: Path, lock: int, identity: Identity) -> bool:
    status = run_to_end([str(program), "--version"], identity, log=log, lock=lock, timeout_s=_PROBE_TIMEOUT_S)
    return status == 0


def _let_pass(directory: Path, identity: Identity) -> None:
    """Let an account of its own pass through one of our directories to its own part of it."""
    if identity.kind == "account":
        os.chown(directory, -1, identity.gid)
        directory.chmod(0o710)


def _fresh_log(log: Path) -> Path:
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    log.touch(mode=0o600)
    return log


def _end_of(log: Path) -> str:
    return f"; the end of {log}:{last_lines(log)}"
