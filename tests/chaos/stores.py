"""A Valkey and a PostgreSQL that can be stopped, killed, paused and started again, one without the other.

`otpsvc.embedded` ends both when one ends, which is right for `dev` and useless here. So each gets a guard of its own,
on the same binaries, command lines and data directory. What these stores have acknowledged survives `kill -9` of them;
a power cut it would not.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from otpsvc.embedded import postgres, start_stores, valkey
from otpsvc.embedded import stores as embedded
from otpsvc.embedded.binaries import find_binaries
from otpsvc.embedded.data_dir import end_leftovers, make_socket_dir, open_data_dir
from otpsvc.embedded.identity import choose_identity
from otpsvc.embedded.watch import Guard, ServerPlan
from tests.programs import is_running, wait_until

ROLE = "service"  # as whom the service under test works in PostgreSQL


class Server:
    """One store, under a guard that ends it with this process."""

    def __init__(self, plan: ServerPlan, *, directory: Path, lock: int, answers: Callable[[int], bool]) -> None:
        self.pid = 0
        self._plan = plan
        self._log = directory / f"{plan.name}-guard.log"
        self._lock = lock
        self._answers = answers
        self._guard: Guard | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        guard = self._guard = Guard([self._plan], log=self._log, lock=self._lock)
        started = guard.next_answer(embedded.START_TIMEOUT_S)
        assert started is not None, self._plan.name
        assert "started" in started, started
        self.pid = started["started"][self._plan.name]
        wait_until(lambda: self._answers(self.pid), f"{self._plan.name} to answer")

    def stop(self) -> None:
        """Stop it as its operator would; a second call does nothing."""
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            guard.let_go()

    def kill(self) -> None:
        """End it without a word, its children too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(self.pid), f"the end of {self._plan.name}")
        self.stop()

    def pause(self) -> None:
        """Let it hear everything and do nothing."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)


class Pair:
    """Both stores of one stand."""

    def __init__(self, redis: Server, sql: Server, socket_dir: Path) -> None:
        self.redis = redis
        self.postgres = sql
        self.redis_url = valkey.url(socket_dir)
        self._socket_dir = socket_dir

    def database_url(self, name: str = postgres.DATABASE, role: str = postgres.USER) -> str:
        """Give the address of a database, for its server's owner or for another role."""
        return postgres.url(self._socket_dir / "pg", name).replace(f"//{postgres.USER}@", f"//{role}@")


@contextlib.contextmanager
def restartable_stores(data_dir: Path) -> Iterator[Pair]:
    """Run a pair on `data_dir` for the body of a `with`."""
    start_stores(data_dir, durable=False).stop()
    data_dir = data_dir.resolve()
    lock = open_data_dir(data_dir)
    try:
        binaries = find_binaries()
        logs = {name: data_dir / f"{name}.log" for name in ("redis", "postgres")}
        probe = partial(embedded._can_run_as, binaries.postgres, logs["postgres"], lock)
        identity = choose_identity(probe, (data_dir, binaries.postgres))
        socket_dir = make_socket_dir(identity, data_dir / "sockets.json")
        postgres.give_to(socket_dir / "pg", identity)
        embedded._let_pass(data_dir, identity)
        embedded._let_pass(socket_dir, identity)
        redis_plan, sql_plan = embedded._plans(binaries, data_dir, socket_dir, identity, logs, durable=False)
        # Without it a commit may be told before it would survive the server's own death.
        sql_plan = _more(sql_plan, "-c", "synchronous_commit=on")
        redis_plan = _more(redis_plan, "--enable-debug-command", "local")
        redis = Server(redis_plan, directory=data_dir, lock=lock, answers=lambda _: valkey.is_ready(socket_dir))
        sql = Server(
            sql_plan, directory=data_dir, lock=lock, answers=lambda pid: postgres.is_ready(data_dir / "postgres", pid)
        )
        try:
            redis.start()
            sql.start()
            yield Pair(redis, sql, socket_dir)
        finally:
            redis.stop()
            sql.stop()
            end_leftovers(data_dir)
            shutil.rmtree(socket_dir, ignore_errors=True)
    finally:
        os.close(lock)


def _more(plan: ServerPlan, *arguments: str) -> ServerPlan:
    return dataclasses.replace(plan, command=[*plan.command, *arguments])
