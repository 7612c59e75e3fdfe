"""The queue: leases and tokens, what is never handed out, what wakes a worker, and that nothing is forgotten."""

import asyncio

import pytest

from otpsvc.messages.model import ClaimedMessage, MessageStatus, ReceiptFact, Tried
from otpsvc.redis.messages import RedisMessageQueue
from tests.otp.house import NUMBER, OTHER_NUMBER, House
from tests.redis.lived import book_of


async def one(house: House, lease_s: float = 60) -> ClaimedMessage:
    (message,) = await house.claim(lease_s=lease_s)
    return message


async def test_a_claim_hands_out_what_a_worker_needs(house: House) -> None:
    sent = await house.send()
    message = await one(house)
    view = await house.get(sent.otp_id)
    assert (message.message_id, message.otp_id, message.client_id) == (
        sent.message_id, sent.otp_id, house.caller().client_id)  # fmt: skip
    assert (message.mode, message.channel, message.tries, message.begun_by) == ("test", "sms", 1, "")
    assert (message.created_at_ms, message.expires_at_ms) == (view.created_at, view.expires_at)
    assert view.message_status == "processing"
    assert NUMBER.encode() not in message.sealed
    assert house.codes[0].encode() not in message.sealed


async def test_messages_are_handed_out_once_oldest_first_and_in_batches(house: House) -> None:
    made = []
    for n in range(7):
        made.append((await house.send(to=f"+336123{n:05d}")).message_id)
        await house.age(1)
    batches = [await house.claim(limit=3) for _ in range(4)]
    assert [[message.message_id for message in batch] for batch in batches] == [made[:3], made[3:6], made[6:], []]


async def test_claims_tell_when_to_come_back(house: House) -> None:
    assert (await house.queue.claim(limit=5, lease_s=60)).next_due_in_ms is None
    await house.send()
    await house.send(to=OTHER_NUMBER)
    assert (await house.queue.claim(limit=1, lease_s=60)).next_due_in_ms == 0
    again = (await house.queue.claim(limit=5, lease_s=30)).next_due_in_ms
    assert again is not None
    assert 20_000 < again <= 30_000
    later = (await house.queue.claim(limit=5, lease_s=60)).next_due_in_ms
    assert later is not None
    assert 20_000 < later <= 30_000


@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_lease_that_runs_out_goes_to_another_worker_who_is_told(house: House, is_begun: bool) -> None:
    await house.send()
    first = await one(house, lease_s=20)
    assert await house.claim() == []
    if is_begun:
        assert await house.queue.begin(first.message_id, first.token, sender="vonage")
    await house.age(20)
    second = await one(house, lease_s=20)
    told = "vonage" if is_begun else ""
    assert (second.message_id, second.tries, second.begun_by) == (first.message_id, 2, told)
    assert second.token != first.token
    before = await house.snapshot()
    assert not await house.queue.record_sent(first.message_id, first.token, sender="x", provider_id=None)
    assert not await house.queue.release(first.message_id, first.token, due_in_s=0, reason="x")
    assert not await house.queue.record_final(first.message_id, first.token, MessageStatus.FAILED, reason="x")
    assert await house.snapshot() == before
    assert await house.queue.record_sent(second.message_id, second.token, sender="x", provider_id=None)


@pytest.mark.parametrize("token", ["", "0", "x" * 1000, "*"])
async def test_no_made_up_token_changes_anything(house: House, token: str) -> None:
    queued, leased = await house.send(), await house.send(to=OTHER_NUMBER)
    await house.claim()
    await house.resend(queued.otp_id)
    message_ids = await house.waiting()
    assert leased.message_id in message_ids
    for message_id in message_ids:
        before = await house.snapshot()
        assert not await house.queue.record_sent(message_id, token, sender="x", provider_id=None)
        assert not await house.queue.release(message_id, token, due_in_s=0, reason="x")
        assert not await house.queue.record_final(message_id, token, MessageStatus.EXPIRED, reason="x")
        assert await house.snapshot() == before


async def test_an_unknown_message_is_stale(house: House) -> None:
    assert not await house.queue.record_sent("msg_unknown", "token", sender="x", provider_id=None)
    assert await house.names() == []


