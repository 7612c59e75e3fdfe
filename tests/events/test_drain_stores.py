"""From the real streams to the real history: counts equal on both sides, through kills and cut connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from otpsvc.clock import SystemClock
from otpsvc.events import drain
from otpsvc.events.drain import run_drain
from otpsvc.events.model import Event
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import open_database
from otpsvc.redis.client import RedisClient
from otpsvc.redis.events import RedisEventStream
from otpsvc.redis.keys import Keys
from tests.events.samples import fields_of, life, lives

PARTITIONS = 3


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leftovers are taken over at once: sometimes too early, which must not matter either."""
    monkeypatch.setattr(drain, "RECLAIM_IDLE_S", 0.05)
    monkeypatch.setattr(drain, "RECLAIM_EVERY_S", 0.05)
    monkeypatch.setattr(drain, "READ_WAIT_S", 0.05)
    monkeypatch.setattr(drain, "_MAX_PAUSE_S", 0.1)


class Both:
    """Both both, and what a drain sees of them."""

    def __init__(self, redis: RedisClient, log: PostgresEventLog, server: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.redis, self.log, self.server = redis, log, server
        self.keys = Keys("otpsvc", PARTITIONS)
        self.stream = RedisEventStream(redis, self.keys)

    async def add(self, events: list[Event]) -> None:
        """Append as the scripts do, an OTP's events to the stream of one partition."""
        for event in events:
            partition = self.keys.partitions[sum(event.otp_id.encode()) % PARTITIONS]
            words = [word for pair in fields_of(event).items() for word in pair]
            await self.redis.command("XADD", partition.events, "*", *words)

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(1500):
            if await is_so():
                return
            await asyncio.sleep(0.02)
        pytest.fail("it did not come about")

    async def holds(self, events: list[Event]) -> None:
        """Wait until the streams are empty; then each event and message must be there once."""

        async def is_drained() -> bool:
            return (await self.stream.backlog()).unwritten == 0

        await self.until(is_drained)
        rows = await self.server.fetch("select event_id from events")
        assert sorted(row[0] for row in rows) == sorted(event.event_id for event in events)
        messages = await self.server.fetch("select message_id, status from messages")
        assert sorted(row[0] for row in messages) == sorted({event.message_id for event in events})
        assert {row[1] for row in messages} == {"sent"}


@pytest.fixture
async def both(redis_url: str, database_url: str) -> AsyncIterator[Both]:
    redis = RedisClient(redis_url, timeout_s=2.0, max_connections=2)
    database = await open_database(database_url, max_connections=4)
    server = await asyncpg.connect(database_url)
    yield Both(redis, PostgresEventLog(database, event_days=365, message_days=90), server)
    await server.close()
    await database.close()
    await redis.close()


async def end(stop: asyncio.Event, drains: "list[asyncio.Task[None]]") -> None:
    stop.set()
    await asyncio.wait(drains, timeout=20)
    assert all(task.done() for task in drains)


def start(both: Both, stop: asyncio.Event, batch: int = 7) -> "asyncio.Task[None]":
    return asyncio.create_task(run_drain(both.stream, both.log, stop=stop, clock=SystemClock(), batch=batch))


async def test_several_drains_share_the_streams(both: Both) -> None:
    events, stop = lives(60), asyncio.Event()
    await both.add(events[:150])
    drains = [start(both, stop) for _ in range(3)]
    try:
        await both.add(events[150:])
        await both.holds(events)
    finally:
        await end(stop, drains)


async def test_drains_that_die_at_any_moment(both: Both) -> None:
    events, stop = [], asyncio.Event()
    for turns in range(25):
        more = lives(3)
        await both.add(more)
        events += more
        doomed = start(both, stop, batch=4)
        await asyncio.sleep(turns * 0.002)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
    heirs = [start(both, stop)]
    try:
        await both.holds(events)
    finally:
        await end(stop, heirs)


async def test_a_history_whose_connections_are_ended_again_and_again(both: Both) -> None:
    events, stop = lives(40), asyncio.Event()
    drains = [start(both, stop) for _ in range(3)]
    try:
        for n in range(0, len(events), 10):
            await both.add(events[n : n + 10])
            await both.server.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        await both.holds(events)
    finally:
        await end(stop, drains)


async def test_a_history_that_may_not_be_written_for_a_while(both: Both) -> None:
    """As a full disk: events wait in the streams, and follow when it is over."""
    await both.server.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise disk_full; end $$;"
        " create trigger refuse before insert on events for each row execute function refuse()"
    )
    events, stop = [*lives(9), *life()], asyncio.Event()
    await both.add(events)
    drains = [start(both, stop) for _ in range(2)]
    try:
        await asyncio.sleep(0.5)
        assert (await both.stream.backlog()).unwritten == len(events)
        assert await both.server.fetchval("select count(*) from events") == 0
        await both.server.execute("drop function refuse cascade")
        await both.holds(events)
    finally:
        await end(stop, drains)


async def test_poison_in_the_stream(both: Both) -> None:
    """Entries that are no events, and one that only PostgreSQL refuses, among ordinary ones."""
    events, stop = lives(10), asyncio.Event()
    await both.add(events[:20])
    stream = both.keys.partitions[0].events
    await both.redis.command("XADD", stream, "*", "what", "is this")
    await both.redis.command("XADD", stream, "*", "event_id", b"\xff", "event", b"\x00", "occurred_at", "soon")
    refused = fields_of(life()[3]) | {b"client": b"\x00"}
    await both.redis.command("XADD", stream, "*", *(word for pair in refused.items() for word in pair))
    await both.add(events[20:])
    drains = [start(both, stop, batch=100)]

    async def is_drained() -> bool:
        return (await both.stream.backlog()).unwritten == 0

    try:
        await both.until(is_drained)
    finally:
        await end(stop, drains)
    rows = await both.server.fetch("select event_id, data->>'is_unreadable' as unreadable from events")
    assert {row[0] for row in rows} > {event.event_id for event in events}
    assert [row["unreadable"] for row in rows].count("true") == 3
    assert len(rows) == len(events) + 3
