"""The same house as that of the OTP tests: what the scripts write is looked at through the service."""

from collections.abc import AsyncIterator

import pytest

from otpsvc.otp.policy import Limits
from tests.otp.house import House, open_house
from tests.redis.presence import Presence


@pytest.fixture
def limits() -> Limits:
    """What holds for all clients; a test that needs others parametrises this."""
    return Limits()


@pytest.fixture
async def house(redis_url: str, limits: Limits) -> AsyncIterator[House]:
    async with open_house(redis_url, limits=limits) as opened:
        yield opened


@pytest.fixture
def presence(house: House) -> Presence:
    """Which phones are there, as one process sees it."""
    return Presence(house)


@pytest.fixture
async def others(redis_url: str) -> AsyncIterator[list[Presence]]:
    """Three more processes: connections of their own to the same store."""
    async with open_house(redis_url) as a, open_house(redis_url) as b, open_house(redis_url) as c:
        yield [Presence(a), Presence(b), Presence(c)]
