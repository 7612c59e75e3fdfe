"""The history of events on a real PostgreSQL: each event once, whatever is repeated, cut off, refused or raced."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from otpsvc.errors import ApiError
from otpsvc.events.model import END_OF_TIME_MS, Event
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import Database, open_database
from tests.events.samples import (
    CLIENT,
    DAY_MS,
    NOON,
    OTHER_CLIENT,
    SEALED,
    TEXT,
    TO,
    TO_INDEX,
    event,
    life,
    lives,
    of_message,
    sent,
    without_personal,
)


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=365, message_days=90)


@pytest.fixture
async def server(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def ids_in(server: Any, table: str = "events", column: str = "event_id") -> list[str]:
    """Every row's id, so that a row that is there twice is seen twice."""
    return sorted([row[column] for row in await server.fetch(f"table {table}")])


def ids_of(events: Sequence[Event]) -> list[str]:
    return sorted(one.event_id for one in events)


async def test_what_is_written_is_read_back(log: PostgresEventLog) -> None:
    events = life()
    assert await log.write(events) == len(events)
    found = await log.of_otp(CLIENT, "live", events[0].otp_id)
    assert found == [without_personal(one) for one in events]


async def test_nothing_personal_is_in_the_events(log: PostgresEventLog, server: Any) -> None:
    await log.write(life())
    for row in await server.fetch("select e::text as row from events e"):
        for secret in (TO, TO_INDEX, TEXT, "order", "sealed"):
            assert secret not in row["row"]
    message = await server.fetchrow("select * from messages")
    assert (message["to_masked"], message["to_index"], message["to_sealed"]) == (TO, TO_INDEX, SEALED)
    assert (message["text"], message["metadata"]) == (TEXT, '{"order":"\\u0000 7"}')


async def test_nothing_to_write(log: PostgresEventLog) -> None:
    assert await log.write([]) == 0


async def test_the_same_again_is_not_new(log: PostgresEventLog, server: Any) -> None:
    events = lives(20)
    half = len(events) // 2
    assert await log.write(events[half:]) == len(events) - half
    assert await log.write(events) == half
    assert await log.write(events) == 0
    assert await log.write(events + events) == 0
    assert await ids_in(server) == ids_of(events)
    assert len(await ids_in(server, "messages", "message_id")) == 20


async def test_a_batch_may_hold_an_event_twice(log: PostgresEventLog, server: Any) -> None:
    events = lives(3)
    assert await log.write(events + events[::-1]) == len(events)
    assert await ids_in(server) == ids_of(events)


