"""Chance against delivery: senders of every kind, deaths, stalls, a store that comes and goes, in any order."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from otpsvc.errors import ApiError, problem
from otpsvc.messages.policy import RouteStep
from otpsvc.senders.contract import ReceiptStatus
from tests.messages.mortal import LEASE_S, Fate, Gateway, Killed, Reply, World
from tests.messages.promises import check

BLOWS = ["die", "store refuses", "stall"]


class RandomFate(Fate):
    """Suffers `blow` at one step to or from the store; a stalled worker wakes up when others have had its message."""

    def __init__(self, world: World, *, dies_at: int | None, blow: str, strikes_at: int) -> None:
        super().__init__(dies_at)
        self._world, self._blow, self._strikes_at = world, blow, strikes_at

    async def strike(self) -> None:
        if self.n_steps != self._strikes_at:
            return
        if self._blow == "store refuses":
            raise problem("SERVICE_UNAVAILABLE")
        if self._blow == "stall":
            await self._world.advance(LEASE_S + 1)
            await self._world.work(Fate())


def make_fate(world: World, draw: Callable[[Any], Any]) -> Fate:
    blow, step = draw(st.sampled_from(BLOWS)), draw(st.integers(1, 16))
    return RandomFate(world, dies_at=step if blow == "die" else None, blow=blow, strikes_at=step)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_happens_all_promises_hold(data: st.DataObject) -> None:
    def choose() -> Reply:
        reply: Reply = data.draw(st.sampled_from(Reply))
        return reply

    def gateway(name: str) -> Gateway:
        return Gateway(
            name,
            is_idempotent=data.draw(st.booleans()),
            choose=choose,
            has_receipts=data.draw(st.booleans()),
            receipt=data.draw(
                st.sampled_from([None, ReceiptStatus.SENT, ReceiptStatus.DELIVERED, ReceiptStatus.FAILED])
            ),
            receipt_after_s=data.draw(st.sampled_from([0.0, 1.0, 15.0, 30.0, 100.0])),
        )

    gateways = [gateway(f"s{n}") for n in range(data.draw(st.integers(1, 4)))]
    rules = {
        "on_unknown": data.draw(st.sampled_from(["next", "stop"])),
        "max_senders": data.draw(st.integers(1, 4)),
        "receipt_timeout_s": data.draw(st.sampled_from([1.0, 20.0, 120.0])),
    }
    steps = {
        one.name: RouteStep(sender=one.name, receipt_timeout_s=data.draw(st.sampled_from([2.0, 40.0])))
        for one in gateways
        if data.draw(st.booleans())
    }
    world = World(gateways, rules, steps)

    async def live() -> None:
        for _ in range(data.draw(st.integers(0, 6))):
            if world.is_over:
                break
            with contextlib.suppress(Killed, ApiError):
                await world.work(make_fate(world, data.draw))
            await world.advance(data.draw(st.sampled_from([0.0, 1.0, 20.0, LEASE_S + 1])))
        await world.finish()
        await world.advance(200)

    asyncio.run(live())
    check(world)
