"""Chance against delivery: senders of every kind, deaths, stalls, a store that comes and goes, in any order."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from otpsvc.errors import ApiError, problem
from tests.messages.mortal import FINAL, LEASE_S, Fate, Gateway, Killed, Reply, World

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
            self._world.clock.advance(LEASE_S + 1)
            await self._world.work(Fate())


def make_fate(world: World, draw: Callable[[Any], Any]) -> Fate:
    blow, step = draw(st.sampled_from(BLOWS)), draw(st.integers(1, 16))
    return RandomFate(world, dies_at=step if blow == "die" else None, blow=blow, strikes_at=step)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_happens_one_text_at_most_and_an_end(data: st.DataObject) -> None:
    def choose() -> Reply:
        reply: Reply = data.draw(st.sampled_from(Reply))
        return reply

    kinds = data.draw(st.lists(st.booleans(), min_size=1, max_size=3))
    world = World([Gateway(f"s{n}", is_idempotent, choose) for n, is_idempotent in enumerate(kinds)])

    async def live() -> None:
        for _ in range(data.draw(st.integers(0, 5))):
            if world.record.status in FINAL:
                break
            with contextlib.suppress(Killed, ApiError):
                await world.work(make_fate(world, data.draw))
            world.clock.advance(data.draw(st.sampled_from([0.0, 1.0, 20.0, LEASE_S + 1])))
        await world.finish()

    asyncio.run(live())
    world.check()