async def test_a_sent_message_is_over(house: House) -> None:
    sent = await house.send()
    message = await one(house)
    assert await house.queue.record_sent(sent.message_id, message.token, sender="inbox", provider_id="g-7")
    stored = await house.message(sent.message_id)
    assert (stored["status"], stored["sender"], stored["provider_id"]) == ("sent", "inbox", "g-7")
    assert "token" not in stored
    assert not await house.has_text(sent.message_id)
    assert await house.waiting() == []
    before = await house.snapshot()
    assert await house.queue.record_sent(sent.message_id, message.token, sender="inbox", provider_id="g-7")
    assert not await house.queue.record_sent(sent.message_id, "another", sender="x", provider_id=None)
    assert await house.snapshot() == before
    assert (await house.get(sent.otp_id)).message_status == "sent"
    assert await house.status(sent.otp_id) == "pending"


@pytest.mark.parametrize("status", [MessageStatus.FAILED, MessageStatus.EXPIRED])
async def test_a_final_message_keeps_its_reason_and_loses_its_text(house: House, status: MessageStatus) -> None:
    sent = await house.send()
    message = await one(house)
    assert await house.queue.record_final(sent.message_id, message.token, status, reason="no_route")
    stored = await house.message(sent.message_id)
    assert (stored["status"], stored["reason"]) == (status.value, "no_route")
    assert not await house.has_text(sent.message_id)
    assert await house.waiting() == []


async def test_a_released_message_is_due_again_and_nobody_is_in_doubt(house: House) -> None:
    sent = await house.send()
    message = await one(house)
    assert await house.queue.release(sent.message_id, message.token, due_in_s=20, reason="breaker_open")
    stored = await house.message(sent.message_id)
    assert (stored["status"], stored["reason"]) == ("queued", "breaker_open")
    assert await house.claim() == []
    await house.age(20)
    again = await one(house)
    assert (again.tries, again.begun_by) == (2, "")
    before = await house.snapshot()
    assert await house.queue.release(sent.message_id, message.token, due_in_s=0, reason="x")
    assert await house.snapshot() == before


@pytest.mark.parametrize("kept", ["", "vonage"])
async def test_who_gives_back_says_who_may_have_it(house: House, kept: str) -> None:
    sent = await house.send()
    message = await one(house)
    assert await house.queue.begin(sent.message_id, message.token, sender="vonage")
    await house.queue.release(sent.message_id, message.token, due_in_s=0, reason="retry_later", begun_by=kept)
    assert (await one(house)).begun_by == kept


@pytest.mark.parametrize("end", ["verified", "locked", "superseded", "cancelled", "resent", "lease"])
async def test_no_sender_is_begun_for_what_is_no_longer_wanted(house: House, end: str) -> None:
    sent, code = await house.send_with_code()
    message = await one(house, lease_s=20)
    match end:
        case "verified":
            await house.verify(sent.otp_id, code)
        case "locked":
            await house.lock(sent.otp_id, code)
        case "superseded":
            await house.send()
        case "cancelled":
            await house.cancel(sent.otp_id)
        case "resent":
            await house.resend(sent.otp_id)
        case _:
            await house.age(20)
            await house.claim()
    before = await house.snapshot()
    assert not await house.queue.begin(sent.message_id, message.token, sender="vonage")
    assert await house.snapshot() == before


@pytest.mark.parametrize("is_delivered", [False, True])
async def test_who_made_the_code_is_asked_about_it_also_where_a_receipt_was_quicker(
    house: House, is_delivered: bool
) -> None:
    queue = RedisMessageQueue(house.client, house.keys.partitions[0], with_codes=["verifier"])
    sent = await house.send()
    message = await one(house)
    assert await queue.begin(sent.message_id, message.token, sender="verifier")
    if is_delivered:
        delivered = ReceiptFact(status="delivered")
        assert await book_of(house).apply(sent.message_id, "verifier", delivered) == "applied"
    for _ in range(2):
        assert await queue.record_sent(sent.message_id, message.token, sender="verifier", provider_id="session 1")
    check_by = await house.raw.hget(house.keys.partitions[0].otp_base + sent.otp_id, "check_by")
    assert check_by.decode().split(" ", 2)[::2] == [sent.message_id, "verifier session 1"]
    before = await house.snapshot()
    assert not await queue.record_sent(sent.message_id, "stale", sender="verifier", provider_id="session 2")
    assert await house.snapshot() == before


