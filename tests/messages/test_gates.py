"""Gates and time on the way from sender to sender: who is held is passed, permits come back, calls end."""

import asyncio
from typing import Any

import pytest

from otpsvc.errors import ConfigurationError, problem
from otpsvc.messages.model import MessageStatus
from otpsvc.messages.policy import RouteStep
from otpsvc.messages.ports import Admission
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Unknown,
)
from otpsvc.testing import RecordingSender
from tests.messages.doubles import Observer
from tests.messages.house import House

SMS = frozenset({Channel.SMS})
UNREACHABLE = Rejected(RejectionKind.UNAVAILABLE)
FAILED, SENT = MessageStatus.FAILED, MessageStatus.SENT


def calls(*senders: RecordingSender) -> list[int]:
    return [len(sender.sent) for sender in senders]


# -- gates


async def test_a_held_sender_is_passed_and_asked_again(house: House) -> None:
    first, second, observer = RecordingSender("a"), RecordingSender("b", [RetryLater(60)]), Observer()
    dispatcher = house.dispatcher(first, second, observer=observer)
    house.gates.closed["a"] = Admission("open", 12.0)
    await house.deliver(dispatcher)
    assert calls(first, second) == [0, 1]
    assert house.end == (MessageStatus.QUEUED, "held_open")
    assert house.record.due_at - house.clock.time() == 12.0
    assert house.record.tried == [("a", "held_open", False), ("b", "retry_later", False)]
    assert observer.holds == [("a", "open")]
    house.gates.closed.clear()
    await house.work(dispatcher)
    assert house.end == (SENT, "a")


async def test_every_permit_is_given_back(house: House) -> None:
    script: list[Outcome] = [RetryLater(3), Unknown(), UNREACHABLE, Accepted()]
    senders = [RecordingSender(name, script) for name in "ab"]
    await house.work(house.dispatcher(*senders, max_senders=2))
    assert house.gates.asked
    assert house.gates.under_way == set()
    assert ("a", "unclear", 3.0) in house.gates.reports


async def test_a_permit_of_a_call_that_is_cut_off_keeps_nobody_out(house: House) -> None:
    """A worker that stops: its successors must not wait until the permits of its calls lapse."""
    sender = RecordingSender("a")
    sender.gate.clear()
    task = asyncio.create_task(house.deliver(house.dispatcher(sender)))
    await sender.began.wait()
    assert len(house.gates.under_way) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.gates.under_way == set()
    assert house.gates.reports == [("a", "unclear", 0.0)]


@pytest.mark.parametrize("why", ["gate", "begin", "unwanted"])
async def test_a_call_that_was_not_made_is_no_verdict(why: str, house: House) -> None:
    sender = RecordingSender("a")
    dispatcher = house.dispatcher(sender)
    real = house.queue.begin

    async def begin(message_id: str, token: str, **told: Any) -> bool:
        if why == "begin":
            raise problem("SERVICE_UNAVAILABLE")
        house.queue.unwanted.add(message_id)
        return await real(message_id, token, **told)

    house.queue.begin = begin  # type: ignore[method-assign]  # as a store that is away, or a code that ends
    if why == "gate":
        house.gates.fails_with = problem("SERVICE_UNAVAILABLE")
    await house.deliver(dispatcher)
    assert sender.sent == []
    assert house.gates.under_way == set()
    assert [verdict for _, verdict, _ in house.gates.reports] == ([] if why == "gate" else ["unclear"])
    ended = (MessageStatus.CANCELLED, "code_ended")
    assert house.end == (ended if why == "unwanted" else (MessageStatus.QUEUED, "store_away"))


async def test_an_open_question_is_passed_also_while_its_gate_is_closed(house: House) -> None:
    deduping = RecordingSender("a", [Unknown()], capabilities=Capabilities(channels=SMS, is_idempotent=True))
    second = RecordingSender("b")
    dispatcher = house.dispatcher(deduping, second)
    await house.deliver(dispatcher)
    house.gates.closed["a"] = Admission("open", 600.0)
    await house.work(dispatcher)
    assert house.end == (SENT, "b")
    assert calls(deduping, second) == [1, 1]


# -- time


async def test_a_steps_own_time_out_bounds_its_call(house: House) -> None:
    first, second = RecordingSender("a"), RecordingSender("b")
    first.gate.clear()
    steps = {"a": RouteStep(sender="a", timeout_s=1)}
    async with asyncio.timeout(8):
        await house.deliver(house.dispatcher(first, second, steps=steps))
    assert house.end == (MessageStatus.QUEUED, "unknown_outcome")


def test_no_steps_time_out_may_be_longer_than_the_lease(house: House) -> None:
    steps = {"a": RouteStep(sender="a", timeout_s=59)}
    with pytest.raises(ConfigurationError, match="lease_s: a lease of 60 s is too short"):
        house.dispatcher(RecordingSender("a"), steps=steps)


async def test_a_lease_spent_on_slow_senders_is_given_back_for_the_next(house: House) -> None:
    def slow(message: OutboundMessage) -> Outcome:
        house.clock.advance(9)
        return UNREACHABLE

    senders = [RecordingSender(name, [slow]) for name in "abcdefgh"]
    await house.work(house.dispatcher(*senders, lease_s=12.5))
    assert calls(*senders) == [1] * 8
    assert house.end == (FAILED, "unavailable")


async def test_a_wall_clock_that_is_wrong_passes_nobody_too_early(house: House) -> None:
    """What counts is the store's word on how long ago the call began, not a worker's clock."""
    first, second = RecordingSender("a", [Unknown()]), RecordingSender("b")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    house.record.due_at = house.clock.time()
    await house.deliver(dispatcher)
    assert calls(first, second) == [1, 0]
    assert house.end == (MessageStatus.QUEUED, "unknown_outcome")


async def test_who_is_left_out_by_the_route_is_counted_and_not_asked(house: House) -> None:
    observer, first, second = Observer(), RecordingSender("a"), RecordingSender("b")
    steps = {"a": RouteStep(sender="a", price=0.2), "b": RouteStep(sender="b", price=0.1)}
    await house.deliver(house.dispatcher(first, second, steps=steps, max_price=0.1, observer=observer))
    assert calls(first, second) == [0, 1]
    assert observer.holds == [("a", "price")]


async def test_a_message_held_for_long_is_told_of_a_bounded_number_of_times(house: House) -> None:
    house.gates.closed["a"] = Admission("crowd", 5)
    await house.work(house.dispatcher(RecordingSender("a")))
    assert house.end is not None
    assert house.end[0] in {FAILED, MessageStatus.EXPIRED}
    assert len(house.record.tried) == 5


async def test_a_gateway_that_puts_off_by_next_to_nothing_is_not_called_without_end(house: House) -> None:
    sender = RecordingSender("a", [RetryLater(0.1)] * 4000)
    await house.work(house.dispatcher(sender), most=400)
    assert house.end == (FAILED, "no_time_left")
    assert len(sender.sent) < 300, "about once a second, not ten times"
