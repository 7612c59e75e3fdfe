"""Wake-ups reach whoever listens, in any process; what breaks the connection costs at most a look too many."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from otpsvc.redis.calls import MOST_LETTERS, MOST_WAITING, RedisCalls
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys
from tests.otp.house import refusal_of
from tests.redis.servers import replica_of, running, sentinel_url, sentinels_of, until

DEVICE, OTHER = "dev_1", "dev_2"
PATIENCE_S = 60.0


@asynccontextmanager
async def process(url: str, *, prefix: str = "test", is_running: bool = True) -> AsyncIterator[RedisCalls]:
    """Open calls as a process does; they have begun to hear when the block begins."""
    client = RedisClient(url, timeout_s=2, max_connections=2)
    calls, stop = RedisCalls(client, Keys(prefix, 1), url=url, timeout_s=2), asyncio.Event()
    task = asyncio.create_task(calls.run(stop)) if is_running else None
    try:
        if task is not None:
            assert await word(calls.listen("dev_begin")) == "enqueued"
        yield calls
    finally:
        stop.set()
        if task is not None:
            await asyncio.wait_for(task, PATIENCE_S)
        await client.close()


async def word(listener: AsyncIterator[str]) -> str:
    return await asyncio.wait_for(anext(listener), PATIENCE_S)


async def words(calls: RedisCalls, listener: AsyncIterator[str], device_id: str = DEVICE) -> list[str]:
    """All that was called before now."""
    await calls.call(device_id, "last")
    heard = []
    while (one := await word(listener)) != "last":
        heard.append(one)
    return heard


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield client


async def kill_subscribers(raw: Any) -> int:
    return int(await raw.client_kill_filter(_type="pubsub"))


async def test_a_call_from_one_process_is_heard_in_another(redis_url: str) -> None:
    async with process(redis_url) as here, process(redis_url) as there:
        mine, same, other = there.listen(DEVICE), there.listen(DEVICE), there.listen(OTHER)
        for what in ("settings", "cancelled msg_1", "gone"):
            await here.call(DEVICE, what)
        for listener in (mine, same):
            assert await words(here, listener) == ["settings", "cancelled msg_1", "gone"]
        await here.call(OTHER, "enqueued")
        assert await word(other) == "enqueued"


async def test_installations_that_share_a_store_do_not_hear_each_other(redis_url: str) -> None:
    async with process(redis_url) as mine, process(redis_url, prefix="other") as theirs:
        listener = mine.listen(DEVICE)
        await theirs.call(DEVICE, "gone")
        assert await words(mine, listener) == []


async def test_the_same_word_is_said_once_while_nobody_has_heard_it(redis_url: str) -> None:
    async with process(redis_url) as calls:
        listener = calls.listen(DEVICE)
        for _ in range(50):
            await calls.call(DEVICE, "enqueued")
            await calls.call(DEVICE, "settings")
        assert await words(calls, listener) == ["enqueued", "settings"]
        await calls.call(DEVICE, "enqueued")
        assert await words(calls, listener) == ["enqueued"]


async def test_a_slow_listener_loses_the_oldest_cancels_and_nothing_else(redis_url: str) -> None:
    async with process(redis_url) as calls:
        listener = calls.listen(DEVICE)
        await calls.call(DEVICE, "enqueued")
        await calls.call(DEVICE, "gone")
        n = MOST_WAITING * 5
        for start in range(0, n, 50):
            await asyncio.gather(*(calls.call(DEVICE, f"cancelled {start + k}") for k in range(50)))
        heard = await words(calls, listener)
        assert {"enqueued", "gone"} <= set(heard)
        cancels = [int(one.split()[1]) for one in heard if " " in one]
        assert len(heard) < MOST_WAITING
        assert min(cancels) >= n - MOST_WAITING - 50


async def test_what_is_no_call_of_ours_is_ignored(redis_url: str, raw: Any) -> None:
    async with process(redis_url) as calls:
        listener = calls.listen(DEVICE)
        for payload in (b"", DEVICE.encode(), b"dev_1 ", b"\xff\xfe gone", b"dev_1 " + b"x" * (MOST_LETTERS + 1)):
            await raw.publish("test:calls", payload)
        assert await words(calls, listener) == []


async def test_a_lost_connection_heals_and_everybody_looks(redis_url: str, raw: Any) -> None:
    async with process(redis_url) as calls:
        listeners = [calls.listen(f"dev_{n}") for n in range(20)]
        for _ in range(3):
            assert await kill_subscribers(raw) == 1
            assert {await word(listener) for listener in listeners} == {"enqueued"}
            await calls.call("dev_7", "gone")
            assert await word(listeners[7]) == "gone"


async def test_one_line_says_that_calls_are_away_and_one_that_they_are_back(
    redis_url: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "otpsvc.redis.calls")
    async with process(redis_url) as calls:
        listener = calls.listen(DEVICE)
        await kill_subscribers(raw)
        await word(listener)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "phones are not called",
        "phones are called again",
    ]


async def test_who_listens_before_the_connection_is_there_is_told_to_look(redis_url: str) -> None:
    async with process(redis_url, is_running=False) as calls:
        listener, stop = calls.listen(DEVICE), asyncio.Event()
        task = asyncio.create_task(calls.run(stop))
        assert await word(listener) == "enqueued"
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


async def test_a_closed_listener_ends(redis_url: str) -> None:
    async with process(redis_url) as calls:
        closed = calls.listen(DEVICE)
        waiting = asyncio.ensure_future(anext(closed))
        await asyncio.sleep(0)
        await closed.aclose()  # type: ignore[attr-defined]  # the port asks for no more than an iterator
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, PATIENCE_S)
        with pytest.raises(StopAsyncIteration):
            await anext(closed)
        await calls.call(DEVICE, "gone")


async def test_a_dropped_listener_is_forgotten(redis_url: str) -> None:
    async with process(redis_url) as calls:
        for n in range(100):
            calls.listen(f"dev_{n}")
        gc.collect()
        assert list(calls._groups) == []
        await calls.call(DEVICE, "gone")


async def test_a_listener_that_is_given_up_while_it_waits_loses_nothing(redis_url: str) -> None:
    async with process(redis_url) as calls:
        listener = calls.listen(DEVICE)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(listener), 0.01)
        await calls.call(DEVICE, "settings")
        assert await word(listener) == "settings"


async def test_it_ends_while_the_store_is_away_and_a_call_then_is_refused() -> None:
    async with running() as server, process(server.url) as calls:
        listener = calls.listen(DEVICE)
        server.kill()
        assert (await refusal_of(calls.call(DEVICE, "gone"))).code == "SERVICE_UNAVAILABLE"
        await server.start()
        assert await word(listener) == "enqueued"
        server.kill()


async def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.redis.calls._PING_EVERY_S", 0.05)
    async with running() as server, process(server.url) as calls:
        listener = calls.listen(DEVICE)
        server.stop()
        await until(_is_away(calls), "the loss to be noticed")
        server.go_on()
        assert await word(listener) == "enqueued"


async def test_a_promoted_replica_is_followed() -> None:
    async with (
        running() as primary,
        replica_of(primary),
        sentinels_of(primary) as (sentinel,),
        process(sentinel_url(sentinel.port)) as calls,
    ):
        listener = calls.listen(DEVICE)
        primary.kill()
        assert await word(listener) == "enqueued"
        await calls.call(DEVICE, "gone")
        assert await word(listener) == "gone"


def _is_away(calls: RedisCalls) -> Any:
    async def is_away() -> bool:
        return calls._is_away

    return is_away
