"""The calls themselves: addresses that are refused, what an exception says, the two ends of a stream."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.handset.link import Login, NoServer, Refused, ServerLink, server_address
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.stream import EventReader, ServerEvent, StreamError
from otpsvc.handset.wire import Report
from otpsvc.testing.gateways import Fault
from tests.gateways.certificates import certificate_for
from tests.handset.phones import PATIENCE_S
from tests.handset.server import MobileServer


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("https://otp.example", "https://otp.example/mobile/v1"),
        (" https://otp.example/ ", "https://otp.example/mobile/v1"),
        ("https://otp.example:8443/mobile/v1/", "https://otp.example:8443/mobile/v1"),
        ("https://otp.example/behind/here", "https://otp.example/behind/here/mobile/v1"),
        ("http://localhost:8080", "http://localhost:8080/mobile/v1"),
        ("http://127.0.0.2", "http://127.0.0.2/mobile/v1"),
        ("http://[::1]:80", "http://[::1]/mobile/v1"),
    ],
)
def test_addresses(typed: str, base: str) -> None:
    assert server_address(typed) == base


@pytest.mark.parametrize(
    "typed",
    [
        "", "otp.example", "ftp://otp.example", "http://otp.example", "http://10.0.0.1", "http://localhost.example",
        "http://127.0.0.1.example", "https://user:word@otp.example", "https://otp.example/?a=b", "https://otp.example/#a",
        "https://", "https://[", "http://0.0.0.0",
    ],
)  # fmt: skip
def test_addresses_that_a_phone_refuses(typed: str) -> None:
    with pytest.raises(ConfigurationError):
        server_address(typed)
    with pytest.raises(ConfigurationError):
        SimulatedPhone(typed, login="a", password="b")


def test_plain_http_elsewhere_only_where_it_is_asked_for() -> None:
    assert server_address("http://10.0.0.1", allow_http=True) == "http://10.0.0.1/mobile/v1"


async def test_every_call_of_the_protocol() -> None:
    async with MobileServer() as server, ServerLink(server_address(server.url)) as link:
        account = server.account()
        login = Login(account.login, account.password)
        found = await link.register(login, "Nokia", ())
        assert (found.id, found.password) == (server.device().id, None)
        assert await link.device() == {"externalIp": "127.0.0.1"}
        assert await link.device(found.token)
        await link.update(found.token, found.id, ())
        with pytest.raises(Refused, match="answered 403"):
            await link.update(found.token, "another", ())
        assert await link.messages(found.token, order="lifo") == []
        assert server.requests[-1].query == {"order": "lifo"}
        await link.report(found.token, [Report(id="unknown", state="Sent")])
        assert (await link.settings(found.token), await link.webhooks(found.token)) == ({}, [])
        assert (await link.enrolment_code(login))["code"] == "123456"
        await link.change_password(found.token, "old", "new")
        assert server.requests[-1].json() == {"currentPassword": "old", "newPassword": "new"}
        with pytest.raises(Refused, match="answered 401"):
            await link.messages("nonsense")
        with pytest.raises(Refused):
            await anext(link.events("nonsense"))


@pytest.mark.parametrize("fault", list(Fault))
async def test_trouble_says_nothing_of_what_was_sent(fault: Fault) -> None:
    call_s = 0.5 if fault in {Fault.HANG, Fault.SLOW_DRIP} else 30.0
    async with MobileServer() as server, ServerLink(server_address(server.url), call_s=call_s) as link:
        server.misbehave(fault)
        with pytest.raises((NoServer, Refused)) as trouble:
            await link.register(Login("a-login", "a-password"), "Nokia", ())
        assert "a-" not in str(trouble.value)
        assert trouble.value.__cause__ is None


async def test_a_stream_that_is_none_is_refused() -> None:
    async with MobileServer() as server, ServerLink(server_address(server.url)) as link:
        server.misbehave(Fault.NOT_JSON)
        with pytest.raises(Refused):
            await anext(link.events("token"))
        server.misbehave(Fault.CLOSE_MID_BODY)
        with pytest.raises((NoServer, Refused)):
            await anext(link.events("token"))


async def test_a_silent_stream_counts_as_broken() -> None:
    async with MobileServer() as server, ServerLink(server_address(server.url), silence_s=0.2) as link:
        account = server.account()
        found = await link.register(Login(account.login, account.password), "Nokia", ())
        async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(link.events(found.token)) as events:
            assert await anext(events) is None
            with pytest.raises(NoServer):
                await anext(events)


async def test_a_switched_off_phone_calls_nobody() -> None:
    with pytest.raises(NoServer):
        await ServerLink("http://127.0.0.1:1/mobile/v1").device()


async def test_certificates_are_looked_at(tmp_path: Path) -> None:
    theirs, ours = certificate_for("localhost", tmp_path)
    async with MobileServer(tls=theirs) as server:
        base = server_address(server.url.replace("127.0.0.1", "localhost"))
        async with ServerLink(base) as link:
            with pytest.raises(NoServer):
                await link.device()
        assert server.requests == []
        async with ServerLink(base, tls=ours) as link:
            assert await link.device() == {"externalIp": "127.0.0.1"}


def test_what_proves_the_phone_is_never_shown() -> None:
    assert "word" not in repr(Login("me", "password", "code"))
    assert Login("me", "pass:word").header == "Basic bWU6cGFzczp3b3Jk"
    assert Login(code="123456").header == "Code 123456"
    assert Login().header == ""


STREAM = (
    b':keepalive\n\nevent: MessageEnqueued\ndata: null\n\nevent:MessageCancelled\r\ndata: {"messageId":\r\n'
    b'data: "msg_1"}\r\n\r\nid: 4\nretry: 3\ndata: [1\n\nevent: SettingsUpdated\n\n\n: \xff\xfe\rdata: "\xc3\xa9"\r\r'
)  # fmt: skip
EVENTS = [
    ServerEvent("MessageEnqueued"),
    ServerEvent("MessageCancelled", {"messageId": "msg_1"}),
    ServerEvent("message"),
    ServerEvent("SettingsUpdated"),
    ServerEvent("message", "é"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_events_are_read_from_pieces_of_any_size(size: int) -> None:
    reader = EventReader()
    found = [event for at in range(0, len(STREAM), size) for event in reader.feed(STREAM[at : at + size])]
    assert found == EVENTS


def test_what_grows_without_end_is_refused() -> None:
    with pytest.raises(StreamError):
        list(EventReader().feed(b"x" * 70_000))
    reader = EventReader()
    with pytest.raises(StreamError):
        list(reader.feed(b"data: a\n" * 70_000))
