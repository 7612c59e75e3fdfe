"""News of keys: what one process changes the others follow at once, with no refresh, while the clock stands."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from otpsvc.clients.auth import MAX_QUESTIONS, Authenticator
from otpsvc.clients.keys import make_key, tag_of
from otpsvc.clients.model import NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.listen import KeyNews
from otpsvc.testing import ManualClock
from tests.clients.cable import Cable, address_over
from tests.clients.conftest import CountingSource
from tests.programs import environment

PATIENCE_S = 30


class Post(NamedTuple):
    """An authenticator that hears the news, as a process has one. `heard` is set whenever all is stale anew."""

    authenticator: Authenticator
    asked: list[str]
    heard: asyncio.Event

    async def outcome(self, key: NewApiKey | str, client_id: str) -> str:
        """What a request with this key meets now: the code of a refusal, or the policy's life of a code."""
        text = key if isinstance(key, str) else key.text
        try:
            principal = self.authenticator.authenticate_cached(text, client_id)
            principal = principal or await self.authenticator.authenticate(text, client_id)
        except ApiError as refusal:
            return refusal.code
        return f"ttl {principal.policy.ttl_s}"

    def asked_little_about(self, public_id: str) -> bool:
        """Whether the store was asked before the news and after it, about nothing else.

        A question that took too long, or that more news came into, is asked anew: never without end.
        """
        return set(self.asked) == {public_id} and 2 <= len(self.asked) <= 1 + MAX_QUESTIONS

    async def comes_to(self, outcome: str, key: NewApiKey | str, client_id: str) -> None:
        """Ask until the outcome is this one; the clock does not move meanwhile, so only news can bring it."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.outcome(key, client_id) != outcome:  # noqa: ASYNC110 - what comes is what is asked for
                await asyncio.sleep(0.005)


class _Reader:
    """Passes everything to an authenticator and says when all was made stale."""

    def __init__(self, authenticator: Authenticator, heard: asyncio.Event) -> None:
        self.invalidate = authenticator.invalidate
        self.invalidate_client = authenticator.invalidate_client
        self._authenticator = authenticator
        self._heard = heard

    def invalidate_all(self) -> None:
        self._authenticator.invalidate_all()
        self._heard.set()


@contextlib.asynccontextmanager
async def post(
    store: PostgresClients, keyring: Keyring, clock: ManualClock, url: str, **patience: float
) -> AsyncIterator[Post]:
    asked: list[str] = []
    stop, heard = asyncio.Event(), asyncio.Event()
    authenticator = Authenticator(CountingSource(store, asked), keyring, Policy(), clock)
    news = asyncio.create_task(KeyNews(url, _Reader(authenticator, heard), **patience).run(stop))
    try:
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        heard.clear()
        yield Post(authenticator, asked, heard)
    finally:
        stop.set()
        await asyncio.wait_for(news, PATIENCE_S)
        await authenticator.close()


@pytest.fixture
async def posts(
    store: PostgresClients, keyring: Keyring, clock: ManualClock, database_url: str
) -> AsyncIterator[list[Post]]:
    """Two processes' authenticators."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(post(store, keyring, clock, database_url)) for _ in range(2)]


