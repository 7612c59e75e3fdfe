"""Clients over a real PostgreSQL: the operator's side, and the authenticator on a pool of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from otpsvc.clients.auth import Authenticator
from otpsvc.clients.model import KeyRecord, NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.pool import open_database
from otpsvc.testing import ManualClock


@pytest.fixture
def keyring() -> Keyring:
    return Keyring.from_masters({"new": b"n" * 32, "old": b"o" * 32})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresClients]:
    database = await open_database(database_url)
    yield PostgresClients(database)
    await database.close()


@pytest.fixture
def service(store: PostgresClients, keyring: Keyring, clock: ManualClock) -> ClientService:
    return ClientService(store, keyring, Policy(), clock)


@pytest.fixture
async def shop(service: ClientService) -> NewApiKey:
    """A live key of a client with a policy of its own."""
    client = await service.create_client("Shop", {"ttl_s": 120})
    return await service.create_key(client.id, "live")


@pytest.fixture
def wrong_text(shop: NewApiKey) -> str:
    """The shop's key with one bit of its secret changed."""
    return shop.text[:-1] + ("0" if shop.text[-1] != "0" else "g")


class CountingSource:
    """The real store, noting the questions asked of it."""

    def __init__(self, store: PostgresClients, asked: list[str]) -> None:
        self._store = store
        self._asked = asked

    async def find_key(self, public_id: str) -> KeyRecord | None:
        self._asked.append(public_id)
        return await self._store.find_key(public_id)


@pytest.fixture
def asked() -> list[str]:
    """The public ids that the authenticator looked up, in order."""
    return []


@pytest.fixture
def lookup_url(database_url: str) -> str:
    """Address under which the authenticator finds PostgreSQL."""
    return database_url


@pytest.fixture
async def authenticator(
    lookup_url: str, asked: list[str], keyring: Keyring, clock: ManualClock
) -> AsyncIterator[Authenticator]:
    database = await open_database(lookup_url, timeout_s=1)
    source = CountingSource(PostgresClients(database), asked)
    authenticator = Authenticator(source, keyring, Policy(), clock, answer_timeout_s=0.3)
    yield authenticator
    await authenticator.close()
    await database.close()


@pytest.fixture
def refused(authenticator: Authenticator) -> Callable[[str | None, str | None], Awaitable[str]]:
    """Expect a refusal, from memory too, and return its code."""

    async def code_of(key: str | None, client_id: str | None) -> str:
        assert authenticator.authenticate_cached(key, client_id) is None
        with pytest.raises(ApiError) as caught:
            await authenticator.authenticate(key, client_id)
        assert authenticator.authenticate_cached(key, client_id) is None
        return caught.value.code

    return code_of
