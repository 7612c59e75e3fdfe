"""Resend: a fresh code with a fresh life on the same OTP, and everything that stays as it was."""

import asyncio

import pytest

from otpsvc.otp.model import VerifiedOtp, WrongGuess
from tests.otp.house import HOUR_S, OTHER_CLIENT, RECORD_S, House, wrong


async def test_a_resend_gives_a_fresh_code_and_life_and_keeps_used_attempts(house: House) -> None:
    sent, code = await house.send_with_code(code_length=8, ttl_s=120, metadata={"a": 1})
    await house.verify(sent.otp_id, wrong(code))
    await house.age(100)
    again = await house.resend(sent.otp_id)
    fresh = house.codes[-1]
    assert (again.otp_id, again.purpose, again.to, again.status) == (sent.otp_id, sent.purpose, sent.to, "pending")
    assert (again.attempts_remaining, again.code_length, len(fresh)) == (2, 8, 8)
    assert again.message_id != sent.message_id
    view = await house.get(sent.otp_id)
    assert (view.message_id, view.resends_remaining, view.expires_at) == (again.message_id, 4, again.expires_at)
    await house.age(110)
    answer = await house.verify(sent.otp_id, fresh)
    assert isinstance(answer, VerifiedOtp)
    assert answer.metadata == {"a": 1}
    assert await house.events() == [(name, sent.otp_id) for name in
                                    ("otp.sent", "otp.rejected", "otp.resent", "otp.verified")]  # fmt: skip


async def test_three_guesses_are_all_whatever_the_resends(house: House) -> None:
    sent, _ = await house.send_with_code()
    for left in (2, 1, 0):
        assert await house.verify(sent.otp_id, wrong(*house.codes)) == WrongGuess(
            otp_id=sent.otp_id, attempts_remaining=left
        )
        if left:
            assert (await house.resend(sent.otp_id)).attempts_remaining == left
    await house.refused(house.resend(sent.otp_id), "OTP_MAX_ATTEMPTS")
    await house.refused(house.verify(sent.otp_id, house.codes[-1]), "OTP_MAX_ATTEMPTS")


@pytest.mark.parametrize("most", [0, 1, 5])
async def test_so_many_resends_and_no_more(house: House, most: int) -> None:
    caller = house.caller(max_resends=most)
    sent = await house.send(caller)
    for left in range(most - 1, -1, -1):
        await house.resend(sent.otp_id, caller)
        assert (await house.get(sent.otp_id, caller)).resends_remaining == left
    error = await house.refused(house.resend(sent.otp_id, caller), "OTP_RESEND_LIMIT")
    assert error.retry_after_s is None
    assert isinstance(await house.verify(sent.otp_id, house.codes[most]), VerifiedOtp)


