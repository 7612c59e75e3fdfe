"""Messages in the history: the sum of their events in any order, shown to their owner only."""

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otpsvc.events.model import Event
from otpsvc.ids import parse_message_id
from otpsvc.messages.model import MessageStatus, MessageView
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.message_rows import MessageRow, merged, precedence, rows_of
from otpsvc.postgres.messages import PostgresMessageRecords
from otpsvc.postgres.pool import Database, open_database
from tests.events.samples import (
    CLIENT,
    DAY_MS,
    NOON,
    OTHER_CLIENT,
    TEXT,
    TO,
    event,
    life,
    message_id,
    of_message,
    of_otp,
    sent,
)


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=365, message_days=90)


@pytest.fixture
def records(database: Database) -> PostgresMessageRecords:
    return PostgresMessageRecords(database)


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def find(records: PostgresMessageRecords, begun: Event) -> MessageView | None:
    return await records.find(begun.client_id, begun.mode, parse_message_id(begun.message_id))


async def test_a_message_from_acceptance_to_sending(log: PostgresEventLog, records: PostgresMessageRecords) -> None:
    events = life()
    begun = events[0]
    expected = MessageView(
        message_id=begun.message_id,
        otp_id=begun.otp_id,
        status="queued",
        channel="sms",
        parts=1,
        to=TO,
        text=TEXT,
        reason=None,
        sender=None,
        tries=0,
        created_at=NOON,
        sent_at=None,
        delivered_at=None,
        ended_at=None,
        expires_at=NOON + 300_000,
        metadata='{"order":"\\u0000 7"}',
    )
    await log.write(events[:1])
    assert await find(records, begun) == expected
    await log.write(events[1:2])
    found = await find(records, begun)
    assert found
    assert (found.status, found.reason, found.tries) == ("queued", "retry_later", 1)
    await log.write(events[2:])
    found = await find(records, begun)
    assert found
    assert (found.status, found.reason, found.tries) == ("sent", None, 2)
    assert (found.sent_at, found.sender, found.ended_at) == (NOON + 900, "main", None)
    assert (found.to, found.text, found.metadata) == (expected.to, expected.text, expected.metadata)


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled", "delivered"])
async def test_an_end_is_for_good(log: PostgresEventLog, records: PostgresMessageRecords, status: str) -> None:
    begun = sent()
    end = of_message(f"message.{status}", begun, 500, reason="no_sender", tries="3")
    for late in (
        of_message("message.sent", begun, 900, sender="main"),
        of_message("message.postponed", begun, 950, reason="retry_later"),
        of_message("message.failed", begun, 999, reason="another"),
        begun,
    ):
        await log.write([end])
        await log.write([late])
    found = await find(records, begun)
    assert found
    assert (found.status, found.reason, found.ended_at) == (status, "no_sender", NOON + 500)
    assert (found.to, found.tries) == (TO, 3)
    assert found.delivered_at == (NOON + 500 if status == "delivered" else None)


async def test_a_message_is_shown_to_its_owner_only(log: PostgresEventLog, records: PostgresMessageRecords) -> None:
    begun = sent()
    await log.write([begun])
    known = parse_message_id(begun.message_id)
    assert await records.find(CLIENT, "live", known) is not None
    assert await records.find(CLIENT, "test", known) is None
    assert await records.find(OTHER_CLIENT, "live", known) is None
    assert await records.find(CLIENT, "live", parse_message_id(message_id())) is None
    assert await records.newest_of_otp(CLIENT, "live", begun.otp_id) is not None
    assert await records.newest_of_otp(CLIENT, "test", begun.otp_id) is None
    assert await records.newest_of_otp(OTHER_CLIENT, "live", begun.otp_id) is None
    assert await records.newest_of_otp(CLIENT, "live", "otp_unknown") is None


