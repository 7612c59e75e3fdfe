"""Durable calls: nobody is told of a code that the disk, and as many replicas as were asked for, do not hold yet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.otp.model import VerifiedOtp
from otpsvc.redis.client import RedisClient
from otpsvc.redis.durability import Durability
from otpsvc.redis.otp import RedisOtpStore
from tests.otp import house as houses
from tests.otp.house import House, open_house, refusal_of
from tests.redis.servers import Server, replica_of, running, until

ON_DISK = Durability(replicas=0, timeout_s=5)
REPLICA_S = 2.5  # a replica says once a second what is on its disk


@asynccontextmanager
async def durable_house(
    monkeypatch: pytest.MonkeyPatch, url: str, durable: Durability, *, timeout_s: float = 5, lanes: int = 4
) -> AsyncIterator[House]:
    """A house whose sends wait as `durable` says."""

    def client(url: str, **_: Any) -> RedisClient:
        return RedisClient(url, timeout_s=timeout_s, max_connections=lanes, durable=durable, barrier_key="test:barrier")

    async with AsyncExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(houses, "RedisClient", client)
            patch.setattr(houses, "RedisOtpStore", partial(RedisOtpStore, is_durable=True))
            house = await stack.enter_async_context(open_house(url))
        yield house


async def waits(server: Server) -> int:
    """How many waits for the disk the server has seen."""
    stats = await server.raw.info("commandstats")
    return int(stats.get("cmdstat_waitaof", {"calls": 0})["calls"])


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_send_waits_for_the_disk_and_a_verify_does_not(monkeypatch: pytest.MonkeyPatch, fsync: str) -> None:
    async with running(appendfsync=fsync) as server, durable_house(monkeypatch, server.url, ON_DISK) as house:
        await house.client.check_server()
        await house.send(to="+33612399999")
        before = await waits(server)
        sent, code = await house.send_with_code()
        assert await waits(server) == before + 1
        assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)
        assert await waits(server) == before + 1
        assert await server.raw.pttl("test:barrier") > 0


async def test_one_wait_is_for_everyone_who_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(appendfsync="everysec") as server, durable_house(monkeypatch, server.url, ON_DISK) as house:
        sent = await asyncio.gather(*(house.send(to=f"+336123{n:05d}") for n in range(1500)))
        assert len({answer.otp_id for answer in sent}) == 1500
        # Scripts that the server does not know yet take a second batch.
        assert await waits(server) <= 8


async def test_what_is_not_kept_is_refused_and_the_same_key_gives_the_first_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    durable = Durability(replicas=1, timeout_s=REPLICA_S)
    async with running() as server, durable_house(monkeypatch, server.url, durable) as house:
        calls = [house.send(to=f"+336123{n:05d}", key=f"k{n}") for n in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(answer, "code", answer) for answer in answers] == ["SERVICE_UNAVAILABLE"] * 20
        assert {answer.reason for answer in answers if isinstance(answer, ApiError)} == {"store_not_kept"}
        assert len(await house.waiting()) == 20
        async with replica_of(server):
            again = await asyncio.gather(*(house.send(to=f"+336123{n:05d}", key=f"k{n}") for n in range(20)))
            assert all(answer.is_replay for answer in again)
            assert sorted(await house.waiting()) == sorted(answer.message_id for answer in again)


async def test_a_repeated_call_waits_for_what_another_connection_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay writes nothing of its own, and the first answer may not be kept yet."""
    durable = Durability(replicas=1, timeout_s=REPLICA_S)
    async with (
        running() as server,
        replica_of(server) as replica,
        durable_house(monkeypatch, server.url, durable, lanes=1) as house,
    ):
        await house.send(to="+33612399999")
        replica.stop()
        async with open_house(server.url) as hasty:
            sent = await hasty.send(key="k")
        error = await refusal_of(house.send(key="k"))
        assert (error.code, error.reason) == ("SERVICE_UNAVAILABLE", "store_not_kept")
        replica.go_on()
        again = await house.send(key="k")
        assert (again.is_replay, again.otp_id) == (True, sent.otp_id)


async def test_a_server_that_dies_during_the_wait_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    durable = Durability(replicas=1, timeout_s=30)
    async with running() as server, durable_house(monkeypatch, server.url, durable) as house:
        sending = asyncio.create_task(house.send(key="k"))

        async def is_blocked() -> bool:
            return bool((await server.raw.info("clients"))["blocked_clients"])

        await until(is_blocked, "the send to wait")
        server.kill()
        (answer,) = await asyncio.gather(sending, return_exceptions=True)
        assert isinstance(answer, ApiError)
        assert answer.code == "SERVICE_UNAVAILABLE"
        await server.start()
        async with replica_of(server):
            assert (await house.send(key="k")).is_replay


async def test_a_wait_that_the_server_does_not_end_is_ended_here(monkeypatch: pytest.MonkeyPatch) -> None:
    durable = Durability(replicas=0, timeout_s=0.1)
    async with running() as server, durable_house(monkeypatch, server.url, durable, timeout_s=0.2) as house:
        await house.send()
        server.stop()
        async with asyncio.timeout(30):
            error = await refusal_of(house.send(to="+33612399999"))
        assert (error.code, error.reason) == ("SERVICE_UNAVAILABLE", "store_timeout")
        server.go_on()
        assert (await house.send(to="+33612388888")).status == "pending"


async def test_a_full_store_cannot_keep_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as server, durable_house(monkeypatch, server.url, ON_DISK) as house:
        await server.raw.config_set("maxmemory", 1)
        assert (await refusal_of(house.send())).code == "SERVICE_UNAVAILABLE"
        await server.raw.config_set("maxmemory", 0)
        assert (await house.send()).status == "pending"
        assert len(await house.waiting()) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"appendonly": "no"}, "append-only file is off"),
        ({"rename_command": "WAITAOF nothing"}, "no WAITAOF"),
    ],
)
async def test_only_a_store_that_can_keep_will_do(settings: dict[str, str], told: str) -> None:
    async with running(**settings) as server:
        client = RedisClient(server.url, timeout_s=5, max_connections=1, durable=ON_DISK, barrier_key="b")
        with pytest.raises(ConfigurationError, match=rf"^redis\.durable_send: .*{told}"):
            await client.check_server(needs_append_only=False)
        await client.close()


async def test_replicas_that_are_not_there_yet_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server:
        durable = Durability(replicas=2, timeout_s=1)
        client = RedisClient(server.url, timeout_s=5, max_connections=1, durable=durable, barrier_key="b")
        await client.check_server()
        await client.close()
    assert "the store has 0 replicas: no code goes out until 2 do" in caplog.text


def test_durable_calls_need_a_name_to_write_to() -> None:
    with pytest.raises(ValueError, match="barrier_key"):
        RedisClient("redis://h1/0", timeout_s=1, max_connections=1, durable=ON_DISK)
