"""Polling: gateways are asked about what they took, and no fault of theirs or of the store ends it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from otpsvc.clock import SystemClock
from otpsvc.errors import problem
from otpsvc.messages.polling import MOST_AT_ONCE, run_polling
from otpsvc.senders.contract import Capabilities, Channel, Receipt, ReceiptStatus, SentMessage
from otpsvc.senders.http_client import NoAnswer
from otpsvc.senders.questions import ask_each
from otpsvc.testing import RecordingSender
from tests.messages.house import House

DELIVERED = ReceiptStatus.DELIVERED


class Polled(RecordingSender):
    """Answers polls by a script of functions, then with nothing."""

    def __init__(self, name: str, *script: Callable[[Sequence[SentMessage]], Any]) -> None:
        polled = Capabilities(channels=frozenset({Channel.SMS}), polls_every_s=0.5)
        super().__init__(name, capabilities=polled)
        self.polls: list[list[str]] = []
        self._answers = iter(script)

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        self.polls.append([message.message_id for message in messages])
        answer = next(self._answers, lambda _: ())(messages)
        return await answer if asyncio.iscoroutine(answer) else answer


class Taken:
    def __init__(self) -> None:
        self.receipts: list[tuple[str, Receipt]] = []
        self.fails_with: Exception | None = None
        self.news = asyncio.Event()

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        self.news.set()
        if self.fails_with is not None:
            fault, self.fails_with = self.fails_with, None
            raise fault
        self.receipts += [(sender, one) for one in receipts]


def note(house: House, sender: str, provider_id: str) -> SentMessage:
    sent = SentMessage(message_id=f"msg_{provider_id}", provider_id=provider_id, channel=Channel.SMS, sent_at=1.0)
    house.book.polls[sender].append(sent)
    return sent


async def polled(house: House, taken: Taken, *senders: RecordingSender, until: Callable[[], bool]) -> None:
    """Run the polling until something is true."""
    stop = asyncio.Event()
    by_name = {sender.name: sender for sender in senders}
    run = asyncio.create_task(run_polling(house.book, taken, by_name, stop, SystemClock()))
    try:
        async with asyncio.timeout(20):
            while not until():  # noqa: ASYNC110 - any condition a test can think of
                await asyncio.sleep(0.005)
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await run


async def test_what_a_gateway_says_is_taken_and_the_last_word_ends_it(house: House) -> None:
    first, second = note(house, "a", "g-1"), note(house, "a", "g-2")
    sender, taken = (
        Polled(
            "a",
            lambda _: [
                Receipt(status=DELIVERED, provider_id="g-1"),
                Receipt(status=ReceiptStatus.SENT, message_id=second.message_id),
            ],
        ),
        Taken(),
    )
    await polled(house, taken, sender, until=lambda: len(sender.polls) == 2)
    assert [(name, one.message_id, one.status) for name, one in taken.receipts] == [
        ("a", first.message_id, DELIVERED),
        ("a", second.message_id, ReceiptStatus.SENT),
    ]
    assert house.book.ended == [first]
    assert [sorted(poll) for poll in sender.polls] == [[first.message_id, second.message_id], [second.message_id]]


async def test_a_gateway_may_speak_of_nothing_else(house: House) -> None:
    note(house, "a", "g-1")
    foreign = [Receipt(status=DELIVERED, provider_id="g-9"), Receipt(status=DELIVERED, message_id=house.id)]
    sender, taken = Polled("a", lambda _: foreign), Taken()
    await polled(house, taken, sender, until=lambda: len(sender.polls) == 2)
    assert taken.receipts == []
    assert house.book.ended == []


def hang(_: object) -> Any:
    return asyncio.Event().wait()


FAULTS: dict[str, Callable[[Sequence[SentMessage]], Any]] = {
    "raises": lambda _: (_ for _ in ()).throw(ValueError("echo 987654")),
    "exits": lambda _: (_ for _ in ()).throw(SystemExit),
    "answers nonsense": lambda _: 17,
    "answers with strings": lambda _: ["delivered"],
    "cancels itself": lambda _: (_ for _ in ()).throw(asyncio.CancelledError),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_told_once_and_waited_out(fault: str, house: House, caplog: pytest.LogCaptureFixture) -> None:
    note(house, "a", "g-1")
    sender, taken = Polled("a", FAULTS[fault], lambda _: [Receipt(status=DELIVERED, provider_id="g-1")]), Taken()
    with caplog.at_level(logging.WARNING):
        await polled(house, taken, sender, until=lambda: bool(taken.receipts))
    assert [record.message.split(":")[0] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "sender a"
    ]


async def test_a_gateway_that_throttles_is_not_asked_without_a_pause(house: House) -> None:
    """What its sender left out is due again later; meanwhile there is always another batch that is due."""
    for number in range(3 * MOST_AT_ONCE):
        note(house, "a", f"g-{number}")
    began: list[float] = []

    def throttled(_: object) -> tuple[()]:
        began.append(time.monotonic())
        return ()

    sender = Polled("a", throttled, throttled, throttled)
    await polled(house, Taken(), sender, until=lambda: len(began) == 3)
    assert min(after - before for before, after in pairwise(began)) > 0.4


async def test_a_message_that_gets_no_answer_keeps_none_from_theirs_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one poll come up together again, and a sender stops asking where its gateway does not answer."""
    monkeypatch.setattr("otpsvc.messages.polling._MIN_PAUSE_S", 0.0)
    monkeypatch.setattr("otpsvc.messages.polling._MAX_PAUSE_S", 0.0)
    silent, *others = [note(house, "a", f"g-{number}") for number in range(9)]

    async def ask(message: SentMessage) -> Receipt:
        if message == silent:
            raise NoAnswer("time-out")
        return Receipt(status=DELIVERED, message_id=message.message_id)

    def asked(due: Sequence[SentMessage]) -> Any:
        return ask_each(due, ask)

    sender, taken = Polled("a", *[asked] * 1000), Taken()
    await polled(house, taken, sender, until=lambda: len(house.book.ended) == len(others) or len(sender.polls) == 1000)
    assert {one.message_id for _, one in taken.receipts} == {one.message_id for one in others}


async def test_a_sender_that_hangs_slows_no_other(house: House) -> None:
    note(house, "a", "g-1")
    note(house, "b", "g-2")
    hanging, other = Polled("a", hang), Polled("b", lambda _: [Receipt(status=DELIVERED, provider_id="g-2")])
    taken = Taken()
    await polled(house, taken, hanging, other, until=lambda: bool(taken.receipts))
    assert [name for name, _ in taken.receipts] == ["b"]


async def test_what_could_not_be_kept_is_asked_for_again(house: House) -> None:
    note(house, "a", "g-1")
    answer = [Receipt(status=DELIVERED, provider_id="g-1")]
    sender, taken = Polled("a", lambda _: answer, lambda _: answer), Taken()
    taken.fails_with = problem("SERVICE_UNAVAILABLE")
    await polled(house, taken, sender, until=lambda: bool(house.book.ended))
    assert len(taken.receipts) == 1


async def test_without_senders_to_poll_it_waits_for_the_end(house: House) -> None:
    turns = iter([False, False, True])
    await polled(house, Taken(), RecordingSender("a"), until=lambda: next(turns))
