"""Offers, pulls, reports, looks and phones that come and go, in any order: what must hold does after every step."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otpsvc.redis import offers
from tests.otp.house import House, open_house
from tests.redis.pool_walk import PoolWalk

Step = tuple[str, tuple[int, ...]]
NUMBER = st.integers(0, 41)


def step(name: str, arguments: int) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*([NUMBER] * arguments)))


# What mostly happens to a message, and what may come between.
USUAL = st.one_of(
    step("send", 1),
    step("pull_by_holder", 1),
    step("pull_by_holder", 1),
    step("report_by_holder", 2),
    step("pass_time", 1),
    step("pass_time", 1),
    step("pull", 1),
)
ODD = st.one_of(
    step("report", 3),
    step("come", 1),
    step("come", 1),
    step("vanish", 1),
    step("leave", 1),
    step("mind", 1),
    step("look", 1),
    step("offer_again", 1),
    step("retire", 1),
    step("verify", 1),
    step("withdraw", 1),
    step("ask_another_sender", 1),
    step("report_from_elsewhere", 2),
)
TURNS = st.tuples(USUAL, USUAL, USUAL, st.one_of(USUAL, ODD))
STEPS = st.lists(TURNS, min_size=5, max_size=12).map(lambda turns: [one for turn in turns for one in turn])


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def house(redis_url: str, runner: asyncio.Runner) -> Iterator[House]:
    context = open_house(redis_url)
    yield runner.run(enter(context))
    runner.run(context.__aexit__(None, None, None))


async def enter(context: AbstractAsyncContextManager[House]) -> House:
    return await context.__aenter__()


@pytest.fixture
def luck(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Chance that is the same whenever a walk is gone again."""
    luck = random.Random()
    monkeypatch.setattr(offers, "_luck", lambda: luck.randrange(100))
    return luck


async def walk(house: House, steps: list[Step]) -> None:
    pool = PoolWalk(house)
    await pool.begin()
    await pool.send(0)
    for name, arguments in steps:
        await getattr(pool, name)(*arguments)
        await pool.check()
    await pool.live_out()


def test_what_must_hold_holds_after_every_step(house: House, runner: asyncio.Runner, luck: random.Random) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=STEPS)
    def walks(steps: list[Step]) -> None:
        luck.seed(0)
        runner.run(walk(house, steps))

    walks()
