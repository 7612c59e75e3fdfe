"""Going on to the next sender: after an unknown outcome, a missing receipt, a failure; by the route's rule or never."""

import asyncio
from typing import Any

import pytest

from otpsvc.errors import problem
from otpsvc.messages.model import MessageStatus
from otpsvc.messages.policy import RouteStep
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Outcome,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Unknown,
)
from otpsvc.testing import RecordingSender
from tests.messages.doubles import Observer
from tests.messages.house import House

SMS = frozenset({Channel.SMS})
TELLS = Capabilities(channels=SMS, has_receipts=True, receipt_within_s=25.0)
TELLS_AND_DEDUPES = Capabilities(channels=SMS, has_receipts=True, receipt_within_s=25.0, is_idempotent=True)
UNREACHABLE = Rejected(RejectionKind.UNAVAILABLE)
FAILED, SENT = MessageStatus.FAILED, MessageStatus.SENT


def telling(name: str, *script: Outcome) -> RecordingSender:
    return RecordingSender(name, script, capabilities=TELLS)


def calls(*senders: RecordingSender) -> list[int]:
    return [len(sender.sent) for sender in senders]


# -- an unknown outcome


async def test_an_unknown_outcome_is_waited_for_and_then_passed(house: House) -> None:
    first, second = RecordingSender("a", [Unknown()]), RecordingSender("b")
    observer = Observer()
    dispatcher = house.dispatcher(first, second, observer=observer)
    await house.deliver(dispatcher)
    assert (house.end, house.record.claimed.begun_by) == ((MessageStatus.QUEUED, "unknown_outcome"), "a")
    assert 20 <= house.record.due_at - house.clock.time() < 20.1
    assert observer.duplicates == []
    await house.come_back()
    await house.deliver(dispatcher)
    assert house.end == (SENT, "b")
    assert calls(first, second) == [1, 1]
    assert house.record.tried == [("a", "silent", True)]
    assert observer.duplicates == ["a"]
    # Its call was told when it ended; what is passed much later says nothing new, and nothing of a worker's death.
    assert house.gates.reports == [("a", "fails", 0.0), ("b", "works", 0.0)]


@pytest.mark.parametrize("way", ["next", "next is held first", "nobody follows", "route says stop"])
async def test_a_receipt_that_never_came_counts_once_against_its_sender(way: str, house: House) -> None:
    """The call went well; that nothing was heard of it since did not."""
    answers = [RetryLater(1)] if way == "next is held first" else [UNREACHABLE] if way == "nobody follows" else []
    first, second = telling("a"), RecordingSender("b", answers)
    await house.deliver(house.dispatcher(first, second))
    assert house.gates.reports == [("a", "works", 0.0)]
    await house.work(house.dispatcher(first, second, on_unknown="stop" if way == "route says stop" else "next"))
    assert [one for one in house.gates.reports if one[0] == "a"] == [("a", "works", 0.0)], "its breaker counts calls"
    assert [name for name, _ in house.gates.missing] == ["a"]
    assert house.gates.under_way == set()


async def test_a_receipt_that_came_in_time_counts_nothing(house: House) -> None:
    first, second = telling("a"), RecordingSender("b")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    await house.hear("a", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE)
    await house.work(dispatcher)
    assert house.gates.reports == [("a", "works", 0.0), ("b", "works", 0.0)]


@pytest.mark.parametrize("moment", [0.0, 5.0, 19.0])
async def test_a_receipt_settles_an_open_question(moment: float, house: House) -> None:
    first, second = telling("a", Unknown()), RecordingSender("b")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    house.clock.advance(moment)
    assert await house.hear("a", ReceiptStatus.SENT) == "applied"
    await house.work(dispatcher)
    assert house.end == (SENT, "a")
    assert calls(first, second) == [1, 0]
    assert house.record.tried == []


async def test_a_receipt_of_failure_lets_the_next_go_at_once_and_no_duplicate_is_told(house: House) -> None:
    first, second = telling("a", Unknown()), RecordingSender("b")
    dispatcher = house.dispatcher(first, second, on_unknown="stop", max_senders=2)
    second_chance = house.dispatcher(first, second, on_unknown="next")
    await house.deliver(second_chance)
    await house.hear("a", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE)
    assert house.record.due_at == house.clock.time()
    await house.work(dispatcher)
    assert house.end == (SENT, "b")
    assert house.record.tried == [("a", "undeliverable", False)]


async def test_the_steps_own_receipt_time_out_counts(house: House) -> None:
    senders = [RecordingSender("a", [Unknown()]), RecordingSender("b")]
    steps = {"a": RouteStep(sender="a", receipt_timeout_s=7)}
    await house.deliver(house.dispatcher(*senders, steps=steps))
    assert 7 <= house.record.due_at - house.clock.time() < 7.1


async def test_a_sender_whose_receipts_take_longer_than_the_route_says_has_its_time(house: House) -> None:
    await house.deliver(house.dispatcher(telling("a", Unknown()), RecordingSender("b"), receipt_timeout_s=5.0))
    assert 25 <= house.record.due_at - house.clock.time() < 25.1


