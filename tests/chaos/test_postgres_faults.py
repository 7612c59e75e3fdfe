"""PostgreSQL restarts, goes away, refuses and dawdles while codes go out and verify: events wait, up to the bound.

With PostgreSQL gone nobody may be told anything but the truth: `send` goes on until the bound and then answers 503, a
`verify` may use a quarter more. Back again, everything is written once, by itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import asyncpg
import pytest

from tests.chaos.journal import Operation
from tests.chaos.rows import Reader
from tests.chaos.stand import MakeStand, Stand
from tests.chaos.stores import Pair
from tests.chaos.storms import account, under
from tests.chaos.traffic import Traffic, wrong
from tests.programs import PATIENCE_S

EVENT_LIMIT = 1000


def refusals(traffic: Traffic) -> list[Operation]:
    """Operations that met a 503."""
    return [one for one in traffic.journal.operations if any(answer.status == 503 for answer in one.told)]


@asynccontextmanager
async def connected(stand: Stand, pair: Pair) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the server's owner to the stand's database."""
    name = stand.settings.database.url.reveal().split("/")[3].split("?")[0]
    connection = await asyncpg.connect(pair.database_url(name))
    try:
        yield connection
    finally:
        await connection.close()


async def change_rights(connection: asyncpg.Connection, statement: str) -> None:
    """Change what the service may do; rights of a table that is being written may have to be changed twice."""
    for _ in range(20):
        try:
            await connection.execute(statement)
        except asyncpg.InternalServerError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError(statement)


async def unwritten(stand: Stand) -> int:
    reader = Reader(stand.settings, stand.client_id)
    try:
        return await reader.unwritten()
    finally:
        await reader.close()


async def owed(stand: Stand) -> int:
    reader = Reader(stand.settings, stand.client_id)
    try:
        return await reader.owed()
    finally:
        await reader.close()


async def delivered(stand: Stand) -> None:
    """Wait until no message is on its way."""
    reader = Reader(stand.settings, stand.client_id)
    try:
        await reader.delivered(PATIENCE_S)
    finally:
        await reader.close()


async def test_restarts_and_dawdling_hurt_nobody(make_stand: MakeStand, pair: Pair) -> None:
    """Stopped and started, killed and started, and its tables locked for longer than anybody waits."""
    async with make_stand() as stand:
        await stand.started("serve", "serve", "worker", "worker")
        async with under(stand.traffic(seed=1), callers=6) as traffic:
            await asyncio.sleep(0.5)
            await away(pair, 0.5)
            await asyncio.sleep(0.5)
            pair.postgres.kill()
            await asyncio.sleep(0.3)
            await asyncio.to_thread(pair.postgres.start)
            async with connected(stand, pair) as connection, connection.transaction():
                await connection.execute("LOCK TABLE events, messages IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(2.5)
            await asyncio.sleep(0.5)
        assert refusals(traffic) == []
        await account(stand, traffic)


async def test_a_role_that_may_not_write_is_waited_out(make_stand: MakeStand, pair: Pair) -> None:
    """What a full disk looks like from here: reads work, writes are refused."""
    async with make_stand() as stand:
        await stand.started("serve", "worker")
        async with under(stand.traffic(seed=2), callers=4) as traffic:
            async with connected(stand, pair) as connection:
                await change_rights(connection, "REVOKE INSERT ON events, messages FROM service")
                await asyncio.sleep(2)
                assert await unwritten(stand) > 0
                await change_rights(connection, "GRANT INSERT ON events, messages TO service")
            await asyncio.sleep(0.5)
        assert refusals(traffic) == []
        await account(stand, traffic)


async def test_gone_until_the_bound(make_stand: MakeStand, pair: Pair) -> None:
    """Send answers 503 first, verify goes on for a quarter more, and it all ends by itself."""
    async with make_stand(OTPSVC_LIMITS_EVENT_LIMIT=str(EVENT_LIMIT)) as stand:
        await stand.started("serve", "worker")
        traffic = stand.traffic(seed=3, patience_s=0)
        with closing(traffic.line()) as line:
            assert (await traffic.send(line)).was_accepted  # the key is known from here on
            await asyncio.to_thread(pair.postgres.stop)
            try:
                sends = [await traffic.send(line)]
                while sends[-1].was_accepted:
                    sends.append(await traffic.send(line))
                # Each accepted one is an event and an end that is owed, a delivery that is owed or told, and what a
                # worker that cannot keep up says of it.
                assert await owed(stand) >= EVENT_LIMIT
                assert 0 < len(sends) <= EVENT_LIMIT // 3 + 2
                assert sends[-1].told[-1].code == "SERVICE_UNAVAILABLE"
                await delivered(stand)
                guesses = await guessed_until_refused(traffic, sends)
                # A locked OTP took three guesses, wrote four events and owes none.
                assert await owed(stand) >= EVENT_LIMIT * 5 // 4
                assert 0 < len(guesses) <= EVENT_LIMIT // 4 + 5
                assert not (await traffic.send(line)).was_accepted
            finally:
                await asyncio.to_thread(pair.postgres.start)
            traffic.patience_s = 20
            assert (await traffic.send(line)).was_accepted
        await account(stand, traffic)


async def guessed_until_refused(traffic: Traffic, sends: list[Operation]) -> list[Operation]:
    line = traffic.line()
    guesses: list[Operation] = []
    try:
        for send in sends:
            message_id = send.answer.body["message_id"] if send.answer is not None else ""
            code = traffic.code_now(message_id)
            for _ in range(3 if code is not None else 0):
                guess = await traffic.guess(line, send.otp_id, wrong(str(code)), is_right=False)
                if not guess.was_accepted:
                    assert guess.told[-1].code == "SERVICE_UNAVAILABLE"
                    return guesses
                guesses.append(guess)
    finally:
        line.close()
    raise AssertionError(f"{len(guesses)} guesses, and no bound")


async def away(pair: Pair, for_s: float) -> None:
    await asyncio.to_thread(pair.postgres.stop)
    await asyncio.sleep(for_s)
    await asyncio.to_thread(pair.postgres.start)


@pytest.mark.chaos
async def test_gone_for_minutes(make_stand: MakeStand, pair: Pair) -> None:
    """Longer than any cache lasts and any back-off waits, under traffic, below the bound."""
    async with make_stand() as stand:
        await stand.started("serve", "serve", "worker", "worker")
        async with under(stand.traffic(seed=4), callers=4) as traffic:
            await asyncio.sleep(1)
            await away(pair, 180)
            await asyncio.sleep(2)
        assert refusals(traffic) == []
        await account(stand, traffic)
