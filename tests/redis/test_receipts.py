"""What receipts make of messages: each rule by itself. That they hold in any order: test_receipts_in_any_order."""

import pytest

from otpsvc.errors import ApiError
from otpsvc.ids import new_message_id
from otpsvc.messages.model import ClaimedMessage, MessageStatus, ReceiptFact, Tried
from otpsvc.redis.receipts import RedisReceiptBook
from tests.otp.house import House
from tests.redis.lived import book_of

ACCEPTED, SENT, DELIVERED = (ReceiptFact(status=status) for status in ("accepted", "sent", "delivered"))
FAILED = ReceiptFact(status="failed", kind="undeliverable")
BLOCKED = ReceiptFact(status="failed", kind="blocked", next_may_try=False)
HOUR_S = 3600


@pytest.fixture
def book(house: House) -> RedisReceiptBook:
    return book_of(house)


async def claimed(house: House, lease_s: float = 20) -> ClaimedMessage:
    (message,) = await house.claim(lease_s=lease_s)
    return message


async def called(house: House, sender: str = "a") -> ClaimedMessage:
    """A message in the hands of a sender, held by its worker."""
    await house.send()
    message = await claimed(house)
    assert await house.queue.begin(message.message_id, message.token, sender=sender)
    return message


async def awaited(house: House) -> ClaimedMessage:
    """A message that a sender took and whose receipt is waited for."""
    message = await called(house)
    assert await house.queue.record_sent(
        message.message_id, message.token, sender="a", provider_id="g-1", receipt_in_s=20
    )
    return message


async def told(house: House) -> list[tuple[str, str]]:
    """The events of messages: name, and outcome, reason or sender."""
    events = [event for event in await house.all_events() if event.name.startswith("message.")]
    return [(event.name, event.data.get("outcome") or event.data["reason"] or event.data["sender"]) for event in events]


async def status(house: House, message: ClaimedMessage) -> str:
    return (await house.message(message.message_id))["status"]


async def test_what_is_awaited_keeps_its_text_and_falls_due(house: House) -> None:
    message = await awaited(house)
    stored = await house.message(message.message_id)
    assert (stored["status"], stored["asked"], stored["awaiting"]) == ("sent", "a=accepted", "a")
    assert (stored["sender"], stored["provider_id"], stored["pid:a"]) == ("a", "g-1", "g-1")
    assert await house.has_text(message.message_id)
    assert await house.claim() == []
    await house.age(20)
    again = await claimed(house)
    assert (again.awaiting, again.begun_by, again.asked, again.tries) == ("a", "", {"a": "accepted"}, 2)
    assert await status(house, message) == "sent"


@pytest.mark.parametrize("fact", [SENT, DELIVERED])
async def test_good_news_ends_the_waiting(house: House, book: RedisReceiptBook, fact: ReceiptFact) -> None:
    message = await awaited(house)
    assert await book.apply(message.message_id, "a", fact) == "applied"
    assert await status(house, message) == fact.status
    assert await house.waiting() == []
    assert not await house.has_text(message.message_id)
    assert await book.apply(message.message_id, "a", fact) == "repeated"
    assert [name for name, _ in await told(house)] == ["message.sent"] + ["message.delivered"] * (fact == DELIVERED)


async def test_delivered_is_shown_with_its_time(house: House, book: RedisReceiptBook) -> None:
    message = await awaited(house)
    await book.apply(message.message_id, "a", DELIVERED)
    stored = await house.message(message.message_id)
    assert stored["delivered_at"] == stored["ended_at"]
    (event,) = [event for event in await house.all_events() if event.name == "message.delivered"]
    assert (event.data["sender"], event.data["provider_id"], event.data["reason"]) == ("a", "g-1", "")


async def test_a_failure_brings_the_next_turn_at_once(house: House, book: RedisReceiptBook) -> None:
    message = await awaited(house)
    await house.queue.wait(0)
    assert await book.apply(message.message_id, "a", FAILED) == "applied"
    await house.queue.wait(30)
    again = await claimed(house)
    assert (again.awaiting, again.asked) == ("a", {"a": "failed:undeliverable"})
    assert await house.queue.begin(again.message_id, again.token, sender="b")
    await house.queue.record_sent(again.message_id, again.token, sender="b", provider_id=None)
    assert await told(house) == [("message.sent", "a"), ("message.tried", "undeliverable"), ("message.sent", "b")]
    assert (await house.message(message.message_id))["sender"] == "b"


async def test_a_failure_that_is_the_messages_own_ends_it(house: House, book: RedisReceiptBook) -> None:
    message = await awaited(house)
    await book.apply(message.message_id, "a", BLOCKED)
    stored = await house.message(message.message_id)
    assert (stored["status"], stored["reason"], stored["sender"]) == ("failed", "blocked", "a")
    assert await house.waiting() == []
    assert not await house.has_text(message.message_id)


