"""A store that cannot keep the rules is refused at start, in one line that says what to change."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from otpsvc.errors import ConfigurationError
from otpsvc.redis.client import RedisClient
from tests.otp.house import House


async def test_an_evicting_store_is_refused(house: House) -> None:
    await house.client.check_server()
    await house.raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigurationError, match="maxmemory-policy is allkeys-lru"):
            await house.client.check_server()
    finally:
        await house.raw.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"redis_version": "6.2.14"}, "redis 6.2.14 is too old, 7.0"),
        ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, "valkey 7.1.0 is too old, 7.2"),
        ({"redis_version": "7.2.4", "redis_mode": "cluster"}, "Cluster is not supported"),
        ({"redis_version": "7.2.4", "maxmemory_policy": "volatile-ttl"}, "volatile-ttl"),
        ({"redis_version": "7.2.4", "aof_enabled": 0}, "append-only file is off"),
        ({"redis_version": "7.0.0", "aof_enabled": 1}, None),
        ({"redis_version": "10.1.0", "aof_enabled": 1}, None),
        (
            {"redis_version": "7.2.4", "valkey_version": "7.2.0", "maxmemory_policy": "noeviction", "aof_enabled": 1},
            None,
        ),
    ],
)
async def test_only_a_fit_store_will_do(
    house: House, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], told: str | None
) -> None:
    async def info() -> dict[str, Any]:
        return said

    monkeypatch.setattr(house.client._redis, "info", info)
    if told is None:
        await house.client.check_server()
    else:
        with pytest.raises(ConfigurationError, match=told):
            await house.client.check_server()


async def test_a_store_that_keeps_its_writes_otherwise(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def info() -> dict[str, Any]:
        return {"redis_version": "7.2.4", "aof_enabled": 0}

    monkeypatch.setattr(house.client._redis, "info", info)
    await house.client.check_server(needs_append_only=False)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"role:master\r\nmaster_replid:0123\r\n", None),
        (b"role:master\r\n", "no id"),
        (ResponseError("The user executing the script can't run this command"), "a script may not run INFO"),
    ],
)
async def test_a_fence_needs_a_store_that_tells_its_primary_to_scripts(
    house: House, monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, told: str | None
) -> None:
    async def answered(script: str, keys: int) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return answer

    await house.client.check_server(is_fenced=True)
    monkeypatch.setattr(house.client._redis, "eval", answered)
    await house.client.check_server()
    if told is None:
        await house.client.check_server(is_fenced=True)
    else:
        with pytest.raises(ConfigurationError, match=rf"^redis\.fence: .*{told}"):
            await house.client.check_server(is_fenced=True)


async def test_a_user_without_rights_is_a_matter_of_configuration(house: House, redis_url: str) -> None:
    await house.raw.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "-info")
    try:
        client = RedisClient(f"{redis_url}&username=narrow&password=pw", timeout_s=5, max_connections=1)
        with pytest.raises(ConfigurationError, match="the server refuses us"):
            await client.check_server(is_fenced=True)
        await client.close()
    finally:
        await house.raw.execute_command("ACL", "DELUSER", "narrow")


@pytest.mark.parametrize("is_fenced", [True, False])
async def test_replicas_are_warned_of_where_no_fence_stands(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_fenced: bool
) -> None:
    async def info() -> dict[str, Any]:
        return {"redis_version": "7.2.4", "aof_enabled": 1, "connected_slaves": 2}

    monkeypatch.setattr(house.client._redis, "info", info)
    await house.client.check_server(is_fenced=is_fenced)
    assert ("the store has 2 replicas: a promotion can" in caplog.text) is not is_fenced


async def test_a_wrong_password_is_a_matter_of_configuration(redis_url: str) -> None:
    client = RedisClient(f"{redis_url}&username=nobody&password=hunter2", timeout_s=5, max_connections=2)
    try:
        with pytest.raises(ConfigurationError) as caught:
            await client.check_server()
    finally:
        await client.close()
    assert "hunter2" not in str(caught.value)