async def test_many_write_the_same_at_once(log: PostgresEventLog, server: Any) -> None:
    """Overlapping batches in many orders, also over midnight: one row each, no deadlock, and the counts add up."""
    written = [*lives(1), *lives(1, NOON + DAY_MS)]
    await log.write(written)
    for turn in range(5):
        events = lives(40, NOON + turn * 1000) + lives(40, NOON + DAY_MS + turn * 1000)
        batches = [events]
        for seed in range(8):
            shuffled = events.copy()
            random.Random(seed).shuffle(shuffled)
            batches.append(shuffled[: len(events) * 3 // 4])
        counts = await asyncio.gather(*(log.write(batch) for batch in batches))
        assert sum(counts) == len(events)
        written += events
    assert await ids_in(server) == ids_of(written)
    assert [row[0] for row in await server.fetch("select distinct status from messages")] == ["sent"]


async def test_the_first_events_of_a_day_come_from_everywhere_at_once(database_url: str, server: Any) -> None:
    """Sixteen connections of four pools make the same missing days: none fails, no day is made twice."""
    pools = [await open_database(database_url, min_connections=4, max_connections=4) for _ in range(4)]
    logs = [PostgresEventLog(pool, event_days=365, message_days=90) for pool in pools]
    try:
        for day in range(6):
            at = NOON + day * 2 * DAY_MS
            batches = [[sent(at + n)] if n % 2 else [sent(at + n), sent(at + DAY_MS + n)] for n in range(16)]
            counts = await asyncio.gather(*(logs[n % 4].write(batch) for n, batch in enumerate(batches)))
            assert counts == [2, 1] * 8
    finally:
        for pool in pools:
            await pool.close()
    assert await server.fetchval("select count(*) from pg_inherits where inhparent = 'events'::regclass") == 12
    assert len(await ids_in(server)) == 6 * 24
    assert await server.fetchval("select count(*) from events where data->>'is_unreadable' = 'true'") == 0


@pytest.mark.parametrize("at", [NOON // DAY_MS * DAY_MS, NOON // DAY_MS * DAY_MS + DAY_MS - 1])
async def test_the_edges_of_a_day(log: PostgresEventLog, server: Any, at: int) -> None:
    begun = sent(at)
    await log.write([begun, of_message("message.sent", begun, 1)])
    assert await server.fetchval("select tableoid::regclass::text from messages") == "messages_20260726"
    table = "events_20260726" if at % DAY_MS == 0 else "events_20260727"
    assert await server.fetchval("select max(tableoid::regclass::text) from events") == table
    assert [one.occurred_at for one in await log.of_otp(CLIENT, "live", begun.otp_id)] == [at, at + 1]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
async def test_a_day_is_a_day_of_utc_wherever_the_server_is(server: Any, log: PostgresEventLog, zone: str) -> None:
    await server.execute(f"set timezone = '{zone}'")
    await server.execute("select ensure_history_day('events', '2026-07-26')")
    assert await log.write([event("otp.expired", NOON // DAY_MS * DAY_MS), event("otp.expired", NOON)]) == 2
    assert await server.fetchval("select count(*) from events_20260726") == 2


@pytest.mark.parametrize("at", [0, 1, NOON - 3000 * DAY_MS, 4_118_083_200_000, END_OF_TIME_MS - 1])
async def test_any_day_can_be_written_and_found(log: PostgresEventLog, at: int) -> None:
    """1970, years ago, 2100, and the last millisecond of 9999, beside today's."""
    begun = sent(at, expires_at=str(at))
    assert await log.write([begun, *life()]) == 6
    assert await log.of_otp(CLIENT, "live", begun.otp_id) == [without_personal(begun)]


async def test_a_life_over_many_stretches_is_found_whole(log: PostgresEventLog) -> None:
    """An OTP whose events lie further apart than one look at the history reaches."""
    await log.write([event("otp.expired", NOON - day * DAY_MS) for day in range(0, 130, 2)])
    events = life(NOON - 100 * DAY_MS)
    late = event("otp.expired", NOON - 10 * DAY_MS, otp_id=events[0].otp_id)
    await log.write([late, *events])
    assert await log.of_otp(CLIENT, "live", late.otp_id) == [*map(without_personal, events), late]


async def test_an_otp_is_shown_to_its_owner_only(log: PostgresEventLog) -> None:
    events = life()
    same_id = life(NOON + 1, otp_id=events[0].otp_id, client_id=OTHER_CLIENT)
    await log.write(events + same_id)
    found = await log.of_otp(CLIENT, "live", events[0].otp_id)
    assert ids_of(found) == ids_of(events)
    assert await log.of_otp(CLIENT, "test", events[0].otp_id) == []
    assert ids_of(await log.of_otp(OTHER_CLIENT, "live", events[0].otp_id)) == ids_of(same_id)
    for otp_id in ("", "otp_unknown", "%", "otp_" + "0" * 26):
        assert await log.of_otp(CLIENT, "live", otp_id) == []


async def test_a_query_opens_few_days(log: PostgresEventLog, database: Database, server: Any) -> None:
    """With much history, a look at one OTP locks the tables of some days, not of all."""
    await server.execute(
        "select ensure_history_day('events', current_date - n) from generate_series(0, 69) n",
    )
    async with server.transaction():
        await server.execute(
            "lock table events_" + await server.fetchval("select to_char(current_date - 50, 'YYYYMMDD')")
        )
        today = await server.fetchval("select (extract(epoch from now()) * 1000)::bigint")
        begun = sent(today)
        assert await log.write([begun]) == 1
        assert await log.of_otp(CLIENT, "live", begun.otp_id) == [without_personal(begun)]
    assert await log.of_otp(CLIENT, "live", "otp_unknown") == []


POISON = {
    "NUL in an id": {"otp_id": "otp_\x00"},
    "a lone surrogate": {"client_id": "\ud800"},
    "no id of ours": {"event_id": "".join(map(chr, range(1, 4000)))},
    "NUL in a text": {"text": "hush \x00"},
    "a surrogate in a detail": {"purpose": "\udfff hush"},
    "parts in words": {"parts": "hush"},
    "too many parts": {"parts": "9" * 30},
    "a time past all time": {"expires_at": "9" * 30},
    "a time in words": {"expires_at": "hush"},
}


@pytest.mark.parametrize("bad", POISON.values(), ids=POISON.keys())
async def test_poison_does_not_block_the_others(
    log: PostgresEventLog, server: Any, bad: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    events, poison = lives(20), sent(NOON, **bad)
    batch = [*events[:33], poison, *events[33:]]
    assert await log.write(batch) == len(batch)
    assert await log.write(batch) == 0
    found = await ids_in(server)
    assert set(ids_of(events)) < set(found)
    assert len(found) == len(batch)
    row = await server.fetchrow("select * from events where data->>'is_unreadable' = 'true'")
    assert row["name"] == "otp.sent"
    assert row["data"] == '{"is_unreadable":"true"}'
    assert "details are dropped" in caplog.text
    for secret in ("hush", TO, TO_INDEX, TEXT):
        assert secret not in caplog.text


async def test_a_whole_batch_of_poison(log: PostgresEventLog, server: Any) -> None:
    batch = [sent(NOON, text="\x00") for _ in range(40)]
    assert await log.write(batch) == 40
    assert await ids_in(server) == ids_of(batch)


@pytest.mark.parametrize("at", [-1, END_OF_TIME_MS, 10**30])
async def test_a_time_that_cannot_be(log: PostgresEventLog, at: int) -> None:
    assert await log.write([event("otp.expired", at), *life()]) == 6
    assert await log.write([of_message("message.sent", sent(NOON), 1, created_at="hush")]) == 1


async def test_a_table_that_refuses_everything_is_an_outage(log: PostgresEventLog, server: Any) -> None:
    """Not the data's fault, so nothing is dropped: it is written when the table is as it was."""
    events = life()
    await server.execute("alter table events add constraint none_at_all check (event_id = '') not valid")
    with pytest.raises(ApiError) as caught:
        await log.write(events)
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    await server.execute("alter table events drop constraint none_at_all")
    assert await log.write(events) == len(events)
    assert await log.of_otp(CLIENT, "live", events[0].otp_id) == [without_personal(one) for one in events]


async def test_a_day_that_goes_away_under_the_writer_costs_no_details(
    log: PostgresEventLog, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event, the table gone at the first writing: that is no reason to drop what is in it."""
    one = sent()
    await server.execute(
        "create sequence writings;"
        "create or replace function begin_history_write(event_days date[], message_days date[]) returns void"
        " language plpgsql as $$ begin"
        "   if nextval('writings') > 1 then"
        "     perform ensure_history_day(k, '2026-07-26') from unnest(array['events', 'messages']) k;"
        "   end if;"
        " end $$"
    )
    with pytest.raises(ApiError) as caught:
        await log.write([one])
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    assert await log.write([one]) == 1
    assert await log.of_otp(CLIENT, "live", one.otp_id) == [without_personal(one)]