@pytest.mark.parametrize("late", [FAILED, BLOCKED, ReceiptFact(status="expired"), ReceiptFact(status="cancelled")])
async def test_what_was_sent_for_good_may_still_fail(house: House, book: RedisReceiptBook, late: ReceiptFact) -> None:
    message = await called(house)
    await house.queue.record_sent(message.message_id, message.token, sender="a", provider_id="g-1")
    assert await book.apply(message.message_id, "a", SENT) == "applied"
    assert await book.apply(message.message_id, "a", late) == "applied"
    stored = await house.message(message.message_id)
    assert (stored["status"], stored["reason"]) == ("failed", late.kind or "undeliverable")
    for fact in (DELIVERED, SENT, late):
        assert await book.apply(message.message_id, "a", fact) == "repeated"
    assert (await told(house))[1:] == [("message.failed", late.kind or "undeliverable")]


async def test_the_failure_of_one_is_nothing_where_another_has_it(house: House, book: RedisReceiptBook) -> None:
    message = await awaited(house)
    await house.age(20)
    again = await claimed(house)
    silent = [Tried("a", "silent")]
    assert await house.queue.begin(again.message_id, again.token, sender="b", tried=silent, may_duplicate=True)
    await house.queue.record_sent(again.message_id, again.token, sender="b", provider_id=None)
    before = await told(house)
    assert await book.apply(message.message_id, "a", BLOCKED) == "applied"
    assert await status(house, message) == "sent"
    assert await told(house) == before
    (duplicate,) = [event for event in await house.all_events() if event.name == "message.tried"]
    assert (duplicate.data["sender"], duplicate.data["may_duplicate"]) == ("a", "1")
    assert await book.apply(message.message_id, "b", FAILED) == "applied"
    assert await status(house, message) == "failed"


@pytest.mark.parametrize(("fact", "is_over"), [(ACCEPTED, False), (SENT, True)])
async def test_a_late_word_of_the_first_while_the_second_is_awaited(
    house: House, book: RedisReceiptBook, fact: ReceiptFact, is_over: bool
) -> None:
    """That it took the message says little; that the message has left by it makes all waiting needless."""
    message = await awaited(house)
    await house.age(20)
    again = await claimed(house)
    await house.queue.begin(again.message_id, again.token, sender="b")
    await house.queue.record_sent(again.message_id, again.token, sender="b", provider_id="h-1", receipt_in_s=20)
    assert await book.apply(message.message_id, "a", fact) == "applied"
    assert (await house.waiting() == []) == is_over
    stored = await house.message(message.message_id)
    assert (stored["sender"], stored["provider_id"]) == ("b", "h-1")
    assert await told(house) == [("message.sent", "a"), ("message.sent", "b")]


@pytest.mark.parametrize("fact", [ACCEPTED, SENT, DELIVERED, FAILED, BLOCKED])
async def test_a_worker_that_holds_the_message_hears_of_it(
    house: House, book: RedisReceiptBook, fact: ReceiptFact
) -> None:
    """The receipt comes while the call is under way; then the call is given up, its outcome unknown."""
    message = await called(house)
    assert await book.apply(message.message_id, "a", fact) == "applied"
    assert await house.queue.release(message.message_id, message.token, due_in_s=20, reason="x", begun_by="a")
    expected = {ACCEPTED: "sent", SENT: "sent", DELIVERED: "delivered", FAILED: "queued", BLOCKED: "failed"}
    assert await status(house, message) == expected[fact]
    if fact == FAILED:
        again = await claimed(house)
        assert (again.begun_by, again.awaiting) == ("", "a")


@pytest.mark.parametrize("fact", [ACCEPTED, SENT])
async def test_nobody_else_is_begun_once_a_receipt_has_answered(
    house: House, book: RedisReceiptBook, fact: ReceiptFact
) -> None:
    message = await called(house)
    await house.queue.release(message.message_id, message.token, due_in_s=0, reason="x", begun_by="a")
    again = await claimed(house)
    assert (again.begun_by, again.asked) == ("a", {"a": "begun"})
    await book.apply(message.message_id, "a", fact)
    assert not await house.queue.begin(again.message_id, again.token, sender="b", may_duplicate=True)
    # What a worker makes of a refusal that it does not understand is not believed either.
    await house.queue.record_final(again.message_id, again.token, MessageStatus.CANCELLED, reason="code_ended")
    assert await status(house, message) == "sent"
    assert await told(house) == [("message.postponed", "x"), ("message.sent", "a")]


