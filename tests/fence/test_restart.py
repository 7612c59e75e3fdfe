"""A server that crashes and reads its append-only file again: without the fence nothing changes, with it codes end."""

from collections.abc import AsyncIterator

import pytest

from otpsvc.otp.model import VerifiedOtp, WrongGuess
from tests.otp.house import OTHER_NUMBER, open_house, wrong
from tests.redis.servers import Server, running


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running() as started:
        yield started


async def test_without_the_fence_everything_goes_on(server: Server) -> None:
    async with open_house(server.url) as before:
        living, code = await before.send_with_code(purpose="living")
        await before.verify(living.otp_id, wrong(code))
        used, used_code = await before.send_with_code(purpose="used")
        await before.verify(used.otp_id, used_code)
        locked, locked_code = await before.send_with_code(purpose="locked")
        await before.lock(locked.otp_id, locked_code)
        for _ in range(9):
            await before.send(to=OTHER_NUMBER)
        stored = await before.snapshot()
    await server.restart()
    async with open_house(server.url) as after:
        assert await after.snapshot() == stored
        await after.refused(after.verify(used.otp_id, used_code), "OTP_NOT_FOUND")
        await after.refused(after.verify(locked.otp_id, locked_code), "OTP_MAX_ATTEMPTS")
        outcome = await after.verify(living.otp_id, wrong(code))
        assert isinstance(outcome, WrongGuess)
        assert outcome.attempts_remaining == 1
        assert isinstance(await after.verify(living.otp_id, code), VerifiedOtp)
        await after.send(to=OTHER_NUMBER)
        await after.refused(after.send(to=OTHER_NUMBER), "OTP_RATE_LIMIT")


async def test_with_the_fence_living_codes_end_and_limits_stay(server: Server) -> None:
    async with open_house(server.url, is_fenced=True) as before:
        living, code = await before.send_with_code()
        used, used_code = await before.send_with_code(purpose="used")
        await before.verify(used.otp_id, used_code)
        for _ in range(9):
            await before.send(to=OTHER_NUMBER)
    await server.restart()
    async with open_house(server.url, is_fenced=True) as after:
        for otp_id, guess in ((living.otp_id, code), (used.otp_id, used_code)):
            await after.refused(after.verify(otp_id, guess), "OTP_NOT_FOUND")
        sent, code = await after.send_with_code()
        assert isinstance(await after.verify(sent.otp_id, code), VerifiedOtp)
        await after.send(to=OTHER_NUMBER)
        await after.refused(after.send(to=OTHER_NUMBER), "OTP_RATE_LIMIT")


async def test_a_lost_script_cache_is_no_new_history(server: Server) -> None:
    async with open_house(server.url, is_fenced=True) as house:
        sent, code = await house.send_with_code()
        await house.raw.script_flush()
        assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def test_switching_the_fence_on_ends_nothing_that_was_made_without_it(server: Server) -> None:
    async with open_house(server.url) as before:
        sent, code = await before.send_with_code()
    async with open_house(server.url, is_fenced=True) as after:
        assert isinstance(await after.verify(sent.otp_id, code), VerifiedOtp)
