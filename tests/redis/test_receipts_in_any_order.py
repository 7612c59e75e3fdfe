"""Receipts against everything a worker can do, in any order: the scripts and the queue in memory always agree."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import combinations_with_replacement, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otpsvc.messages.model import MessageStatus, ReceiptFact, Tried
from tests.otp.house import House, open_house
from tests.redis.lived import SENDERS, WAIT_S, TwiceLived

# The name of a step, what it is given, and by which names.
Drawn = tuple[str, tuple[Any, ...], dict[str, Any]]

SENDER = st.sampled_from(["a", "a", *SENDERS])
OUTCOMES = st.sampled_from(["silent", "retry_later", "held_open", "held_rate", "no_credit", "invalid_number"])
TRIED = st.lists(st.builds(Tried, SENDER, OUTCOMES), max_size=2)
STALE = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1])
FACTS = st.one_of(
    st.builds(ReceiptFact, status=st.sampled_from(["accepted", "dispatched", "sent", "delivered", "unknown"])),
    st.builds(
        ReceiptFact,
        status=st.sampled_from(["failed", "failed", "expired", "cancelled"]),
        kind=st.sampled_from(["", "undeliverable", "blocked"]),
        next_may_try=st.booleans(),
    ),
)
ENDS = st.sampled_from(
    [
        (MessageStatus.FAILED, "unknown_outcome"),
        (MessageStatus.FAILED, "no_credit"),
        (MessageStatus.EXPIRED, "code_expired"),
        (MessageStatus.CANCELLED, "verified"),
    ]
)


def step(name: str, *given: Any, **options: Any) -> st.SearchStrategy[Drawn]:
    return st.tuples(st.just(name), st.tuples(*given), st.fixed_dictionaries(options))


RECEIPTS = st.lists(step("receipt", SENDER, FACTS), max_size=2)
CALLS = st.lists(step("begin", SENDER, TRIED, may_duplicate=st.booleans(), stale=STALE), min_size=1, max_size=2)
WORDS = st.one_of(
    step("sent", SENDER, TRIED, receipt_in_s=st.sampled_from([WAIT_S, WAIT_S, None]), stale=STALE),
    step("release", st.sampled_from(["", *SENDERS]), TRIED, due_in_s=st.sampled_from([0.0, WAIT_S]), stale=STALE),
    step("keep", TRIED, stale=STALE),
    st.builds(lambda end, tried: ("finish", (*end, tried), {"stale": 0}), ENDS, TRIED),
    step("pass_time"),
)
PAUSES = st.lists(st.one_of(step("pass_time"), step("pass_time"), step("pass_time"), step("verify")), max_size=2)
# What a worker does with a message, and receipts at any moment of it.
TURNS = st.builds(
    lambda calls, early, word, late, pause: [("claim", (), {}), *calls, *early, word, *late, *pause],
    CALLS,
    RECEIPTS,
    WORDS,
    RECEIPTS,
    PAUSES,
)
STEPS = st.lists(TURNS, min_size=1, max_size=4).map(lambda turns: [one for turn in turns for one in turn])


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def lived(redis_url: str, runner: asyncio.Runner) -> Iterator[TwiceLived]:
    context = open_house(redis_url)
    yield TwiceLived(runner.run(enter(context)))
    runner.run(context.__aexit__(None, None, None))


async def enter(context: AbstractAsyncContextManager[House]) -> House:
    return await context.__aenter__()


async def live(lived: TwiceLived, steps: Iterable[Drawn]) -> None:
    await lived.send()
    is_verified = False
    for name, given_, options in steps:
        # A second right guess is of no interest.
        if not (name == "verify" and is_verified):
            await getattr(lived, name)(*given_, **options)
            await lived.look()
        is_verified = is_verified or name == "verify"
    await lived.live_out()


def test_scripts_and_memory_agree_whatever_happens(lived: TwiceLived, runner: asyncio.Runner) -> None:
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=STEPS)
    def stories(steps: list[Drawn]) -> None:
        runner.run(live(lived, steps))

    stories()


WAYS: dict[str, Drawn] = {
    "accepted": ("sent", ("a", []), {"receipt_in_s": None, "stale": 0}),
    "awaited": ("sent", ("a", []), {"receipt_in_s": WAIT_S, "stale": 0}),
    "unknown": ("release", ("a", []), {"due_in_s": WAIT_S, "stale": 0}),
    "given up": ("finish", (MessageStatus.FAILED, "unknown_outcome", []), {"stale": 0}),
    "died": ("pass_time", (), {}),
}
SAID = {
    "accepted": ReceiptFact(status="accepted"),
    "sent": ReceiptFact(status="sent"),
    "delivered": ReceiptFact(status="delivered"),
    "failed": ReceiptFact(status="failed", kind="undeliverable"),
    "hopeless": ReceiptFact(status="failed", kind="blocked", next_may_try=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_receipts_at_any_two_moments(lived: TwiceLived, runner: asyncio.Runner, way: str) -> None:
    """Before, in and after the call, in any order, also the same one twice."""
    call: list[Drawn] = [("claim", (), {}), ("begin", ("a", []), {"may_duplicate": False, "stale": 0}), WAYS[way]]
    for first, second in product(SAID.values(), repeat=2):
        for early, late in combinations_with_replacement(range(2, len(call) + 1), 2):
            steps = list(call)
            steps.insert(late, ("receipt", ("a", second), {}))
            steps.insert(early, ("receipt", ("a", first), {}))
            runner.run(live(lived, steps))