async def test_the_one_code_before_is_valid_for_the_grace(house: House) -> None:
    sent, code = await house.send_with_code(house.caller(grace_s=90))
    await house.resend(sent.otp_id, house.caller(grace_s=90))
    await house.age(80)
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def test_after_the_grace_the_code_before_is_wrong(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.resend(sent.otp_id)
    await house.age(91)
    assert isinstance(await house.verify(sent.otp_id, code), WrongGuess)
    assert isinstance(await house.verify(sent.otp_id, house.codes[-1]), VerifiedOtp)


async def test_the_code_before_never_outlives_its_own_end(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    await house.age(30)
    await house.resend(sent.otp_id)
    await house.age(31)
    assert isinstance(await house.verify(sent.otp_id, code), WrongGuess)


async def test_without_grace_the_code_before_is_wrong_at_once(house: House) -> None:
    caller = house.caller(grace_s=0)
    sent, code = await house.send_with_code(caller)
    await house.resend(sent.otp_id, caller)
    assert isinstance(await house.verify(sent.otp_id, code, caller), WrongGuess)


async def test_two_codes_before_is_wrong(house: House) -> None:
    sent = await house.send()
    await house.resend(sent.otp_id)
    await house.resend(sent.otp_id)
    oldest, before, _ = house.codes
    assert isinstance(await house.verify(sent.otp_id, oldest), WrongGuess)
    assert isinstance(await house.verify(sent.otp_id, before), VerifiedOtp)


async def test_a_used_earlier_code_uses_up_the_later_one(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.resend(sent.otp_id)
    await house.verify(sent.otp_id, code)
    for each in house.codes:
        await house.refused(house.verify(sent.otp_id, each), "OTP_NOT_FOUND")


async def test_a_resend_cancels_the_message_that_has_not_left(house: House) -> None:
    sent = await house.send()
    again = await house.resend(sent.otp_id)
    old = await house.message(sent.message_id)
    assert (old["status"], old["reason"]) == ("cancelled", "resent")
    assert await house.waiting() == [again.message_id]
    assert (await house.has_text(sent.message_id), await house.has_text(again.message_id)) == (False, True)


async def test_a_resend_leaves_a_message_that_has_left(house: House) -> None:
    sent = await house.send()
    (message,) = await house.claim()
    await house.queue.record_sent(sent.message_id, message.token, sender="inbox", provider_id=None)
    await house.resend(sent.otp_id)
    assert (await house.message(sent.message_id))["status"] == "sent"


async def test_a_resend_leaves_the_record_of_a_message_in_a_workers_hands(house: House) -> None:
    sent = await house.send()
    (message,) = await house.claim()
    await house.resend(sent.otp_id)
    assert (await house.message(sent.message_id))["status"] == "processing"
    assert not await house.has_text(sent.message_id)
    assert await house.queue.record_sent(sent.message_id, message.token, sender="inbox", provider_id=None)


async def test_none_after_an_end(house: House) -> None:
    used, code = await house.send_with_code(purpose="a")
    await house.verify(used.otp_id, code)
    ended = await house.send(purpose="b")
    await house.cancel(ended.otp_id)
    replaced = await house.send(purpose="c")
    await house.send(purpose="c")
    for sent in (used, ended, replaced):
        error = await house.refused(house.resend(sent.otp_id), "OTP_NOT_FOUND")
        assert error.details == {}
    locked, code = await house.send_with_code(purpose="d")
    await house.lock(locked.otp_id, code)
    await house.refused(house.resend(locked.otp_id), "OTP_MAX_ATTEMPTS")
    # While a gateway has not said whether the last guess is right, it is pending and has no attempt left.
    used_up = await house.send(purpose="e")
    await house.raw.hset(house.keys.partitions[0].otp_base + used_up.otp_id, "attempts", 3)
    await house.refused(house.resend(used_up.otp_id), "OTP_MAX_ATTEMPTS")
    expired = await house.send(purpose="e", ttl_s=60)
    await house.age(61)
    await house.refused(house.resend(expired.otp_id), "OTP_EXPIRED")
    await house.age(RECORD_S)
    await house.refused(house.resend(expired.otp_id), "OTP_NOT_FOUND")


async def test_only_the_owner_resends(house: House) -> None:
    sent = await house.send(session="s1")
    for caller in (house.caller(OTHER_CLIENT), house.caller(mode="live")):
        await house.refused(house.resend(sent.otp_id, caller), "OTP_NOT_FOUND")
    await house.refused(house.resend(sent.otp_id, session="s2"), "OTP_NOT_FOUND")
    await house.resend(sent.otp_id, session="s1")
    await house.resend(sent.otp_id)


async def test_a_resend_keeps_the_template_and_language_of_the_send(house: House) -> None:
    seen = []
    render = house.catcher.render

    def watching(**given: object) -> object:
        seen.append((given["template"], given["locale"], given["ttl_s"], given["region"]))
        return render(**given)  # type: ignore[arg-type]  # handed through as it came

    house.catcher.render = watching  # type: ignore[method-assign, assignment]  # a spy in its place
    sent = await house.send(template="go {{code}}", locale="fr", ttl_s=77)
    await house.resend(sent.otp_id)
    assert seen == [("go {{code}}", "fr", 77, "FR")] * 2


async def test_a_resend_waits_for_the_cooldown(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    sent = await house.send(caller)
    error = await house.refused(house.resend(sent.otp_id, caller), "OTP_COOLDOWN")
    assert error.details["otp_id"] == sent.otp_id
    await house.age(30)
    again = await house.resend(sent.otp_id, caller)
    assert again.resend_at - sent.resend_at >= 0
    await house.refused(house.resend(sent.otp_id, caller), "OTP_COOLDOWN")
    await house.refused(house.send(caller), "OTP_COOLDOWN")


async def test_resends_count_among_the_ten_of_an_hour(house: House) -> None:
    sent = await house.send()
    for _ in range(5):
        await house.resend(sent.otp_id)
    other = await house.send(purpose="login")
    for _ in range(3):
        await house.resend(other.otp_id)
    await house.refused(house.resend(other.otp_id), "OTP_RATE_LIMIT")
    await house.age(HOUR_S)
    await house.send()


async def test_a_resent_code_supersedes_and_is_superseded_like_any_other(house: House) -> None:
    sent = await house.send(ttl_s=60)
    await house.age(50)
    await house.resend(sent.otp_id)
    await house.age(50)
    await house.send()
    assert await house.status(sent.otp_id) == "superseded"
    await house.refused(house.verify(sent.otp_id, house.codes[1]), "OTP_NOT_FOUND")


async def test_parallel_resends_leave_one_current_and_one_earlier_code(house: House) -> None:
    sent = await house.send()
    await asyncio.gather(*(house.resend(sent.otp_id) for _ in range(5)))
    view = await house.get(sent.otp_id)
    assert view.resends_remaining == 0
    assert await house.waiting() == [view.message_id]
    record = await house.record(sent.otp_id)
    assert record["code_hash"] != record["previous_hash"]
