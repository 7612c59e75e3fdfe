"""Writing history while PostgreSQL fails: every outage is SERVICE_UNAVAILABLE, and nothing is lost or there twice."""

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from otpsvc.errors import ApiError
from otpsvc.events.model import Event
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import Database, open_database
from tests.events.samples import CLIENT, NOON, life, lives, sent, without_personal
from tests.postgres.cable import open_cable


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def log_of(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=365, message_days=90)


async def unavailable(log: PostgresEventLog, events: list[Event]) -> None:
    with pytest.raises(ApiError) as caught:
        await log.write(events)
    assert caught.value.code == "SERVICE_UNAVAILABLE"


async def counts(server: Any) -> tuple[int, int]:
    return await server.fetchval("select count(*) from events"), await server.fetchval("select count(*) from messages")


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_wire_that_breaks_at_any_step(
    database_url: str, database: Database, server: Any, is_heard: bool
) -> None:
    """All or nothing, also where only the answer to the commit is lost; the same batch again completes it."""
    n_steps, n_written_all_the_same = 0, 0
    for step in range(100):
        events = lives(3, NOON + step * 1000)
        with tempfile.TemporaryDirectory() as directory:
            async with open_cable(database_url, Path(directory)) as (cable, url):
                broken = await open_database(url, max_connections=1)
                cable.n_said, cable.cut_at, cable.is_heard = 0, step, is_heard
                (outcome,) = await asyncio.gather(log_of(broken).write(events), return_exceptions=True)
                cable.cut_at = None
                await broken.close()
                if outcome == len(events):
                    n_steps = step
                else:
                    assert isinstance(outcome, ApiError)
                    assert outcome.code == "SERVICE_UNAVAILABLE"
        found = await server.fetchval(
            "select count(*) from events where event_id = any($1)", [e.event_id for e in events]
        )
        assert found in (0, len(events))
        if n_steps:
            break
        n_written_all_the_same += found == len(events)
        assert await log_of(database).write(events) == len(events) - found
    assert n_steps >= 8
    # The step after the commit, which clears the connection for the pool, and the commit itself where it was heard.
    assert n_written_all_the_same == 1 + is_heard
    assert await counts(server) == ((n_steps + 1) * 15, (n_steps + 1) * 3)


async def test_connections_that_are_terminated_all_the_time(database: Database, server: Any) -> None:
    """Six writers of overlapping batches, their connections ended at random; each repeats until it got through."""
    events = lives(12)

    async def terminate() -> int:
        count = 0
        for _ in range(40):
            count += await server.fetchval(
                "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1) one"
            )
            await asyncio.sleep(0.01)
        return count

    async def insist(batch: list[Event]) -> None:
        for _ in range(500):
            try:
                await log_of(database).write(batch)
            except ApiError:
                await asyncio.sleep(0.002)
            else:
                return
        pytest.fail("it never got through")

    async def write_on() -> None:
        while not terminating.done():
            for start in range(0, 60, 10):
                await insist(events[start : start + 20])

    terminating = asyncio.create_task(terminate())
    await asyncio.gather(*(write_on() for _ in range(6)))
    await insist(events)
    assert await terminating > 10
    assert await counts(server) == (60, 12)


async def test_a_role_that_may_not_write_for_a_while(database_url: str, server: Any) -> None:
    """As a full disk: refused, nothing dropped, and all well when the right is back. Reading goes on meanwhile."""
    await server.execute("create role plain login")
    try:
        for table in ("events", "messages", "forgotten_numbers"):
            await server.execute(f"alter table {table} owner to plain")
        await server.execute("grant all on schema public to plain")
        database = await open_database(database_url.replace("otpsvc@", "plain@"), max_connections=2)
        log, earlier, events = log_of(database), life(), lives(4)
        try:
            assert await log.write(earlier) == len(earlier)
            for table in ("events", "messages"):
                await server.execute(f"revoke insert on {table} from plain")
                await unavailable(log, events)
                await unavailable(log, [events[0]])
                assert await log.of_otp(CLIENT, "live", earlier[0].otp_id) == [*map(without_personal, earlier)]
                await server.execute(f"grant insert on {table} to plain")
            assert await log.write(events) == len(events)
            assert await log.of_otp(CLIENT, "live", events[0].otp_id) == [*map(without_personal, events[:5])]
        finally:
            await database.close()
    finally:
        await server.execute("drop owned by plain cascade")
        await server.execute("drop role plain")


async def test_a_server_that_is_slow(database_url: str, server: Any) -> None:
    database = await open_database(database_url, timeout_s=0.2)
    log, events = log_of(database), life()
    await log.write(events[:1])
    async with server.transaction():
        await server.execute("lock table events in exclusive mode")
        await unavailable(log, events)
    assert await log.write(events) == len(events) - 1
    await database.close()


