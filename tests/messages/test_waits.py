"""Messages that wait for one sender: each leaves as soon as there is room for it, and a crowd of them costs no more."""

from collections import Counter

import pytest

from otpsvc.messages.breaker import Turns
from otpsvc.messages.model import MessageStatus
from otpsvc.messages.policy import RouteStep, best_pace_s
from otpsvc.messages.ports import Admission
from otpsvc.senders.contract import Accepted, Capabilities, Channel, ReceiptStatus, RejectionKind, Unknown
from otpsvc.testing import ManualClock, RecordingSender
from tests.messages.doubles import HandGates
from tests.messages.house import LEASE_S, NUMBER, House

SENT, FAILED = MessageStatus.SENT, MessageStatus.FAILED
TELLS = Capabilities(channels=frozenset({Channel.SMS}), has_receipts=True, receipt_within_s=25.0)


class RatedGates(HandGates):
    """Lets so many in per second, by the clock of the test."""

    def __init__(self, clock: ManualClock, rate_per_s: float) -> None:
        super().__init__()
        self._clock, self._rate_per_s = clock, rate_per_s
        self._tokens, self._filled_at = max(1.0, rate_per_s), clock.monotonic()

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
        now = self._clock.monotonic()
        brought = (now - self._filled_at) * self._rate_per_s
        self._tokens, self._filled_at = min(max(1.0, self._rate_per_s), self._tokens + brought), now
        if self._tokens < 1:
            return Admission("rate", (1 - self._tokens) / self._rate_per_s)
        self._tokens -= 1
        return await super().admit(sender, permit, lapses_in_s=lapses_in_s, has_others=has_others)

    def apart_s(self, sender: str) -> float:
        return best_pace_s(1000, self._rate_per_s)


@pytest.mark.parametrize(("number", "rate_per_s"), [(12, 1), (60, 1), (200, 5), (300, 20), (5, 0.1)])
async def test_a_crowd_leaves_at_the_rate_of_its_sender(number: int, rate_per_s: float, house: House) -> None:
    """All came at once: they must not all ask again at once, or one of them leaves and the next places are nobody's."""
    house.gates = RatedGates(house.clock, rate_per_s)
    for _ in range(number - 1):
        house.queue.add(to=NUMBER)
    dispatcher, records = house.dispatcher(RecordingSender("a")), house.queue.messages.values()
    began_at, n_claims = house.clock.time(), 0
    while waiting := [record.due_at for record in records if record.is_waiting]:
        house.clock.advance(max(0.0, min(waiting) - house.clock.time()) + 0.001)
        lease_ends_at = house.clock.monotonic() + LEASE_S
        for claimed in (await house.queue.claim(limit=32, lease_s=LEASE_S)).messages:
            n_claims += 1
            await dispatcher.deliver(claimed, queue=house.queue, lease_ends_at=lease_ends_at)
    assert Counter(record.status for record in records) == {SENT: number}
    assert house.clock.time() - began_at <= 1.2 * number / rate_per_s
    assert n_claims <= 4 * number


class TwoGates(HandGates):
    """A slow sender and a quick one, each with a bound of its own."""

    def __init__(self, slow: RatedGates, quick: RatedGates) -> None:
        super().__init__()
        self._gates = {"slow": slow, "quick": quick}

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
        return await self._gates[sender].admit(sender, permit, lapses_in_s=lapses_in_s)

    def apart_s(self, sender: str) -> float:
        return self._gates[sender].apart_s(sender)


async def test_a_crowd_that_waits_for_one_does_not_leave_the_other_idle(house: House) -> None:
    """When the slow one's next place is sooner, it is for one of them, not for all."""
    house.gates = TwoGates(slow := RatedGates(house.clock, 0.5), RatedGates(house.clock, 0.4))
    for _ in range(17):
        house.queue.add(to=NUMBER)
    house.clock.advance(1)
    began_at, records = house.clock.time(), house.queue.messages.values()
    dispatcher = house.dispatcher(RecordingSender("slow"), RecordingSender("quick"))
    while waiting := [record.due_at for record in records if record.is_waiting]:
        house.clock.advance(max(0.0, min(waiting) - house.clock.time()) + 0.001)
        lease_ends_at = house.clock.monotonic() + LEASE_S
        for claimed in (await house.queue.claim(limit=32, lease_s=LEASE_S)).messages:
            await dispatcher.deliver(claimed, queue=house.queue, lease_ends_at=lease_ends_at)
    assert slow.asked
    assert Counter(record.status for record in records) == {SENT: 18}
    assert house.clock.time() - began_at <= 1.2 * 18 / (0.5 + 0.4)


def test_each_has_a_turn_of_its_own_and_no_turn_is_far() -> None:
    clock = ManualClock()
    turns = Turns(clock)
    told = [turns.next("a", 2, 0.5) for _ in range(120)]
    assert told == [2 + 0.5 * n for n in range(120)]
    assert turns.next("b", 0, 0.5) == 0, "another sender's crowd is no matter"
    assert [turns.next("a", 2, 0.5) for _ in range(3)] == [62.0, 2.0, 2.5], "the minute begins again"
    clock.advance(1000)
    assert turns.next("a", 2, 0.5) == 2


