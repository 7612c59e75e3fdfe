"""A pool of phones on a route: never judged for one client's phones; and a message for one phone stays with it."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from otpsvc.errors import problem
from otpsvc.messages.breaker import verdict_of
from otpsvc.messages.model import Content, MessageStatus
from otpsvc.messages.policy import Route, Routes, RouteStep
from otpsvc.messages.ports import Admission
from otpsvc.messages.router import Router
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    OutboundMessage,
    Outcome,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    SentMessage,
    Unknown,
)
from otpsvc.testing import RecordingSender
from tests.messages.doubles import Observer
from tests.messages.house import House
from tests.messages.test_router import NOON, message

SMS = frozenset({Channel.SMS})
POOL = Capabilities(channels=SMS, has_receipts=True, receipt_within_s=25.0, is_idempotent=True, is_pool=True)
DEVICE = "dev_00000000000000000000000000"
HANGS = "hangs"


def pool(*script: Outcome) -> RecordingSender:
    return RecordingSender("phones", script, capabilities=POOL)


def words(house: House) -> set[str]:
    """What the breaker of the pool was told."""
    return {verdict for sender, verdict, hold_s in house.gates.reports if sender == "phones" and hold_s == 0}


@pytest.mark.parametrize(
    "outcome",
    [Unknown(), RetryLater(5), RetryLater(3600), RetryLater(1, is_fault=True), *map(Rejected, RejectionKind)],
)
def test_what_a_pool_has_for_one_client_is_held_against_nobody(outcome: Outcome) -> None:
    assert verdict_of(outcome, is_pool=True) == ("unclear", 0.0)


def test_a_pool_that_takes_a_message_works() -> None:
    assert verdict_of(Accepted(), is_pool=True) == ("works", 0.0)


@pytest.mark.parametrize(
    "answer", [Unknown(), RetryLater(60), RetryLater(5, is_fault=True), Rejected(RejectionKind.NO_CREDIT)]
)
async def test_the_breaker_of_a_pool_hears_of_no_failure(answer: Outcome, house: House) -> None:
    phones, second = pool(*[answer] * 30), RecordingSender("b")
    await house.work(house.dispatcher(phones, second))
    assert house.end == (MessageStatus.SENT, "b")
    assert words(house) == {"unclear"}
    assert len([one for one in house.gates.reports if one[0] == "phones"]) == len(phones.sent)
    assert house.gates.under_way == set()


async def test_silence_of_a_phone_is_not_held_against_the_pool(house: House) -> None:
    phones, second = pool(), RecordingSender("b")
    await house.work(house.dispatcher(phones, second))
    assert house.end == (MessageStatus.SENT, "b")
    assert house.record.tried == [("phones", "silent", True)]
    assert words(house) == {"works"}


@pytest.mark.parametrize(
    ("answer", "word"), [(RetryLater(2), "retry_later"), (Rejected(RejectionKind.NO_DEVICE), "no_device")]
)
async def test_a_pool_that_has_nobody_when_asked_again_knows_that_nobody_has_it(
    answer: Outcome, word: str, house: House
) -> None:
    """It looks for our id: so nobody waits for a receipt or for a phone, and nobody speaks of a duplicate."""
    phones, second = pool(Unknown(), answer), RecordingSender("b")
    began_at = house.clock.time()
    await house.work(house.dispatcher(phones, second))
    assert house.end == (MessageStatus.SENT, "b")
    assert house.clock.time() - began_at < 2
    assert house.record.tried == [("phones", word, False)]
    assert len(phones.sent) == 2


async def test_a_pool_that_puts_off_what_it_was_asked_again_is_asked_once_more_later(house: House) -> None:
    phones = pool(Unknown(), RetryLater(3), RetryLater(3))
    await house.work(house.dispatcher(phones))
    assert house.end == (MessageStatus.SENT, "phones")
    assert len(phones.sent) == 4


# -- taking back what no phone has pulled, before the next sender is asked


class Cancelling(RecordingSender):
    """A pool that takes everything, and says whether it could take it back."""

    def __init__(self, *answers: Any, script: tuple[Outcome, ...] = ()) -> None:
        super().__init__("phones", script, capabilities=msgspec.structs.replace(POOL, can_cancel=True))
        self.asked: list[SentMessage] = []
        self._answers = list(answers)

    async def cancel(self, message: SentMessage) -> bool:
        self.asked.append(message)
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if answer is HANGS:
            await asyncio.Event().wait()
        return cast("bool", answer)


@pytest.mark.parametrize("script", [(), (Unknown(),) * 30])
async def test_what_no_phone_has_pulled_is_taken_back_and_is_no_possible_duplicate(
    script: tuple[Outcome, ...], house: House
) -> None:
    observer = Observer()
    phones, second = Cancelling(True, script=script), RecordingSender("b")
    await house.work(house.dispatcher(phones, second, observer=observer))
    assert house.end == (MessageStatus.SENT, "b")
    assert house.record.tried == [("phones", "send_timeout", False)]
    assert house.record.asked["phones"] == "failed:send_timeout"
    assert observer.duplicates == []
    (asked,) = phones.asked
    assert (asked.message_id, asked.client_id, asked.mode) == (
        house.id,
        house.record.claimed.client_id,
        house.record.claimed.mode,
    )


@pytest.mark.parametrize("answer", [False, OSError("x"), asyncio.CancelledError(), "yes", HANGS], ids=str)
async def test_what_a_phone_may_have_is_passed_as_before(answer: Any, house: House) -> None:
    observer = Observer()
    phones, second = Cancelling(answer), RecordingSender("b")
    await house.work(house.dispatcher(phones, second, observer=observer, step_timeout_s=0.05))
    assert house.end == (MessageStatus.SENT, "b")
    assert house.record.tried == [("phones", "silent", True)]
    assert observer.duplicates == ["phones"]
    assert words(house) == {"works"}


async def test_nothing_is_taken_back_while_nobody_else_can_be_called(house: House) -> None:
    phones, second = Cancelling(True), RecordingSender("b")
    house.gates.closed["b"] = Admission("open", 5.0)
    dispatcher = house.dispatcher(phones, second)
    for _ in range(3):
        await house.come_back()
        await house.deliver(dispatcher)
    assert phones.asked == []
    house.gates.closed.clear()
    await house.work(dispatcher)
    assert house.end == (MessageStatus.SENT, "b")
    assert len(phones.asked) == 1


async def test_what_was_taken_back_and_nobody_else_takes_has_failed(house: House) -> None:
    await house.work(house.dispatcher(Cancelling(True), RecordingSender("b", [Rejected(RejectionKind.NO_CREDIT)])))
    assert house.end == (MessageStatus.FAILED, "no_credit")


async def test_taken_back_and_not_told_it_is_taken_back_again(house: House) -> None:
    phones, second = Cancelling(True, True), RecordingSender("b")
    dispatcher = house.dispatcher(phones, second)
    await house.deliver(dispatcher)
    await house.come_back()
    house.book.fails_with = problem("SERVICE_UNAVAILABLE")
    await house.deliver(dispatcher)
    assert second.sent == []
    house.book.fails_with = None
    await house.work(dispatcher)
    assert house.end == (MessageStatus.SENT, "b")
    assert len(phones.asked) == 2
    assert ("phones", "send_timeout", False) in house.record.tried
    assert not any(is_duplicate for _, _, is_duplicate in house.record.tried)


async def test_no_phone_lets_the_next_sender_carry_it(house: House) -> None:
    phones, second = pool(), RecordingSender("b")
    dispatcher = house.dispatcher(phones, second)
    await house.deliver(dispatcher)
    await house.hear("phones", ReceiptStatus.FAILED, RejectionKind.NO_DEVICE)
    assert house.record.due_at == house.clock.time()
    await house.work(dispatcher)
    assert house.end == (MessageStatus.SENT, "b")
    assert house.record.tried == [("phones", "no_device", False)]


async def test_no_phone_and_no_other_sender_is_a_failure_by_name(house: House) -> None:
    await house.work(house.dispatcher(pool(*[RetryLater(5)] * 3, Rejected(RejectionKind.DEVICE_OFFLINE))))
    assert house.end == (MessageStatus.FAILED, "device_offline")


# -- for one phone only


def test_a_message_for_one_phone_goes_by_phones_only() -> None:
    senders = {"a": RecordingSender("a"), "phones": pool(), "b": RecordingSender("b")}
    steps = tuple(RouteStep(sender=name) for name in senders)
    router = Router(Routes({("", ""): {"*": Route(steps=steps)}}), (), senders)

    def chosen(device_id: str) -> list[str]:
        way = router.steps(message(), Content("+33612345678", "123456", device_id), NOON)
        assert way.left_out == ()
        return [step.sender.name for step in way.steps]

    assert chosen("") == ["a", "phones", "b"]
    assert chosen(DEVICE) == ["phones"]


async def test_the_phone_it_is_for_is_told_to_the_sender(house: House) -> None:
    seen: list[OutboundMessage] = []

    def take(one: OutboundMessage) -> Outcome:
        seen.append(one)
        return Accepted()

    claimed = house.record.claimed
    sealed = house.keyring.seal(
        msgspec.msgpack.encode(Content("+33612345678", "123456", DEVICE)),
        record_id=house.id,
        count=0,
        bound_to=(claimed.client_id, claimed.mode, house.id, claimed.channel),
    )
    house.record.claimed = msgspec.structs.replace(claimed, sealed=sealed)
    phones = RecordingSender("phones", [take], capabilities=POOL)
    await house.deliver(house.dispatcher(phones))
    assert [one.device_id for one in seen] == [DEVICE]