ENDINGS: dict[str, dict[str, Any]] = {
    "the route says stop": {"on_unknown": "stop"},
    "one sender is the most": {"max_senders": 1},
    "the deadline is too late": {"receipt_timeout_s": 280.0},
}


@pytest.mark.parametrize("why", ENDINGS)
async def test_where_nobody_may_follow_it_ends_at_once(why: str, house: House) -> None:
    first, second = RecordingSender("a", [Unknown()]), RecordingSender("b")
    await house.deliver(house.dispatcher(first, second, **ENDINGS[why]))
    assert house.end == (FAILED, "unknown_outcome")
    assert house.record.tried == [("a", "silent", False)]
    assert calls(first, second) == [1, 0]


async def test_a_last_sender_is_not_waited_for(house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [UNREACHABLE]), RecordingSender("b", [Unknown()])))
    assert house.end == (FAILED, "unknown_outcome")


async def test_no_more_senders_than_the_route_allows_may_have_it(house: House) -> None:
    senders = [RecordingSender(name, [Unknown()]) for name in "abcd"]
    await house.work(house.dispatcher(*senders, max_senders=3))
    assert calls(*senders) == [1, 1, 1, 0]
    assert house.end == (FAILED, "unknown_outcome")
    assert house.record.tried == [("a", "silent", True), ("b", "silent", True), ("c", "silent", False)]


async def test_those_who_refuse_do_not_count(house: House) -> None:
    senders = [RecordingSender(name, [UNREACHABLE]) for name in "abcd"]
    await house.work(house.dispatcher(*senders, max_senders=1))
    assert calls(*senders) == [1, 1, 1, 1]
    assert house.end == (FAILED, "unavailable")


async def test_a_deduping_sender_is_asked_until_the_deadline_and_then_passed(house: House) -> None:
    first = RecordingSender("a", [Unknown()] * 30, capabilities=Capabilities(channels=SMS, is_idempotent=True))
    second = RecordingSender("b")
    began_at = house.clock.time()
    await house.work(house.dispatcher(first, second))
    assert house.end == (SENT, "b")
    assert 3 <= len(first.sent) <= 7
    assert 20 <= house.clock.time() - began_at < 60
    assert house.record.tried == [("a", "silent", True)]


async def test_what_the_passed_one_says_later_is_heard(house: House) -> None:
    first, second = telling("a", Unknown()), telling("b", RetryLater(30))
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    await house.come_back()
    await house.deliver(dispatcher)
    assert house.record.tried == [("a", "silent", True), ("b", "retry_later", False)]
    await house.hear("a", ReceiptStatus.DELIVERED)
    await house.work(dispatcher)
    assert house.end == (MessageStatus.DELIVERED, "a")
    assert calls(first, second) == [1, 1]


async def test_when_all_who_followed_refuse_nobody_knows(house: House) -> None:
    senders = [RecordingSender("a", [Unknown()]), RecordingSender("b", [Rejected(RejectionKind.INVALID_NUMBER)])]
    await house.work(house.dispatcher(*senders))
    assert house.end == (FAILED, "unknown_outcome"), "a may have sent it, whatever b thinks of the number"


# -- a missing receipt


async def test_a_missing_receipt_lets_the_next_try(house: House) -> None:
    first, second, observer = telling("a"), telling("b"), Observer()
    dispatcher = house.dispatcher(first, second, observer=observer)
    await house.deliver(dispatcher)
    assert house.end == (SENT, "a")
    assert house.record.claimed.awaiting == "a"
    assert house.record.due_at - house.clock.time() == 25.0
    await house.work(dispatcher)
    assert house.record.events == [(SENT, "a"), (SENT, "b")]
    assert house.record.tried == [("a", "silent", True)]
    assert observer.duplicates == ["a"]
    assert not house.record.has_text, "the last sender's receipt is not awaited: nobody could follow"
    assert observer.told == [("a", "accepted"), ("sent", ""), ("b", "accepted")]


@pytest.mark.parametrize(("status", "is_over"), [("sent", True), ("delivered", True), ("dispatched", False)])
async def test_a_receipt_in_time_ends_the_waiting(status: str, is_over: bool, house: House) -> None:
    first, second = telling("a"), telling("b")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    await house.hear("a", ReceiptStatus(status))
    await house.work(dispatcher)
    assert calls(first, second) == [1, 0 if is_over else 1]


async def test_with_stop_a_missing_receipt_changes_nothing(house: House) -> None:
    first, second = telling("a"), telling("b")
    await house.work(house.dispatcher(first, second, on_unknown="stop"))
    assert (house.record.status, house.record.sender) == (SENT, "a")
    assert calls(first, second) == [1, 0]
    assert house.record.tried == [("a", "silent", False)]
    assert not house.record.has_text


async def test_with_stop_a_failure_is_followed_all_the_same(house: House) -> None:
    first, second = telling("a"), telling("b")
    dispatcher = house.dispatcher(first, second, on_unknown="stop")
    await house.deliver(dispatcher)
    await house.hear("a", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE)
    await house.work(dispatcher)
    assert house.record.events[-1] == (SENT, "b")
    assert house.record.tried == [("a", "undeliverable", False)]