@pytest.mark.parametrize("days_ago", [0, 1, 2, 3, 45, 400])
async def test_a_message_of_any_age_is_found(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any, days_ago: int
) -> None:
    now = await server.fetchval("select (extract(epoch from now()) * 1000)::bigint")
    await log.write([sent(now - day * DAY_MS) for day in range(0, 80, 2)])
    begun = sent(now - days_ago * DAY_MS)
    await log.write([begun])
    assert await find(records, begun) is not None
    found = await records.newest_of_otp(CLIENT, "live", begun.otp_id)
    assert found
    assert found.message_id == begun.message_id


async def test_the_newest_message_of_an_otp(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any
) -> None:
    begun = sent(NOON // DAY_MS * DAY_MS + DAY_MS - 10)
    resent = sent(begun.occurred_at + 40_000, name="otp.resent", otp_id=begun.otp_id)
    rejected = of_otp("otp.rejected", begun, 50_000, attempt="1")
    await log.write([rejected, resent, begun])
    found = await records.newest_of_otp(CLIENT, "live", begun.otp_id)
    assert found
    assert found.message_id == resent.message_id
    await server.execute("drop table messages_20260727")
    assert await records.newest_of_otp(CLIENT, "live", begun.otp_id) is None


def test_ranks_and_times() -> None:
    order = [
        precedence(MessageStatus.QUEUED, 5),
        precedence(MessageStatus.QUEUED, 6),
        precedence(MessageStatus.PROCESSING, 0),
        precedence(MessageStatus.SENT, 0),
        precedence(MessageStatus.SENT, 253_370_764_799_999),
        precedence(MessageStatus.FAILED, 253_370_764_799_999),
        precedence(MessageStatus.CANCELLED, 6),
        precedence(MessageStatus.DELIVERED, 5),
    ]
    assert order == sorted(set(order))
    assert order[-1] < 2**63


WORDS = st.sampled_from(["", "a", "b", "Z", "é", "\U0001f600", "\uffff"])
CHANGES: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        name=st.sampled_from(
            ["postponed", "sent", "delivered", "failed", "expired", "cancelled", "tried", "unheard_of"]
        ),
        after_ms=st.integers(0, 3),
        reason=st.one_of(WORDS, st.just("unknown_outcome")),
        sender=WORDS,
        provider_id=WORDS,
        tries=st.sampled_from(["", "1", "2"]),
        channel=st.sampled_from(["sms", "voice"]),
    ),
    max_size=8,
)
BEGUN = sent()


def changes_of(begun: Event, drawn: list[dict[str, Any]]) -> list[Event]:
    events = [begun]
    for one in drawn:
        details = {key: value for key, value in one.items() if key not in {"name", "after_ms"}}
        events.append(of_message(f"message.{one['name']}", begun, one["after_ms"], **details))
    return events


ROWS = CHANGES.map(lambda drawn: rows_of(changes_of(BEGUN, drawn))[0])


@given(a=ROWS, b=ROWS, c=ROWS)
def test_summing_up_knows_no_order(a: MessageRow, b: MessageRow, c: MessageRow) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(a, a) == a


def test_any_order_and_any_division_end_in_the_same_row(database_url: str) -> None:
    """In the table as in a batch: also where events contradict each other, are repeated, and come in any company."""
    with asyncio.Runner() as runner:
        database = runner.run(open_database(database_url))
        log = PostgresEventLog(database, event_days=365, message_days=90)

        async def row_of(batches: list[list[Event]], message_id: str) -> dict[str, Any]:
            for batch in batches:
                await log.write(batch)
            async with database.borrowed_connection("test") as connection:
                found = await connection.fetch("select * from messages where message_id = $1", message_id)
            assert len(found) == 1
            return {key: value for key, value in found[0].items() if key != "message_id"}

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(drawn=CHANGES, data=st.data())
        def orders(drawn: list[dict[str, Any]], data: st.DataObject) -> None:
            rows = []
            for _ in range(3):
                begun = sent(otp_id=BEGUN.otp_id)
                events = data.draw(st.permutations(changes_of(begun, drawn)))
                cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
                batches = [events[i:j] for i, j in zip([0, *cuts], [*cuts, len(events)], strict=True)]
                again = data.draw(st.sampled_from([[], batches[:1], batches]))
                rows.append(runner.run(row_of([batch for batch in batches if batch] + again, begun.message_id)))
            assert rows[0] == rows[1] == rows[2]
            row = rows_of(changes_of(BEGUN, drawn))[0]._asdict()
            assert {key: rows[0][key] for key in row if key != "message_id"} == {
                key: value for key, value in row.items() if key != "message_id"
            }

        try:
            orders()
        finally:
            runner.run(database.close())


