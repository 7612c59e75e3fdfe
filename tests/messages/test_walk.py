"""The walk from sender to sender: begun in the store before each call, and never past one that may have sent."""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from otpsvc.errors import problem
from otpsvc.messages.model import MessageStatus
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
from otpsvc.testing import MemoryQueue, RecordingSender
from tests.messages.doubles import Observer
from tests.messages.house import LEASE_S, House

SMS = frozenset({Channel.SMS})
DEDUPES = Capabilities(channels=SMS, is_idempotent=True)
LOST = Rejected(RejectionKind.UNDELIVERABLE)
NO_CREDIT, UNREACHABLE = Rejected(RejectionKind.NO_CREDIT), Rejected(RejectionKind.UNAVAILABLE)


def deduping(name: str, *script: Outcome) -> RecordingSender:
    return RecordingSender(name, script, capabilities=DEDUPES)


async def lose_a_lease(house: House, begun_by: str | None) -> None:
    """A worker claims, begins a call or not, and dies."""
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    if begun_by is not None:
        assert await house.queue.begin(claimed.message_id, claimed.token, sender=begun_by)
    house.clock.advance(LEASE_S + 1)


# -- begin


async def test_each_call_is_begun_in_the_store_before_it_is_made(house: House) -> None:
    written: list[tuple[str, str]] = []

    def look(message: OutboundMessage) -> Outcome:
        written.append((house.record.claimed.begun_by, message.message_id))
        return UNREACHABLE

    await house.deliver(house.dispatcher(*[RecordingSender(name, [look]) for name in "abc"]))
    assert written == [(name, house.id) for name in "abc"]
    assert house.end == (MessageStatus.FAILED, "unavailable")


async def test_a_code_that_ended_after_the_claim_goes_to_no_sender(house: House) -> None:
    class EndsAfterTheClaim(MemoryQueue):
        async def begin(self, message_id: str, token: str, **told: Any) -> bool:
            self.unwanted.add(message_id)
            return await super().begin(message_id, token, **told)

    house.queue.__class__ = EndsAfterTheClaim
    sender = RecordingSender("a")
    await house.deliver(house.dispatcher(sender))
    assert house.end == (MessageStatus.CANCELLED, "code_ended")
    assert (sender.sent, house.record.claimed.begun_by) == ([], "")


@pytest.mark.parametrize("is_written", [False, True])
async def test_without_an_answer_to_begin_nothing_is_sent(house: House, is_written: bool) -> None:
    class NoAnswer(MemoryQueue):
        async def begin(self, message_id: str, token: str, **told: Any) -> bool:
            if is_written:
                await super().begin(message_id, token, **told)
            raise problem("SERVICE_UNAVAILABLE")

    house.queue.__class__ = NoAnswer
    sender = RecordingSender("a")
    await house.deliver(house.dispatcher(sender))
    assert house.end == (MessageStatus.QUEUED, "store_away")
    house.queue.__class__ = MemoryQueue
    await house.come_back()
    await house.deliver(house.dispatcher(sender))
    assert house.end == (MessageStatus.SENT, "a"), "it was surely not sent, so it is not in doubt"
    assert len(sender.sent) == 1


async def test_without_an_answer_to_begin_what_was_in_doubt_stays_so(house: House) -> None:
    class NoAnswer(MemoryQueue):
        async def begin(self, message_id: str, token: str, **told: Any) -> bool:
            raise problem("SERVICE_UNAVAILABLE")

    await lose_a_lease(house, begun_by="a")
    house.queue.__class__ = NoAnswer
    await house.deliver(house.dispatcher(deduping("a")))
    assert (house.end, house.record.claimed.begun_by) == ((MessageStatus.QUEUED, "store_away"), "a")


async def test_an_answer_to_begin_that_comes_after_the_lease_is_no_leave_to_send(house: House) -> None:
    class Slow(MemoryQueue):
        async def begin(self, message_id: str, token: str, **told: Any) -> bool:
            may = await super().begin(message_id, token, **told)
            house.clock.advance(LEASE_S)
            return may

    house.queue.__class__ = Slow
    sender = RecordingSender("a")
    await house.deliver(house.dispatcher(sender))
    assert house.end == (MessageStatus.QUEUED, "lease_too_short")
    assert (sender.sent, house.record.claimed.begun_by) == ([], "")


