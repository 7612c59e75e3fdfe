"""The connection: a store that is away, full, read-only or not fit for the rules, and answers that get lost."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from otpsvc.errors import ApiError
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
    for call in (house.verify(sent.otp_id, wrong(code)), house.client.ping()):
        await house.refused(call, "SERVICE_UNAVAILABLE")
    for name in hindrance:
        await house.raw.config_set(name, 0)
    assert (await house.get(sent.otp_id)).attempts_remaining == 3
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)
    before = await house.snapshot()
    await house.client.ping()
    assert await house.snapshot() == before


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
    assert "the store is away" in caplog.text
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
    assert messages[0].begun_by == ""


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


async def test_a_command_gives_its_reply_as_it_comes(house: House) -> None:
    entry = await house.client.command("XADD", "stream", "*", "name", b"\xff")
    assert await house.client.command("XRANGE", "stream", "-", "+") == [[entry, [b"name", b"\xff"]]]
    assert await house.client.command("GET", "nothing") is None
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await house.client.command("GET", "stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await house.client.waiting_command("BLPOP", "stream", "0.01", timeout_s=0.01)


async def test_a_command_that_waits_gives_what_came(house: House) -> None:
    await house.client.command("XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM")
    read = ("XREADGROUP", "GROUP", "group", "me", "COUNT", 10, "BLOCK", 30_000, "STREAMS", "stream", ">")
    waiting = asyncio.create_task(house.client.waiting_command(*read, timeout_s=30))
    await house.blocked(1)
    entry = await house.client.command("XADD", "stream", "*", "name", "value")
    assert await waiting == [[b"stream", [[entry, [b"name", b"value"]]]]]
    assert await house.client.waiting_command(*read[:7], 10, *read[8:], timeout_s=0.01) is None


async def test_a_wait_that_the_store_does_not_end_is_ended_here(house: House, redis_url: str) -> None:
    client = RedisClient(redis_url, timeout_s=0.1, max_connections=1)
    for _ in range(3):
        error = await refusal_of(client.waiting_command("BLPOP", "tokens", "0", timeout_s=0.05))
        assert (error.code, error.reason) == ("SERVICE_UNAVAILABLE", "store_timeout")
    await house.blocked(0)
    await client.ping()
    await client.close()


async def test_only_what_may_run_twice_runs_twice(redis_url: str, folder: Path) -> None:
    async with lossy_way(redis_url, folder) as (way, url), open_house(url) as house:
        way.to_lose = 1
        assert await house.client.command("RPUSH", "twice", "EVALSHA") == 2  # the word makes its answer get lost
        way.to_lose = 1
        error = await refusal_of(house.client.command("RPUSH", "once", "EVALSHA", is_repeatable=False))
        assert (error.code, error.reason) == ("SERVICE_UNAVAILABLE", "store_lost")
        assert await house.client.command("LLEN", "once") == 1
        way.to_lose = 1
        await house.client.command("RPUSH", "taken", "a", "b")
        error = await refusal_of(house.client.waiting_command("BLPOP", "EVALSHA", "taken", "1", timeout_s=1))
        assert error.code == "SERVICE_UNAVAILABLE"
        assert await house.client.command("LRANGE", "taken", 0, -1) == [b"b"]


async def test_a_name_that_cannot_be_looked_up_is_an_outage() -> None:
    client = RedisClient("redis://store.invalid:6379/0", timeout_s=0.5, max_connections=1)
    async with asyncio.timeout(30):
        assert (await refusal_of(client.ping())).code == "SERVICE_UNAVAILABLE"
    await client.close()
