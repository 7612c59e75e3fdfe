"""Forgetting a number: gone from all that is there, and from what is still on its way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from otpsvc.errors import ApiError
from otpsvc.events.model import Event
from otpsvc.postgres import queries
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.message_rows import MessageRow, rows_of
from otpsvc.postgres.numbers import PostgresNumberRecords
from otpsvc.postgres.pool import Database, open_database
from tests.events.samples import CLIENT, DAY_MS, NOON, OTHER_CLIENT, TEXT, TO, TO_INDEX, of_message, sent

PERSONAL = ("to_sealed", "to_index", "to_masked", "text", "metadata")


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=365, message_days=90)


@pytest.fixture
def numbers(database: Database) -> PostgresNumberRecords:
    return PostgresNumberRecords(database)


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def now_ms(server: Any) -> int:
    return int(await server.fetchval("select extract(epoch from now()) * 1000"))


async def is_known(server: Any, begun: Event) -> bool:
    """Say whether the number of a message is still there; half of it is a fault."""
    row = await server.fetchrow("select * from messages where message_id = $1", begun.message_id)
    known = {row[name] is not None for name in PERSONAL}
    assert known == {row["forgotten_at"] is None}
    return known == {True}


async def test_a_number_is_erased_and_nothing_else(
    log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any
) -> None:
    mine = [sent(NOON - day * DAY_MS) for day in (0, 1, 50, 100)]
    other = sent(to_index="another")
    await log.write([*mine, other, *(of_message("message.sent", one, 1, sender="main") for one in mine)])
    assert await numbers.forget(TO_INDEX, client_id=None, mode=None) == 4
    assert await numbers.forget(TO_INDEX, client_id=None, mode=None) == 0
    assert [await is_known(server, one) for one in (*mine, other)] == [False] * 4 + [True]
    rows = await server.fetch("select distinct status, sender, tries from messages where forgotten_at is not null")
    assert [tuple(row) for row in rows] == [("sent", "main", 1)]
    for row in await server.fetch("select m::text from messages m where forgotten_at is not null"):
        for secret in (TO, TO_INDEX, TEXT):
            assert secret not in row[0]


@pytest.mark.parametrize(
    ("client_id", "mode", "left"),
    [
        (None, None, []),
        (CLIENT, None, ["other live"]),
        (CLIENT, "live", ["mine test", "other live"]),
        (OTHER_CLIENT, "test", ["mine live", "mine test", "other live"]),
        (None, "live", ["mine test"]),
    ],
)
async def test_for_whom_it_is_forgotten(
    log: PostgresEventLog,
    numbers: PostgresNumberRecords,
    server: Any,
    client_id: str | None,
    mode: str | None,
    left: list[str],
) -> None:
    """The same for what is there and for what comes later."""
    for is_there in (True, False):
        events = {
            "mine live": sent(),
            "mine test": sent(mode="test"),
            "other live": sent(client_id=OTHER_CLIENT),
        }
        if is_there:
            await log.write([*events.values()])
        await numbers.forget(TO_INDEX, client_id=client_id, mode=mode)
        if not is_there:
            await log.write([*events.values()])
        assert [name for name, one in events.items() if await is_known(server, one)] == left


async def test_what_is_on_its_way_is_forgotten_what_is_sent_later_is_not(
    log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any
) -> None:
    now = await now_ms(server)
    await numbers.forget(TO_INDEX, client_id=None, mode=None)
    earlier, later = sent(now - 1000), sent(now + 60_000)
    settled = of_message("message.sent", earlier, 10, sender="main")
    await log.write([settled])
    await log.write([earlier, later])
    assert not await is_known(server, earlier)
    assert await is_known(server, later)


async def test_a_number_does_not_come_back(log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any) -> None:
    """A second writing of the same event, also when nobody remembers any more that the number was forgotten."""
    begun = sent()
    await log.write([begun])
    await numbers.forget(TO_INDEX, client_id=None, mode=None)
    await log.write([begun, of_message("message.sent", begun, 10)])
    assert not await is_known(server, begun)
    await server.execute("delete from forgotten_numbers")
    await log.write([begun])
    assert not await is_known(server, begun)


async def test_a_writer_that_could_not_know_is_waited_for(
    log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any
) -> None:
    """It had begun before the number was forgotten, and commits after: what it wrote is erased all the same."""
    begun = sent()
    async with server.transaction():
        await server.execute("select begin_history_write(array['2026-07-26']::date[], array['2026-07-26']::date[])")
        await server.execute(
            "insert into messages (created_at, message_id, client_id, mode, otp_id, status, precedence, tries,"
            " to_index, to_masked, to_sealed, text, metadata)"
            " values ('2026-07-26 12:00Z', $1, 'c', 'live', 'o', 'queued', 0, 0, $2, 'x', 'x', 'x', 'x')",
            begun.message_id,
            TO_INDEX,
        )
        forgetting = asyncio.create_task(numbers.forget(TO_INDEX, client_id=None, mode=None))
        for _ in range(1000):
            if await server.fetchval(
                "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
            ):
                break
            await asyncio.sleep(0.005)
        assert not forgetting.done()
    assert await forgetting == 1
    assert not await is_known(server, begun)


async def test_forgetting_in_the_middle_of_much_traffic(
    log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any
) -> None:
    """Whatever was sent before the call is forgotten when all is written, and nobody waits for another in a circle."""
    now = await now_ms(server)
    batches = [[sent(now - 5000 + n * 10 + k) for k in range(10)] for n in range(40)]
    gate = asyncio.Semaphore(3)

    async def write(batch: list[Event]) -> None:
        async with gate:
            await log.write(batch)
            await log.write([of_message("message.sent", one, 5) for one in batch[::-1]])

    writing = asyncio.gather(*(write(batch) for batch in batches))
    for _ in range(4):
        await asyncio.sleep(0.01)
        await numbers.forget(TO_INDEX, client_id=CLIENT, mode=None)
    await writing
    assert await server.fetchval("select count(*) from messages") == 400
    assert (
        await server.fetchval("select count(*) from messages where forgotten_at is null or to_index is not null") == 0
    )


async def test_who_forgets_again_and_again_leaves_one_row_for_each_kind_of_call(
    log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any
) -> None:
    kinds = [(None, None), (CLIENT, None), (CLIENT, "live"), (None, "test")]
    now = await now_ms(server)
    for client_id, mode in kinds:
        await numbers.forget(TO_INDEX, client_id=client_id, mode=mode)
    await server.execute("update forgotten_numbers set forgotten_at = now() - interval '1 day'")
    await asyncio.gather(*(numbers.forget(TO_INDEX, client_id=CLIENT, mode="live") for _ in range(50)))
    for n in range(40):
        client_id, mode = kinds[n % 4]
        await numbers.forget(TO_INDEX, client_id=client_id, mode=mode)
    rows = await server.fetch(
        "select client_id, mode, forgotten_at > to_timestamp($1) as is_new from forgotten_numbers", now / 1000
    )
    assert {tuple(row) for row in rows} == {(client or "", mode or "", True) for client, mode in kinds}
    assert len(rows) == 4
    begun = sent(now)
    await log.write([begun])
    assert not await is_known(server, begun)


async def test_a_batch_looks_up_its_own_numbers_only(server: Any) -> None:
    """However many were forgotten: by the index, of which every part counts."""
    await server.execute(
        "insert into forgotten_numbers (to_index, client_id) select n::text, c::text"
        " from generate_series(1, 20000) n, generate_series(1, 3) c"
    )
    await server.execute("analyze forgotten_numbers")
    await server.execute("select ensure_history_day('messages', '2026-07-26')")
    rows = rows_of([sent(NOON + n, to_index=str(n)) for n in range(500)])
    columns = [[row[i] for row in rows] for i in range(len(MessageRow._fields))]
    merging = queries.load("events").merge_messages.sql
    plan = "\n".join(row[0] for row in await server.fetch(f"explain (costs off) {merging}", *columns))
    assert "Seq Scan on forgotten_numbers" not in plan
    assert "Index Cond: ((to_index = given.to_index) AND (client_id = ANY" in plan


async def test_a_number_is_marked_as_forgotten_and_its_young_messages_named(
    log: PostgresEventLog, numbers: PostgresNumberRecords, server: Any
) -> None:
    """Nothing is erased by it, so that who was broken off can ask again; and what comes later is written without."""
    now = await now_ms(server)
    mine, test, theirs = sent(now - 3 * 3_600_000), sent(now - 1, mode="test"), sent(now, client_id=OTHER_CLIENT)
    others = [sent(now - 3 * DAY_MS), sent(now, to_index="another")]
    await log.write([mine, test, theirs, *others])
    for client_id, mode, found in (
        (CLIENT, "live", [mine]),
        (CLIENT, None, [mine, test]),
        (None, None, [mine, test, theirs]),
    ):
        for _ in range(2):
            marked = await numbers.mark_forgotten(TO_INDEX, client_id=client_id, mode=mode)
            assert marked == [(one.client_id, one.mode, one.message_id) for one in found]
    assert all([await is_known(server, one) for one in (mine, test, theirs, *others)])
    late = sent(now - 5)
    await log.write([late])
    assert not await is_known(server, late)
    assert await numbers.forget(TO_INDEX, client_id=None, mode=None) == 4


async def test_who_began_to_write_before_a_number_was_forgotten_writes_without_it(
    database_url: str, server: Any
) -> None:
    """Held up between its beginning and its number, and on a server that would show it the past to its end."""
    name = database_url.rpartition("?")[0].rpartition("/")[2]
    await server.execute(f"alter database {name} set default_transaction_isolation = 'repeatable read'")
    database = await open_database(database_url, max_connections=4)
    begun = sent()
    try:
        async with server.transaction():
            await server.execute("select pg_advisory_xact_lock(hashtextextended('otpsvc.history_days', 0))")
            log = PostgresEventLog(database, event_days=365, message_days=90)
            writing = asyncio.create_task(log.write([begun]))
            waiting = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
            for _ in range(1000):
                if await server.fetchval(waiting):
                    break
                await asyncio.sleep(0.005)
            assert await PostgresNumberRecords(database).forget(TO_INDEX, client_id=None, mode=None) == 0
        assert await writing == 1
        assert not await is_known(server, begun)
    finally:
        await database.close()


async def test_an_outage(database: Database, numbers: PostgresNumberRecords) -> None:
    await database.close()
    with pytest.raises(ApiError) as caught:
        await numbers.forget(TO_INDEX, client_id=None, mode=None)
    assert caught.value.code == "SERVICE_UNAVAILABLE"
