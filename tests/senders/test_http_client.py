"""What a call of a gateway says when the network, the names or the gateway misbehave."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from otpsvc.senders.contract import Rejected, RejectionKind, RetryLater, Unknown
from otpsvc.senders.http_client import (
    AddressRefused,
    GatewayAnswer,
    GatewayClient,
    NoAnswer,
    NotSent,
    outcome_of,
)
from otpsvc.testing import Fault, GatewayDouble, GatewayRequest, Reply
from tests.gateways.certificates import certificate_for

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def client(timeout_s: float = 5.0, max_answer_bytes: int = 65_536) -> AsyncIterator[GatewayClient]:
    one = GatewayClient(timeout_s=timeout_s, allow_private=True, max_answer_bytes=max_answer_bytes)
    await one.open()
    try:
        yield one
    finally:
        await one.close()


@asynccontextmanager
async def raw_server(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server of raw bytes, for what no proper one does."""
    ends: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in ends:
            writer.transport.abort()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


class Echo(GatewayDouble):
    async def respond(self, request: GatewayRequest) -> Reply:
        return Reply(201, {"path": request.path}, {"X-Said": "yes"})


async def test_a_request_leaves_as_it_was_meant() -> None:
    async with Echo() as gateway, client() as calls:
        answer = await calls.request(
            "POST", f"{gateway.url}/a/b c?q=ü&x=", json={"to": "+33"}, basic=("user", "wörd"), headers={"X-One": "1"}
        )
        assert (answer.status, answer.json(), answer.headers["x-said"]) == (201, {"path": "/a/b c"}, "yes")
        [request] = gateway.requests
        assert (request.method, request.path, request.query) == ("POST", "/a/b c", {"q": "ü", "x": ""})
        assert request.json() == {"to": "+33"}
        assert request.headers == {
            "host": gateway.url.removeprefix("http://"),
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": request.headers["user-agent"],
            "content-type": "application/json",
            "content-length": str(len(request.body)),
            "authorization": "Basic dXNlcjp3w7ZyZA==",
            "x-one": "1",
        }


async def test_forms_bytes_and_empty_bodies() -> None:
    async with Echo() as gateway, client() as calls:
        await calls.request("POST", gateway.url, form={"text": "è & =", "to": "+33"}, bearer="token")
        await calls.request("PUT", gateway.url, content=b"\x00\x01", headers={"Content-Type": "application/x-raw"})
        await calls.request("POST", gateway.url)
        await calls.request("GET", gateway.url)
        form, raw, empty, get = gateway.requests
        assert form.form() == {"text": "è & =", "to": "+33"}
        assert form.headers["authorization"] == "Bearer token"
        assert (raw.body, raw.headers["content-type"]) == (b"\x00\x01", "application/x-raw")
        assert empty.headers["content-length"] == "0"
        assert "content-length" not in get.headers


async def test_connections_are_used_again_and_cookies_are_not_kept() -> None:
    peers: set[object] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        while True:
            assert b"cookie" not in (await read_request(reader)).lower()
            writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\n{}")

    async with raw_server(talk) as url, client() as calls:
        for _ in range(3):
            assert (await calls.request("POST", url, json={})).json() == {}
    assert len(peers) == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.HANG, NoAnswer),
        (Fault.SLOW_DRIP, NoAnswer),
        (Fault.CLOSE_MID_BODY, NoAnswer),
        (Fault.HUGE, NoAnswer),
        (Fault.REFUSE, NotSent),
    ],
)
async def test_faults_without_a_whole_answer(fault: Fault, expected: type[Exception]) -> None:
    async with Echo() as gateway, client(timeout_s=0.5) as calls:
        gateway.misbehave(fault)
        with pytest.raises(expected) as caught:
            await calls.request("POST", gateway.url, json={})
        assert type(caught.value) is expected
        assert len(gateway.requests) == (fault is not Fault.REFUSE)
        await gateway.restore()
        assert (await calls.request("POST", gateway.url, json={})).status == 201


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with Echo() as gateway, client() as calls:
        gateway.misbehave(Fault.REDIRECT)
        answer = await calls.request("POST", gateway.url, json={})
        assert (answer.status, answer.is_success) == (302, False)
        assert gateway.n_strayed == 0


