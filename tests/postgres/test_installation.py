"""The installation's facts: recorded once, compared at every later start."""

import asyncio

import pytest

from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.postgres.installation import check_installation, ping
from otpsvc.postgres.pool import Database


async def test_the_first_start_decides(database: Database) -> None:
    await check_installation(database, partitions=4, index_key_id="0123456789abcdef")
    await check_installation(database, partitions=4, index_key_id="0123456789abcdef")
    with pytest.raises(ConfigurationError, match=r"redis.partitions is 8, but .* set up with 4"):
        await check_installation(database, partitions=8, index_key_id="0123456789abcdef")
    with pytest.raises(ConfigurationError, match=r"the index key is fedcba9876543210, but .* 0123456789abcdef"):
        await check_installation(database, partitions=4, index_key_id="fedcba9876543210")
    await check_installation(database, partitions=4, index_key_id="0123456789abcdef")


async def test_of_two_first_starts_with_other_facts_one_is_refused(database: Database) -> None:
    outcomes = await asyncio.gather(
        *(check_installation(database, partitions=n, index_key_id="0123456789abcdef") for n in (1, 2, 3)),
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ConfigurationError) for outcome in outcomes) == 2


async def test_ping(database: Database) -> None:
    await ping(database)
    await database.close()
    with pytest.raises(ApiError) as caught:
        await ping(database)
    assert caught.value.code == "SERVICE_UNAVAILABLE"