async def test_a_call_is_told_also_where_the_message_was_long_held_up_before(house: House) -> None:
    """At a full gate the bound of what is told is soon reached; that a gateway was called and put it off is a step."""
    sent = await house.send()
    steps = [Tried("a", "held_crowd")] * 8 + [Tried("a", "retry_later")] * 20
    for step in steps:
        message = await one(house)
        assert await house.queue.release(sent.message_id, message.token, due_in_s=0, reason="x", tried=[step])
    told = [event.data["outcome"] for event in await house.all_events() if event.name == "message.tried"]
    assert told == ["held_crowd"] * 5 + ["retry_later"] * 10


async def test_a_released_message_can_still_be_taken_back(house: House) -> None:
    sent = await house.send()
    message = await one(house)
    await house.queue.release(sent.message_id, message.token, due_in_s=0, reason="retry_later")
    await house.cancel(sent.otp_id)
    assert await house.claim() == []
    assert (await house.message(sent.message_id))["status"] == "cancelled"


@pytest.mark.parametrize("is_leased", [False, True])
@pytest.mark.parametrize("end", ["verified", "locked", "superseded", "cancelled", "resent"])
async def test_a_message_whose_code_is_no_longer_wanted_is_never_handed_out(
    house: House, end: str, is_leased: bool
) -> None:
    sent, code = await house.send_with_code()
    if is_leased:
        await one(house, lease_s=20)
    match end:
        case "verified":
            await house.verify(sent.otp_id, code)
        case "locked":
            await house.lock(sent.otp_id, code)
        case "superseded":
            await house.send()
        case "cancelled":
            await house.cancel(sent.otp_id)
        case _:
            await house.resend(sent.otp_id)
    assert not await house.has_text(sent.message_id)
    await house.age(20)
    assert sent.message_id not in [message.message_id for message in await house.claim()]
    stored = await house.message(sent.message_id)
    assert (stored["status"], stored["reason"]) == ("cancelled", end)
    assert sent.message_id not in await house.waiting()


@pytest.mark.parametrize("state", ["leased", "given back"])
@pytest.mark.parametrize("end", ["verified", "superseded", "cancelled", "resent", "forgotten", "too late"])
async def test_who_may_have_gone_out_is_not_called_cancelled(house: House, end: str, state: str) -> None:
    """Its sender was begun and never heard of: that nobody needs it any more says nothing about where it is."""
    sent, code = await house.send_with_code()
    message = await one(house, lease_s=20)
    assert await house.queue.begin(message.message_id, message.token, sender="vonage")
    if state == "given back":
        await house.queue.release(message.message_id, message.token, due_in_s=0, reason="x", begun_by="vonage")
    match end:
        case "verified":
            await house.verify(sent.otp_id, code)
        case "superseded":
            await house.send()
        case "cancelled":
            await house.cancel(sent.otp_id)
        case "resent":
            await house.resend(sent.otp_id)
        case "forgotten":
            await house.forget(NUMBER)
        case _:
            await house.age(271)
    await house.age(20)
    assert sent.message_id not in [message.message_id for message in await house.claim()]
    stored = await house.message(sent.message_id)
    assert (stored["status"], stored["reason"]) == ("failed", "unknown_outcome")
    (told,) = [event for event in await house.all_events() if event.message_id == sent.message_id
               and event.name.startswith("message.") and event.name != "message.postponed"]  # fmt: skip
    assert (told.name, told.data["sender"]) == ("message.failed", "vonage")


@pytest.mark.parametrize("passed_s", [31, 61, 60 + 15 * 60 + 1])
async def test_a_message_with_too_little_life_expires(house: House, passed_s: int) -> None:
    sent = await house.send(ttl_s=60)
    await house.age(passed_s)
    assert await house.claim() == []
    stored = await house.message(sent.message_id)
    assert (stored["status"], stored["reason"]) == ("expired", "code_expired")
    assert not await house.has_text(sent.message_id)
    assert await house.waiting() == []


async def test_a_message_with_just_enough_life_goes_out(house: House) -> None:
    await house.send(ttl_s=60)
    await house.age(25)
    assert len(await house.claim()) == 1


async def test_ended_messages_do_not_hold_up_the_others(house: House) -> None:
    for n in range(5):
        sent = await house.send(to=f"+336123{n:05d}", ttl_s=60)
        if n % 2:
            await house.verify(sent.otp_id, house.codes[-1])
        await house.age(1)
    handed_out = [len(await house.claim(limit=1)) for _ in range(6)]
    assert handed_out == [1, 0, 1, 0, 1, 0]


