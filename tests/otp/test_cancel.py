"""Cancel: it ends a pending OTP and its message, once, for its owner only."""

from otpsvc.otp.model import VerifiedOtp
from tests.otp.house import OTHER_CLIENT, RECORD_S, House


async def test_a_cancelled_code_never_verifies(house: House) -> None:
    sent, code = await house.send_with_code()
    view = await house.cancel(sent.otp_id)
    assert (view.status, view.message_status) == ("cancelled", "cancelled")
    assert view.ended_at is not None
    await house.refused(house.verify(sent.otp_id, code), "OTP_NOT_FOUND")
    await house.refused(house.resend(sent.otp_id), "OTP_NOT_FOUND")
    assert await house.waiting() == []
    assert not await house.has_text(sent.message_id)


async def test_cancelling_twice_is_the_same_as_once(house: House) -> None:
    sent = await house.send()
    first = await house.cancel(sent.otp_id)
    before = await house.snapshot()
    assert await house.cancel(sent.otp_id) == first
    assert await house.snapshot() == before
    assert [name for name, _ in await house.events()] == ["otp.sent", "otp.cancelled"]


async def test_what_has_ended_cannot_be_cancelled(house: House) -> None:
    used, code = await house.send_with_code(purpose="a")
    await house.verify(used.otp_id, code)
    locked, code = await house.send_with_code(purpose="b")
    await house.lock(locked.otp_id, code)
    replaced = await house.send(purpose="c")
    await house.send(purpose="c")
    expired = await house.send(purpose="d", ttl_s=60)
    await house.age(61)
    for sent, status in ((used, "verified"), (locked, "locked"), (replaced, "superseded"), (expired, "expired")):
        error = await house.refused(house.cancel(sent.otp_id), "OTP_NOT_PENDING")
        assert error.details == {"status": status}


async def test_only_the_owner_cancels(house: House) -> None:
    sent, code = await house.send_with_code()
    for caller in (house.caller(OTHER_CLIENT), house.caller(mode="live")):
        await house.refused(house.cancel(sent.otp_id, caller), "OTP_NOT_FOUND")
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def test_a_cancel_leaves_the_room_to_another_code_but_not_the_limits(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    sent = await house.send(caller)
    await house.cancel(sent.otp_id, caller)
    await house.refused(house.send(caller), "OTP_COOLDOWN")
    await house.age(30)
    fresh, code = await house.send_with_code(caller)
    assert await house.status(sent.otp_id) == "cancelled"
    assert isinstance(await house.verify(fresh.otp_id, code), VerifiedOtp)


async def test_a_message_in_a_workers_hands_is_the_workers_to_settle(house: House) -> None:
    sent = await house.send()
    (message,) = await house.claim()
    await house.cancel(sent.otp_id)
    assert not await house.has_text(sent.message_id)
    assert await house.queue.record_sent(sent.message_id, message.token, sender="inbox", provider_id=None)
    assert (await house.message(sent.message_id))["status"] == "sent"


async def test_a_cancelled_record_goes_after_a_quarter_of_an_hour(house: House) -> None:
    sent = await house.send(ttl_s=1800)
    await house.cancel(sent.otp_id)
    await house.age(RECORD_S - 5)
    assert await house.status(sent.otp_id) == "cancelled"
    await house.age(10)
    await house.refused(house.cancel(sent.otp_id), "OTP_NOT_FOUND")