async def test_a_kept_connection_that_is_closed_under_a_request_leaves_the_end_unknown() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await read_request(reader)  # it was taken, and now nobody says so

    async with raw_server(talk) as url, client() as calls:
        await calls.request("POST", url, json={})
        with pytest.raises(NoAnswer):
            await calls.request("POST", url, json={})


async def test_a_kept_connection_that_was_closed_before_is_replaced() -> None:
    async with Echo() as gateway, client() as calls:
        await calls.request("POST", gateway.url, json={})
        gateway.cut_idle()
        assert (await calls.request("POST", gateway.url, json={})).status == 201
        assert len(gateway.requests) == 2


@pytest.mark.parametrize("is_secure", [False, True])
async def test_what_is_left_over_from_one_answer_is_not_the_next_ones(is_secure: bool, tmp_path: Path) -> None:
    """A gateway answers twice, once: from then on every message would be told the end of the one before it."""
    server, trusting = certificate_for("gateway.example", tmp_path)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await read_request(reader)).rpartition(b"\r\n\r\n")[2]
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body) * 2)

    async def home(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with raw_server(talk, tls=server if is_secure else None) as url, contextlib.AsyncExitStack() as ends:
        calls = GatewayClient(allow_private=True, tls=trusting, resolver=home)
        ends.push_async_callback(calls.close)
        await calls.open()
        address = url.replace("127.0.0.1", "gateway.example")
        assert (await calls.request("POST", address, json=1)).json() == 1
        with pytest.raises(NoAnswer, match="answer before the question"):
            await calls.request("POST", address, json=2)
        assert (await calls.request("POST", address, json=3)).json() == 3


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"220 smtp.example ESMTP\r\n",
        b"",
    ],
    ids=["short", "no last chunk", "endless header", "not http", "nothing"],
)
async def test_broken_answers_are_no_answers(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await writer.drain()

    async with raw_server(talk) as url, client() as calls:
        with pytest.raises(NoAnswer):
            await calls.request("POST", url, json={"text": "482913"})


async def test_an_endless_answer_is_given_up_at_the_bound() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 4096)
            await writer.drain()

    async with raw_server(talk) as url, client(timeout_s=30) as calls:
        with pytest.raises(NoAnswer, match="answer too large"):
            await calls.request("POST", url, json={})


async def test_a_gateway_that_says_continue_for_ever_is_given_up() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await writer.drain()

    async with raw_server(talk) as url, client(timeout_s=30, max_answer_bytes=1000) as calls:
        with pytest.raises(NoAnswer, match="connection cut"):
            await calls.request("POST", url, json={})


async def test_an_answer_in_the_smallest_chunks_is_read() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n")
        await writer.drain()

    async with raw_server(talk) as url, client(timeout_s=30, max_answer_bytes=30_000) as calls:
        assert len((await calls.request("POST", url, json={})).body) == 30_000


async def test_an_answer_of_just_the_bound_is_read() -> None:
    class Exact(GatewayDouble):
        async def respond(self, request: GatewayRequest) -> Reply:
            return Reply(200, b"x" * int(request.path[1:]))

    async with Exact() as gateway, client(max_answer_bytes=1000) as calls:
        assert len((await calls.request("GET", f"{gateway.url}/1000")).body) == 1000
        with pytest.raises(NoAnswer):
            await calls.request("GET", f"{gateway.url}/1001")


