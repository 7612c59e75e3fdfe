"""Following the history: pages from cursor to cursor miss nothing and repeat nothing, whoever commits when."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from otpsvc.events.model import Event
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import Database
from tests.events.samples import CLIENT, DAY_MS, OTHER_CLIENT, event, life, lives, without_personal


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=365, message_days=90)


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def now_ms() -> int:
    return int(time.time() * 1000)


async def settled(log: PostgresEventLog) -> None:
    """Wait until no transaction that has begun by now runs any more; the server's own upkeep is among them."""
    async with log._database.borrowed_connection("test") as connection:
        mine = await connection.fetchval("select pg_current_xact_id()::text")
        for _ in range(2000):
            if await connection.fetchval("select pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8", mine):
                return
            await asyncio.sleep(0.005)
    pytest.fail("a transaction does not end")


async def follow(log: PostgresEventLog, cursor: str, limit: int = 7, **only: str) -> tuple[list[Event], str]:
    """Read on until there is nothing more to be seen."""
    found: list[Event] = []
    while True:
        page = await log.recent(limit=limit, after=cursor, **only)
        found, cursor = found + page.events, page.cursor
        if len(page.events) < limit:
            return found, cursor


def ids(events: list[Event]) -> list[str]:
    return [one.event_id for one in events]


async def test_the_newest_come_oldest_first(log: PostgresEventLog) -> None:
    old = [life(now_ms() - day * DAY_MS) for day in (400, 200, 100, 40, 2, 0)]
    await log.write([one for events in old for one in events])
    await settled(log)
    everything = [without_personal(one) for events in old for one in events]
    for limit in (1, 4, 5, 6, 13, 30, 100):
        assert (await log.recent(limit=limit, after=None)).events == everything[-limit:]
    assert (await log.recent(limit=0, after=None)).events == []
    one = old[2][0].otp_id
    assert ids((await log.recent(limit=100, after=None, otp_id=one)).events) == ids(old[2])
    assert (await log.recent(limit=100, after=None, client_id=OTHER_CLIENT)).events == []


@pytest.mark.parametrize("limit", [1, 3, 10, 1000])
async def test_pages_of_any_size(log: PostgresEventLog, limit: int) -> None:
    begun = await log.recent(limit=5, after=None)
    batches = [lives(n, now_ms()) for n in (1, 4, 2)]
    for batch in batches:
        await log.write(batch)
    await settled(log)
    found, cursor = await follow(log, begun.cursor, limit)
    assert sorted(ids(found)) == sorted(ids([one for batch in batches for one in batch]))
    nothing, cursor = await follow(log, cursor, limit)
    assert nothing == []
    more = life(now_ms())
    await log.write(more)
    await settled(log)
    assert sorted(ids((await follow(log, cursor, limit))[0])) == sorted(ids(more))


async def test_late_events_are_shown_when_they_are_written(log: PostgresEventLog) -> None:
    cursor = (await log.recent(limit=0, after=None)).cursor
    await log.write(life(now_ms()))
    await settled(log)
    _, cursor = await follow(log, cursor)
    late = life(now_ms() - 5 * DAY_MS)
    await log.write(late)
    await settled(log)
    found, cursor = await follow(log, cursor)
    assert sorted(ids(found)) == sorted(ids(late))


async def test_filters(log: PostgresEventLog) -> None:
    cursor = (await log.recent(limit=0, after=None)).cursor
    mine, other = life(now_ms()), life(now_ms(), client_id=OTHER_CLIENT)
    await log.write(mine + other)
    await settled(log)
    for only, expected in (
        ({"client_id": OTHER_CLIENT}, other),
        ({"otp_id": mine[0].otp_id}, mine),
        ({"otp_id": mine[0].otp_id, "client_id": CLIENT}, mine),
        ({"otp_id": mine[0].otp_id, "client_id": OTHER_CLIENT}, []),
    ):
        found, after = await follow(log, cursor, 2, **only)
        assert sorted(ids(found)) == sorted(ids(expected))
        # What a filter has left out is not read again.
        assert int(after.rstrip("/")) > int(cursor.rstrip("/"))


async def test_nothing_is_passed_by_while_an_earlier_writer_has_not_ended(log: PostgresEventLog, server: Any) -> None:
    """The trap of every cursor: who began first commits last."""
    cursor = (await log.recent(limit=0, after=None)).cursor
    await log.write([event("otp.expired", now_ms())])
    await settled(log)
    first, cursor = await follow(log, cursor)
    slow = server.transaction()
    await slow.start()
    await server.execute(
        "insert into events (occurred_at, event_id, name, client_id, mode, otp_id, message_id, data)"
        " values (now(), 'evt_slow', 'otp.expired', 'c', 'live', 'o', '', '{}')"
    )
    quick = event("otp.expired", now_ms())
    await log.write([quick])
    held_back, cursor = await follow(log, cursor)
    await slow.commit()
    await settled(log)
    rest, _ = await follow(log, cursor)
    assert (len(first), held_back) == (1, [])
    assert ids(rest) == ["evt_slow", quick.event_id]


async def test_a_writer_that_is_undone_holds_nothing_back(log: PostgresEventLog, server: Any) -> None:
    cursor = (await log.recent(limit=0, after=None)).cursor
    undone = server.transaction()
    await undone.start()
    await server.execute("insert into forgotten_numbers (to_index) values ('x')")
    await undone.rollback()
    quick = event("otp.expired", now_ms())
    await log.write([quick])
    await settled(log)
    assert ids((await follow(log, cursor))[0]) == [quick.event_id]


async def test_what_was_restored_from_another_server_is_old(log: PostgresEventLog, server: Any) -> None:
    """Its transactions have higher numbers than this server has come to: shown with the newest, never as new."""
    restored, mine = event("otp.expired", now_ms() - 1000), event("otp.expired", now_ms())
    foreign = await server.fetchval("select (pg_current_xact_id()::text::bigint + 1000000)::text")
    await log.write([restored])
    await server.execute("update events set tx = $1::text::xid8", foreign)
    await settled(log)
    page = await log.recent(limit=10, after=None)
    assert ids(page.events) == [restored.event_id]
    await log.write([mine])
    await settled(log)
    assert ids((await follow(log, page.cursor))[0]) == [mine.event_id]
    assert ids((await log.recent(limit=10, after=None)).events) == [restored.event_id, mine.event_id]
    # A cursor that was made there.
    page = await log.recent(limit=10, after=f"{foreign}/")
    assert page.events == []
    await log.write([late := event("otp.expired", now_ms())])
    await settled(log)
    assert ids((await follow(log, page.cursor))[0]) == [late.event_id]


async def test_many_writers_and_a_follower(log: PostgresEventLog) -> None:
    """Batches of all sizes commit in any order while one follows: it sees each event once."""
    cursor = (await log.recent(limit=0, after=None)).cursor
    chance = random.Random(7)
    batches = [lives(chance.randint(1, 8), now_ms()) for _ in range(60)]
    seen: list[str] = []
    gate = asyncio.Semaphore(3)

    async def write(batch: list[Event]) -> None:
        async with gate:
            await log.write(batch)

    async def watch() -> None:
        nonlocal cursor
        while not writing.done():
            found, cursor = await follow(log, cursor, 20)
            seen.extend(ids(found))

    writing = asyncio.gather(*(write(batch) for batch in batches))
    await watch()
    await writing
    await settled(log)
    found, _ = await follow(log, cursor, 20)
    seen.extend(ids(found))
    assert sorted(seen) == sorted(ids([one for batch in batches for one in batch]))
