"""Receipts: which message is meant, who may speak of it, and what is never an error."""

import logging
from typing import Any

import pytest

from otpsvc.errors import ApiError, problem
from otpsvc.ids import new_message_id
from otpsvc.messages.model import MessageStatus, PastMessage
from otpsvc.messages.receipts import MOST_RECEIPTS, ReceiptService
from otpsvc.senders.contract import Channel, Receipt, ReceiptStatus, RejectionKind, SentMessage
from otpsvc.testing import RecordingSender
from tests.messages.doubles import Observer
from tests.messages.house import LEASE_S, House

SENDERS = {name: RecordingSender(name) for name in "ab"}
DELIVERED, FAILED = ReceiptStatus.DELIVERED, ReceiptStatus.FAILED


class Past:
    """A history that knows one message of sender `a`."""

    def __init__(self, status: str = "sent", reason: str = "") -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.fails_with: Exception | None = None
        self.message = PastMessage(
            message_id=new_message_id(partition=0).text,
            client_id="client_100000000001",
            mode="live",
            otp_id="otp",
            status=status,
            channel="sms",
            created_at_ms=1,
            tries=1,
            provider_id="old-1",
            reason=reason,
        )

    async def find_sent(self, sender: str, *, message_id: str | None, provider_id: str | None) -> PastMessage | None:
        self.asked.append((sender, message_id, provider_id))
        if self.fails_with is not None:
            raise self.fails_with
        is_it = message_id == self.message.message_id or (message_id is None and provider_id == "old-1")
        return self.message if is_it and sender == "a" else None


