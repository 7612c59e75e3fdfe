"""Receipts about messages that the store holds no longer: one event each, whatever comes how often."""

import msgspec
import pytest

from otpsvc.errors import ApiError
from otpsvc.ids import new_message_id
from otpsvc.messages.model import PastMessage, ReceiptFact
from otpsvc.redis.receipts import RedisReceiptBook
from tests.otp.house import CLIENT, House
from tests.redis.lived import book_of

SENT, DELIVERED = ReceiptFact(status="sent"), ReceiptFact(status="delivered")
FAILED = ReceiptFact(status="failed", kind="undeliverable")
PAST = PastMessage(
    message_id=new_message_id(partition=0).text,
    client_id=CLIENT,
    mode="live",
    otp_id="otp_1",
    status="sent",
    channel="voice",
    created_at_ms=1_700_000_000_000,
    tries=2,
    provider_id="g-1",
)


@pytest.fixture
def book(house: House) -> RedisReceiptBook:
    return book_of(house)


async def test_what_only_the_history_knows_gets_its_event_once(house: House, book: RedisReceiptBook) -> None:
    for fact in (DELIVERED, DELIVERED, FAILED):
        await book.tell(PAST, "a", fact)
    (event,) = await house.all_events()
    assert (event.name, event.message_id, event.otp_id) == ("message.delivered", PAST.message_id, "otp_1")
    assert (event.client_id, event.mode) == (CLIENT, "live")
    assert event.data == {
        "created_at": "1700000000000",
        "channel": "voice",
        "tries": "2",
        "reason": "",
        "sender": "a",
        "provider_id": "g-1",
    }


@pytest.mark.parametrize("word", ["failed", "expired", "cancelled"])
async def test_a_late_failure_says_why(house: House, book: RedisReceiptBook, word: str) -> None:
    await book.tell(PAST, "a", ReceiptFact(status=word))
    assert [(event.name, event.data["reason"]) for event in await house.all_events()] == [
        ("message.failed", "undeliverable")
    ]


async def test_nothing_is_told_of_no_end_and_no_message(house: House, book: RedisReceiptBook) -> None:
    await book.tell(PAST, "a", SENT)
    await book.tell(msgspec.structs.replace(PAST, message_id="msg_x"), "a", DELIVERED)
    with pytest.raises(ApiError):
        await book_of(house, 0).tell(PAST, "a", DELIVERED)
    assert await house.names() == []
