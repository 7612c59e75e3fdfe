"""The same with a Sentinel that decides, and the service as its settings make it: the fence is on without a word."""

import asyncio
from typing import Any

import pytest

from otpsvc.app import House, open_house
from otpsvc.clients.model import Principal
from otpsvc.errors import ApiError
from otpsvc.otp.model import SendRequest, SentOtp, VerifiedOtp, VerifyRequest
from otpsvc.otp.policy import Policy
from otpsvc.settings import load
from tests.fence.pair import Pair
from tests.otp.house import CLIENT, NUMBER, CodeCatcher, wrong
from tests.programs import production
from tests.redis.servers import sentinel_url, sentinels_of

CALLER = Principal(CLIENT, "live", "key", Policy(cooldown_s=0))
PATIENCE_S = 60


@pytest.fixture
def catcher() -> CodeCatcher:
    return CodeCatcher()


async def send(house: House, catcher: CodeCatcher, purpose: str) -> tuple[SentOtp, str]:
    sent = await house.otp.send(CALLER, SendRequest(to=NUMBER, purpose=purpose))
    return sent, catcher.codes[-1]


async def verify(house: House, sent: SentOtp, guess: str) -> Any:
    """Give the outcome, or the code of the refusal."""
    try:
        return await house.otp.verify(CALLER, VerifyRequest(otp_id=sent.otp_id, code=guess))
    except ApiError as error:
        return error.code


async def test_codes_end_with_the_primary_that_made_them(pair: Pair, database_url: str, catcher: CodeCatcher) -> None:
    async with sentinels_of(pair.primary) as (sentinel,):
        variables = production(sentinel_url(sentinel.port), database_url)
        async with open_house(load(None, variables)) as house:
            house.otp._texts = catcher
            used, used_code = await send(house, catcher, "used")
            guessed, guessed_code = await send(house, catcher, "guessed")
            await pair.cut()
            assert isinstance(await verify(house, used, used_code), VerifiedOtp)
            for _ in range(2):
                await verify(house, guessed, wrong(guessed_code))
            pair.primary.kill()

            # Nothing but clear refusals until another is the primary, then at once the answer that stays.
            async with asyncio.timeout(PATIENCE_S):
                while (outcome := await verify(house, used, used_code)) != "OTP_NOT_FOUND":
                    assert outcome == "SERVICE_UNAVAILABLE"
                    await asyncio.sleep(0.02)
            for sent, code in ((used, used_code), (guessed, guessed_code), (guessed, wrong(guessed_code))):
                assert await verify(house, sent, code) == "OTP_NOT_FOUND"
            fresh, code = await send(house, catcher, "used")
            assert isinstance(await verify(house, fresh, code), VerifiedOtp)
            assert await verify(house, fresh, code) == "OTP_NOT_FOUND"