# Whatever writes more rows than this in one statement is not done in any time.
SLOW = """
create function sleep_for_many() returns trigger language plpgsql as $$
begin
    if (select count(*) from written) > {most} then
        perform pg_sleep(60);
    end if;
    return null;
end $$;
create trigger sleep_for_many after insert on events referencing new table as written
    for each statement execute function sleep_for_many();
"""


@contextlib.asynccontextmanager
async def impatient(database_url: str, timeout_s: float, is_told_by_the_server: bool = True) -> AsyncIterator[Database]:
    """A pool that waits this long: until the server gives a statement up, or else until we do."""
    pool = await asyncpg.create_pool(
        database_url,
        min_size=1,
        max_size=2,
        command_timeout=5.0 if is_told_by_the_server else timeout_s,
        server_settings={"statement_timeout": str(int(timeout_s * 1000)) if is_told_by_the_server else "0"},
    )
    database = Database(pool, timeout_s=5.0)
    try:
        yield database
    finally:
        await database.close()


async def sizes_of(server: Any, events: list[Event]) -> list[int]:
    """How many of these were written together, transaction by transaction."""
    written = [one.event_id for one in events]
    rows = await server.fetch("select count(*) from events where event_id = any($1) group by tx order by tx", written)
    return [row[0] for row in rows]


def slowed_down(caplog: pytest.LogCaptureFixture) -> list[str]:
    """To how many events at once it came down, step by step."""
    return re.findall(r"could not be written in time: now (\d+) at once", caplog.text)


@pytest.mark.parametrize("is_told_by_the_server", [True, False])
async def test_a_batch_too_large_for_a_slow_server_is_written_in_parts(
    database_url: str, database: Database, server: Any, caplog: pytest.LogCaptureFixture, is_told_by_the_server: bool
) -> None:
    """500 take too long and 62 do not; what did is remembered, and more tried again when many have gone well."""
    await log_of(database).write(lives(1))
    await server.execute(SLOW.format(most=100))
    async with impatient(database_url, 0.5, is_told_by_the_server) as slow:
        log, events = log_of(slow), lives(100, NOON + 1000)
        assert await log.write(events) == 500
        sizes = await sizes_of(server, events)
        assert (max(sizes), sum(sizes)) == (62, 500)
        assert slowed_down(caplog) == ["250", "125", "62"]
        caplog.clear()
        # Few at a time prove nothing.
        for n in range(20):
            await log.write(lives(1, NOON + 2000 + n))
        later = lives(20, NOON + 3000)
        assert await log.write(later) == 100
        assert (await sizes_of(server, later), slowed_down(caplog)) == ([62, 38], [])
        await server.execute("drop trigger sleep_for_many on events")
        n_writes, sizes = 0, [0]
        while sizes != [100] and n_writes < 50:
            events = lives(20, NOON + 10_000 + n_writes * 100)
            await log.write(events)
            sizes = await sizes_of(server, events)
            n_writes += 1
        assert n_writes == 8


async def test_an_event_that_cannot_be_written_in_time_is_an_outage(
    database_url: str, database: Database, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await log_of(database).write(lives(1))
    await server.execute(SLOW.format(most=0))
    async with impatient(database_url, 0.3) as slow:
        log, events = log_of(slow), life(NOON + 1000)
        await unavailable(log, events)
        assert slowed_down(caplog) == ["2", "1", "1"]
        assert await counts(server) == (5, 1)
        await server.execute("drop trigger sleep_for_many on events")
        assert await log.write(events) == 5
        assert await sizes_of(server, events) == [1] * 5


async def test_a_value_that_is_refused_among_many_that_are_slow(
    database_url: str, database: Database, server: Any
) -> None:
    await log_of(database).write(lives(1))
    await server.execute(SLOW.format(most=10))
    async with impatient(database_url, 0.5) as slow:
        events, bad = lives(10, NOON + 1000), sent(NOON + 5000, text="\x00")
        assert await log_of(slow).write([*events[:23], bad, *events[23:]]) == 51
        assert await server.fetchval("select count(*) from events where data->>'is_unreadable' = 'true'") == 1
        assert await counts(server) == (56, 11)


async def test_a_database_that_was_never_migrated(empty_database_url: str) -> None:
    database = await open_database(empty_database_url)
    await unavailable(log_of(database), life())
    await database.close()


async def test_a_writer_that_is_cancelled_leaves_nothing_half_done(database: Database, server: Any) -> None:
    log, events = log_of(database), lives(20)
    for turns in range(60):
        task = asyncio.create_task(log.write(events))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await counts(server) in {(0, 0), (100, 20)}
    await log.write(events)
    assert await counts(server) == (100, 20)