async def test_nobody_else_is_begun_for_a_number_that_does_not_exist(house: House, book: RedisReceiptBook) -> None:
    message = await awaited(house)
    await house.age(20)
    again = await claimed(house)
    assert await book.apply(message.message_id, "a", BLOCKED) == "applied"
    assert not await house.queue.begin(again.message_id, again.token, sender="b")
    await house.queue.record_final(again.message_id, again.token, MessageStatus.CANCELLED, reason="code_ended")
    stored = await house.message(message.message_id)
    assert (stored["status"], stored["reason"], stored["sender"]) == ("failed", "blocked", "a")


@pytest.mark.parametrize(("reason", "is_final"), [("invalid_number", True), ("unknown_outcome", False)])
async def test_a_worker_that_knows_why_is_believed(
    house: House, book: RedisReceiptBook, reason: str, is_final: bool
) -> None:
    """A receipt says during the call that it failed; whoever gave up for want of an answer now has one."""
    message = await called(house)
    await book.apply(message.message_id, "a", FAILED)
    await house.queue.record_final(message.message_id, message.token, MessageStatus.FAILED, reason=reason)
    assert await status(house, message) == ("failed" if is_final else "queued")
    assert [one.awaiting for one in await house.claim()] == ([] if is_final else ["a"])


async def test_one_that_left_is_enough(house: House, book: RedisReceiptBook) -> None:
    """Two senders had it: that the second one failed with it undoes nothing."""
    message = await awaited(house)
    await house.age(20)
    again = await claimed(house)
    await house.queue.begin(again.message_id, again.token, sender="b")
    await house.queue.record_sent(again.message_id, again.token, sender="b", provider_id=None)
    await book.apply(message.message_id, "a", SENT)
    assert await book.apply(message.message_id, "b", FAILED) == "applied"
    assert await status(house, message) == "sent"
    assert await book.apply(message.message_id, "a", DELIVERED) == "applied"
    assert await status(house, message) == "delivered"


async def test_a_receipt_that_overtakes_the_answer(house: House, book: RedisReceiptBook) -> None:
    message = await called(house)
    await book.apply(message.message_id, "a", SENT)
    await house.queue.record_sent(message.message_id, message.token, sender="a", provider_id="g-1", receipt_in_s=20)
    assert await house.waiting() == []
    assert not await house.has_text(message.message_id)
    assert await told(house) == [("message.sent", "a")]


async def test_delivered_takes_the_message_out_of_a_workers_hands(house: House, book: RedisReceiptBook) -> None:
    message = await called(house)
    await book.apply(message.message_id, "a", DELIVERED)
    before = await house.snapshot()
    assert await house.queue.record_sent(message.message_id, message.token, sender="a", provider_id="g-1")
    assert not await house.queue.begin(message.message_id, message.token, sender="b")
    assert await house.snapshot() == before


async def test_a_dead_workers_message_is_settled_by_what_came_meanwhile(house: House, book: RedisReceiptBook) -> None:
    message = await called(house)
    await book.apply(message.message_id, "a", SENT)
    await house.age(20)
    assert await house.claim() == []
    assert await status(house, message) == "sent"
    assert await told(house) == [("message.sent", "a")]


async def test_how_long_ago_a_call_began(house: House) -> None:
    await called(house)
    await house.age(20)
    again = await claimed(house)
    assert 20_000 <= again.begun_ms_ago < 25_000
    assert (again.code_length, again.max_attempts) == (6, 3)


@pytest.mark.parametrize("end", ["verified", "cancelled", "superseded", "resent", "forgotten", "too late"])
async def test_who_waits_for_a_code_that_ended_is_let_go_quietly(house: House, end: str) -> None:
    sent, code = await house.send_with_code()
    message = await claimed(house)
    await house.queue.begin(message.message_id, message.token, sender="a")
    await house.queue.record_sent(message.message_id, message.token, sender="a", provider_id="g", receipt_in_s=20)
    match end:
        case "verified":
            await house.verify(sent.otp_id, code)
        case "cancelled":
            await house.cancel(sent.otp_id)
        case "superseded":
            await house.send()
        case "resent":
            await house.resend(sent.otp_id)
        case "forgotten":
            await house.forget("+33612345678")
        case _:
            await house.age(251)
    await house.age(20)
    assert message.message_id not in [one.message_id for one in await house.claim()]
    assert message.message_id not in await house.waiting()
    assert await status(house, message) == "sent"
    assert not await house.has_text(message.message_id)
    mine = [event.name for event in await house.all_events() if event.message_id == message.message_id]
    assert [name for name in mine if name.startswith("message.")] == ["message.sent"]


async def test_kept_is_kept(house: House) -> None:
    message = await awaited(house)
    await house.age(20)
    again = await claimed(house)
    assert await house.queue.record_kept(again.message_id, again.token, tried=[Tried("b", "held_open")])
    assert await status(house, message) == "sent"
    assert await house.waiting() == []
    assert await told(house) == [("message.sent", "a"), ("message.tried", "held_open")]


