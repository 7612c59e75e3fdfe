"""What is told of a store that is away: a word for each failure, and two lines for all of them."""

import asyncio

import pytest
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from otpsvc.redis import outages
from otpsvc.redis.client import RedisClient
from tests.otp.house import refusal_of


async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kinds: list[str] = []
    client = RedisClient(redis_url, timeout_s=5, max_connections=2, on_outage=kinds.append)
    await client.command("CONFIG", "SET", "maxmemory", "1")
    try:
        for _ in range(3):
            await asyncio.gather(*(refusal_of(client.command("SET", "a", "secret")) for _ in range(20)))
            await client.command("GET", "a")  # answered, but that is not the end of it
    finally:
        await client.command("CONFIG", "SET", "maxmemory", "0")
    monkeypatch.setattr(outages, "QUIET_S", 0)
    await client.command("SET", "a", "secret")
    await client.close()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == ["the store is away (OOM)", "the store is back"]
    assert lines[1].endswith("60 of them")
    assert kinds == ["refused"] * 60
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ResponseError("MISCONF cannot save"), "refused"),
        (ResponseError("UNBLOCKED the role changed"), "refused"),
        (BusyLoadingError("is loading", status_code="LOADING"), "refused"),
        (outages.NotKeptError("short"), "not_kept"),
        (RedisTimeoutError("late"), "timeout"),
        (RedisConnectionError("gone"), "lost"),
        (ResponseError("MISCONFIGURED is another word"), "lost"),
    ],
)
def test_failures_have_names(error: Exception, kind: str) -> None:
    assert outages.kind_of(error) == kind
