"""Phones over a store that loses its last writes again and again, at any moment (the short form: tests/fence).

Whatever phones, time and falls do: no message arrives more often than it was told that it might, with the fence nothing
of before a fall reaches a phone after it, and in the end nothing is waited for and nothing is left.
"""

import contextlib
import itertools
import random
from collections.abc import Iterator

import pytest

from otpsvc.errors import ApiError
from tests.fence.street import FALLS, Street

HANDSETS, STEPS = 5, 40
N_FALLS = {"promotion": 1, "restart": 8}


class Walk:
    """Random steps in a street."""

    def __init__(self, street: Street, dice: random.Random) -> None:
        self.street = street
        self.dice = dice
        self._messages: list[str] = []
        self._numbers: Iterator[int] = itertools.count(10_000_000)

    async def step(self) -> None:
        steps = (self.send, self.send, self.work, self.work, self.work, self.work, self.wait, self.flap, self.use)
        await self.dice.choice(steps)()

    async def send(self) -> None:
        message_id = await self.street.message(to=f"+336{next(self._numbers)}")
        self._messages.append(message_id)
        await self.street.phones.offer(message_id)

    async def work(self) -> None:
        """A phone asks, and may not come to send what it got, or to say that it did."""
        there = [one for one in self.street.handsets.values() if one.is_there]
        for handset in self.dice.sample(there, k=min(2, len(there))):
            await self.street.pull(handset)
            if self.dice.random() < 0.8:
                await self.street.radio(handset, fails=self.dice.random() < 0.3)
            if self.dice.random() < 0.7:
                await self.street.say(handset)

    async def wait(self) -> None:
        await self.street.pass_time(self.dice.choice((1, 5, 11, 31)))

    async def flap(self) -> None:
        """A phone is gone, or is there again; or goes for so short that only what it was to pull is moved."""
        handset = self.dice.choice(list(self.street.handsets.values()))
        handset.is_there = not handset.is_there
        if handset.is_there:
            await self.street.phones.come(handset.device, f"s{self.dice.random()}")
        else:
            await self.street.phones.go(handset.device)
            for message_id in await self.street.phones.inbox(handset.device):
                await self.street.phones.settle(await self.street.phones.look(message_id))

    async def use(self) -> None:
        if self._messages:
            with contextlib.suppress(ApiError):
                await self.street.phones.verify(self.dice.choice(self._messages[-3:]))


@pytest.mark.chaos
@pytest.mark.parametrize("is_fenced", [True, False], ids=["fenced", "unfenced"])
@pytest.mark.parametrize("way", FALLS)
@pytest.mark.parametrize("seed", range(10))
async def test_falls_at_any_moment(seed: int, way: str, is_fenced: bool) -> None:
    dice = random.Random(seed)
    street = Street(HANDSETS, is_fenced=is_fenced)
    walk = Walk(street, dice)
    async with FALLS[way]() as fall:
        url = fall.url
        for _ in range(N_FALLS[way]):
            async with street.over(url):
                last_kept = dice.randrange(STEPS)
                for step in range(STEPS):
                    await walk.step()
                    await street.check()
                    if step == last_kept:
                        await fall.begin()
            url = await fall.end()
        async with street.over(url):
            for handset in street.handsets.values():
                handset.is_there = True
            await street.come()
            await street.live_out()
    assert street.arrived
