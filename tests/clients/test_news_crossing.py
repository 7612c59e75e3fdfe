"""News that crosses a question under way: an answer older than the news is never taken for fresh."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from otpsvc.clients import auth
from otpsvc.clients.auth import Authenticator
from otpsvc.clients.keys import make_key, tag_of
from otpsvc.clients.model import KeyRecord, NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.testing import ManualClock
from tests.clients.conftest import CountingSource

PATIENCE_S = 30


class SlowSource(CountingSource):
    """Reads at once, and hands over what it read when it is let go."""

    def __init__(self, store: PostgresClients, asked: list[str]) -> None:
        super().__init__(store, asked)
        self.has_read = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def find_key(self, public_id: str) -> KeyRecord | None:
        record = await super().find_key(public_id)
        self.has_read.set()
        await self.may_answer.wait()
        return record


@pytest.fixture
def slow(store: PostgresClients, asked: list[str]) -> SlowSource:
    return SlowSource(store, asked)


@pytest.fixture
async def waiting(slow: SlowSource, keyring: Keyring, clock: ManualClock) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(slow, keyring, Policy(), clock, answer_timeout_s=PATIENCE_S)
    yield authenticator
    await authenticator.close()


NEWS: list[Callable[[Authenticator, NewApiKey], None]] = [
    lambda authenticator, key: authenticator.invalidate(key.key.public_id),
    lambda authenticator, key: authenticator.invalidate_client(key.key.client_id),
    lambda authenticator, _: authenticator.invalidate_all(),
]


@pytest.mark.parametrize("tell", NEWS)
@pytest.mark.parametrize("is_known", [True, False])
async def test_an_answer_older_than_the_news_is_not_kept(
    waiting: Authenticator,
    slow: SlowSource,
    service: ClientService,
    shop: NewApiKey,
    asked: list[str],
    tell: Callable[[Authenticator, NewApiKey], None],
    is_known: bool,
) -> None:
    client_id = shop.key.client_id
    if is_known:
        slow.may_answer.set()
        await waiting.authenticate(shop.text, client_id)
        waiting.invalidate(shop.key.public_id)
        slow.may_answer.clear()
        slow.has_read.clear()
    asked.clear()
    request = asyncio.create_task(waiting.authenticate(shop.text, client_id))
    await asyncio.wait_for(slow.has_read.wait(), PATIENCE_S)
    await service.revoke_key(client_id, shop.key.public_id)
    tell(waiting, shop)
    slow.may_answer.set()
    # Even the request that was there before the news hears of it.
    with pytest.raises(ApiError, match="INVALID_API_KEY"):
        await request
    assert waiting.authenticate_cached(shop.text, client_id) is None
    with pytest.raises(ApiError, match="INVALID_API_KEY"):
        await waiting.authenticate(shop.text, client_id)
    assert asked == [shop.key.public_id] * 2


async def test_a_key_made_while_it_was_asked_for_is_not_kept_as_unknown(
    waiting: Authenticator, slow: SlowSource, store: PostgresClients, keyring: Keyring, shop: NewApiKey
) -> None:
    text = make_key("live", keyring)
    request = asyncio.create_task(waiting.authenticate(text, shop.key.client_id))
    await asyncio.wait_for(slow.has_read.wait(), PATIENCE_S)
    await store.insert_key(
        public_id=text[8:21],
        client_id=shop.key.client_id,
        mode="live",
        name="",
        auth_key_id=keyring.current.slot,
        tag=tag_of(text, keyring.current),
        expires_at=None,
    )
    waiting.invalidate(text[8:21])
    slow.may_answer.set()
    assert (await request).key_id == text[8:21]


async def test_news_of_others_does_not_repeat_a_question(
    waiting: Authenticator, slow: SlowSource, shop: NewApiKey, asked: list[str]
) -> None:
    request = asyncio.create_task(waiting.authenticate(shop.text, shop.key.client_id))
    await asyncio.wait_for(slow.has_read.wait(), PATIENCE_S)
    waiting.invalidate("0" * 13)
    slow.may_answer.set()
    principal = await request
    assert waiting.authenticate_cached(shop.text, shop.key.client_id) is principal
    assert asked == [shop.key.public_id]


async def test_news_without_end_holds_nobody_up_and_keeps_nothing_for_fresh(
    store: PostgresClients, keyring: Keyring, clock: ManualClock, shop: NewApiKey, asked: list[str]
) -> None:
    class NoisySource(CountingSource):
        async def find_key(self, public_id: str) -> KeyRecord | None:
            record = await super().find_key(public_id)
            authenticator.invalidate(public_id)
            return record

    authenticator = Authenticator(NoisySource(store, asked), keyring, Policy(), clock)
    client_id = shop.key.client_id
    for times in (1, 2):
        assert (await authenticator.authenticate(shop.text, client_id)).key_id == shop.key.public_id
        assert authenticator.authenticate_cached(shop.text, client_id) is None
        assert len(asked) == auth.MAX_QUESTIONS * times
    unknown = make_key("live", keyring)
    for times in (3, 4):
        with pytest.raises(ApiError, match="INVALID_API_KEY"):
            await authenticator.authenticate(unknown, client_id)
        assert len(asked) == auth.MAX_QUESTIONS * times
    await authenticator.close()


async def test_a_lookup_that_has_just_ended_answers_nobody_after_the_news(
    waiting: Authenticator, slow: SlowSource, service: ClientService, shop: NewApiKey
) -> None:
    client_id = shop.key.client_id
    request = asyncio.create_task(waiting.authenticate(shop.text, client_id))
    await asyncio.wait_for(slow.has_read.wait(), PATIENCE_S)
    await service.revoke_key(client_id, shop.key.public_id)
    slow.may_answer.set()
    lookup = waiting._lookups[shop.key.public_id]
    while not lookup.done():  # noqa: ASYNC110 - the very turn of the loop is the point
        await asyncio.sleep(0)
    assert waiting._lookups == {shop.key.public_id: lookup}
    waiting.invalidate(shop.key.public_id)
    with pytest.raises(ApiError, match="INVALID_API_KEY"):
        await waiting.authenticate(shop.text, client_id)
    await request
    assert waiting.authenticate_cached(shop.text, client_id) is None
    assert not waiting._overtaken


async def test_many_requests_after_the_news_cause_one_question(
    authenticator: Authenticator, shop: NewApiKey, asked: list[str]
) -> None:
    await authenticator.authenticate(shop.text, shop.key.client_id)
    authenticator.invalidate_all()
    calls = [authenticator.authenticate(shop.text, shop.key.client_id) for _ in range(200)]
    assert len(await asyncio.gather(*calls)) == 200
    assert asked == [shop.key.public_id] * 2


async def test_news_of_what_nobody_asked_for_leaves_nothing_behind(authenticator: Authenticator) -> None:
    for number in range(1000):
        authenticator.invalidate(f"{number:013d}")
        authenticator.invalidate_client(f"client_{number}")
    cache = authenticator._cache
    assert [*cache.known, *cache.unknown, *cache._of_client, *authenticator._overtaken] == []