async def test_a_missing_record_is_dropped(house: House) -> None:
    partition = house.keys.partitions[0]
    sent = await house.send()
    await house.send(to=OTHER_NUMBER)
    await house.raw.delete(partition.message_base + sent.message_id)
    assert [message.message_id == sent.message_id for message in await house.claim()] == [False]
    assert sent.message_id not in await house.waiting()
    assert not await house.raw.exists(partition.message_base + sent.message_id)


async def test_a_missing_otp_or_text_ends_the_message(house: House) -> None:
    partition = house.keys.partitions[0]
    sent, other = await house.send(), await house.send(to=OTHER_NUMBER)
    await house.raw.delete(partition.otp_base + sent.otp_id, partition.sealed_base + other.message_id)
    assert await house.claim() == []
    for message_id in (sent.message_id, other.message_id):
        assert (await house.message(message_id))["status"] == "expired"
        assert not await house.has_text(message_id)
    assert await house.waiting() == []


async def test_a_worker_away_for_a_day_still_finds_what_it_has_to_end(house: House) -> None:
    sent = await house.send()
    await house.age(86_400)
    assert await house.claim() == []
    assert (await house.message(sent.message_id))["status"] == "expired"


async def test_nothing_is_forgotten_whatever_becomes_of_it(house: House) -> None:
    """Every message ends in a final state, and its record tells which and why."""
    made = [await house.send(to=f"+336123{n:05d}") for n in range(8)]
    held = {message.message_id: message.token for message in await house.claim(limit=4, lease_s=20)}
    first, second, third, fourth = held
    await house.queue.record_sent(first, held[first], sender="x", provider_id=None)
    await house.queue.record_final(second, held[second], MessageStatus.FAILED, reason="x")
    await house.queue.release(third, held[third], due_in_s=10, reason="x")
    await house.cancel(made[6].otp_id)
    await house.age(280)
    while (await house.queue.claim(limit=2, lease_s=60)).next_due_in_ms is not None:
        pass
    assert await house.waiting() == []
    statuses = [(await house.message(sent.message_id))["status"] for sent in made]
    assert sorted(statuses) == ["cancelled", "expired", "expired", "expired", "expired", "expired", "failed", "sent"]
    assert (await house.message(fourth))["status"] == "expired"


async def tokens(house: House) -> int:
    return int(await house.raw.llen(house.keys.partitions[0].wake))


async def test_many_sends_leave_one_token(house: House) -> None:
    for n in range(5):
        await house.send(to=f"+336123{n:05d}")
    assert await tokens(house) == 1


async def test_a_waiting_worker_wakes_on_send_and_on_resend(house: House) -> None:
    waiting = asyncio.create_task(house.queue.wait(30))
    sent = await house.send()
    await waiting
    waiting = asyncio.create_task(house.queue.wait(30))
    await house.resend(sent.otp_id)
    await waiting
    assert await tokens(house) == 0


async def test_refusals_wake_nobody(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    await house.send(caller)
    await house.queue.wait(0)
    await house.refused(house.send(caller), "OTP_COOLDOWN")
    assert await tokens(house) == 0


async def test_one_token_wakes_one_worker_and_a_full_batch_the_next(house: House) -> None:
    workers = [asyncio.create_task(house.queue.wait(30)) for _ in range(3)]
    await house.blocked(3)
    await house.send()
    done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    await house.send(to=OTHER_NUMBER)
    await house.blocked(1)
    assert len(await house.claim(limit=2)) == 2
    await asyncio.gather(*workers)
    assert await house.claim() == []
    assert await tokens(house) == 0


async def test_a_batch_that_is_not_full_wakes_nobody(house: House) -> None:
    await house.send()
    await house.queue.wait(0)
    await house.claim(limit=2)
    assert await tokens(house) == 0


async def test_a_wait_without_work_ends(house: House) -> None:
    await house.queue.wait(0)
    await house.queue.wait(0.01)


async def test_a_sealed_message_belongs_to_its_own_record(house: House) -> None:
    """Texts swapped in the store are opened by nobody: the seal is bound to the record."""
    first, second = await house.send(), await house.send(to=OTHER_NUMBER)
    partition = house.keys.partitions[0]
    names = [partition.sealed_base + sent.message_id for sent in (first, second)]
    sealed = await house.raw.mget(names)
    assert sealed[0] != sealed[1]
    assert {message.sealed for message in await house.claim()} == set(sealed)