@pytest.mark.parametrize(
    ("concurrency", "rate_per_s", "seconds"), [(1, None, 0.1), (10, None, 0.01), (1000, None, 0.002), (10, 2.0, 0.5)]
)
def test_they_ask_as_often_as_the_sender_could_take_one(
    concurrency: int, rate_per_s: float | None, seconds: float
) -> None:
    assert best_pace_s(concurrency, rate_per_s) == pytest.approx(seconds)


class SlowGates(HandGates):
    def apart_s(self, sender: str) -> float:
        return 50.0


async def test_a_turn_that_comes_too_late_is_not_waited_for(house: House) -> None:
    house.gates = SlowGates()
    house.gates.closed["a"] = Admission("rate", 3)
    dispatcher = house.dispatcher(RecordingSender("a"))
    house.clock.advance(230)
    await house.deliver(dispatcher)
    assert house.record.due_at - house.clock.time() == pytest.approx(3)
    house.id = house.queue.add(to=NUMBER, life_s=70)
    await house.deliver(dispatcher)
    assert house.record.due_at - house.clock.time() == pytest.approx(40, abs=0.1), "its turn would be in 53 s"


# -- at a sender's bound


@pytest.mark.parametrize("why", ["rate", "crowd"])
async def test_a_full_sender_is_passed_at_once_or_waited_for_as_the_route_says(why: str, house: House) -> None:
    first, second = RecordingSender("a"), RecordingSender("b")
    house.gates.closed["a"] = Admission(why, 2)
    await house.deliver(house.dispatcher(first, second, on_full="wait"))
    assert house.end == (MessageStatus.QUEUED, f"held_{why}")
    assert house.record.due_at - house.clock.time() == 2
    assert house.record.tried == [("a", f"held_{why}", False)]
    await house.come_back()
    await house.deliver(house.dispatcher(first, second))
    assert house.end == (SENT, "b")


async def test_it_is_waited_for_until_the_message_is_so_old(house: House) -> None:
    first, second = RecordingSender("a"), RecordingSender("b")
    house.gates.closed["a"] = Admission("crowd", 2)
    began_at = house.clock.time()
    await house.work(house.dispatcher(first, second, on_full="wait", full_wait_s=11))
    assert house.end == (SENT, "b")
    assert house.clock.time() - began_at == pytest.approx(10)
    assert house.gates.asked.count("a") == 6


@pytest.mark.parametrize("why", [Admission("rate", 70), Admission("crowd", 0.5)])
async def test_whoever_waits_leaves_the_next_sender_its_time(why: Admission, house: House) -> None:
    """The bound on the wait may be longer than the code lives."""
    del house.queue.messages[house.id]
    house.id = house.queue.add(to=NUMBER, life_s=90)
    first, second = RecordingSender("a"), RecordingSender("b")
    house.gates.closed["a"] = why
    dispatcher = house.dispatcher(first, second, on_full="wait", full_wait_s=600)
    for _ in range(200):
        if house.record.is_waiting:
            # A claim may be late by so much: the worker was busy.
            house.clock.advance(max(0.0, house.record.due_at - house.clock.time()) + 1)
            await house.deliver(dispatcher)
    assert house.end == (SENT, "b")


async def test_room_in_time_is_taken(house: House) -> None:
    first, second = RecordingSender("a"), RecordingSender("b")
    house.gates.closed["a"] = Admission("crowd", 2)
    dispatcher = house.dispatcher(first, second, on_full="wait")
    await house.deliver(dispatcher)
    del house.gates.closed["a"]
    await house.work(dispatcher)
    assert house.end == (SENT, "a")


@pytest.mark.parametrize("admission", [Admission("open", 2), Admission("rate", 600)])
async def test_one_that_fails_or_asks_to_be_left_alone_for_long_is_not_waited_for(
    admission: Admission, house: House
) -> None:
    house.gates.closed["a"] = admission
    await house.deliver(house.dispatcher(RecordingSender("a"), RecordingSender("b"), on_full="wait"))
    assert house.end == (SENT, "b")


@pytest.mark.parametrize("on_full", ["next", "wait"])
async def test_a_bound_makes_no_possible_duplicate(on_full: str, house: House) -> None:
    """Who was not called cannot have it; and whoever may have it is waited for, full or not."""
    first, second = RecordingSender("a", [Unknown()]), RecordingSender("b")
    dispatcher = house.dispatcher(first, second, on_full=on_full, on_unknown="stop")
    house.gates.closed["b"] = Admission("rate", 1)
    await house.work(dispatcher)
    assert house.end == (FAILED, "unknown_outcome")
    assert second.sent == []


async def test_what_was_sent_waits_for_the_next_ones_room_and_stays_sent(house: House) -> None:
    first, second = RecordingSender("a", [Accepted("g")], capabilities=TELLS), RecordingSender("b")
    dispatcher = house.dispatcher(first, second, on_full="wait", full_wait_s=60, steps={"a": RouteStep(sender="a")})
    house.gates.closed["b"] = Admission("crowd", 1)
    await house.deliver(dispatcher)
    await house.come_back()
    await house.deliver(dispatcher)
    assert (house.record.status, house.record.sender, house.record.claimed.awaiting) == (SENT, "a", "a")
    await house.hear("a", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE)
    house.gates.closed.clear()
    await house.work(dispatcher)
    assert house.end == (SENT, "b")
