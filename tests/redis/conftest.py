"""The same house as that of the OTP tests: what the scripts write is looked at through the service."""

from collections.abc import AsyncIterator

import pytest

from otpsvc.otp.policy import Limits
from tests.otp.house import House, open_house


@pytest.fixture
def limits() -> Limits:
    """What holds for all clients; a test that needs others parametrises this."""
    return Limits()


@pytest.fixture
async def house(redis_url: str, limits: Limits) -> AsyncIterator[House]:
    async with open_house(redis_url, limits=limits) as opened:
        yield opened
