"""A replica that lacks the last writes takes over: nothing that they took away is handed back.

The last test is without the fence. It shows what that is there for, and holds the documents to it.
"""

from otpsvc.otp.model import VerifiedOtp, WrongGuess
from tests.fence.pair import Pair
from tests.otp.house import NUMBER, OTHER_NUMBER, House, open_house, wrong


async def nothing(house: House, otp_id: str, code: str) -> None:
    """The primary dies without having done anything more."""


async def guess_wrong(house: House, otp_id: str, code: str) -> None:
    await house.verify(otp_id, wrong(code))
    await house.verify(otp_id, wrong(code))


async def lock(house: House, otp_id: str, code: str) -> None:
    await house.lock(otp_id, code)


async def use(house: House, otp_id: str, code: str) -> None:
    assert isinstance(await house.verify(otp_id, code), VerifiedOtp)


async def resend(house: House, otp_id: str, code: str) -> None:
    await house.resend(otp_id)


async def cancel(house: House, otp_id: str, code: str) -> None:
    await house.cancel(otp_id)


async def supersede(house: House, otp_id: str, code: str) -> None:
    await house.send(purpose="supersede")


async def test_what_was_made_before_is_unknown_after(pair: Pair) -> None:
    """Whatever the lost writes were: the replica holds it as pending and whole, and must not act on that."""
    losses = (nothing, guess_wrong, lock, use, resend, cancel, supersede)
    async with open_house(pair.primary.url, is_fenced=True) as before:
        made = [await before.send_with_code(purpose=lost.__name__) for lost in losses]
        await pair.cut()
        for lost, (sent, code) in zip(losses, made, strict=True):
            await lost(before, sent.otp_id, code)
        await pair.fail_over()
    async with open_house(pair.replica.url, is_fenced=True) as after:
        for sent, code in made:
            record = await after.record(sent.otp_id)
            assert (record["status"], record["attempts"]) == ("pending", "0")
            for guess in (code, wrong(code), code):
                await after.refused(after.verify(sent.otp_id, guess, to=NUMBER), "OTP_NOT_FOUND")
            await after.refused(after.resend(sent.otp_id), "OTP_NOT_FOUND")
            await after.refused(after.cancel(sent.otp_id), "OTP_NOT_FOUND")
            assert (await after.get(sent.otp_id)).status == "expired"


async def test_messages_of_codes_that_nobody_can_use_are_not_sent(pair: Pair) -> None:
    async with open_house(pair.primary.url, is_fenced=True) as before:
        await before.send(purpose="claimed")
        (claimed,) = await before.claim()
        waiting = await before.send(purpose="waiting")
        await pair.cut()
        await pair.fail_over()
    async with open_house(pair.replica.url, is_fenced=True) as after:
        assert not await after.queue.begin(claimed.message_id, claimed.token, sender="any")
        assert await after.waiting() == [waiting.message_id, claimed.message_id]
        assert await after.claim() == []
        assert await after.waiting() == [claimed.message_id]
        assert (await after.message(waiting.message_id))["status"] == "cancelled"
        assert not await after.has_text(waiting.message_id)


async def test_new_codes_work_in_the_place_of_the_old(pair: Pair) -> None:
    async with open_house(pair.primary.url, is_fenced=True) as before:
        old, old_code = await before.send_with_code(session="tab", key="k1")
        await pair.cut()
        await pair.fail_over()
    async with open_house(pair.replica.url, is_fenced=True) as after:
        again = await after.send(session="tab", key="k1")
        assert (again.otp_id, again.status) == (old.otp_id, "expired")
        sent, code = await after.send_with_code(session="tab")
        assert await after.verify(sent.otp_id, wrong(code, old_code)) == WrongGuess(
            otp_id=sent.otp_id, attempts_remaining=2
        )
        assert isinstance(await after.verify(sent.otp_id, code, session="tab"), VerifiedOtp)
        await after.refused(after.verify(sent.otp_id, code), "OTP_NOT_FOUND")
        locked, code = await after.send_with_code()
        await after.lock(locked.otp_id, code)
        await after.refused(after.verify(locked.otp_id, code), "OTP_MAX_ATTEMPTS")
        await after.refused(after.verify(old.otp_id, old_code), "OTP_NOT_FOUND")


async def test_limits_forget_what_was_lost_and_no_more(pair: Pair) -> None:
    async with open_house(pair.primary.url, is_fenced=True) as before:
        for _ in range(6):
            await before.send()
        for n in range(3):
            sent, code = await before.send_with_code(to=OTHER_NUMBER, purpose=f"p{n}")
            await before.lock(sent.otp_id, code)
        await pair.cut()
        for _ in range(4):
            await before.send()
        await before.refused(before.send(), "OTP_RATE_LIMIT")
        sent, code = await before.send_with_code(to=OTHER_NUMBER)
        await before.verify(sent.otp_id, wrong(code))
        await before.refused(before.send(to=OTHER_NUMBER), "OTP_LOCKED_OUT")
        await pair.fail_over()
    async with open_house(pair.replica.url, is_fenced=True) as after:
        for _ in range(4):
            await after.send()
        await after.refused(after.send(), "OTP_RATE_LIMIT")
        sent, code = await after.send_with_code(to=OTHER_NUMBER)
        await after.verify(sent.otp_id, wrong(code))
        await after.refused(after.send(to=OTHER_NUMBER), "OTP_LOCKED_OUT")


async def test_of_two_primaries_only_one_takes_a_guess(pair: Pair) -> None:
    """The old one lives on behind a broken network, and then comes back; what each made is its own."""
    async with open_house(pair.primary.url, is_fenced=True) as old, open_house(pair.replica.url, is_fenced=True) as new:
        sent, code = await old.send_with_code()
        last, last_code = await old.send_with_code(purpose="last")
        await pair.cut()
        await pair.promote()
        await new.refused(new.verify(sent.otp_id, code), "OTP_NOT_FOUND")
        other, other_code = await new.send_with_code(purpose="login")
        await old.refused(old.verify(other.otp_id, other_code), "OTP_NOT_FOUND")
        assert isinstance(await old.verify(sent.otp_id, code), VerifiedOtp)
        assert isinstance(await new.verify(other.otp_id, other_code), VerifiedOtp)
    await pair.primary.restart()
    async with open_house(pair.primary.url, is_fenced=True) as again:
        for otp_id, guess in ((sent.otp_id, code), (last.otp_id, last_code)):
            await again.refused(again.verify(otp_id, guess), "OTP_NOT_FOUND")


async def test_without_the_fence_attempts_and_used_codes_are_handed_back(pair: Pair) -> None:
    async with open_house(pair.primary.url) as before:
        used, used_code = await before.send_with_code(purpose="used")
        locked, locked_code = await before.send_with_code(purpose="locked")
        await pair.cut()
        await use(before, used.otp_id, used_code)
        await before.refused(before.verify(used.otp_id, used_code), "OTP_NOT_FOUND")
        await lock(before, locked.otp_id, locked_code)
        await before.refused(before.verify(locked.otp_id, locked_code), "OTP_MAX_ATTEMPTS")
        await pair.fail_over()
    async with open_house(pair.replica.url) as after:
        assert isinstance(await after.verify(used.otp_id, used_code), VerifiedOtp)
        outcome = await after.verify(locked.otp_id, wrong(locked_code))
        assert isinstance(outcome, WrongGuess)
        assert outcome.attempts_remaining == 2