async def test_a_key_revoked_on_another_command_line_stops_everywhere(
    posts: list[Post], shop: NewApiKey, database_url: str
) -> None:
    client_id = shop.key.client_id
    for one in posts:
        assert await one.outcome(shop, client_id) == "ttl 120"
    masters = {"OTPSVC_KEYS_MASTERS": f"new:{(b'n' * 32).hex()},old:{(b'o' * 32).hex()}"}
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "otpsvc", "key", "revoke", client_id, shop.key.public_id,
        env=environment({"OTPSVC_DATABASE_URL": database_url, **masters}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(command.communicate(), PATIENCE_S)
    finally:
        if command.returncode is None:
            command.kill()
    assert b"revoked" in said
    for one in posts:
        await one.comes_to("INVALID_API_KEY", shop, client_id)
        assert one.asked_little_about(shop.key.public_id)


async def test_suspension_and_policy_arrive_at_once_for_all_keys_of_the_client_and_no_other(
    posts: list[Post], service: ClientService, shop: NewApiKey
) -> None:
    client_id = shop.key.client_id
    second = await service.create_key(client_id, "test")
    other = await service.create_key((await service.create_client("Other")).id, "live")
    for one in posts:
        for key in (shop, second, other):
            await one.comes_to(f"ttl {300 if key is other else 120}", key, key.key.client_id)
    await service.set_policy(client_id, {"ttl_s": 90})
    for one in posts:
        for key in (shop, second):
            await one.comes_to("ttl 90", key, client_id)
    await service.suspend_client(client_id)
    for one in posts:
        for key in (shop, second):
            await one.comes_to("INVALID_CLIENT_ID", key, client_id)
    await service.resume_client(client_id)
    for one in posts:
        for key in (shop, second):
            await one.comes_to("ttl 90", key, client_id)
        assert await one.outcome(other, other.key.client_id) == "ttl 300"
        assert one.asked.count(other.key.public_id) == 1


async def test_a_key_deleted_by_hand_stops_at_once(posts: list[Post], shop: NewApiKey, database_url: str) -> None:
    for one in posts:
        assert await one.outcome(shop, shop.key.client_id) == "ttl 120"
    connection = await asyncpg.connect(database_url)
    await connection.execute("truncate api_keys")
    await connection.close()
    for one in posts:
        await one.comes_to("INVALID_API_KEY", shop, shop.key.client_id)


async def test_a_key_that_was_unknown_works_as_soon_as_it_is_made(
    posts: list[Post], store: PostgresClients, keyring: Keyring, shop: NewApiKey
) -> None:
    client_id = shop.key.client_id
    text = make_key("live", keyring)
    for one in posts:
        for _ in range(3):
            assert await one.outcome(text, client_id) == "INVALID_API_KEY"
        assert one.asked == [text[8:21]]
    master = keyring.current
    await store.insert_key(
        public_id=text[8:21],
        client_id=client_id,
        mode="live",
        name="",
        auth_key_id=master.slot,
        tag=tag_of(text, master),
        expires_at=None,
    )
    for one in posts:
        await one.comes_to("ttl 120", text, client_id)
        assert one.asked_little_about(text[8:21])


async def test_what_happens_while_the_line_is_cut_is_seen_when_it_is_back(
    store: PostgresClients,
    keyring: Keyring,
    clock: ManualClock,
    service: ClientService,
    shop: NewApiKey,
    cable: Cable,
    database_url: str,
) -> None:
    """Only the news goes over the cable; the look-ups do not."""
    client_id = shop.key.client_id
    second = await service.create_key(client_id, "live")
    unborn = make_key("live", keyring)
    async with post(store, keyring, clock, address_over(cable, database_url)) as one:
        for key in (shop, second):
            assert await one.outcome(key, client_id) == "ttl 120"
        assert await one.outcome(unborn, client_id) == "INVALID_API_KEY"
        await cable.cut()
        await service.revoke_key(client_id, shop.key.public_id)
        await store.insert_key(
            public_id=unborn[8:21],
            client_id=client_id,
            mode="live",
            name="",
            auth_key_id=keyring.current.slot,
            tag=tag_of(unborn, keyring.current),
            expires_at=None,
        )
        # Nothing was heard, so what was known goes on, as it does today.
        assert await one.outcome(shop, client_id) == "ttl 120"
        assert await one.outcome(unborn, client_id) == "INVALID_API_KEY"
        await cable.plug_in()
        await asyncio.wait_for(one.heard.wait(), PATIENCE_S)
        assert await one.outcome(shop, client_id) == "INVALID_API_KEY"
        assert await one.outcome(second, client_id) == "ttl 120"
        assert await one.outcome(unborn, client_id) == "ttl 120"


async def test_a_line_that_dies_without_a_sound_is_noticed(
    store: PostgresClients,
    keyring: Keyring,
    clock: ManualClock,
    service: ClientService,
    shop: NewApiKey,
    cable: Cable,
    database_url: str,
) -> None:
    """Nobody closed it, and nothing comes over it any more, as behind a router that forgot it."""
    client_id, address = shop.key.client_id, address_over(cable, database_url)
    async with post(store, keyring, clock, address, check_every_s=0.2, timeout_s=2.0) as one:
        assert await one.outcome(shop, client_id) == "ttl 120"
        cable.lose_what_comes()
        await service.revoke_key(client_id, shop.key.public_id)
        await asyncio.wait_for(one.heard.wait(), PATIENCE_S)
        assert await one.outcome(shop, client_id) == "INVALID_API_KEY"


async def test_a_notice_that_dies_with_its_line_is_made_up_for(
    posts: list[Post], service: ClientService, shop: NewApiKey, database_url: str
) -> None:
    """The same transaction revokes the key and ends the connections on which the news of it would come."""
    client_id = shop.key.client_id
    connection = await asyncpg.connect(database_url)
    for _ in range(5):
        key = await service.create_key(client_id, "live")
        for one in posts:
            await one.comes_to("ttl 120", key, client_id)
        async with connection.transaction():
            ended = await connection.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'otpsvc key news'"
            )
            await connection.execute("update api_keys set revoked_at = now() where public_id = $1", key.key.public_id)
        assert len(ended) == 2
        for one in posts:
            await one.comes_to("INVALID_API_KEY", key, client_id)
            await asyncio.wait_for(one.heard.wait(), PATIENCE_S)
            one.heard.clear()
    await connection.close()


async def test_with_postgresql_away_a_known_key_goes_on_unless_there_was_news_of_it(
    authenticator: Authenticator, cable: Cable, shop: NewApiKey
) -> None:
    await authenticator.authenticate(shop.text, shop.key.client_id)
    await cable.cut()
    authenticator.invalidate_all()
    assert authenticator.authenticate_cached(shop.text, shop.key.client_id) is None
    for _ in range(3):
        principal = await authenticator.authenticate(shop.text, shop.key.client_id)
        assert principal.key_id == shop.key.public_id
    authenticator.invalidate(shop.key.public_id)
    for _ in range(3):
        with pytest.raises(ApiError, match="SERVICE_UNAVAILABLE"):
            await authenticator.authenticate(shop.text, shop.key.client_id)


@pytest.fixture
def lookup_url(database_url: str, cable: Cable) -> str:
    """Send the questions of `authenticator` over the cable; `posts` ask directly."""
    return address_over(cable, database_url)
