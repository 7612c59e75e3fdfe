"""The days of the history: made ahead, dropped when their time is over, and never in the way of those who write."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from otpsvc.errors import ApiError
from otpsvc.ids import parse_message_id
from otpsvc.postgres import events as events_module
from otpsvc.postgres import history as history_module
from otpsvc.postgres import queries
from otpsvc.postgres.events import DAYS_AHEAD, PostgresEventLog
from otpsvc.postgres.history import LONG_WALKS, moment, ms_of, stretches
from otpsvc.postgres.messages import PostgresMessageRecords
from otpsvc.postgres.numbers import PostgresNumberRecords
from otpsvc.postgres.pool import Database, open_database
from tests.events.samples import CLIENT, DAY_MS, life, message_id, of_message, sent


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=20, message_days=10)


async def days_of(server: Any, parent: str) -> list[date]:
    rows = await server.fetch(
        "select to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') from pg_inherits"
        " where inhparent = $1::text::regclass order by 1",
        parent,
    )
    return [row[0] for row in rows]


async def today_of(server: Any) -> date:
    day = await server.fetchval("select (now() at time zone 'UTC')::date")
    assert isinstance(day, date)
    return day


def at_noon(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1000)


async def test_the_coming_days_are_there_before_they_come(log: PostgresEventLog, server: Any) -> None:
    today = await today_of(server)
    ahead = [today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)]
    for _ in range(2):
        await log.keep_house()
        assert await days_of(server, "events") == ahead
        assert await days_of(server, "messages") == ahead


async def test_days_go_when_their_time_is_over(log: PostgresEventLog, server: Any) -> None:
    """To the day, events and messages each by its own setting; what comes from 1970 or is far ahead breaks nothing."""
    today = await today_of(server)
    ages = [-500, 0, 9, 10, 11, 19, 20, 21, 22, 300]
    days = [today - timedelta(days=age) for age in ages]
    begun = [sent(at_noon(day)) for day in days]
    await log.write([sent(0), *begun])
    await log.keep_house()
    ahead = {today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)}
    assert set(await days_of(server, "events")) == {day for day in days if today - day <= timedelta(days=20)} | ahead
    assert set(await days_of(server, "messages")) == {day for day in days if today - day <= timedelta(days=10)} | ahead
    left = [age for age, one in zip(ages, begun, strict=True) if await log.of_otp(CLIENT, "live", one.otp_id)]
    assert left == [-500, 0, 9, 10, 11, 19, 20]
    assert await log.write(begun) == 3
    await log.keep_house()
    assert await log.write(begun[:7]) == 0


async def test_old_tombstones_go(log: PostgresEventLog, server: Any) -> None:
    await server.execute(
        "insert into forgotten_numbers (to_index, forgotten_at) select n::text, now() - n * interval '1 day'"
        " from generate_series(0, 20) n"
    )
    days_ago = "select to_index::integer from forgotten_numbers order by 1"
    today = await today_of(server)
    # What was sent before may all be in the stream yet, as after a long time without a drain.
    await log.write([sent(at_noon(today - timedelta(days=9))), sent(at_noon(today + timedelta(days=2)))])
    await log.keep_house()
    assert [row[0] for row in await server.fetch(days_ago)] == [*range(21)]
    await log.write([sent(at_noon(today - timedelta(days=6)))])
    await log.keep_house()
    assert [row[0] for row in await server.fetch(days_ago)] == [*range(8)]


async def test_many_may_keep_house_at_once(database_url: str, server: Any) -> None:
    pools = [await open_database(database_url, max_connections=3) for _ in range(3)]
    logs = [PostgresEventLog(pool, event_days=3, message_days=3) for pool in pools]
    today = await today_of(server)
    try:
        await logs[0].write([sent(at_noon(today - timedelta(days=n))) for n in range(12)])
        await asyncio.gather(
            *(log.keep_house() for log in logs * 3), *(log.write(life(at_noon(today))) for log in logs)
        )
        # Nobody has kept the turn to himself.
        await asyncio.gather(*(log.keep_house() for log in logs))
        assert await server.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
    finally:
        for pool in pools:
            await pool.close()
    assert min(await days_of(server, "events")) == today - timedelta(days=3)


async def test_a_failure_gives_the_turn_back(log: PostgresEventLog, server: Any) -> None:
    definition = await server.fetchval("select pg_get_functiondef('drop_history_day'::regproc)")
    await server.execute(
        "create or replace function drop_history_day(parent text, keep_from date) returns text language plpgsql"
        " as $$ begin raise insufficient_privilege; end $$"
    )
    with pytest.raises(ApiError) as caught:
        await log.keep_house()
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    await server.execute(definition)
    today = await today_of(server)
    await log.write([sent(at_noon(today - timedelta(days=50)))])
    await log.keep_house()
    assert min(await days_of(server, "events")) == today


async def test_a_day_that_is_being_read_is_left_and_writers_go_on(
    log: PostgresEventLog, server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events_module, "_DROP_PAUSE_S", 0.01)
    today = await today_of(server)
    old = today - timedelta(days=50)
    await log.write([sent(at_noon(old)), sent(at_noon(today))])
    async with server.transaction():
        await server.fetch("select from events")
        keeping = asyncio.create_task(log.keep_house())
        n_written = 0
        while not keeping.done():
            n_written += await log.write([sent(at_noon(today))])
        await keeping
        assert old in await days_of(server, "events")
        # Those of messages nobody was reading.
        assert old not in await days_of(server, "messages")
        assert n_written > 0
    assert "is being read and was not dropped" in caplog.text
    await log.keep_house()
    assert old not in await days_of(server, "events")


async def test_a_long_reader_does_not_keep_a_day_from_being_made(log: PostgresEventLog, server: Any) -> None:
    """Nor does one who writes: attaching a table waits for neither."""
    today = await today_of(server)
    await log.write([sent(at_noon(today))])
    async with server.transaction():
        await server.fetch("select from events e, messages m")
        await server.execute("delete from events where name = 'nothing'")
        assert await log.write([sent(at_noon(today - timedelta(days=3)))]) == 1
        await log.keep_house()


async def test_the_way_through_the_history(database: Database, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each day lies in one stretch, the newest first, and only the first stretch is taken without asking."""
    monkeypatch.setattr(history_module, "STRETCH_DAYS", 6)
    log = PostgresEventLog(database, event_days=9999, message_days=9999)
    today = await today_of(server)
    days = [today - timedelta(days=age) for age in (-90_000, -3, 0, 1, 2, 3, 40, *range(100, 400, 15), 20_000)]
    await log.write([sent(at_noon(day)) for day in days])
    found = [stretch async for stretch in stretches(database, "events")]
    assert [len([s for s in found if s.from_at <= moment(at_noon(day)) < s.until_at]) for day in days] == [1] * len(
        days
    )
    assert all(newer.from_at >= older.until_at for newer, older in itertools.pairwise(found))
    assert len(found) == 5