async def test_a_gateway_that_takes_the_connection_and_no_more_time_than_that() -> None:
    """The listener's queue takes the connection and nobody accepts it: the request is written, its end unknown."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        async with client(timeout_s=0.3) as calls:
            with pytest.raises(NoAnswer, match="time-out"):
                await calls.request("POST", f"http://127.0.0.1:{listener.getsockname()[1]}", json={})


async def test_a_slow_resolver_means_that_nothing_left() -> None:
    async def never(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    calls = GatewayClient(timeout_s=0.3, allow_private=True, resolver=never)
    await calls.open()
    with pytest.raises(NotSent, match="connect time-out"):
        await calls.request("POST", "http://gateway.example/")
    await calls.close()


async def test_a_cancelled_call_ends_at_once_and_leaves_the_client_usable() -> None:
    async with Echo() as gateway, client(timeout_s=60) as calls:
        gateway.misbehave(Fault.HANG)
        call = asyncio.create_task(calls.request("POST", gateway.url, json={}))
        await gateway.arrived()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await calls.request("POST", gateway.url, json={})).status == 201


async def test_many_calls_at_once() -> None:
    async with Echo() as gateway, client() as calls:
        answers = await asyncio.gather(*(calls.request("POST", f"{gateway.url}/{n}", json={}) for n in range(150)))
        assert [answer.json() for answer in answers] == [{"path": f"/{n}"} for n in range(150)]


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Echo() as gateway, Echo() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with client() as calls:
            await calls.request("POST", gateway.url, json={})
        assert (len(gateway.requests), proxy.requests) == (1, [])


async def test_a_closed_client_sends_nothing_and_may_be_closed_again() -> None:
    async with Echo() as gateway:
        calls = GatewayClient(allow_private=True)
        await calls.close()
        with pytest.raises(NotSent):
            await calls.request("POST", gateway.url)
        await calls.open()
        await calls.open()
        assert (await calls.request("POST", gateway.url)).status == 201
        await calls.close()
        await calls.close()
        with pytest.raises(NotSent):
            await calls.request("POST", gateway.url)
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "ключ", "a\x00b"])
async def test_a_header_cannot_be_smuggled_in(value: str) -> None:
    async with Echo() as gateway, client() as calls:
        with pytest.raises(NotSent):
            await calls.request("POST", gateway.url, headers={"x-key": value})
        with pytest.raises(NotSent):
            await calls.request("POST", gateway.url, bearer=value)
        assert gateway.requests == []


async def test_nothing_of_a_call_is_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore2").setLevel(logging.WARNING)  # what the module does when it is loaded
    async with Echo() as gateway, client(timeout_s=0.3) as calls:
        gateway.misbehave(Fault.NOT_JSON, Fault.HANG)
        answer = await calls.request("POST", f"{gateway.url}/?text=482913", json={"text": "482913"})
        with pytest.raises(NoAnswer) as caught:
            await calls.request("POST", f"{gateway.url}/?text=482913", json={"text": "482913"})
    assert "482913" not in caplog.text
    assert "482913" not in repr(caught.value)
    assert repr(answer) == "GatewayAnswer(200)"
    assert answer.json() is None


def answer_with(**headers: str) -> GatewayAnswer:
    return GatewayAnswer(429, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 7.5 "}, 7.5),
        ({"retry_after": "0"}, 0.1),
        ({"retry_after": "9" * 400}, 3600.0),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.1),
        ({"retry_after": "Wed, 21 Oct 9999 07:28:00 GMT"}, 3600.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert answer_with(**headers).retry_after_s == expected


def test_retry_after_as_a_date_counts_from_our_clock_where_the_gateway_shows_none() -> None:
    after_s = answer_with(retry_after=formatdate(time.time() + 100, usegmt=True)).retry_after_s
    assert after_s is not None
    assert 90 < after_s <= 100


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b'{"a":', b"[" * 60_000])
def test_what_is_not_json(body: bytes) -> None:
    assert GatewayAnswer(200, {}, body).json() is None


def test_outcomes() -> None:
    assert outcome_of(NotSent("name not found")) == RetryLater(2.0, "name not found", is_fault=True)
    assert outcome_of(AddressRefused("address not allowed")) == Rejected(
        RejectionKind.MISCONFIGURED, "address not allowed"
    )
    assert outcome_of(NoAnswer("time-out")) == Unknown("time-out")
