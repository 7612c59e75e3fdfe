"""A sender whose receipts do not come is asked after all others, and where nobody else can be asked it is asked."""

from typing import Any

import msgspec
import pytest

from otpsvc.messages.model import Content, MessageStatus
from otpsvc.messages.policy import RouteStep
from otpsvc.messages.ports import Admission
from otpsvc.senders.contract import Capabilities, Channel, Outcome, Rejected, RejectionKind, RetryLater, Unknown
from otpsvc.testing import RecordingSender
from tests.messages.doubles import Observer
from tests.messages.house import LEASE_S, NUMBER, House

SENT, FAILED = MessageStatus.SENT, MessageStatus.FAILED
SMS = frozenset({Channel.SMS})
TELLS = Capabilities(channels=SMS, has_receipts=True, receipt_within_s=25.0)
REFUSED = Rejected(RejectionKind.UNAVAILABLE)


def telling(name: str, *script: Outcome) -> RecordingSender:
    return RecordingSender(name, script, capabilities=TELLS)


async def test_others_go_first_and_that_is_told(house: House) -> None:
    observer, first, second = Observer(), telling("a"), telling("b")
    house.gates.demoted = {"a"}
    await house.deliver(house.dispatcher(first, second, observer=observer))
    assert house.end == (SENT, "b")
    assert first.sent == []
    assert house.record.tried == [("a", "held_demoted", False)]
    assert observer.holds == [("a", "demoted")]
    assert observer.duplicates == []


OTHERS: dict[str, dict[str, Any]] = {
    "refuses": {"script": [REFUSED]},
    "puts off": {"script": [RetryLater(20)]},
    "is full": {"held": Admission("crowd", 1)},
    "fails": {"held": Admission("open", 20)},
    "is too small": {"script": [], "longest_text": 3},
}


@pytest.mark.parametrize("why", OTHERS)
async def test_it_is_asked_where_no_other_can_be(why: str, house: House) -> None:
    case = OTHERS[why]
    second = RecordingSender(
        "b", case.get("script", []), capabilities=Capabilities(channels=SMS, longest_text=case.get("longest_text"))
    )
    if "held" in case:
        house.gates.closed["b"] = case["held"]
    house.gates.demoted = {"a"}
    first = telling("a")
    await house.deliver(house.dispatcher(first, second))
    assert house.end == (SENT, "a")
    assert len(first.sent) == 1


async def test_where_all_are_demoted_the_order_is_the_routes(house: House) -> None:
    senders = [telling(name) for name in "abc"]
    house.gates.demoted = set("abc")
    await house.deliver(house.dispatcher(*senders))
    assert house.end == (SENT, "a")
    assert [len(sender.sent) for sender in senders] == [1, 0, 0]


async def test_alone_on_its_route_it_is_asked_in_one_step(house: House) -> None:
    house.gates.demoted = {"a"}
    await house.deliver(house.dispatcher(telling("a")))
    assert house.gates.asked == ["a"]
    assert house.record.tried == []


async def test_where_the_other_is_waited_for_it_stays_behind(house: House) -> None:
    house.gates.demoted, house.gates.closed["b"] = {"a"}, Admission("rate", 1)
    first = telling("a")
    await house.deliver(house.dispatcher(first, telling("b"), on_full="wait"))
    assert house.end == (MessageStatus.QUEUED, "held_rate")
    assert first.sent == []


async def test_an_open_question_is_put_to_it_all_the_same(house: House) -> None:
    """It may have the message: nobody else can be asked yet, and only it can say so."""
    first = RecordingSender("a", [Unknown()], capabilities=Capabilities(channels=SMS, is_idempotent=True))
    dispatcher = house.dispatcher(first, telling("b"))
    await house.deliver(dispatcher)
    house.gates.demoted = {"a"}
    await house.work(dispatcher)
    assert house.end == (SENT, "a")
    assert len(first.sent) == 2


async def test_one_that_was_passed_for_good_is_not_asked_again(house: House) -> None:
    house.gates.demoted = {"a"}
    first, second = telling("a"), telling("b", Rejected(RejectionKind.INVALID_NUMBER))
    await house.deliver(house.dispatcher(first, second))
    assert house.end == (FAILED, "invalid_number")
    assert first.sent == []


# -- what is missed


async def miss_one(house: House, number: str = NUMBER, mode: str = "live") -> None:
    house.id = house.queue.add(to=number)
    claimed = house.record.claimed
    plain = msgspec.msgpack.encode(Content(number, "987654 is your code"))
    bound_to = (claimed.client_id, mode, house.id, claimed.channel)
    sealed = house.keyring.seal(plain, record_id=house.id, count=0, bound_to=bound_to)
    house.record.claimed = msgspec.structs.replace(claimed, mode=mode, sealed=sealed)
    await house.work(house.dispatcher(telling("a"), RecordingSender("b")))


async def test_a_missed_receipt_is_told_with_a_sign_of_its_number(house: House) -> None:
    del house.queue.messages[house.id]
    for number in (NUMBER, NUMBER, "+33698765431"):
        await miss_one(house, number)
    names, signs = zip(*house.gates.missing, strict=True)
    assert names == ("a", "a", "a")
    assert signs[0] == signs[1] != signs[2]
    assert all(NUMBER[-4:] not in sign for sign in signs)


async def test_what_a_test_key_sends_says_nothing_of_a_gateway(house: House) -> None:
    """Test numbers are made up as often as not."""
    del house.queue.messages[house.id]
    await miss_one(house, mode="test")
    assert house.end == (SENT, "b")
    assert house.gates.missing == []


@pytest.mark.parametrize(("mode", "may_probe"), [("live", True), ("test", False)])
async def test_what_a_test_key_sends_is_no_try_of_a_demoted_sender(mode: str, may_probe: bool, house: House) -> None:
    del house.queue.messages[house.id]
    await miss_one(house, mode=mode)
    assert set(house.gates.probing) == {may_probe}


async def test_a_missed_receipt_is_told_though_the_next_one_is_held_until_the_end(house: House) -> None:
    dispatcher = house.dispatcher(telling("a"), RecordingSender("b"), steps={"a": RouteStep(sender="a")})
    house.gates.closed["b"] = Admission("open", 50)
    await house.work(dispatcher)
    assert (house.record.status, house.record.sender) == (SENT, "a")
    assert [name for name, _ in house.gates.missing] == ["a"]
    assert house.clock.time() < house.record.claimed.expires_at_ms / 1000 + LEASE_S
