"""Sentinel decides which server is the primary: lanes and waiting connections follow; nothing waits for the dead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from redis.exceptions import ResponseError

from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.redis.client import RedisClient
from otpsvc.redis.sentinel import Address, Sentinels, parse_sentinel_url
from tests.otp.house import refusal_of
from tests.redis.servers import PRIMARY, Server, replica_of, running, sentinel_url, sentinels_of, until


class Trio(NamedTuple):
    primary: Server
    replica: Server
    sentinel: Server

    async def sentinel_stays_calm(self) -> None:
        """Let the sentinel miss nobody any more: on a busy machine half a second without an answer means nothing."""
        await self.sentinel.raw.execute_command("SENTINEL", "SET", PRIMARY, "down-after-milliseconds", "600000")

        async def is_calm() -> bool:
            state = await self.sentinel.raw.sentinel_master(PRIMARY, return_responses=True)
            return not (state["is_sdown"] or state["is_odown"])

        await until(is_calm, "the sentinel to see that the new primary is there")


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    async with running() as primary, replica_of(primary) as replica, sentinels_of(primary) as (sentinel,):
        yield Trio(primary, replica, sentinel)


@asynccontextmanager
async def client_of(url: str, *, timeout_s: float = 1, lanes: int = 4) -> AsyncIterator[RedisClient]:
    client = RedisClient(url, timeout_s=timeout_s, max_connections=lanes)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def mute_port() -> AsyncIterator[int]:
    """A port that takes connections and never says anything."""

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65_536):
                pass
        finally:
            writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def succeeds(client: RedisClient, *command: str) -> bool:
    """Say whether the store decides a command now; nothing but our own refusal may come instead."""
    try:
        await client.command(*command)
    except ApiError:
        return False
    return True


def test_an_address_is_read() -> None:
    url = parse_sentinel_url(
        "redis+sentinel://us%40er:p%2Fw@h1:1,[::1]:2,h3/the%20store?db=3&sentinel_username=su&sentinel_password=sp"
    )
    assert url.sentinels == (Address("h1", 1), Address("::1", 2), Address("h3", 26379))
    assert url.name == "the store"
    assert {key: url.options[key] for key in ("username", "password", "db")} == {
        "username": "us@er",
        "password": "p/w",
        "db": 3,
    }
    assert url.sentinel_options == {"username": "su", "password": "sp"}


def test_tls_is_for_the_sentinels_too() -> None:
    url = parse_sentinel_url("rediss+sentinel://h1/store?ssl_ca_certs=ca.pem")
    assert url.options["connection_class"] is url.sentinel_options["connection_class"]
    assert url.options["ssl_ca_certs"] == url.sentinel_options["ssl_ca_certs"] == "ca.pem"
    RedisClient("rediss+sentinel://h1/store", timeout_s=1, max_connections=1)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:hunter2@h1:26379",
        "redis+sentinel://:hunter2@h1:26379/",
        "redis+sentinel://:hunter2@h1:26379/a/b",
        "redis+sentinel://:hunter2@h1:x/store",
        "redis+sentinel://:hunter2@h1:99999/store",
        "redis+sentinel://:hunter2@h1,,h2/store",
        "redis+sentinel://:hunter2@/store",
        "redis+sentinel://:hun#ter2@h1/store",
        "redis+sentinel://:hunter2@[h1/store",
        "redis+sentinel://:hunter2@h1/store?db=hunter2",
        "redis+sentinel://:hunter2@h1/store?colour=hunter2",
        "redis://:hunter2@h1:hunter2/0",
        "redis://:hunter2@h1/0?colour=hunter2",
        "http://:hunter2@h1/0",
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^redis\.url: ") as caught:
        RedisClient(url, timeout_s=1, max_connections=1)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_primary_is_found_and_used(trio: Trio) -> None:
    async with client_of(sentinel_url(trio.sentinel.port, query="?db=2")) as client:
        await client.check_server()
        await client.command("SET", "a", "1")
        assert await client.waiting_command("BLPOP", "nothing", "0.01", timeout_s=0.01) is None
        assert await trio.primary.raw.info("keyspace")
        assert set(await trio.primary.raw.info("keyspace")) == {"db2"}


async def test_sentinels_that_are_gone_or_mute_are_passed_over(trio: Trio) -> None:
    async with mute_port() as mute, client_of(sentinel_url(mute, 1, trio.sentinel.port)) as client:
        assert await client.command("SET", "a", "1") == b"OK"


@pytest.mark.parametrize("is_mute", [True, False])
async def test_no_sentinel_that_answers_is_an_outage(is_mute: bool) -> None:
    async with mute_port() as mute, client_of(sentinel_url(mute if is_mute else 1), timeout_s=0.2) as client:
        async with asyncio.timeout(30):
            assert (await refusal_of(client.ping())).code == "SERVICE_UNAVAILABLE"
            assert (await refusal_of(client.check_server())).code == "SERVICE_UNAVAILABLE"
            assert (await refusal_of(client.pop_token("t", 0.1))).code == "SERVICE_UNAVAILABLE"


async def test_a_name_or_password_that_the_sentinels_refuse_is_a_matter_of_configuration() -> None:
    async with (
        running() as primary,
        replica_of(primary),
        sentinels_of(primary, settings="requirepass open-sesame") as (sentinel,),
    ):
        right = sentinel_url(sentinel.port, query="?sentinel_password=open-sesame")
        async with client_of(right) as client:
            await client.check_server()
        for url in (
            sentinel_url(sentinel.port, query="?sentinel_password=hunter2"),
            sentinel_url(sentinel.port),
            right.replace("/store", "/other"),
        ):
            async with client_of(url) as client:
                with pytest.raises(ConfigurationError, match=r"^redis\.url: the server refuses us: ") as caught:
                    await client.check_server()
                assert "hunter2" not in str(caught.value)


async def test_a_replica_that_a_sentinel_still_calls_the_primary_is_refused(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [trio.replica.port]

    async def primary(_: Sentinels) -> Address:
        return Address("127.0.0.1", named[0])

    monkeypatch.setattr(Sentinels, "primary", primary)
    async with client_of(sentinel_url(trio.sentinel.port)) as client:
        assert (await refusal_of(client.command("GET", "a"))).code == "SERVICE_UNAVAILABLE"
        assert (await refusal_of(client.pop_token("t", 0.1))).code == "SERVICE_UNAVAILABLE"
        named[0] = trio.primary.port
        assert await client.command("GET", "a") is None


async def test_an_ordered_failover_is_followed_by_everyone(trio: Trio) -> None:
    async with client_of(sentinel_url(trio.sentinel.port)) as client:
        await asyncio.gather(*(client.command("SET", f"k{n}", "1") for n in range(2000)))
        waiting = [asyncio.create_task(client.pop_token("tokens", 30)) for _ in range(3)]

        async def is_ordered() -> bool:
            try:
                return bool(await trio.sentinel.raw.execute_command("SENTINEL", "FAILOVER", "store"))
            except ResponseError:
                return False  # it has yet to see that the replica is a good one

        await until(is_ordered, "the sentinel to take the order")

        async def is_promoted() -> bool:
            return bool((await trio.replica.raw.info("replication"))["role"] == "master")

        async def arrives() -> bool:
            return await succeeds(client, "SET", "after", "1") and await trio.replica.raw.get("after") == b"1"

        await until(is_promoted, "the promotion")
        # For a moment both are primaries; what the one before takes is lost, and nobody but the fence can see that.
        await until(arrives, "a write to arrive at the new primary")
        # Whoever waited was sent away with a clear word, or has come over already; nobody waits at the old one.
        for answer in await asyncio.gather(*waiting, return_exceptions=True):
            assert getattr(answer, "code", "") == "SERVICE_UNAVAILABLE", answer
        again = asyncio.create_task(client.pop_token("tokens", 30))
        await client.command("RPUSH", "tokens", "t")
        assert await again
        answers = await asyncio.gather(*(client.command("SET", f"k{n}", "2") for n in range(2000)))
        assert set(answers) == {b"OK"}


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_a_primary_that_is_lost_is_left_by_itself(trio: Trio, way: str) -> None:
    async with client_of(sentinel_url(trio.sentinel.port), timeout_s=2) as client:
        await asyncio.gather(*(client.command("SET", f"k{n}", "1") for n in range(1200)))
        waiting = asyncio.create_task(client.pop_token("tokens", 1))
        try:
            if way == "killed":
                trio.primary.kill()
            else:
                trio.primary.stop()
            assert (await refusal_of(client.ping())).code == "SERVICE_UNAVAILABLE"
            await until(lambda: succeeds(client, "SET", "after", "1"), "the replica to be promoted")
            await trio.sentinel_stays_calm()
            # The connections that lay idle all this time lead to the old one; using them must fail nobody.
            answers = await asyncio.gather(*(client.command("SET", f"k{n}", "2") for n in range(1200)))
            assert set(answers) == {b"OK"}
            assert await trio.replica.raw.get("after") == b"1"
        finally:
            (answer,) = await asyncio.gather(waiting, return_exceptions=True)
        assert answer is False or getattr(answer, "code", "") == "SERVICE_UNAVAILABLE"


@asynccontextmanager
async def sentinel_that_says(
    port: int, *, epoch: int, flags: str = "master", after_s: float = 0.0
) -> AsyncIterator[int]:
    """Run a sentinel that names one primary; give its own port."""
    facts = {"name": PRIMARY, "ip": "127.0.0.1", "port": port, "flags": flags, "config-epoch": epoch}
    words = [str(word).encode() for fact in facts.items() for word in fact]
    state = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while said := await reader.read(65_536):
                if b"SENTINEL" in said:
                    await asyncio.sleep(after_s)
                    writer.write(state)
                else:
                    writer.write(b"+OK\r\n" * said.count(b"*"))
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_one_that_is_gone_does_not_make_a_majority_of_one_that_was_cut_off() -> None:
    """The nearest of those that live knows the primary before; the other knows better and answers a little later."""
    async with (
        running() as before,
        running() as now,
        sentinel_that_says(before.port, epoch=5) as cut_off,
        sentinel_that_says(now.port, epoch=6, after_s=0.1) as slow,
        client_of(sentinel_url(1, cut_off, slow), timeout_s=5) as client,
    ):
        await client.command("SET", "a", "1")
        assert await now.raw.get("a") == b"1"


async def test_one_sentinels_bad_moment_hides_no_primary_that_answers() -> None:
    async with (
        running() as primary,
        sentinel_that_says(primary.port, epoch=5, flags="master,s_down") as doubtful,
        sentinel_that_says(primary.port, epoch=5, flags="master,s_down,o_down") as sure,
    ):
        async with client_of(sentinel_url(doubtful)) as client:
            assert await client.command("SET", "a", "1") == b"OK"
        async with client_of(sentinel_url(sure)) as client:
            assert (await refusal_of(client.ping())).code == "SERVICE_UNAVAILABLE"


async def test_a_majority_of_sentinels_outvotes_one_that_was_cut_off() -> None:
    async with running() as primary, replica_of(primary) as replica, sentinels_of(primary, 3) as sentinels:
        ports = [sentinel.port for sentinel in sentinels]
        # Stopped before it could learn of the failover, and answering again only after it.
        sentinels[0].stop()
        primary.kill()
        async with client_of(sentinel_url(*ports)) as client:
            await until(lambda: succeeds(client, "SET", "after", "1"), "the replica to be promoted")
            assert await replica.raw.get("after") == b"1"
            sentinels[0].go_on()
            assert await client.command("GET", "after") == b"1"
