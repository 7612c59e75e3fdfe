"""What happens to phones, and to messages on their way through phones, from the scripts into the history."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from otpsvc.clock import SystemClock
from otpsvc.devices.model import Gone
from otpsvc.events.drain import run_drain
from otpsvc.events.history import history_of
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.pool import Database, open_database
from tests.events.samples import CLIENT, NOON, life, of_message
from tests.otp.house import House, open_house
from tests.redis.presence import Presence, device_of
from tests.redis.servers import until

WAYS = ("message.offered", "message.taken_over", "message.pulled")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await open_database(database_url, max_connections=4)
    yield database
    await database.close()


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database, event_days=365, message_days=90)


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def drain(house: House, log: PostgresEventLog) -> None:
    """Move everything that waits."""

    async def is_done() -> bool:
        return (await house.stream.backlog()).unwritten == 0

    stop = asyncio.Event()
    task = asyncio.create_task(run_drain(house.stream, log, stop=stop, clock=SystemClock()))
    try:
        await until(is_done, "the stream to be empty")
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def test_events_of_phones_are_written_once_and_read_back(
    redis_url: str, log: PostgresEventLog, server: Any
) -> None:
    async with open_house(redis_url, partitions=3) as house:
        presence, device, foreign = Presence(house), device_of(), device_of(client_id="client_300000000003")
        for one in (device, foreign):
            await presence.seen(one, stream="s1")
        await presence.devices.left(device, "s1", Gone.APP_CLOSED)
        await presence.settle()
        written = await presence.events()
        sent = await house.send()
        await drain(house, log)
        await drain(house, log)
    recent = (await log.recent(limit=100, after=None)).events
    assert [one for one in recent if one.name.startswith("device.")] == written
    mine = (await log.recent(limit=100, after=None, client_id=device.client_id)).events
    assert [(one.name, one.data.get("reason")) for one in mine if one.data.get("device") == device.id] == [
        ("device.connected", None),
        ("device.disconnected", "APP_CLOSED"),
    ]
    assert foreign.id not in {one.data.get("device") for one in mine}
    # A phone has neither an OTP nor a message: it makes no row among them.
    assert [row["message_id"] for row in await server.fetch("select message_id from messages")] == [sent.message_id]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_way_through_phones_changes_nothing_about_a_message(
    log: PostgresEventLog, server: Any, order: tuple[int, ...]
) -> None:
    begun, *rest = life()
    details = {"device": "dev_1", "sender": "phones", "may_duplicate": "1"}
    ways = [of_message(WAYS[n], begun, 200 + n, **details) for n in order]
    for event in [*ways[:1], begun, *ways[1:], *rest]:
        await log.write([event])
    (row,) = await server.fetch("select status, reason, sender, provider_id, tries from messages")
    assert tuple(row) == ("sent", None, "main", "p-1", 2)
    found = await log.of_otp(CLIENT, "live", begun.otp_id)
    told = history_of(found, None, now=NOON + 10_000)
    assert told is not None
    assert [step.name for step in told.steps if step.name in WAYS] == [WAYS[n] for n in range(3)]
    assert {step.sender for step in told.steps if step.name in WAYS} == {"phones"}
    assert told.status == "verified"