async def test_two_drains_with_the_halves_of_many_messages(log: PostgresEventLog, server: Any) -> None:
    """Each has half of every message's events, in opposite orders: no deadlock, and every row is whole."""
    begun = [sent(NOON + n) for n in range(100)]
    settled = [of_message("message.sent", one, 50, sender="main") for one in begun]
    for n in range(5):
        await asyncio.gather(log.write([*begun, *settled[:50]]), log.write([*settled[::-1], *begun[n:]]))
    rows = await server.fetch("select distinct status, sender, to_masked, sent_at is null as unsent from messages")
    assert [tuple(row) for row in rows] == [("sent", "main", TO, False)]


async def test_what_an_earlier_version_wrote_makes_no_message(log: PostgresEventLog, server: Any) -> None:
    """Its events of a send said nothing of the message; what became of it, told by this one, makes it."""
    begun = event("otp.sent", purpose="login", code_length="6", expires_at=str(NOON + 300_000))
    await log.write([begun, event("otp.resent", otp_id=begun.otp_id), sent(channel="")])
    assert await server.fetchval("select count(*) from messages") == 0
    assert await server.fetchval("select count(*) from events") == 3
    await log.write([begun, of_message("message.sent", begun, 1, sender="main")])
    assert [tuple(row) for row in await server.fetch("select status, channel from messages")] == [("sent", "sms")]


async def test_a_message_that_changed_hands_is_the_last_ones(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any
) -> None:
    """Whoever took it first is not its sender any more, in whatever order it is written, and whatever comes last."""
    begun = sent()
    first = of_message("message.sent", begun, 100, sender="zeta", provider_id="z-1")
    silent = of_message("message.tried", begun, 200, sender="zeta", outcome="silent", may_duplicate="1")
    second = of_message("message.sent", begun, 300, sender="alpha", provider_id="a-1")
    ending = of_message("message.failed", begun, 400, reason="no_time_left", tries="2")
    for events in permutations([first, silent, second, ending]):
        await server.execute("truncate messages, events")
        for one in [begun, *events]:
            await log.write([one])
        row = await server.fetchrow("select sender, provider_id, status, reason, tries from messages")
        assert tuple(row) == ("alpha", "a-1", "failed", "no_time_left", 2)


async def test_what_an_earlier_version_wrote_gives_way_to_a_receipt(log: PostgresEventLog, server: Any) -> None:
    begun = sent()
    await log.write([begun, of_message("message.sent", begun, 100, sender="zeta", provider_id="z-1")])
    await server.execute("update messages set sender_precedence = null")
    await log.write([of_message("message.postponed", begun, 100)])
    assert await server.fetchval("select sender from messages") == "zeta"
    await log.write([of_message("message.delivered", begun, 300, sender="alpha", provider_id="a-1")])
    assert tuple(await server.fetchrow("select sender, provider_id, status from messages")) == (
        "alpha", "a-1", "delivered")  # fmt: skip


async def test_other_events_make_no_message(log: PostgresEventLog, server: Any) -> None:
    await log.write([event(f"otp.{name}") for name in ("rejected", "verified", "locked", "superseded", "expired")])
    await log.write([of_message("message.unheard", BEGUN, 1)])
    await log.write([of_message("message.tried", BEGUN, 1, sender="main", outcome="no_credit")])
    assert await server.fetchval("select count(*) from messages") == 0