class Desk:
    """A receipt service in front of a house where sender `a` took the message as `g-1`."""

    def __init__(self, house: House, past: Past | None = None) -> None:
        self.house, self.past, self.observer = house, past or Past(), Observer()
        self.service = ReceiptService(book=house.book, past=self.past, senders=SENDERS, observer=self.observer)

    async def sent(self) -> "Desk":
        house = self.house
        (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
        assert await house.queue.begin(house.id, claimed.token, sender="a")
        note = SentMessage(message_id=house.id, provider_id="g-1", channel=Channel.SMS, sent_at=house.clock.time())
        await house.book.expect(note, sender="a", expires_at_ms=claimed.expires_at_ms, poll_in_s=None)
        assert await house.queue.record_sent(house.id, claimed.token, sender="a", provider_id="g-1")
        return self

    async def take(self, status: ReceiptStatus, sender: str = "a", **facts: object) -> str:
        await self.service.take(sender, [Receipt(status=status, **facts)])  # type: ignore[arg-type]  # fields of it
        (told,) = self.observer.receipts[-1:]
        assert told[:2] == (sender, status.value)
        return told[2]


@pytest.mark.parametrize("named_by", ["ours", "theirs", "both", "ours that is none, and theirs"])
async def test_a_message_is_named_by_our_id_or_the_gateways(named_by: str, house: House) -> None:
    ids = {
        "ours": {"message_id": house.id},
        "theirs": {"provider_id": "g-1"},
        "both": {"message_id": house.id, "provider_id": "whatever"},
        "ours that is none, and theirs": {"message_id": "order-17", "provider_id": "g-1"},
    }
    desk = await Desk(house).sent()
    assert await desk.take(DELIVERED, **ids[named_by]) == "applied"
    assert house.end == (MessageStatus.DELIVERED, "a")
    assert await desk.take(DELIVERED, **ids[named_by]) == "repeated"
    assert await desk.take(FAILED, **ids[named_by]) == "repeated"
    assert house.end == (MessageStatus.DELIVERED, "a")


async def test_a_sender_that_was_never_asked_is_not_believed(house: House) -> None:
    desk = await Desk(house).sent()
    for status in ReceiptStatus:
        if status is not ReceiptStatus.UNKNOWN:
            assert await desk.take(status, sender="b", message_id=house.id) == "foreign"
            assert await desk.take(status, sender="b", provider_id="g-1") in {"parked", "late"}
    assert house.end == (MessageStatus.SENT, "a")


@pytest.mark.parametrize(
    "message_id",
    ["", "msg_", "otp_00000000000000000000000000", "x" * 10_000, "msg_0000000000000000000000000\0", "MSG_" + "0" * 26],
)
async def test_what_is_no_id_of_ours_is_unknown(message_id: str, house: House) -> None:
    desk = await Desk(house).sent()
    assert await desk.take(DELIVERED, message_id=message_id) == "unknown"
    assert await desk.take(DELIVERED, message_id=new_message_id(partition=200).text) == "unknown"
    for provider_id in ("y" * 256, "g\0-1", "\ud800"):
        assert await desk.take(DELIVERED, provider_id=provider_id) == "unknown"
    assert await desk.take(DELIVERED) == "unknown"


async def test_a_word_that_no_table_knows_changes_nothing(house: House) -> None:
    desk = await Desk(house).sent()
    assert await desk.take(ReceiptStatus.UNKNOWN, message_id=house.id) == "repeated"
    assert house.end == (MessageStatus.SENT, "a")


async def test_an_id_that_nobody_has_noted_yet_is_parked(house: House) -> None:
    desk = Desk(house)
    assert await desk.take(DELIVERED, provider_id="g-9") == "parked"
    assert [one.status for one in house.book.parked["a", "g-9"]] == [DELIVERED]


async def test_a_failure_that_no_table_knows_is_counted_once_and_named(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await Desk(house).sent()
    facts: dict[str, Any] = {"is_unmapped": True, "detail": "unmapped code 4711"}
    assert await desk.take(FAILED, provider_id="g-9", **facts) == "unmapped"
    assert await desk.take(FAILED, sender="b", message_id=house.id, **facts) == "foreign"
    assert await desk.take(ReceiptStatus.SENT, message_id=house.id, **facts) == "applied", "no failure at all"
    caplog.clear()
    assert await desk.take(FAILED, message_id=house.id, **facts) == "unmapped"
    assert house.end == (MessageStatus.FAILED, RejectionKind.UNDELIVERABLE.value)
    assert await desk.take(FAILED, message_id=house.id, **facts) == "repeated"
    assert [record.getMessage() for record in caplog.records] == [
        "sender a: a message failed under a code that no table knows: unmapped code 4711"
    ]


@pytest.mark.parametrize("detail", ["to +33612345678", "583920 is wrong", "two\nlines", "x" * 81, 7, None])
async def test_words_of_a_stranger_that_may_tell_too_much_are_not_logged(
    detail: str, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await Desk(house).take(FAILED, provider_id="g-9", is_unmapped=True, detail=detail)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith("no table knows: (not shown)")


@pytest.mark.parametrize("kind", list(RejectionKind))
async def test_what_follows_from_a_failure_is_its_rule(kind: RejectionKind, house: House) -> None:
    desk = Desk(house)
    await house.deliver(house.dispatcher(*SENDERS.values(), on_unknown="next"))
    await desk.service.take("a", [Receipt(status=FAILED, message_id=house.id, kind=kind)])
    assert house.end == (MessageStatus.FAILED, kind.value), "its text is gone, so nobody else can be asked"


# -- what the store holds no longer


@pytest.mark.parametrize("named_by", ["message_id", "provider_id"])
@pytest.mark.parametrize("status", [DELIVERED, FAILED, ReceiptStatus.EXPIRED, ReceiptStatus.CANCELLED])
async def test_what_comes_after_the_store_let_go_is_told_all_the_same(
    status: ReceiptStatus, named_by: str, house: House
) -> None:
    desk = Desk(house)
    past_id = {"message_id": desk.past.message.message_id, "provider_id": "old-1"}[named_by]
    assert await desk.take(status, **{named_by: past_id}) == "late"
    (told,) = house.book.told
    assert told[:2] == (desk.past.message.message_id, "a")
    assert told[2].kind == ("" if status is DELIVERED else "undeliverable")


@pytest.mark.parametrize("known", ["delivered", "failed", "expired", "cancelled"])
async def test_what_has_its_last_word_gets_no_other(known: str, house: House) -> None:
    desk = Desk(house, Past(known))
    assert await desk.take(DELIVERED, message_id=desk.past.message.message_id) == "unknown"
    assert house.book.told == []


@pytest.mark.parametrize("named_by", ["message_id", "provider_id"])
async def test_an_end_of_which_nobody_knew_may_be_told_delivered_and_nothing_else(named_by: str, house: House) -> None:
    desk = Desk(house, Past("failed", "unknown_outcome"))
    past_id = {"message_id": desk.past.message.message_id, "provider_id": "old-1"}[named_by]
    for status in (FAILED, ReceiptStatus.EXPIRED, ReceiptStatus.CANCELLED, ReceiptStatus.SENT):
        assert await desk.take(status, **{named_by: past_id}) in {"unknown", "parked"}
    assert house.book.told == []
    assert await desk.take(DELIVERED, **{named_by: past_id}) == "late"
    assert [told[2].status for told in house.book.told] == ["delivered"]


@pytest.mark.parametrize("status", [ReceiptStatus.ACCEPTED, ReceiptStatus.DISPATCHED, ReceiptStatus.SENT])
async def test_what_could_change_nothing_asks_no_history(status: ReceiptStatus, house: House) -> None:
    desk = Desk(house)
    assert await desk.take(status, message_id=desk.past.message.message_id) == "unknown"
    assert desk.past.asked == []


# -- what goes wrong


async def test_what_could_not_be_kept_is_to_be_brought_again(house: House) -> None:
    desk = await Desk(house).sent()
    receipts = [Receipt(status=ReceiptStatus.SENT, message_id=house.id), Receipt(status=DELIVERED, message_id=house.id)]
    house.book.fails_with = problem("SERVICE_UNAVAILABLE")
    with pytest.raises(ApiError):
        await desk.service.take("a", receipts)
    house.book.fails_with = None
    await desk.service.take("a", receipts)
    await desk.service.take("a", receipts)
    assert house.end == (MessageStatus.DELIVERED, "a")


async def test_without_the_history_what_is_not_in_the_store_is_brought_again(house: House) -> None:
    desk = await Desk(house).sent()
    desk.past.fails_with = problem("SERVICE_UNAVAILABLE")
    assert await desk.take(DELIVERED, message_id=house.id) == "applied"
    with pytest.raises(ApiError):
        await desk.service.take("a", [Receipt(status=DELIVERED, provider_id="old-1")])


async def test_without_the_history_what_the_store_holds_is_taken_all_the_same(house: House) -> None:
    """A gateway that brings everything again and again would otherwise never get past the one that is gone."""
    desk = await Desk(house).sent()
    desk.past.fails_with = problem("SERVICE_UNAVAILABLE")
    gone = [Receipt(status=DELIVERED, provider_id=f"old-{n}") for n in range(3)]
    with pytest.raises(ApiError):
        await desk.service.take("a", [*gone, Receipt(status=DELIVERED, message_id=house.id)])
    assert house.end == (MessageStatus.DELIVERED, "a")
    assert len(desk.past.asked) == 1, "a history that is away is waited for once"


@pytest.mark.parametrize("status", list(ReceiptStatus))
async def test_that_a_message_left_is_told_of_its_sender_once(status: ReceiptStatus, house: House) -> None:
    heard: list[str] = []

    async def hear(sender: str) -> None:
        heard.append(sender)

    desk = await Desk(house).sent()
    desk.service = ReceiptService(book=house.book, past=desk.past, senders=SENDERS, observer=desk.observer, heard=hear)
    receipts = [
        Receipt(status=status, message_id=house.id),
        Receipt(status=status, message_id=house.id),
        Receipt(status=status, message_id=new_message_id(partition=0).text),
        Receipt(status=status, provider_id="old-1"),
    ]
    await desk.service.take("b", receipts)
    assert heard == []
    await desk.service.take("a", receipts)
    assert heard == {ReceiptStatus.SENT: ["a"], DELIVERED: ["a", "a"]}.get(status, [])


async def test_a_thousand_at_once_are_taken_in_their_order(house: House, caplog: pytest.LogCaptureFixture) -> None:
    desk = await Desk(house).sent()
    many = [Receipt(status=ReceiptStatus.SENT, message_id=house.id)] * (MOST_RECEIPTS + 5)
    with caplog.at_level(logging.WARNING):
        await desk.service.take("a", many)
    assert len(desk.observer.receipts) == MOST_RECEIPTS
    assert f"{MOST_RECEIPTS} are taken" in caplog.text


async def test_receipts_of_a_sender_that_is_gone_are_left_alone(house: House) -> None:
    desk = await Desk(house).sent()
    await desk.service.take("zz", [Receipt(status=DELIVERED, message_id=house.id)])
    assert house.end == (MessageStatus.SENT, "a")