async def test_a_call_of_the_next_that_came_to_nothing_leaves_it_awaited(house: House) -> None:
    message = await awaited(house)
    await house.age(20)
    again = await claimed(house)
    silent, later = Tried("a", "silent"), Tried("b", "retry_later")
    await house.queue.begin(again.message_id, again.token, sender="b", tried=[silent], may_duplicate=True)
    await house.queue.release(again.message_id, again.token, due_in_s=0, reason="retry_later", tried=[later])
    third = await claimed(house)
    assert (third.awaiting, third.begun_by, third.asked) == ("a", "", {"a": "silent"})
    await house.queue.begin(third.message_id, third.token, sender="b", tried=[silent], may_duplicate=True)
    await house.queue.record_final(third.message_id, third.token, MessageStatus.FAILED, reason="no_credit")
    assert await status(house, message) == "sent", "its first sender has never said that it failed"
    tried = [event.data for event in await house.all_events() if event.name == "message.tried"]
    assert [(one["sender"], one["outcome"]) for one in tried] == [("a", "silent"), ("b", "retry_later")]


async def test_the_same_begin_twice_tells_its_steps_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the client repeats it after a lost answer."""
    await house.send()
    message = await claimed(house)
    monkeypatch.setattr("otpsvc.redis.messages.new_event_id", lambda: "evt_" + "0" * 26)
    for _ in range(2):
        tried = [Tried("a", "no_credit")]
        assert await house.queue.begin(message.message_id, message.token, sender="b", tried=tried)
    assert await told(house) == [("message.tried", "no_credit")]


async def test_steps_that_may_be_tried_again_leave_no_state(house: House) -> None:
    await house.send()
    message = await claimed(house)
    tried = [Tried("a", "held_open"), Tried("b", "retry_later"), Tried("c", "too_long")]
    await house.queue.release(message.message_id, message.token, due_in_s=0, reason="x", tried=tried)
    assert (await claimed(house)).asked == {"c": "rejected:too_long"}


async def test_strangers_and_nonsense_change_nothing(house: House, book: RedisReceiptBook) -> None:
    message = await awaited(house)
    before = await house.snapshot()
    assert await book.apply(message.message_id, "b", DELIVERED) == "foreign"
    assert await book.apply(message.message_id, "a", ReceiptFact(status="unknown")) == "repeated"
    assert await book.apply(message.message_id, "a", ReceiptFact(status="no such word")) == "repeated"
    for unknown in (new_message_id(partition=0).text, new_message_id(partition=7).text, "msg_x", "", "*", "a" * 5000):
        assert await book.apply(unknown, "a", DELIVERED) == "unknown"
    assert await house.snapshot() == before


async def test_receipts_may_use_a_quarter_more_than_the_bound(house: House) -> None:
    message = await awaited(house)
    n_owed = len(await house.all_events()) + 2  # its OTP's end, and itself
    with pytest.raises(ApiError):
        await book_of(house, n_owed * 4 // 5).apply(message.message_id, "a", DELIVERED)
    assert await status(house, message) == "sent"
    assert await book_of(house, n_owed * 4 // 5 + 1).apply(message.message_id, "a", DELIVERED) == "applied"


@pytest.mark.parametrize(("with_receipts", "hours"), [(True, 1.0), (False, 0.25)])
async def test_a_record_stays_for_its_receipts(house: House, with_receipts: bool, hours: float) -> None:
    message = await awaited(house) if with_receipts else await called(house)
    if with_receipts:
        await house.age(20)
        again = await claimed(house)
        await house.queue.record_kept(again.message_id, again.token)
    else:
        await house.queue.record_sent(message.message_id, message.token, sender="a", provider_id=None)
    await house.age(hours * HOUR_S - 60)
    assert await house.message(message.message_id)
    await house.age(120)
    assert not await house.message(message.message_id)


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_one_that_said_it_failed_while_another_was_about_to_be_called_was_not_silent(
    house: House, book: RedisReceiptBook, is_awaited: bool
) -> None:
    message = await (awaited(house) if is_awaited else called(house))
    await house.age(21)
    again = await claimed(house)
    assert await book.apply(message.message_id, "a", FAILED) == "applied"
    silent = [Tried("a", "silent")]
    assert await house.queue.begin(again.message_id, again.token, sender="b", tried=silent, may_duplicate=True)
    assert [one for one in await told(house) if one[0] == "message.tried"] == [("message.tried", "undeliverable")]
    stored = await house.message(message.message_id)
    assert "dup:a" not in stored
    assert set(stored["asked"].split()) == {"a=failed:undeliverable", "b=begun"}
