"""Sessions: a stranger who opens the same form can neither kill a code that a person is typing nor multiply guesses."""

import asyncio

import pytest

from otpsvc.errors import ApiError
from otpsvc.otp.model import SentOtp, VerifiedOtp
from otpsvc.otp.policy import Limits
from tests.otp.house import OTHER_NUMBER, House


async def test_a_send_supersedes_only_its_own_sessions_code(house: House) -> None:
    mine, code = await house.send_with_code(session="mine")
    for _ in range(3):
        await house.send(session="stranger")
        await house.send()
    assert isinstance(await house.verify(mine.otp_id, code, session="mine"), VerifiedOtp)


async def test_a_session_fences_only_those_who_name_one(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.refused(house.verify(sent.otp_id, code, session="mine"), "OTP_NOT_FOUND")
    await house.verify(sent.otp_id, code)


async def test_so_many_sessions_live_at_once_and_no_more(house: House) -> None:
    sent = [await house.send(session=f"s{n}", ttl_s=600 - n) for n in range(3)]
    error = await house.refused(house.send(session="s3"), "OTP_RATE_LIMIT")
    assert error.details["limit"] == "live_sessions"
    assert error.retry_after_s in range(580, 599)
    await house.refused(house.send(), "OTP_RATE_LIMIT")
    await house.send(session="s1")
    await house.send(session="s3", purpose="login")
    await house.send(session="s3", to=OTHER_NUMBER)
    await house.send(house.caller(mode="live"), session="s3")
    assert await house.status(sent[0].otp_id) == "pending"


@pytest.mark.parametrize("end", ["verify", "lock", "cancel", "expire"])
async def test_every_end_makes_room_for_another_session(house: House, end: str) -> None:
    sent, code = await house.send_with_code(session="s0", ttl_s=60)
    for n in (1, 2):
        await house.send(session=f"s{n}")
    await house.refused(house.send(session="s3"), "OTP_RATE_LIMIT")
    match end:
        case "verify":
            await house.verify(sent.otp_id, code)
        case "lock":
            await house.lock(sent.otp_id, code)
        case "cancel":
            await house.cancel(sent.otp_id)
        case _:
            await house.age(61)
    await house.send(session="s3")
    await house.refused(house.send(session="s4"), "OTP_RATE_LIMIT")


async def test_a_resend_keeps_a_session_alive(house: House) -> None:
    sent = await house.send(session="s0", ttl_s=60)
    await house.send(session="s1")
    await house.send(session="s2")
    await house.age(50)
    await house.resend(sent.otp_id)
    await house.age(50)
    await house.refused(house.send(session="s3"), "OTP_RATE_LIMIT")


async def test_ending_a_superseded_code_does_not_end_its_successor(house: House) -> None:
    old = await house.send(session="s0")
    fresh, code = await house.send_with_code(session="s0")
    await house.refused(house.cancel(old.otp_id), "OTP_NOT_PENDING")
    await house.send(session="s1")
    await house.send(session="s2")
    await house.refused(house.send(session="s3"), "OTP_RATE_LIMIT")
    assert isinstance(await house.verify(fresh.otp_id, code), VerifiedOtp)


async def test_sessions_in_parallel_never_pass_the_cap(house: House) -> None:
    answers = await asyncio.gather(*(house.send(session=f"s{n}") for n in range(10)), return_exceptions=True)
    assert sum(isinstance(answer, SentOtp) for answer in answers) == 3
    assert {answer.code for answer in answers if isinstance(answer, ApiError)} == {"OTP_RATE_LIMIT"}


@pytest.mark.parametrize("limits", [Limits(live_sessions=1)])
async def test_the_cap_is_a_setting(house: House) -> None:
    await house.send(session="a")
    await house.refused(house.send(session="b"), "OTP_RATE_LIMIT")
    await house.send(session="a")


async def test_session_words_are_nowhere_in_the_store(house: House) -> None:
    await house.send(house.caller(cooldown_s=30), session="very-secret-session")
    assert "very-secret-session" not in str(await house.snapshot())
