"""Phones over the real stores, emptied for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.devices.house import DeviceHouse, open_house


@pytest.fixture
async def house(redis_url: str, database_url: str) -> AsyncIterator[DeviceHouse]:
    """Everything about phones, wired, with two clients and no device."""
    async with open_house(redis_url, database_url) as house:
        yield house