async def test_few_walk_far_at_once(
    database: Database, log: PostgresEventLog, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds nothing in the first stretch waits for a turn, without a connection and not for ever."""
    monkeypatch.setattr(history_module, "WALK_WAIT_S", 0.1)
    today = await today_of(server)
    young, old = sent(at_noon(today)), sent(at_noon(today - timedelta(days=50)))
    await log.write([young, old])
    records = PostgresMessageRecords(database)
    walks = [stretches(database, "events") for _ in range(LONG_WALKS)]
    for walk in walks:
        await anext(walk)
        assert await records.find(CLIENT, "live", parse_message_id(old.message_id))
        await anext(walk)
    assert await log.of_otp(CLIENT, "live", young.otp_id)
    assert await records.find(CLIENT, "live", parse_message_id(young.message_id))
    far = (
        lambda: records.find(CLIENT, "live", parse_message_id(message_id())),
        lambda: records.newest_of_otp(CLIENT, "live", "otp_unknown"),
        lambda: log.of_otp(CLIENT, "live", old.otp_id),
        lambda: PostgresNumberRecords(database).forget("an index", client_id=None, mode=None),
    )
    for look in far:
        with pytest.raises(ApiError) as caught:
            await look()
        assert caught.value.code == "SERVICE_UNAVAILABLE"
    await walks[0].aclose()
    # Each gives its turn back: found, not found and broken off alike.
    for look in far * 2:
        await look()
    async with aclosing(stretches(database, "events")) as walk:
        async for stretch in walk:
            if stretch.from_at < moment(at_noon(today - timedelta(days=30))):
                break
    await asyncio.gather(*(look() for look in far))
    await walks[1].aclose()


async def test_a_flood_of_unknown_ids_leaves_connections(
    database: Database, log: PostgresEventLog, server: Any
) -> None:
    """Four connections; the walks are held up by a lock on an old day, and yet one who writes gets through."""
    today = await today_of(server)
    old = today - timedelta(days=50)
    await log.write([sent(at_noon(old))])
    flood: list[asyncio.Task[object]] = []
    try:
        async with server.transaction():
            await server.execute(f"lock table messages_{old:%Y%m%d}")
            records = PostgresMessageRecords(database)
            for _ in range(20):
                one = records.find(CLIENT, "live", parse_message_id(message_id()))
                flood.append(asyncio.create_task(one))
            for _ in range(1000):
                if await server.fetchval("select count(*) from pg_locks where not granted") >= LONG_WALKS:
                    break
                await asyncio.sleep(0.005)
            for _ in range(5):
                assert await log.write([sent(at_noon(today))]) == 1
            assert await server.fetchval("select count(*) from pg_locks where not granted") == LONG_WALKS
        assert await asyncio.gather(*flood) == [None] * 20
    finally:
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


@pytest.mark.parametrize("ms", [0, 1, 999, 1_785_067_200_001, 4_102_444_800_123, 253_370_764_799_999])
def test_times_are_exact(ms: int) -> None:
    assert ms_of(moment(ms)) == ms
    assert moment(ms) - moment(ms % DAY_MS) == timedelta(days=ms // DAY_MS)


@pytest.mark.parametrize("ms", [-1, 253_370_764_800_000, 10**30])
def test_no_other_time_has_a_day(ms: int) -> None:
    with pytest.raises(OverflowError):
        moment(ms)


@pytest.mark.parametrize("late", [None, "message.sent", "message.failed"])
async def test_a_message_that_its_store_forgot_does_not_wait_for_ever(
    log: PostgresEventLog, server: Any, late: str | None
) -> None:
    """No worker ran for days: its record is gone, so nothing will ever end it. What is only late still counts."""
    now_ms = int((await server.fetchval("select now()")).timestamp() * 1000)
    old, fresh = sent(now_ms - 3 * DAY_MS), sent(now_ms - DAY_MS)
    await log.write([old, fresh])
    await log.keep_house()
    if late is not None:
        await log.write([of_message(late, old, 1000, reason="")])
    rows = await server.fetch("select message_id, status, reason from messages")
    told = {row["message_id"]: (row["status"], row["reason"]) for row in rows}
    status = ("expired", "unrecorded") if late is None else (late.partition(".")[2], None)
    assert told == {old.message_id: status, fresh.message_id: ("queued", None)}


async def test_all_that_are_lost_are_ended_a_few_at_once(
    log: PostgresEventLog, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From two days ago to ten; one that somebody has hold of is left for the next time, and not waited for."""
    monkeypatch.setattr(events_module, "LOST_AT_ONCE", 3)
    today = await today_of(server)
    lost = [sent(at_noon(today - timedelta(days=age)) + n) for age in (3, 5, 10) for n in range(7)]
    others = [sent(at_noon(today - timedelta(days=age))) for age in (0, 1)]
    await log.write([*lost, *others])
    async with server.transaction():
        await server.execute("select from messages where message_id = $1 for update", lost[0].message_id)
        await log.keep_house()
        ended = await server.fetch("select message_id from messages where status = 'expired'")
        assert {row[0] for row in ended} == {one.message_id for one in lost[1:]}
    await log.keep_house()
    assert await server.fetchval("select count(*) from messages where status = 'expired'") == len(lost)


async def test_the_lost_are_found_without_reading_their_day(log: PostgresEventLog, server: Any) -> None:
    today = await today_of(server)
    day = today - timedelta(days=3)
    await log.write([sent(at_noon(day))])
    await server.execute(
        "insert into messages (created_at, message_id, client_id, mode, otp_id, status, precedence, tries)"
        " select $1::timestamptz + n * interval '1 ms', n::text, 'c', 'live', n::text, 'sent', 0, 1"
        " from generate_series(1, 20000) n",
        moment(at_noon(day)),
    )
    await server.execute("analyze messages")
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    ending = queries.load("events").end_lost_messages.sql
    plan = await server.fetch(f"explain (costs off) {ending}", start, start + timedelta(days=1), 1, 1000)
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan" not in text
    assert f"messages_{day:%Y%m%d}_created_at_message_id_idx" in text


@pytest.mark.parametrize("step", ["begin_history_write", "drop_history_day", "end_lost_messages"])
async def test_a_step_that_fails_keeps_no_other_from_being_done(log: PostgresEventLog, server: Any, step: str) -> None:
    today = await today_of(server)
    lost = sent(at_noon(today - timedelta(days=3)))
    await log.write([lost, sent(at_noon(today - timedelta(days=50)))])
    await server.execute("insert into forgotten_numbers values ('x', '', '', now() - interval '10 days')")
    await server.execute(
        "create function fail() returns trigger language plpgsql as $$ begin raise insufficient_privilege; end $$"
    )
    fault = "returns {} language plpgsql as $$ begin raise insufficient_privilege; end $$"
    await server.execute(
        {
            "begin_history_write": "create or replace function begin_history_write(event_days date[],"
            f" message_days date[]) {fault.format('void')}",
            "drop_history_day": "create or replace function drop_history_day(parent text, keep_from date)"
            f" {fault.format('text')}",
            "end_lost_messages": "create trigger fail before update on messages for each row execute function fail()",
        }[step]
    )
    with pytest.raises(ApiError) as caught:
        await log.keep_house()
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    done = {
        "begin_history_write": today + timedelta(days=1) in await days_of(server, "messages"),
        "drop_history_day": today - timedelta(days=50) not in await days_of(server, "messages"),
        "end_lost_messages": await server.fetchval(
            "select status = 'expired' from messages where message_id = $1", lost.message_id
        ),
        "purge_forgotten_numbers": not await server.fetchval("select count(*) from forgotten_numbers"),
    }
    assert [name for name, is_done in done.items() if not is_done] == [step]
