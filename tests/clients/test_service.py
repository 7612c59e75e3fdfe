"""Clients and keys as an operator handles them, on a real PostgreSQL."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from otpsvc.clients.keys import tag_of
from otpsvc.clients.model import Mode
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.testing import ManualClock


async def test_a_clients_life(service: ClientService) -> None:
    client = await service.create_client("  Shop  ", {"ttl_s": 120})
    assert client.id.startswith("client_")
    assert (client.name, client.status, client.policy) == ("Shop", "active", {"ttl_s": 120})
    other = await service.create_client("Other")
    assert await service.list_clients() == [client, other]
    assert (await service.set_policy(client.id, {"purposes": ["login"]})).policy == {"purposes": ["login"]}
    assert (await service.suspend_client(client.id)).status == "suspended"
    assert (await service.resume_client(client.id)).status == "active"
    assert (await service.get_client(other.id)).policy == {}


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\x00b", "a\nb", "a\u202eb"])
async def test_bad_names_are_refused(service: ClientService, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        await service.create_client(name)
    assert caught.value.code == "VALIDATION_ERROR"
    assert caught.value.details["field"] == "name"
    assert await service.list_clients() == []


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"max_attempts": 4}, "policy.max_attempts"),
        ({"code_length": "6"}, "policy.code_length"),
        ({"ttl_s": None}, "policy.ttl_s"),
        ({"purposes": ["Login"]}, "policy.purposes[0]"),
        ({"tll_s": 60}, "policy"),
    ],
)
async def test_bad_policies_are_refused_and_change_nothing(
    service: ClientService, overrides: dict[str, object], field: str
) -> None:
    client = await service.create_client("Shop", {"ttl_s": 120})
    with pytest.raises(ApiError) as caught:
        await service.set_policy(client.id, overrides)
    assert (caught.value.code, caught.value.details["field"]) == ("VALIDATION_ERROR", field)
    with pytest.raises(ApiError):
        await service.create_client("Other", overrides)
    assert [found.policy for found in await service.list_clients()] == [{"ttl_s": 120}]


@pytest.mark.parametrize("mode", ["live", "test"])
async def test_a_keys_life(service: ClientService, clock: ManualClock, mode: Mode) -> None:
    client = await service.create_client("Shop")
    expires_at = datetime.fromtimestamp(clock.time(), UTC) + timedelta(days=1)
    new = await service.create_key(client.id, mode, name="checkout", expires_at=expires_at)
    assert new.text.startswith(f"zs_{mode}_{new.key.public_id}")
    assert (new.key.name, new.key.expires_at, new.key.revoked_at) == ("checkout", expires_at, None)
    assert await service.list_keys(client.id) == [new.key]
    revoked = await service.revoke_key(client.id, new.key.public_id)
    assert revoked.revoked_at is not None
    assert await service.revoke_key(client.id, new.key.public_id) == revoked
    assert await service.list_keys(client.id) == [revoked]


async def test_what_is_stored_of_a_key_is_not_the_key(
    service: ClientService, keyring: Keyring, database_url: str
) -> None:
    client = await service.create_client("Shop")
    new = await service.create_key(client.id, "live")
    connection = await asyncpg.connect(database_url)
    stored = await connection.fetchrow("select *, api_keys::text as everything from api_keys")
    await connection.close()
    assert stored is not None
    assert new.text[21:73] not in stored["everything"]
    assert new.text[73:] not in stored["everything"]
    assert stored["tag"] == tag_of(new.text, keyring.current)
    assert stored["auth_key_id"] == keyring.current.slot
    assert new.text[21:73] not in f"{new!r} {new}"


async def test_bad_keys_are_refused(service: ClientService, clock: ManualClock) -> None:
    client = await service.create_client("Shop")
    now = datetime.fromtimestamp(clock.time(), UTC)
    for arguments in (
        {"mode": "prod"},
        {"mode": "live", "name": "x" * 101},
        {"mode": "live", "expires_at": now},
        {"mode": "live", "expires_at": (now + timedelta(days=1)).replace(tzinfo=None)},
    ):
        with pytest.raises(ApiError) as caught:
            await service.create_key(client.id, **arguments)
        assert caught.value.code == "VALIDATION_ERROR"
    assert await service.list_keys(client.id) == []


async def test_what_does_not_exist_is_not_found(service: ClientService) -> None:
    client = await service.create_client("Shop")
    other = await service.create_client("Other")
    key = (await service.create_key(client.id, "live")).key
    for call in (
        service.get_client("client_000000000000"),
        service.set_policy("client_000000000000", {}),
        service.suspend_client("client_000000000000"),
        service.resume_client("client_000000000000"),
        service.create_key("client_000000000000", "live"),
        service.list_keys("client_000000000000"),
        service.revoke_key(client.id, "0000000000000"),
        service.revoke_key(other.id, key.public_id),
    ):
        with pytest.raises(ApiError) as caught:
            await call
        assert caught.value.code == "RESOURCE_NOT_FOUND"
    assert (await service.list_keys(client.id))[0].revoked_at is None


async def test_the_schema_refuses_what_the_service_never_writes(service: ClientService, database_url: str) -> None:
    client = await service.create_client("Shop")
    await service.create_key(client.id, "live")
    connection = await asyncpg.connect(database_url)
    try:
        for statement in (
            "update clients set status = 'paused'",
            "update clients set policy = '[]'",
            "insert into clients (id, name) values ('shop', 'x')",
            "update api_keys set mode = 'prod'",
            "update api_keys set tag = 'short'",
            "update api_keys set public_id = 'not a public id'",
        ):
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await connection.execute("delete from clients")
    finally:
        await connection.close()