async def test_a_failure_that_no_other_sender_could_mend_ends_it(house: House) -> None:
    first, second = telling("a"), telling("b")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    await house.hear("a", ReceiptStatus.FAILED, RejectionKind.INVALID_NUMBER)
    await house.work(dispatcher)
    assert house.end == (FAILED, "invalid_number")
    assert calls(first, second) == [1, 0]


async def test_a_failure_with_nobody_left_ends_it_with_its_reason(house: House) -> None:
    senders = [telling("a"), RecordingSender("b", [UNREACHABLE])]
    dispatcher = house.dispatcher(*senders)
    await house.deliver(dispatcher)
    await house.hear("a", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE)
    await house.work(dispatcher)
    assert house.end == (FAILED, "unavailable")


async def test_what_was_sent_stays_sent_when_all_who_follow_refuse(house: House) -> None:
    senders = [telling("a"), RecordingSender("b", [RetryLater(20), UNREACHABLE]), RecordingSender("c", [UNREACHABLE])]
    await house.work(house.dispatcher(*senders))
    assert (house.record.status, house.record.sender) == (SENT, "a")
    assert not house.record.has_text


@pytest.mark.parametrize("capabilities", [Capabilities(channels=SMS), Capabilities(channels=SMS, has_receipts=True)])
async def test_where_no_receipt_can_be_missed_none_is_awaited(capabilities: Capabilities, house: House) -> None:
    steps = {"a": RouteStep(sender="a", receipt_timeout_s=7)} if not capabilities.has_receipts else {}
    sender = RecordingSender("a", capabilities=capabilities)
    await house.deliver(house.dispatcher(sender, RecordingSender("b"), steps=steps))
    assert (house.record.claimed.awaiting, house.record.has_text) == ("", False)


async def test_a_text_is_kept_no_longer_than_it_could_be_of_use(house: House) -> None:
    house.clock.advance(260)
    await house.deliver(house.dispatcher(telling("a"), RecordingSender("b")))
    assert 10 <= house.record.due_at - house.clock.time() < 10.1


async def test_what_was_sent_is_kept_and_nobody_called_when_the_worker_stalls(house: House) -> None:
    """Its code grows too old between the claim and the next call."""
    first, second = telling("a"), RecordingSender("b")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    await house.come_back()
    real = house.queue.begin

    async def slow(*args: Any, **told: Any) -> bool:
        is_begun = await real(*args, **told)
        house.clock.advance(250)
        return is_begun

    house.queue.begin = slow  # type: ignore[method-assign]  # a stall after the last look at the clock
    await house.deliver(dispatcher)
    assert calls(first, second) == [1, 0]
    assert (house.record.status, house.record.sender) == (SENT, "a")


# -- receipts and ids


async def test_the_gateways_id_is_noted_before_the_message_is_recorded(house: House) -> None:
    seen: list[MessageStatus] = []
    expect = house.book.expect

    async def look(*args: Any, **told: Any) -> Any:
        seen.append(house.record.status)
        return await expect(*args, **told)

    house.book.expect = look  # type: ignore[method-assign]  # the order is the point
    await house.deliver(house.dispatcher(telling("a", Accepted("g-1"))))
    assert seen == [MessageStatus.PROCESSING]
    assert house.book.expected["a", "g-1"].message_id == house.id


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (ReceiptStatus.SENT, (SENT, "a")),
        (ReceiptStatus.DELIVERED, (MessageStatus.DELIVERED, "a")),
        (ReceiptStatus.FAILED, (SENT, "b")),
    ],
)
async def test_a_receipt_that_comes_before_the_answer_counts(
    status: ReceiptStatus, end: tuple[MessageStatus, str], house: House
) -> None:
    early = Receipt(status=status, provider_id="g-1", kind=RejectionKind.UNDELIVERABLE)
    first, second = telling("a", Accepted("g-1")), RecordingSender("b")
    dispatcher = house.dispatcher(first, second)
    assert await house.book.find_or_park("a", early) is None
    await house.work(dispatcher)
    assert house.end == end
    assert calls(first, second) == [1, status is ReceiptStatus.FAILED]


async def test_an_id_that_cannot_be_noted_keeps_the_record_waiting_for_it(house: House) -> None:
    house.book.fails_with = problem("SERVICE_UNAVAILABLE")

    async def mend() -> None:
        await asyncio.sleep(0.02)
        house.book.fails_with = None

    await asyncio.gather(house.deliver(house.dispatcher(telling("a", Accepted("g-1")))), mend())
    assert house.end == (SENT, "a")
    assert ("a", "g-1") in house.book.expected


async def test_a_sender_without_receipts_has_nothing_noted(house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a")))
    assert house.book.expected == {}


async def test_a_polled_sender_is_noted_with_its_pause(house: House) -> None:
    polled = Capabilities(channels=SMS, polls_every_s=10.0)
    await house.deliver(house.dispatcher(RecordingSender("a", [Accepted("g-1")], capabilities=polled)))
    (sent,) = house.book.polls["a"]
    assert (sent.message_id, sent.provider_id) == (house.id, "g-1")