# -- a sender that may have it


async def test_after_a_lost_lease_that_began_nothing_it_is_sent(house: House) -> None:
    sender = RecordingSender("a")
    await lose_a_lease(house, begun_by=None)
    await house.deliver(house.dispatcher(sender))
    assert house.end == (MessageStatus.SENT, "a")
    assert sender.sent[0].try_number == 2


async def test_after_a_lost_lease_a_plain_sender_is_not_called_again(house: House) -> None:
    senders = [deduping("a"), RecordingSender("b"), deduping("c")]
    await lose_a_lease(house, begun_by="b")
    await house.deliver(house.dispatcher(*senders, on_unknown="stop"))
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    assert [sender.sent for sender in senders] == [[], [], []]


async def test_after_a_lost_lease_a_deduping_sender_alone_is_asked(house: House) -> None:
    senders = [deduping(name) for name in "abc"]
    await lose_a_lease(house, begun_by="b")
    await house.deliver(house.dispatcher(*senders, on_unknown="stop"))
    assert house.end == (MessageStatus.SENT, "b")
    assert [len(sender.sent) for sender in senders] == [0, 1, 0]


@pytest.mark.parametrize("why", ["gone", "other channel", "text too long"])
async def test_a_sender_that_cannot_be_asked_any_more_leaves_it_unknown(why: str, house: House) -> None:
    changed = {
        "gone": [],
        "other channel": [
            RecordingSender("b", capabilities=Capabilities(channels=frozenset({Channel.VOICE}), is_idempotent=True))
        ],
        "text too long": [
            RecordingSender("b", capabilities=Capabilities(channels=SMS, is_idempotent=True, longest_text=3))
        ],
    }
    senders = [deduping("a"), *changed[why], deduping("c")]
    await lose_a_lease(house, begun_by="b")
    await house.deliver(house.dispatcher(*senders, on_unknown="stop"))
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    assert all(sender.sent == [] for sender in senders)


async def test_once_it_is_refused_the_walk_goes_on_to_whoever_may_be_asked(house: House) -> None:
    order: list[str] = []

    def told(name: str, outcome: Outcome) -> Callable[[OutboundMessage], Outcome]:
        def answer(message: OutboundMessage) -> Outcome:
            order.append(name)
            return outcome

        return answer

    senders = [
        RecordingSender("a", [told("a", RetryLater(4)), told("a", Accepted())]),
        RecordingSender("b", [told("b", Unknown()), told("b", LOST)], capabilities=DEDUPES),
        RecordingSender("c", [told("c", UNREACHABLE)]),
    ]
    dispatcher = house.dispatcher(*senders)
    await house.deliver(dispatcher)
    assert (house.end, house.record.claimed.begun_by) == ((MessageStatus.QUEUED, "unknown_outcome"), "b")
    await house.come_back()
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.SENT, "a")
    assert order == ["a", "b", "b", "a"]


@pytest.mark.parametrize(
    "outcome",
    [
        RetryLater(1),
        RetryLater(40),
        Unknown(),
        *(
            Rejected(kind)
            for kind in RejectionKind
            if kind not in {RejectionKind.INVALID_NUMBER, RejectionKind.BLOCKED, RejectionKind.UNDELIVERABLE}
        ),
    ],
    ids=str,
)
async def test_an_answer_that_nobody_looked_for_settles_nothing(outcome: Outcome, house: House) -> None:
    """A throttled or refused connection says nothing about the call before: no other sender gets the message."""
    first, second = deduping("a", Unknown(), outcome, outcome), deduping("b")
    dispatcher = house.dispatcher(first, second, on_unknown="stop")
    for _ in range(3):
        await house.deliver(dispatcher)
        assert (house.end, house.record.claimed.begun_by) == ((MessageStatus.QUEUED, "unknown_outcome"), "a")
        await house.come_back()
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.SENT, "a")
    assert (len(first.sent), len(second.sent)) == (4, 0)


@pytest.mark.parametrize("outcome", [RetryLater(280), RetryLater(1e9)])
async def test_what_stays_in_doubt_until_the_code_ends_has_an_unknown_outcome(outcome: Outcome, house: House) -> None:
    dispatcher = house.dispatcher(deduping("a", Unknown(), outcome), deduping("b"), on_unknown="stop")
    await house.deliver(dispatcher)
    await house.come_back()
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")


