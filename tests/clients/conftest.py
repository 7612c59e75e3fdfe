"""Clients over a real PostgreSQL: the operator's side, and the authenticator on a pool of its own."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from otpsvc import ids
from otpsvc.clients.auth import Authenticator
from otpsvc.clients.model import KeyRecord, NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.pool import open_database
from otpsvc.testing import ManualClock
from tests.clients.cable import Cable, server_socket


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


def with_check(text: str, keyring: Keyring) -> str:
    """A key's text with the check that fits: what somebody with our keyring could send."""
    return text[:73] + ids.encode_base32(keyring.check_of(text[:73].encode()))


@pytest.fixture
def wrong_text(shop: NewApiKey, keyring: Keyring) -> str:
    """The shop's key with one bit of its secret changed, and a check that fits."""
    return with_check(shop.text[:72] + ("0" if shop.text[72] != "0" else "g"), keyring)


class CountingSource:
    """The real store, noting the questions asked of it."""

    def __init__(self, store: PostgresClients, asked: list[str]) -> None:
        self._store = store
        self._asked = asked

    async def find_key(self, public_id: str) -> KeyRecord | None:
        self._asked.append(public_id)
        return await self._store.find_key(public_id)

    async def retag_key(self, record: KeyRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        return await self._store.retag_key(record, auth_key_id=auth_key_id, tag=tag)


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
    authenticator = Authenticator(source, keyring, Policy(), clock, answer_timeout_s=1.0)
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


@pytest.fixture
async def cable(database_url: str) -> AsyncIterator[Cable]:
    """A cable to the server of this test, plugged in."""
    directory = Path(tempfile.mkdtemp(prefix="cable-"))
    cable = Cable(server_socket(database_url), directory)
    await cable.plug_in()
    yield cable
    await cable.cut()
    shutil.rmtree(directory)
