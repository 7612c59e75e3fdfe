"""Receipts that come when only the history knows their message: which one they mean, and what they may make of it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import asyncpg
import pytest

from otpsvc.ids import parse_message_id
from otpsvc.messages.model import PastMessage
from otpsvc.postgres import queries
from otpsvc.postgres.events import DAYS_AHEAD, PostgresEventLog
from otpsvc.postgres.messages import RECEIPT_DAYS, PostgresMessageRecords
from otpsvc.postgres.pool import Database
from tests.events.samples import CLIENT, DAY_MS, message_id, of_message, sent

UNKNOWN = {"reason": "unknown_outcome", "sender": "acme"}


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


async def now_ms(server: Any) -> int:
    now: int = await server.fetchval("select (extract(epoch from now()) * 1000)::bigint")
    return now


@pytest.mark.parametrize("days_ago", [0, 1, 6])
async def test_the_message_of_a_late_receipt_is_found(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any, days_ago: int
) -> None:
    begun = sent(await now_ms(server) - days_ago * DAY_MS, mode="test")
    await log.write([begun, of_message("message.sent", begun, 50, sender="acme", provider_id="g-1", tries="2")])
    expected = PastMessage(
        message_id=begun.message_id,
        client_id=CLIENT,
        mode="test",
        otp_id=begun.otp_id,
        status="sent",
        channel="sms",
        created_at_ms=begun.occurred_at,
        tries=2,
        provider_id="g-1",
    )
    assert expected.is_open
    assert await records.find_sent("acme", message_id=begun.message_id, provider_id=None) == expected
    assert await records.find_sent("acme", message_id=None, provider_id="g-1") == expected
    assert await records.find_sent("acme", message_id=begun.message_id, provider_id="another") == expected


async def test_an_id_that_no_gateway_can_have_given_names_nothing(records: PostgresMessageRecords) -> None:
    for provider_id in ("\x00", "g-1\x00", ""):
        assert await records.find_sent("acme", message_id=None, provider_id=provider_id) is None


@pytest.mark.parametrize(("reason", "may_be_delivered"), [("unknown_outcome", True), ("no_credit", False)])
async def test_an_end_of_which_nobody_knew_is_found_as_that(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any, reason: str, may_be_delivered: bool
) -> None:
    begun = sent(await now_ms(server))
    await log.write([begun, of_message("message.failed", begun, 50, sender="acme", reason=reason)])
    found = await records.find_sent("acme", message_id=begun.message_id, provider_id=None)
    assert found
    assert (found.status, found.reason, found.is_open, found.may_be_delivered) == (
        "failed", reason, False, may_be_delivered)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "reason", "ended_after_ms"),
    [
        ([("failed", 200, UNKNOWN), ("delivered", 300, {"sender": "acme"})], "delivered", None, 300),
        ([("failed", 200, UNKNOWN), ("sent", 300, {"sender": "acme"})], "sent", None, None),
        ([("sent", 100, {"sender": "acme"}), ("failed", 200, UNKNOWN)], "failed", "unknown_outcome", 200),
        ([("failed", 200, UNKNOWN), ("sent", 300, {}), ("delivered", 400, {})], "delivered", None, 400),
        ([("failed", 200, UNKNOWN), ("failed", 300, {"reason": "blocked"})], "failed", "blocked", 200),
        ([("failed", 200, {"reason": "blocked"}), ("delivered", 300, {})], "failed", "blocked", 200),
    ],
)
async def test_an_end_of_which_nobody_knew_gives_way_in_any_order(
    log: PostgresEventLog,
    records: PostgresMessageRecords,
    server: Any,
    changes: list[tuple[str, int, dict[str, str]]],
    status: str,
    reason: str | None,
    ended_after_ms: int | None,
) -> None:
    begun = sent()
    events = [of_message(f"message.{name}", begun, after, **told) for name, after, told in changes]
    for order in permutations([begun, *events]):
        for batches in ([[one] for one in order], [list(order)]):
            await server.execute("truncate messages, events")
            for batch in batches:
                await log.write(batch)
            view = await records.find(begun.client_id, begun.mode, parse_message_id(begun.message_id))
            assert view
            ended_at = view.ended_at - begun.occurred_at if view.ended_at else None
            assert (view.status, view.reason, ended_at) == (status, reason, ended_after_ms)


async def test_a_gateway_finds_only_its_own_and_only_for_a_week(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any
) -> None:
    now = await now_ms(server)
    young, old, unsent = sent(now), sent(now - 8 * DAY_MS), sent(now)
    await log.write([unsent, young, of_message("message.sent", young, 50, sender="acme", provider_id="g-1")])
    await log.write([old, of_message("message.sent", old, 50, sender="acme", provider_id="g-2")])
    assert await records.find_sent("other", message_id=young.message_id, provider_id=None) is None
    assert await records.find_sent("other", message_id=None, provider_id="g-1") is None
    assert await records.find_sent("acme", message_id=unsent.message_id, provider_id=None) is None
    assert await records.find_sent("acme", message_id=message_id(), provider_id="g-1") is None
    assert await records.find_sent("acme", message_id=old.message_id, provider_id=None) is None
    assert await records.find_sent("acme", message_id=None, provider_id="g-2") is None
    assert await records.find_sent("acme", message_id=None, provider_id=None) is None
    assert await records.find_sent("acme", message_id=None, provider_id="' or 1=1 --") is None


async def test_of_two_messages_with_one_gateways_id_it_is_the_newest(
    log: PostgresEventLog, records: PostgresMessageRecords, server: Any
) -> None:
    now = await now_ms(server)
    older, newer = sent(now - 2 * DAY_MS), sent(now)
    for begun in (newer, older):
        await log.write([begun, of_message("message.sent", begun, 50, sender="acme", provider_id="7")])
    found = await records.find_sent("acme", message_id=None, provider_id="7")
    assert found
    assert found.message_id == newer.message_id


@pytest.mark.parametrize("name", ["carried_message_by_id", "carried_message_by_provider_id"])
async def test_looking_for_an_unknown_id_reads_a_few_days_indexes_only(
    log: PostgresEventLog, server: Any, name: str
) -> None:
    """As the planner does it once it has tables of some size: no table is read through, and old days not at all."""
    now = await now_ms(server)
    await log.write([sent(now - day * DAY_MS) for day in range(30)])
    query = getattr(queries.load("messages"), name)
    await server.execute("set enable_seqscan = off")
    arguments = ["acme", "unknown", datetime.now(UTC) - RECEIPT_DAYS]
    plan = [row[0] for row in await server.fetch(f"explain (analyze) {query.sql}", *arguments)]
    scans = [line for line in plan if "Scan" in line]
    assert all("Index Scan" in line or "Bitmap" in line for line in scans), plan
    assert 0 < len(scans) <= 2 * (7 + 2 + DAYS_AHEAD), plan
