"""`otpsvc events`: the list, and the tail as a program that somebody reads, interrupts or walks away from."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from otpsvc.cli_events import events as group
from otpsvc.cli_events import json_of, line_of
from otpsvc.events.model import Event
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import open_database
from tests.conftest import run_sql
from tests.events.samples import (
    NOON,
    OTHER_CLIENT,
    TEXT,
    TO,
    TO_INDEX,
    event,
    fields_of,
    life,
    of_message,
    sent,
    without_personal,
)
from tests.programs import PATIENCE_S, environment, wait_until

MARKER = "otp.marked"


def write(database_url: str, events: list[Event]) -> None:
    async def write() -> None:
        database = await open_database(database_url)
        try:
            await PostgresEventLog(database, event_days=365, message_days=90).write(events)
        finally:
            await database.close()

    asyncio.run(write())


def listed(database_url: str, *arguments: str) -> list[str]:
    result = CliRunner(env={"OTPSVC_DATABASE_URL": database_url}).invoke(group, ["list", *arguments])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


class Tail:
    """A running `otpsvc events tail`, its output read through a pipe."""

    def __init__(self, database_url: str, directory: Path, *arguments: str) -> None:
        self._errors = directory / "stderr.txt"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "otpsvc", "events", "tail", *arguments],
                cwd=directory,
                env=environment({"OTPSVC_DATABASE_URL": database_url}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.process.stdout
        self._pipe = self.process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        self._said = b""

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def has_said(self, words: str) -> bool:
        self._said += self._pipe.read() or b""
        assert self.process.poll() is None, self.errors
        return words.encode() in self._said

    def lines(self, count: int) -> list[str]:
        """Wait for so many lines in all, markers left out."""

        def found() -> list[str]:
            self.has_said("")
            whole = self._said[: self._said.rfind(b"\n") + 1].decode()
            return [line for line in whole.splitlines() if MARKER not in line]

        wait_until(lambda: len(found()) >= count, f"{count} lines")
        return found()

    def walk_away(self) -> None:
        self._pipe.close()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._pipe.close()


@pytest.fixture
def tails() -> Iterator[list[Tail]]:
    """Those that a test starts, ended whatever happens."""
    started: list[Tail] = []
    yield started
    for tail in started:
        tail.kill()


def start(tails: list[Tail], database_url: str, directory: Path, *arguments: str, **ids: str) -> Tail:
    """Start a tail and wait until it shows what is written from now on."""
    tail = Tail(database_url, directory, *arguments)
    tails.append(tail)

    def has_shown_one() -> bool:
        write(database_url, [event(MARKER, now_ms(), **ids)])
        time.sleep(0.1)
        return tail.has_said(MARKER)

    wait_until(has_shown_one, "a tail")
    return tail


def now_ms() -> int:
    return int(time.time() * 1000)


def test_a_line_says_what_happened_and_nothing_secret() -> None:
    lines = [line_of(one) for one in life()]
    begun = life()[0]
    assert lines[2].startswith("2026-07-26T12:00:00.900Z  message.sent")
    assert "provider_id=p-1 sender=main tries=2" in lines[2]
    shown = line_of(without_personal(begun)) + json_of(without_personal(begun))
    for secret in (TO, TO_INDEX, TEXT, "order"):
        assert secret not in shown


def test_a_gateways_words_cannot_drive_the_terminal() -> None:
    line = line_of(of_message("message.failed", sent(), 1, reason="\x1b[2J\x9b2J\r\n\u202ehush"))
    assert line.isprintable()
    assert "hush" in line
    assert json.loads(json_of(event("x", reason="\x1b\n")))["data"]["reason"] == "\x1b\n"


def test_the_list(database_url: str) -> None:
    old, new = life(NOON), life(NOON + 60_000)
    write(database_url, [*new, *old])
    names = ["otp.sent", "message.postponed", "message.sent", "otp.rejected", "otp.verified"]
    assert [line.split()[1] for line in listed(database_url)] == names * 2
    assert [line.split()[1] for line in listed(database_url, "--limit", "2")] == names[-2:]
    lines = listed(database_url, "--otp", old[0].otp_id, "--json")
    assert [json.loads(line)["event_id"] for line in lines] == [one.event_id for one in old]
    assert json.loads(lines[2])["data"] == {
        key: value for key, value in old[2].data.items() if key.encode() in fields_of(old[2])
    }
    assert listed(database_url, "--otp", "otp_unknown") == []


def test_a_database_without_its_tables_is_named(empty_database: str) -> None:
    result = CliRunner(env={"OTPSVC_DATABASE_URL": empty_database}).invoke(group, ["list"])
    assert result.exit_code == 1
    assert "run `otpsvc migrate`" in str(result.exception)


@pytest.fixture
def empty_database(database_url: str) -> str:
    """As it was before the history had tables."""
    run_sql(database_url, "delete from schema_migrations where number > 1")
    return database_url


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_tail_follows_and_ends_when_told(database_url: str, tmp_path: Path, tails: list[Tail], number: int) -> None:
    """All partitions and clients, the late ones too; nothing from before; and no complaint at the end."""
    write(database_url, life(now_ms()))
    tail = start(tails, database_url, tmp_path, "--json")
    first, late = life(now_ms()), life(now_ms() - 3 * 86_400_000, client_id=OTHER_CLIENT)
    write(database_url, first)
    write(database_url, late)
    found = [json.loads(line)["event_id"] for line in tail.lines(10)]
    assert sorted(found) == sorted(one.event_id for one in first + late)
    assert tail.end(number) == 0
    assert tail.errors == ""


def test_the_tail_ends_at_once_although_the_server_says_nothing(
    database_url: str, tmp_path: Path, tails: list[Tail]
) -> None:
    """A lock holds its question up; that the question came to nothing would be complained of."""

    async def end_it(tail: Tail) -> int:
        server = await asyncpg.connect(database_url)
        try:
            async with server.transaction():
                await server.execute("lock table events in access exclusive mode")
                for _ in range(1000):
                    if await server.fetchval("select exists (select from pg_locks where not granted)"):
                        break
                    await asyncio.sleep(0.01)
                return await asyncio.to_thread(tail.end, signal.SIGINT)
        finally:
            await server.close()

    tail = start(tails, database_url, tmp_path)
    assert asyncio.run(end_it(tail)) == 0
    assert tail.errors == ""


def test_the_tail_of_one_otp_begins_with_what_it_has_been_through(
    database_url: str, tmp_path: Path, tails: list[Tail]
) -> None:
    past, other = life(NOON), life(now_ms())
    write(database_url, [*past, *other])
    tail = start(tails, database_url, tmp_path, "--otp", past[0].otp_id, otp_id=past[0].otp_id)
    assert [past[0].otp_id in line for line in tail.lines(5)] == [True] * 5
    write(database_url, [event("otp.expired", now_ms()), event("otp.expired", now_ms(), otp_id=past[0].otp_id)])
    assert "otp.expired" in tail.lines(6)[-1]


def test_the_tail_of_one_client(database_url: str, tmp_path: Path, tails: list[Tail]) -> None:
    tail = start(tails, database_url, tmp_path, "--client", OTHER_CLIENT, client_id=OTHER_CLIENT)
    write(database_url, [*life(now_ms()), event("otp.expired", now_ms(), client_id=OTHER_CLIENT)])
    (line,) = tail.lines(1)
    assert f"{OTHER_CLIENT}/live" in line


def test_the_tail_ends_when_nobody_reads_it_any_more(database_url: str, tmp_path: Path, tails: list[Tail]) -> None:
    """Also while nothing happens, when there is nothing to write that would tell it so."""
    idle, busy = (start(tails, database_url, tmp_path / name) for name in _made(tmp_path, "idle", "busy"))
    idle.walk_away()
    busy.walk_away()
    write(database_url, life(now_ms()) * 3)
    for tail in (idle, busy):
        assert tail.process.wait(PATIENCE_S) == 0
        assert tail.errors == ""


def test_the_tail_outlives_an_outage(database_url: str, tmp_path: Path, tails: list[Tail]) -> None:
    tail = start(tails, database_url, tmp_path)
    name = database_url.rpartition("?")[0].rpartition("/")[2]
    server = database_url.replace(f"/{name}?", "/postgres?")
    run_sql(server, f"alter database {name} with allow_connections false")
    run_sql(
        server, f"do $$ begin perform pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'; end $$"
    )
    wait_until(lambda: "waiting for it" in tail.errors or tail.process.poll() is not None, "an outage")
    assert tail.process.poll() is None, tail.errors
    run_sql(server, f"alter database {name} with allow_connections true")
    write(database_url, life(now_ms()))
    assert len(tail.lines(5)) == 5
    assert tail.errors.count("waiting for it") == 1


def _made(directory: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        (directory / name).mkdir()
    return names
