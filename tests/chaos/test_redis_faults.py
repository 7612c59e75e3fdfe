"""Everything that can happen to Redis while it is in use: no wrong answer, only clear 503s, and recovery by itself."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio as redis_asyncio

from tests.chaos.stand import MakeStand
from tests.chaos.stores import Pair
from tests.chaos.storms import account, under

Fault = Callable[[Pair, Any], Awaitable[None]]


async def scripts_forgotten(_: Pair, client: Any) -> None:
    for _round in range(5):
        await client.script_flush()
        await asyncio.sleep(0.05)


async def restarted(pair: Pair, _: Any) -> None:
    await asyncio.to_thread(pair.redis.stop)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(pair.redis.start)


async def killed(pair: Pair, _: Any) -> None:
    await asyncio.to_thread(pair.redis.kill)
    await asyncio.to_thread(pair.redis.start)


async def asleep(_: Pair, client: Any) -> None:
    """Busy for longer than anybody waits for an answer: what was asked meanwhile is done afterwards all the same."""
    await client.execute_command("DEBUG", "SLEEP", "1.5")


async def full(_: Pair, client: Any) -> None:
    await client.config_set("maxmemory", "1mb")
    try:
        await asyncio.sleep(1)
    finally:
        await client.config_set("maxmemory", "0")


async def cut(_: Pair, client: Any) -> None:
    """Every connection ends in the middle of whatever it carries."""
    for _round in range(20):
        with contextlib.suppress(redis.ResponseError):
            await client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.03)


async def frozen(pair: Pair, _: Any) -> None:
    pair.redis.pause()
    try:
        await asyncio.sleep(1.5)
    finally:
        pair.redis.resume()


FAULTS: tuple[Fault, ...] = (scripts_forgotten, cut, restarted, killed, asleep, full, frozen)


async def suffer(make_stand: MakeStand, pair: Pair, faults: tuple[Fault, ...], *, callers: int) -> None:
    async with make_stand() as stand:
        await stand.started("serve", "serve", "worker", "worker")
        probe = stand.traffic(seed=0)
        async with under(stand.traffic(seed=1), callers=callers) as traffic:
            for fault in faults:
                await asyncio.sleep(0.3)
                async with redis_asyncio.Redis.from_url(pair.redis_url) as client:
                    await fault(pair, client)
                line = probe.line()
                assert (await probe.send(line)).was_accepted, fault.__name__
                line.close()
        await account(stand, traffic, probe)


async def test_one_fault_after_the_other(make_stand: MakeStand, pair: Pair) -> None:
    await suffer(make_stand, pair, FAULTS, callers=6)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_one_fault_many_times(make_stand: MakeStand, pair: Pair, fault: Fault) -> None:
    await suffer(make_stand, pair, (fault,) * 15, callers=12)
