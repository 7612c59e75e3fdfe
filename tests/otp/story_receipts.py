"""The part of the story that is about receipts: what they say of living messages, and of those that are let go."""

import msgspec
import pytest

from otpsvc.errors import ApiError
from otpsvc.messages.model import MessageStatus, PastMessage, ReceiptFact, Tried
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.redis.receipts import RedisReceiptBook
from tests.otp.house import CLIENT, House

ABSENT = "msg_0" + "0" * 25
DELIVERED = ReceiptFact(status="delivered")
SENT = ReceiptFact(status="sent")
FAILED = ReceiptFact(status="failed", kind="undeliverable")
PAST = PastMessage(
    message_id=ABSENT,
    client_id=CLIENT,
    mode="test",
    otp_id="otp_unknown",
    status="sent",
    channel="sms",
    created_at_ms=1_700_000_000_000,
    tries=1,
    provider_id="g-9",
)


def book_of(house: House, event_limit: int) -> RedisReceiptBook:
    index = RedisReceiptIndex(house.client, house.keys)
    return RedisReceiptBook(house.client, house.keys, index, event_limit=event_limit)


async def hear_receipts(house: House, code_length: int) -> None:
    """Carry messages from sender to sender, with receipts at every turn."""
    book, queue = book_of(house, 100_000), house.queue
    caller = house.caller(code_length=code_length)
    await house.claim()
    for n in range(3):
        await house.send(caller, purpose=f"r{n}")
    first, second, third = await house.claim()
    for message in (first, second, third):
        await queue.begin(message.message_id, message.token, sender="acme", tried=[Tried("inbox", "no_credit")])
        await queue.record_sent(
            message.message_id, message.token, sender="acme", provider_id="g-1", receipt_in_s=20, tried=[]
        )
    assert await book.apply(first.message_id, "inbox", FAILED) == "repeated"
    assert await book.apply(first.message_id, "stranger", FAILED) == "foreign"
    assert await book.apply(ABSENT, "acme", FAILED) == "unknown"
    assert await book.apply(first.message_id, "acme", SENT) == "applied"
    assert await book.apply(first.message_id, "acme", SENT) == "repeated"
    assert await book.apply(first.message_id, "acme", DELIVERED) == "applied"
    await queue.wait(0)
    assert await book.apply(second.message_id, "acme", FAILED) == "applied"
    (again,) = await house.claim()
    assert (again.message_id, again.awaiting) == (second.message_id, "acme")
    await queue.begin(again.message_id, again.token, sender="other")
    await queue.record_final(again.message_id, again.token, MessageStatus.FAILED, reason="no_credit")
    await house.age(20)
    (overdue,) = [message for message in await house.claim() if message.awaiting == "acme"]
    assert overdue.message_id == third.message_id
    silent = Tried("acme", "silent")
    await queue.begin(overdue.message_id, overdue.token, sender="other", tried=[silent], may_duplicate=True)
    await book.apply(third.message_id, "acme", SENT)
    await queue.record_kept(overdue.message_id, overdue.token)
    await book.tell(PAST, "acme", DELIVERED)
    await book.tell(PAST, "acme", FAILED)


async def hear_receipts_in_a_crowd(full: House) -> None:
    """The events that wait have reached their bound, and the quarter more that receipts may use."""
    book = book_of(full, 1)
    await full.queue.wait(0)
    (queued, *_) = await full.claim()
    await full.queue.begin(queued.message_id, queued.token, sender="acme")
    with pytest.raises(ApiError):
        await book.apply(queued.message_id, "acme", DELIVERED)
    other = msgspec.structs.replace(PAST, message_id=ABSENT[:-1] + "4")
    with pytest.raises(ApiError):
        await book.tell(other, "acme", DELIVERED)
