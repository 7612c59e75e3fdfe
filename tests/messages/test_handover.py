"""Senders that fail, hang, lie and tell: one call gives one outcome, in bounded time, and no secret."""

import asyncio
from typing import Any

import pytest

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
from otpsvc.testing import RecordingSender
from tests.messages.house import CODE, NUMBER, House

SMS = frozenset({Channel.SMS})
DEDUPES = Capabilities(channels=SMS, is_idempotent=True)


# -- unknown


def lying(answer: object) -> Any:
    return lambda message: answer


UNKNOWNS: dict[str, Any] = {
    "says so": Unknown("no answer"),
    "raises": ValueError(f"to {NUMBER}: {CODE}"),
    "raises an exception group": ExceptionGroup(CODE, [ValueError(NUMBER)]),
    "ends the process": lambda message: (_ for _ in ()).throw(SystemExit(CODE)),
    "raises cancelled": lambda message: (_ for _ in ()).throw(asyncio.CancelledError(CODE)),
    "answers a string": lying(f"sent {CODE}"),
    "answers a tuple": lying(("accepted", NUMBER)),
    "answers a class": lying(Accepted),
    "answers with the message": lambda message: message,
}


@pytest.mark.parametrize("way", UNKNOWNS)
async def test_an_unknown_outcome_is_not_sent_again_nor_by_another(way: str, house: House) -> None:
    first, second = RecordingSender("a", [UNKNOWNS[way]]), RecordingSender("b")
    await house.deliver(house.dispatcher(first, second, on_unknown="stop"))
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    assert (len(first.sent), len(second.sent)) == (1, 0)


@pytest.mark.parametrize("way", UNKNOWNS)
async def test_an_unknown_outcome_is_repeated_where_the_gateway_dedupes(way: str, house: House) -> None:
    sender = RecordingSender("a", [UNKNOWNS[way]], capabilities=DEDUPES)
    dispatcher = house.dispatcher(sender)
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.QUEUED, "unknown_outcome")
    house.clock.advance(15)
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.SENT, "a")
    assert [message.try_number for message in sender.sent] == [1, 2]
    assert len({message.message_id for message in sender.sent}) == 1


async def test_what_one_idempotent_sender_may_have_goes_to_no_other(house: House) -> None:
    first, second = (RecordingSender(name, [Unknown()], capabilities=DEDUPES) for name in "ab")
    dispatcher = house.dispatcher(first, second)
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.QUEUED, "unknown_outcome")
    house.clock.advance(15)
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.SENT, "a")
    assert (len(first.sent), len(second.sent)) == (2, 0)


async def test_repeats_end_with_the_life_of_the_code(house: House) -> None:
    class Silent(RecordingSender):
        async def send(self, message: OutboundMessage) -> Outcome:
            self.sent.append(message)
            return Unknown()

    sender = Silent("a", capabilities=DEDUPES)
    dispatcher = house.dispatcher(sender)
    for _ in range(100):
        await house.deliver(dispatcher)
        if house.record.status is not MessageStatus.QUEUED:
            break
        house.clock.advance(house.record.due_at - house.clock.time())
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    assert 15 < len(sender.sent) < 40
    assert all(message.life_s >= 30 for message in sender.sent)


async def test_a_sender_that_hangs_is_left_at_its_time_out(house: House) -> None:
    sender, second = RecordingSender("a"), RecordingSender("b")
    sender.gate.clear()
    await house.deliver(house.dispatcher(sender, second, step_timeout_s=0.02, on_unknown="stop"))
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    assert second.sent == []


async def test_a_sender_that_swallows_its_cancellation_holds_nobody_up(house: House) -> None:
    leave = asyncio.Event()
    left = asyncio.Event()

    class Stubborn(RecordingSender):
        async def send(self, message: OutboundMessage) -> Outcome:
            while not leave.is_set():
                try:
                    await leave.wait()
                except asyncio.CancelledError:
                    continue
            left.set()
            raise ValueError(message.text)

    await house.deliver(house.dispatcher(Stubborn("a"), step_timeout_s=0.02))
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    leave.set()
    await left.wait()
    await asyncio.sleep(0)


async def test_a_send_that_is_no_coroutine_is_unknown(house: House) -> None:
    class Plain(RecordingSender):
        def send(self, message: OutboundMessage) -> Any:
            return Accepted("x")

    await house.deliver(house.dispatcher(Plain("a")))
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")


# -- details and provider ids


@pytest.mark.parametrize(
    "detail",
    [
        f"could not send {CODE}",
        f"to {NUMBER} refused",
        "to 06 98 76 54 32 refused",
        "code 987-654",
        f"echo: {CODE} is your code",
        f"\n{CODE}\x1b[2J",
        5,
        None,
    ],
)
@pytest.mark.parametrize("outcome", [Unknown, lambda d: Rejected(RejectionKind.BLOCKED, d), lambda d: RetryLater(1, d)])
async def test_a_detail_that_tells_is_dropped(
    outcome: Any, detail: Any, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [outcome(detail)])))
    said = [r.message for r in caplog.records if "sender a" in r.message]
    assert len(said) == 1
    for telling in ("987-654", "76 54 32", "echo", "\x1b", "\n"):
        assert telling not in said[0]


async def test_a_harmless_detail_is_kept_on_one_short_line(house: House, caplog: pytest.LogCaptureFixture) -> None:
    detail = "status 1241\nsee page " + "x" * 1000
    await house.deliver(house.dispatcher(RecordingSender("a", [Unknown(detail)])))
    (said,) = [r.message for r in caplog.records if "sender a" in r.message]
    assert "status 1241 see page" in said
    assert len(said) < 400


@pytest.mark.parametrize("provider_id", ["", "x" * 256, "a\nb", 17, b"x", CODE.encode()])
async def test_a_senseless_provider_id_does_not_undo_the_acceptance(provider_id: Any, house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [Accepted(provider_id)])))
    assert house.end == (MessageStatus.SENT, "a")
    assert house.record.provider_id is None


async def test_an_unlisted_rejection_is_a_gateway_error(house: House) -> None:
    lie: Any = "no_money"
    await house.deliver(house.dispatcher(RecordingSender("a", [Rejected(lie)])))
    assert house.end == (MessageStatus.FAILED, "gateway_error")
