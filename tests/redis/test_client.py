"""The connection: a store that is away, full, read-only or not fit for the rules, and answers that get lost."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.otp.model import VerifiedOtp, WrongGuess
from otpsvc.redis.client import RedisClient
from otpsvc.redis.scripts import load
from tests.otp.house import House, open_house, refusal_of, wrong
from tests.redis.lossy import LossyWay, lossy_way


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="otp") as name:
        yield Path(name)


async def calls_of(house: House, otp_id: str, code: str) -> dict[str, Any]:
    """Every call that the service can make, ready to be awaited."""
    return {
        "send": house.send(purpose="login"),
        "resend": house.resend(otp_id),
        "verify": house.verify(otp_id, code),
        "cancel": house.cancel(otp_id),
        "claim": house.claim(),
    }


FULL_STORE = {"maxmemory": "1"}
LONELY_STORE = {"min-replicas-to-write": "1"}


@pytest.fixture(params=[FULL_STORE, LONELY_STORE], ids=["full", "lonely"])
async def hindrance(house: House, request: pytest.FixtureRequest) -> AsyncIterator[dict[str, str]]:
    """A setting under which the store refuses to write."""
    yield request.param
    for name in request.param:
        await house.raw.config_set(name, 0)


async def test_a_store_that_cannot_write_changes_nothing(house: House, hindrance: dict[str, str]) -> None:
    sent, code = await house.send_with_code()
    for name, value in hindrance.items():
        await house.raw.config_set(name, value)
    for call in (await calls_of(house, sent.otp_id, code)).values():
        error = await house.refused(call, "SERVICE_UNAVAILABLE")
        assert (error.retry_after_s, error.details) == (1, {})
    for call in (house.verify(sent.otp_id, wrong(code)),):
        await house.refused(call, "SERVICE_UNAVAILABLE")
    for name in hindrance:
        await house.raw.config_set(name, 0)
    assert (await house.get(sent.otp_id)).attempts_remaining == 3
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def test_a_short_hindrance_is_waited_for(house: House) -> None:
    await house.raw.config_set("min-replicas-to-write", 1)

    async def recover() -> None:
        await asyncio.sleep(0.04)
        await house.raw.config_set("min-replicas-to-write", 0)

    sent, _ = await asyncio.gather(house.send(), recover())
    assert await house.status(sent.otp_id) == "pending"
    assert len(await house.waiting()) == 1


async def test_a_replica_is_not_written_to(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.raw.replicaof("127.0.0.1", "1")
    try:
        await house.refused(house.verify(sent.otp_id, code), "SERVICE_UNAVAILABLE")
    finally:
        await house.raw.replicaof("NO", "ONE")
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def test_a_broken_script_is_told_as_it_is(house: House) -> None:
    args = dict.fromkeys(load("otp_get").args, "")
    await house.raw.set("plain", "x")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await house.client.run("otp_get", {"otp": "plain"}, args)


async def test_a_store_that_is_away_is_told_at_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with open_house(f"unix://{folder / 'absent.sock'}") as house:
            assert (await refusal_of(house.send())).code == "SERVICE_UNAVAILABLE"
            assert (await refusal_of(house.client.ping())).code == "SERVICE_UNAVAILABLE"
            assert (await refusal_of(house.client.check_server())).code == "SERVICE_UNAVAILABLE"
            assert (await refusal_of(house.queue.wait(0.01))).code == "SERVICE_UNAVAILABLE"
            code = house.codes[0]
    assert "the store did not answer" in caplog.text
    assert code not in caplog.text


async def test_a_store_that_went_away_and_came_back(redis_url: str, folder: Path) -> None:
    async with lossy_way(redis_url, folder) as (_, url), open_house(url) as house:
        sent, code = await house.send_with_code()
        await house.raw.client_kill_filter(_type="normal", skipme=False)
        assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(65_536):
            pass
    finally:
        writer.close()


async def test_a_store_that_never_answers_is_given_up_on(folder: Path) -> None:
    socket = folder / "mute.sock"
    async with await asyncio.start_unix_server(never_answer, socket):
        client = RedisClient(f"unix://{socket}", timeout_s=0.1, max_connections=4)
        for call in (
            client.ping(),
            client.run("otp_get", {"otp": "x"}, dict.fromkeys(load("otp_get").args, "")),
            client.pop_token("x", 0.01),
            client.check_server(),
        ):
            async with asyncio.timeout(20):
                assert (await refusal_of(call)).code == "SERVICE_UNAVAILABLE"
        await client.close()


@pytest.fixture
async def lossy(redis_url: str, folder: Path) -> AsyncIterator[tuple[House, LossyWay]]:
    """A house whose answers can get lost, with every script known to the store already."""
    async with lossy_way(redis_url, folder) as (way, url), open_house(url) as house:
        for name in ("otp_send", "otp_resend", "otp_verify", "otp_cancel", "otp_get", "message_claim"):
            await house.raw.script_load(load(name).text)
        yield house, way


async def test_a_lost_answer_to_a_send_makes_no_second_message(lossy: tuple[House, LossyWay]) -> None:
    house, way = lossy
    way.to_lose = 1
    sent = await house.send(house.caller(cooldown_s=30))
    assert way.lost == 1
    assert await house.waiting() == [sent.message_id]
    assert await house.events() == [("otp.sent", sent.otp_id)]
    assert len(await house.raw.keys("*:otp:*")) == 1


async def test_a_lost_answer_to_a_resend_makes_no_second_message(lossy: tuple[House, LossyWay]) -> None:
    house, way = lossy
    sent = await house.send()
    way.to_lose = 1
    again = await house.resend(sent.otp_id)
    assert way.lost == 1
    assert await house.waiting() == [again.message_id]
    assert (await house.get(sent.otp_id)).resends_remaining == 4


async def test_a_lost_answer_to_a_guess_costs_one_attempt(lossy: tuple[House, LossyWay]) -> None:
    house, way = lossy
    sent, code = await house.send_with_code()
    way.to_lose = 1
    answer = await house.verify(sent.otp_id, wrong(code))
    assert answer == WrongGuess(otp_id=sent.otp_id, attempts_remaining=2, is_replay=True)
    way.to_lose = 1
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)
    assert way.lost == 2
    assert [name for name, _ in await house.events()] == ["otp.sent", "otp.rejected", "otp.verified"]


async def test_a_lost_answer_to_a_cancel_is_still_a_cancel(lossy: tuple[House, LossyWay]) -> None:
    house, way = lossy
    sent = await house.send()
    way.to_lose = 1
    assert (await house.cancel(sent.otp_id)).status == "cancelled"
    assert way.lost == 1


async def test_a_twin_after_two_lost_answers_gets_the_same(lossy: tuple[House, LossyWay]) -> None:
    """Our own retry failed too: the caller was told 503 and asks again with its key."""
    house, way = lossy
    way.to_lose = 2
    assert (await refusal_of(house.send(key="k1"))).code == "SERVICE_UNAVAILABLE"
    sent = await house.send(key="k1")
    assert sent.is_replay
    assert await house.waiting() == [sent.message_id]
    way.to_lose = 2
    guess = wrong(house.codes[0])
    assert (await refusal_of(house.verify(sent.otp_id, guess, key="v1"))).code == "SERVICE_UNAVAILABLE"
    answer = await house.verify(sent.otp_id, guess, key="v1")
    assert answer == WrongGuess(otp_id=sent.otp_id, attempts_remaining=2, is_replay=True)


async def test_a_lost_answer_to_a_claim_does_not_lose_the_messages(lossy: tuple[House, LossyWay]) -> None:
    house, way = lossy
    sent = await house.send()
    way.to_lose = 1
    assert (await refusal_of(house.claim())).code == "SERVICE_UNAVAILABLE"
    assert way.lost == 1
    messages = await house.claim()
    assert [message.message_id for message in messages] == [sent.message_id]
    assert not messages[0].is_uncertain


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


async def test_a_wrong_password_is_a_matter_of_configuration(redis_url: str) -> None:
    client = RedisClient(f"{redis_url}&username=nobody&password=hunter2", timeout_s=5, max_connections=2)
    try:
        with pytest.raises(ConfigurationError) as caught:
            await client.check_server()
    finally:
        await client.close()
    assert "hunter2" not in str(caught.value)


async def test_waiting_for_a_token_ends_with_the_time(house: House) -> None:
    for timeout_s in (0, -1, 0.02):
        assert await house.client.pop_token("tokens", timeout_s) is False
    await house.raw.lpush("tokens", 1)
    assert await house.client.pop_token("tokens", 0) is True
    assert await house.raw.exists("tokens") == 0


async def test_a_wait_may_be_longer_than_any_answer_may_take(redis_url: str) -> None:
    client = RedisClient(redis_url, timeout_s=0.1, max_connections=2)
    assert await client.pop_token("tokens", 0.4) is False
    await client.close()


async def test_a_cancelled_wait_takes_no_token_with_it(house: House) -> None:
    waiting = asyncio.create_task(house.client.pop_token("tokens", 30))
    await house.blocked(1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await house.blocked(0)
    await house.raw.lpush("tokens", 1)
    assert await house.client.pop_token("tokens", 0) is True


async def test_more_calls_than_connections_wait_their_turn(redis_url: str) -> None:
    client = RedisClient(redis_url, timeout_s=5, max_connections=2)
    args = dict.fromkeys(load("otp_get").args, "x")
    answers = await asyncio.gather(*(client.run("otp_get", {"otp": "x"}, args) for _ in range(50)))
    assert {status for status, _ in answers} == {"not_found"}
    await client.close()


async def test_errors_of_the_store_say_nothing_of_what_was_sent(folder: Path) -> None:
    async with open_house(f"unix://{folder / 'absent.sock'}") as house:
        with pytest.raises(ApiError) as caught:
            await house.send(key="the-key")
    assert str(caught.value) == "SERVICE_UNAVAILABLE"
    assert house.codes[0] not in repr(caught.value.__cause__)