async def test_a_definite_answer_leaves_no_doubt_behind(house: House) -> None:
    sender = RecordingSender("a", [RetryLater(5)])
    dispatcher = house.dispatcher(sender)
    await house.deliver(dispatcher)
    assert (house.end, house.record.claimed.begun_by) == ((MessageStatus.QUEUED, "retry_later"), "")
    await house.come_back()
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.SENT, "a")


@pytest.mark.parametrize("in_doubt", [False, True])
@pytest.mark.parametrize("hindrance", ["too old", "store away"])
async def test_a_code_too_old_to_be_asked_about_again_ends_as_what_is_known(
    hindrance: str, in_doubt: bool, house: House
) -> None:
    class NoAnswer(MemoryQueue):
        async def begin(self, message_id: str, token: str, **told: Any) -> bool:
            raise problem("SERVICE_UNAVAILABLE")

    await lose_a_lease(house, begun_by="a" if in_doubt else None)
    sender = deduping("a")
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    claimed = msgspec.structs.replace(claimed, life_ms=29_900 if hindrance == "too old" else 30_100)
    house.queue.__class__ = NoAnswer
    lease_ends_at = house.clock.monotonic() + LEASE_S
    await house.dispatcher(sender).deliver(claimed, queue=house.queue, lease_ends_at=lease_ends_at)
    surely_unsent = MessageStatus.EXPIRED if hindrance == "too old" else MessageStatus.FAILED
    assert house.end == ((MessageStatus.FAILED, "unknown_outcome") if in_doubt else (surely_unsent, "no_time_left"))
    assert sender.sent == []


# -- who is told


async def test_an_observer_is_told_of_calls_that_were_made_and_of_the_end(house: House) -> None:
    def slow(message: OutboundMessage) -> Outcome:
        house.clock.advance(2.5)
        return NO_CREDIT

    observer = Observer()
    senders = [
        RecordingSender("short", capabilities=Capabilities(channels=SMS, longest_text=3)),
        RecordingSender("a", [slow]),
        RecordingSender("b", [RetryLater(1), Accepted()]),
    ]
    await house.deliver(house.dispatcher(*senders, observer=observer))
    assert observer.told == [("a", "no_credit"), ("b", "retry_later")]
    assert observer.seconds == [2.5, 0.0]
    await house.come_back()
    await house.deliver(house.dispatcher(*senders, observer=observer))
    assert observer.told[2:] == [("b", "accepted"), ("sent", "")]


async def test_a_code_that_no_table_knows_is_counted_as_such(house: House, caplog: pytest.LogCaptureFixture) -> None:
    observer = Observer()
    unknown = Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code 4711", is_unmapped=True)
    senders = [RecordingSender("a", [unknown]), RecordingSender("b", [Rejected(RejectionKind.GATEWAY_ERROR)])]
    await house.deliver(house.dispatcher(*senders, observer=observer))
    assert observer.told[:2] == [("a", "unmapped"), ("b", "gateway_error")]
    assert house.record.tried == [("a", "gateway_error", False), ("b", "gateway_error", False)]
    assert f"message {house.id}: sender a: gateway_error unmapped code 4711" in caplog.messages


async def test_an_observer_is_told_of_failure_but_not_of_an_end_that_was_not_recorded(house: House) -> None:
    observer = Observer()
    await house.deliver(house.dispatcher(RecordingSender("a", [Unknown()]), observer=observer))
    assert observer.told == [("a", "unknown"), ("failed", "unknown_outcome")]

    def overtaken(message: OutboundMessage) -> Outcome:
        house.queue.messages[message.message_id].token = "another worker's"
        return Accepted()

    house.queue.add()
    await house.deliver(house.dispatcher(RecordingSender("a", [overtaken]), observer=observer))
    assert observer.told[2:] == [("a", "accepted")]


async def test_what_may_have_been_sent_is_logged_with_the_senders_name(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await lose_a_lease(house, begun_by="b")
    await house.deliver(house.dispatcher(RecordingSender("b")))
    told = [
        r.message for r in caplog.records if r.levelno == logging.WARNING and "may have been sent by b" in r.message
    ]
    assert len(told) == 1
