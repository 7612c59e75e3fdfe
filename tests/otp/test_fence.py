"""The fence as the scripts decide it: an OTP ends with the history it was made in. tests/fence promotes for real."""

from collections.abc import AsyncIterator

import pytest

from otpsvc.otp.model import VerifiedOtp
from tests.otp.house import OTHER_NUMBER, House, open_house

ELSEWHERE = "0" * 40


@pytest.fixture
async def fenced(redis_url: str) -> AsyncIterator[House]:
    async with open_house(redis_url, is_fenced=True) as opened:
        yield opened


async def promote(house: House) -> None:
    """Make every OTP one of another history."""
    for name in await house.names():
        if b":otp:" in name and await house.raw.hget(name, "fence"):
            await house.raw.hset(name, "fence", ELSEWHERE)


async def test_within_one_history_nothing_changes(fenced: House) -> None:
    sent, _ = await fenced.send_with_code()
    replid = (await fenced.raw.info("replication"))["master_replid"]
    assert (await fenced.record(sent.otp_id))["fence"] == replid
    await fenced.resend(sent.otp_id)
    assert len(await fenced.claim()) == 1
    assert isinstance(await fenced.verify(sent.otp_id, fenced.codes[-1]), VerifiedOtp)


async def test_after_a_promotion_no_code_of_before_can_be_used(fenced: House) -> None:
    sent, code = await fenced.send_with_code(key="k", metadata={"a": 1})
    await promote(fenced)
    for call in (
        fenced.verify(sent.otp_id, code),
        fenced.verify(sent.otp_id, "000000"),
        fenced.resend(sent.otp_id),
        fenced.cancel(sent.otp_id),
    ):
        assert (await fenced.refused(call, "OTP_NOT_FOUND")).reason == "fenced"
    assert await fenced.status(sent.otp_id) == "expired"
    assert (await fenced.send(key="k", metadata={"a": 1})).status == "expired"


async def test_the_answer_to_a_guess_of_before_is_not_given_again(fenced: House) -> None:
    """The record may lack what was counted after it; who asks has to send a new code either way."""
    sent, code = await fenced.send_with_code()
    await fenced.verify(sent.otp_id, code, key="v")
    await promote(fenced)
    await fenced.refused(fenced.verify(sent.otp_id, code, key="v"), "OTP_NOT_FOUND")


async def test_a_message_of_before_is_not_sent(fenced: House) -> None:
    waiting, leased = await fenced.send(to=OTHER_NUMBER), await fenced.send()
    claimed = {message.message_id: message for message in await fenced.claim()}
    held = claimed[leased.message_id]
    await fenced.queue.release(waiting.message_id, claimed[waiting.message_id].token, due_in_s=0, reason="x")
    await promote(fenced)
    assert not await fenced.queue.begin(held.message_id, held.token, sender="x")
    assert await fenced.claim() == []
    assert ("message.cancelled", waiting.message_id, "fenced") in await fenced.message_events()


async def test_a_new_code_works_and_the_cooldown_does_not_advise_the_old_one(fenced: House) -> None:
    patient = fenced.caller(cooldown_s=30)
    await fenced.send(patient)
    await promote(fenced)
    assert "otp_id" not in (await fenced.refused(fenced.send(patient), "OTP_COOLDOWN")).details
    sent, code = await fenced.send_with_code()
    assert isinstance(await fenced.verify(sent.otp_id, code), VerifiedOtp)


async def test_sessions_of_before_leave_room(fenced: House) -> None:
    for n in range(3):
        await fenced.send(session=f"s{n}")
    await fenced.refused(fenced.send(session="s3"), "OTP_RATE_LIMIT")
    await promote(fenced)
    await fenced.send(session="s3")


async def test_codes_of_before_still_end_and_count(fenced: House) -> None:
    sent = await fenced.send(ttl_s=60)
    await promote(fenced)
    await fenced.age(61)
    await fenced.sweep()
    assert ("otp.expired", sent.otp_id) in await fenced.events()
    for _ in range(9):
        await fenced.send()
    await fenced.refused(fenced.send(), "OTP_RATE_LIMIT")


async def test_switching_the_fence_on_ends_no_code(house: House, fenced: House) -> None:
    sent, code = await house.send_with_code()
    assert isinstance(await fenced.verify(sent.otp_id, code), VerifiedOtp)


async def test_without_the_fence_nothing_is_marked(house: House) -> None:
    sent, code = await house.send_with_code()
    assert (await house.record(sent.otp_id))["fence"] == ""
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)
