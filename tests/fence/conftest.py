"""A pair of servers of this test's own."""

from collections.abc import AsyncIterator

import pytest

from tests.fence.pair import Pair, running_pair


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with running_pair() as running:
        yield running
