"""The service whose pages are looked at, one per module, and a browser to look through."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from otpsvc.embedded import RunningStores
from tests.http.conftest import own_stores, service, watched_log
from tests.pages.browser import browsing
from tests.pages.stand import Stand, standing

__all__ = ["browser", "own_stores", "running_stand", "service", "stand", "watched_log"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for a module; each test opens a profile of its own."""
    async with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def running_stand(stores: RunningStores) -> Iterator[Stand]:
    """The pages of `dev` over the real OTP service."""
    with standing(stores.redis_url) as started:
        yield started


@pytest.fixture
def stand(running_stand: Stand) -> Stand:
    """The stand as it begins."""
    running_stand.clear()
    return running_stand
