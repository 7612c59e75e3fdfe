"""Workers killed, or stopped, at every step of a delivery: nothing goes out twice, nothing is forgotten."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

import pytest

from otpsvc.messages.model import MessageStatus
from tests.messages.mortal import FINAL, LEASE_S, Fate, Gateway, Killed, Reply, World

STORIES = {
    "taken at once": [[Reply.TAKES]],
    "second takes": [[Reply.REFUSES], [Reply.TAKES]],
    "third takes": [[Reply.UNREACHABLE], [Reply.THROTTLES], [Reply.TAKES]],
    "all refuse": [[Reply.REFUSES], [Reply.UNREACHABLE], [Reply.REFUSES]],
    "taken later": [[Reply.THROTTLES, Reply.THROTTLES, Reply.TAKES]],
    "taken in silence": [[Reply.TAKES_SILENTLY, Reply.TAKES]],
    "lost, then refused": [[Reply.THROTTLES], [Reply.LOSES, Reply.REFUSES], [Reply.TAKES]],
    "in silence, then out of reach": [[Reply.REFUSES], [Reply.TAKES_SILENTLY, Reply.UNREACHABLE], [Reply.TAKES]],
}
STORIES_BY_KIND = [
    pytest.param(story, kinds, id=f"{name}, {kinds}")
    for name, story in STORIES.items()
    for kinds in map("".join, itertools.product("ip", repeat=len(story)))
]


def make_world(story: list[list[Reply]], kinds: str) -> World:
    """Gateways that answer by the story and then take everything; `i` for one that dedupes, `p` for a plain one."""

    def gateway(name: str, replies: Iterator[Reply], kind: str) -> Gateway:
        return Gateway(name, kind == "i", lambda: next(replies, Reply.TAKES))

    return World([gateway(*each) for each in zip("abc", map(iter, story), kinds, strict=False)])


@pytest.mark.parametrize(("story", "kinds"), STORIES_BY_KIND)
async def test_killed_at_any_step_it_sends_at_most_once_and_ends(story: list[list[Reply]], kinds: str) -> None:
    for dies_at in itertools.count():
        world, fate = make_world(story, kinds), Fate(dies_at)
        try:
            await world.work(fate)
        except Killed:
            pass
        else:
            if not fate.is_dead:
                break
        await world.finish()
        world.check()
    assert dies_at >= 8, "claim, begin, call and record have two steps each"


@pytest.mark.parametrize(("story", "kinds"), STORIES_BY_KIND)
async def test_killed_twice_it_sends_at_most_once_and_ends(story: list[list[Reply]], kinds: str) -> None:
    for first, second in itertools.product(range(2, 10), range(2, 10)):
        world = make_world(story, kinds)
        for dies_at in (first, second):
            with contextlib.suppress(Killed):
                await world.work(Fate(dies_at))
            world.clock.advance(LEASE_S + 1)
        await world.finish()
        world.check()


@pytest.mark.parametrize("dies_at", [1, 2])
async def test_killed_before_the_call_was_begun_it_is_sent_by_the_next(dies_at: int) -> None:
    world = make_world([[Reply.TAKES]], "p")
    with pytest.raises(Killed):
        await world.work(Fate(dies_at))
    await world.finish()
    assert world.record.events == [(MessageStatus.SENT, "a")]


@pytest.mark.parametrize(("story", "kinds"), STORIES_BY_KIND)
async def test_stopped_at_any_await_it_is_given_back_at_once(story: list[list[Reply]], kinds: str) -> None:
    """A worker that stops has time for one more word, so nobody waits for the end of its lease."""
    for n_turns in itertools.count():
        world = make_world(story, kinds)
        work = asyncio.create_task(world.work(Fate()))
        for _ in range(n_turns):
            await asyncio.sleep(0)
        if work.done():
            break
        was_claimed = world.record.status is MessageStatus.PROCESSING and n_turns > 3
        work.cancel()
        await asyncio.wait({work})
        assert work.cancelled()
        if was_claimed:
            assert world.record.status in FINAL | {MessageStatus.QUEUED}
        await world.finish()
        world.check()
    assert n_turns > 8
