"""Workers killed, or stopped, at every step of a delivery: nothing goes out twice, nothing is forgotten."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

import pytest

from otpsvc.messages.model import MessageStatus
from otpsvc.senders.contract import ReceiptStatus
from tests.messages.mortal import FINAL, LEASE_S, Fate, Gateway, Killed, Reply, World
from tests.messages.promises import check

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
    pytest.param(story, kinds, on_unknown, id=f"{name}, {kinds}, {on_unknown}")
    for name, story in STORIES.items()
    for kinds in map("".join, itertools.product("ip", repeat=len(story)))
    for on_unknown in ("next", "stop")
]
RECEIPTS = {
    "early": (ReceiptStatus.SENT, 0.0),
    "late": (ReceiptStatus.DELIVERED, 90.0),
    "never": (None, 0.0),
    "failed at once": (ReceiptStatus.FAILED, 0.0),
    "failed later": (ReceiptStatus.FAILED, 10.0),
    "failed too late": (ReceiptStatus.FAILED, 90.0),
}


def make_world(story: list[list[Reply]], kinds: str, on_unknown: str = "next", receipt: str = "") -> World:
    """Gateways that answer by the story and then take everything; `i` for one that dedupes, `p` for a plain one."""
    status, after_s = RECEIPTS.get(receipt, (None, 0.0))

    def gateway(name: str, replies: Iterator[Reply], kind: str) -> Gateway:
        return Gateway(
            name,
            kind == "i",
            lambda: next(replies, Reply.TAKES),
            has_receipts=bool(receipt),
            receipt=status,
            receipt_after_s=after_s,
        )

    gateways = [gateway(*each) for each in zip("abc", map(iter, story), kinds, strict=False)]
    return World(gateways, {"on_unknown": on_unknown})


@pytest.mark.parametrize(("story", "kinds", "on_unknown"), STORIES_BY_KIND)
async def test_killed_at_any_step_it_sends_at_most_once_and_ends(
    story: list[list[Reply]], kinds: str, on_unknown: str
) -> None:
    for dies_at in itertools.count():
        world, fate = make_world(story, kinds, on_unknown), Fate(dies_at)
        try:
            await world.work(fate)
        except Killed:
            pass
        else:
            if not fate.is_dead:
                break
        await world.finish()
        check(world)
    assert dies_at >= 8, "claim, begin, call and record have two steps each"


@pytest.mark.parametrize(("story", "kinds", "on_unknown"), STORIES_BY_KIND)
async def test_killed_twice_it_sends_at_most_once_and_ends(
    story: list[list[Reply]], kinds: str, on_unknown: str
) -> None:
    for first, second in itertools.product(range(2, 10), range(2, 10)):
        world = make_world(story, kinds, on_unknown)
        for dies_at in (first, second):
            with contextlib.suppress(Killed):
                await world.work(Fate(dies_at))
            await world.advance(LEASE_S + 1)
        await world.finish()
        check(world)


@pytest.mark.parametrize("dies_at", [1, 2])
async def test_killed_before_the_call_was_begun_it_is_sent_by_the_next(dies_at: int) -> None:
    world = make_world([[Reply.TAKES]], "p")
    with pytest.raises(Killed):
        await world.work(Fate(dies_at))
    await world.finish()
    assert world.record.events == [(MessageStatus.SENT, "a")]


@pytest.mark.parametrize(("story", "kinds", "on_unknown"), STORIES_BY_KIND)
async def test_stopped_at_any_await_it_is_given_back_at_once(
    story: list[list[Reply]], kinds: str, on_unknown: str
) -> None:
    """A worker that stops has time for one more word, so nobody waits for the end of its lease."""
    for n_turns in itertools.count():
        world = make_world(story, kinds, on_unknown)
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
        check(world)
    assert n_turns > 8


STORIES_WITH_RECEIPTS = {
    "taken": [[Reply.TAKES], [Reply.TAKES], [Reply.TAKES]],
    "taken in silence": [[Reply.TAKES_SILENTLY], [Reply.TAKES_SILENTLY], [Reply.TAKES]],
    "lost": [[Reply.LOSES, Reply.LOSES], [Reply.TAKES]],
    "second in silence": [[Reply.TAKES], [Reply.TAKES_SILENTLY]],
    "second refuses": [[Reply.TAKES], [Reply.REFUSES], [Reply.THROTTLES]],
}


@pytest.mark.parametrize("on_unknown", ["next", "stop"])
@pytest.mark.parametrize("kind", "ip")
@pytest.mark.parametrize("receipt", RECEIPTS)
@pytest.mark.parametrize("name", STORIES_WITH_RECEIPTS)
async def test_killed_at_any_step_with_receipts_on_their_way(
    name: str, receipt: str, kind: str, on_unknown: str
) -> None:
    """The first worker dies at each step, then the second: with what receipts say meanwhile, all promises hold."""
    story = STORIES_WITH_RECEIPTS[name]
    for first, second in itertools.product(range(14), (None, 2, 4, 6, 8)):
        world = make_world(story, kind * len(story), on_unknown, receipt)
        for dies_at in (first, second):
            with contextlib.suppress(Killed):
                await world.work(Fate(dies_at))
            await world.advance(max(0.0, world.record.due_at - world.clock.time()) if world.record.is_waiting else 0.0)
        await world.finish()
        await world.advance(200)
        check(world)
