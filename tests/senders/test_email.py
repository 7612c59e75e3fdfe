"""The sender of mail: what arrives at a mail server, and what every reply of it means."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.addresses import SystemResolver
from otpsvc.senders.contract import (
    Accepted,
    Channel,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    Unknown,
)
from otpsvc.senders.email import EmailSender, EmailSettings
from otpsvc.testing import Fault, ManualClock, outbound_message, sender_context
from otpsvc.testing.conformance import Scene, SenderConformance
from tests.gateways.certificates import certificate_for
from tests.gateways.smtp import SmtpDouble

PASSWORD = "a password of the mail server"


def make(**settings: Any) -> EmailSender:
    given: dict[str, Any] = {"host": "mail.example", "from_address": "codes@example.com"} | settings
    return EmailSender("post", EmailSettings(**given), sender_context(clock=ManualClock()))


@asynccontextmanager
async def posting(gateway: SmtpDouble | None = None, **settings: Any) -> AsyncIterator[tuple[EmailSender, SmtpDouble]]:
    async with gateway or SmtpDouble() as double:
        given: dict[str, Any] = {"host": "127.0.0.1", "port": double.port, "tls": "none", "to": "{digits}@sms.example"}
        sender = make(**given | {"allow_private": True, "timeout_s": 1.0} | settings)
        await sender.open()
        try:
            yield sender, double
        finally:
            await sender.close()


class TestConformance(SenderConformance):
    """The suite, on a gateway that turns mail into SMS."""

    # A mail server does not redirect, and names no pause.
    faults = tuple(fault for fault in Fault if fault not in {Fault.REDIRECT, Fault.TOO_MANY})

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with posting() as (sender, double):
            yield Scene(sender, double)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, SmtpDouble)
        return scene.gateway.texts()

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, SmtpDouble)
        scene.gateway.replies["RCPT"] = b"550 5.1.1 no such user\r\n"
        return True


async def test_the_mail_is_plain_and_whole() -> None:
    async with posting(subject="Ihr Code für heute", from_name="Zürich Bank") as (sender, double):
        message = outbound_message(text="482913 is your code.\n.\n..dots\nFrom here on")
        assert await sender.send(message) == Accepted()
        assert double.lines == [
            "EHLO example.com",
            "MAIL FROM:<codes@example.com>",
            "RCPT TO:<33612345678@sms.example>",
            "DATA",
            "QUIT",
        ]
        [mail] = double.taken
        assert (mail["From"], mail["To"]) == ("Zürich Bank <codes@example.com>", "33612345678@sms.example")
        assert mail["Subject"] == "Ihr Code für heute"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["Message-ID"] == f"<{message.message_id}.1@example.com>"
        assert parsedate_to_datetime(mail["Date"]).timestamp() == 1_800_000_000
        assert double.texts() == [message.text]
        assert mail["Content-Transfer-Encoding"] == "7bit"


async def test_without_a_subject_there_is_none() -> None:
    async with posting() as (sender, double):
        await sender.send(outbound_message())
        assert "Subject" not in double.taken[0]


@pytest.mark.parametrize("text", ["x" * 990, "Ваш код 482913", "line\r\nline\rline", "482913 " + "é" * 300])
async def test_every_text_arrives(text: str) -> None:
    async with posting() as (sender, double):
        assert await sender.send(outbound_message(text=text)) == Accepted()
        assert double.texts() == [text.replace("\r\n", "\n").replace("\r", "\n")]
        assert all(byte < 128 for byte in double.requests[0].body)
        assert max(map(len, double.requests[0].body.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    ("to", "template", "address"),
    [
        ("+33612345678", "{number}@sms.example", "+33612345678@sms.example"),
        ("+33612345678", "{digits}.key@sms.example", "33612345678.key@sms.example"),
        ("anna.b+otp@example.org", "{digits}@sms.example", "anna.b+otp@example.org"),
        ("anna@example.org", "", "anna@example.org"),
    ],
)
async def test_addresses(to: str, template: str, address: str) -> None:
    async with posting(to=template) as (sender, double):
        assert await sender.send(outbound_message(to=to)) == Accepted()
        assert double.requests[0].path == address


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("+33612345678", RejectionKind.UNSUPPORTED),
        ("a@b\r\nRCPT TO:<x@y>", RejectionKind.INVALID_NUMBER),
        ("a@b.example\r\nBcc: x@y.example", RejectionKind.INVALID_NUMBER),
        ("a@b.example>", RejectionKind.INVALID_NUMBER),
        ("<a@b.example> SIZE=1", RejectionKind.INVALID_NUMBER),
        ("a@b.example,c@d.example", RejectionKind.INVALID_NUMBER),
        ('"a b"@c.example', RejectionKind.INVALID_NUMBER),
        ("@b.example", RejectionKind.INVALID_NUMBER),
        ("a@", RejectionKind.INVALID_NUMBER),
        ("a@b.example\n", RejectionKind.INVALID_NUMBER),
        ("é@b.example", RejectionKind.INVALID_NUMBER),
        ("a@" + "b" * 254, RejectionKind.INVALID_NUMBER),
    ],
)
async def test_what_is_no_address_never_reaches_the_server(to: str, kind: RejectionKind) -> None:
    async with posting(to="") as (sender, double):
        assert await sender.send(outbound_message(to=to)) == Rejected(kind, "not a mail address")
        assert double.n_greeted == 0


@pytest.mark.parametrize(
    ("stage", "reply", "expected"),
    [
        ("CONNECT", b"421 4.3.2 closing", RetryLater(10.0, "reply 421")),
        ("CONNECT", b"554 5.3.2 go away", Rejected(RejectionKind.GATEWAY_ERROR, "reply 554 5.3.2")),
        ("EHLO", b"421 4.7.0 too many", RetryLater(10.0, "reply 421")),
        ("MAIL", b"451 4.3.0 later", RetryLater(5.0, "reply 451")),
        ("MAIL", b"550 5.7.1 sender", Rejected(RejectionKind.SENDER_REFUSED, "reply 550 5.7.1")),
        ("MAIL", b"553 5.1.8 domain", Rejected(RejectionKind.SENDER_REFUSED, "reply 553 5.1.8")),
        ("CONNECT", b"550 blacklisted", Rejected(RejectionKind.UNAUTHORISED, "reply 550")),
        ("CONNECT", b"521 no mail here", Rejected(RejectionKind.UNAUTHORISED, "reply 521")),
        ("MAIL", b"550 Sender verify failed", Rejected(RejectionKind.SENDER_REFUSED, "reply 550")),
        ("MAIL", b"553 not your address", Rejected(RejectionKind.SENDER_REFUSED, "reply 553")),
        ("MAIL", b"552 5.2.2 full", Rejected(RejectionKind.SENDER_REFUSED, "reply 552 5.2.2")),
        ("RCPT", b"450 4.2.0 greylisted", RetryLater(5.0, "reply 450")),
        ("RCPT", b"550 5.1.1 482913 unknown", Rejected(RejectionKind.UNSUPPORTED, "reply 550 5.1.1")),
        ("RCPT", b"550 no such user", Rejected(RejectionKind.UNDELIVERABLE, "reply 550")),
        ("RCPT", b"550 5.99.99 new", Rejected(RejectionKind.UNDELIVERABLE, "reply 550 5.99.99")),
        ("RCPT", b"552 5.2.2 full", Rejected(RejectionKind.UNDELIVERABLE, "reply 552 5.2.2")),
        ("RCPT", b"501 bad address syntax", Rejected(RejectionKind.UNSUPPORTED, "reply 501")),
        ("RCPT", b"550 5.7.133 not for you", Rejected(RejectionKind.SENDER_REFUSED, "reply 550 5.7.133")),
        ("RCPT", b"530 5.7.0 log in first", Rejected(RejectionKind.UNAUTHORISED, "reply 530 5.7.0")),
        ("END", b"550 5.7.509 policy", Rejected(RejectionKind.UNAUTHORISED, "reply 550 5.7.509")),
        ("MAIL", b"501 bad address syntax", Rejected(RejectionKind.MISCONFIGURED, "reply 501")),
        ("RCPT", b"599 what", Rejected(RejectionKind.GATEWAY_ERROR, "reply 599")),
        ("RCPT", b"550 4.1.1 contradicts", Rejected(RejectionKind.UNDELIVERABLE, "reply 550")),
        ("RCPT", b"299 odd", RetryLater(2.0, "reply not understood", is_fault=True)),
        ("DATA", b"452 4.3.1 full", RetryLater(5.0, "reply 452")),
        ("DATA", b"503 5.5.1 order", Rejected(RejectionKind.MISCONFIGURED, "reply 503 5.5.1")),
        ("END", b"451 4.7.1 later", RetryLater(5.0, "reply 451")),
        ("END", b"552 5.3.4 too big", Rejected(RejectionKind.TOO_LONG, "reply 552 5.3.4")),
        ("END", b"554 5.6.0 content", Rejected(RejectionKind.TEXT_REFUSED, "reply 554 5.6.0")),
        ("END", b"299 odd", Unknown("reply not understood")),
        ("END", b"nonsense", Unknown("reply not understood")),
        ("END", b"250 " + b"taken " * 2000, Unknown("reply not understood")),
    ],
)
async def test_replies(stage: str, reply: bytes, expected: Outcome) -> None:
    async with posting() as (sender, double):
        double.replies[stage] = reply + b"\r\n"
        assert await sender.send(outbound_message()) == expected
        assert double.taken == []
        assert await sender.send(outbound_message()) == Accepted()


async def test_a_mailbox_that_does_not_exist_is_a_wrong_address_only_where_it_was_given_as_one() -> None:
    async with posting() as (sender, double):
        double.replies["RCPT"] = b"550 5.1.1 unknown\r\n"
        outcome = await sender.send(outbound_message(to="anna@example.org"))
        assert outcome == Rejected(RejectionKind.INVALID_NUMBER, "reply 550 5.1.1")


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("CONNECT", RetryLater(2.0, "connection cut", is_fault=True)),
        ("EHLO", RetryLater(2.0, "connection cut", is_fault=True)),
        ("MAIL", RetryLater(2.0, "connection cut", is_fault=True)),
        ("RCPT", RetryLater(2.0, "connection cut", is_fault=True)),
        ("DATA", Unknown("connection cut")),
        ("END", Unknown("connection cut")),
    ],
)
async def test_a_cut_before_the_text_is_certain_and_after_it_is_not(stage: str, expected: Outcome) -> None:
    async with posting() as (sender, double):
        double.cut_at = stage
        assert await sender.send(outbound_message()) == expected
        assert len(double.taken) == (stage == "END")


async def test_a_server_that_says_nothing_at_all() -> None:
    ends: list[asyncio.StreamWriter] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    sender = make(
        host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls="none", to="{digits}@sms.example",
        allow_private=True, timeout_s=1.0,
    )  # fmt: skip
    try:
        await sender.open()
        assert await sender.send(outbound_message()) == RetryLater(2.0, "time-out", is_fault=True)
        health = await sender.health()
        assert (health.is_ready, health.detail) == (False, "time-out")
    finally:
        await sender.close()
        server.close()
        for writer in ends:
            writer.transport.abort()
        await server.wait_closed()


async def test_the_goodbye_changes_nothing() -> None:
    async with posting() as (sender, double):
        double.cut_at = "QUIT"
        assert await sender.send(outbound_message()) == Accepted()
        assert len(double.taken) == 1


@pytest.mark.parametrize("way", ["tls", "starttls"])
async def test_encrypted_and_logged_in(way: str, tmp_path: Path) -> None:
    context, _ = certificate_for("localhost", tmp_path)
    login = ("me", PASSWORD)
    double = SmtpDouble(login=login, tls=context) if way == "tls" else SmtpDouble(login=login, start_tls=context)
    async with posting(
        double, host="localhost", tls=way, ca_file=str(tmp_path / "both.pem"), username="me", password=Secret(PASSWORD)
    ) as (sender, _):
        assert await sender.send(outbound_message()) == Accepted()
        assert (await sender.health()).is_ready
        if way == "starttls":
            assert double.lines[:2] == ["EHLO example.com", "STARTTLS"]


@pytest.mark.parametrize("way", ["tls", "starttls"])
async def test_a_certificate_of_another_name_or_issuer_gets_no_text(way: str, tmp_path: Path) -> None:
    context, _ = certificate_for("other.example", tmp_path)
    double = SmtpDouble(tls=context) if way == "tls" else SmtpDouble(start_tls=context)
    async with posting(double, host="localhost", tls=way, ca_file=str(tmp_path / "both.pem")) as (sender, _):
        outcome = await sender.send(outbound_message())
        assert isinstance(outcome, RetryLater)
        assert outcome.is_fault
        stranger = make(host="127.0.0.1", port=double.port, tls=way, allow_private=True, to="{digits}@sms.example")
        await stranger.open()
        assert isinstance(await stranger.send(outbound_message()), RetryLater)
        await stranger.close()
        assert double.taken == []


async def test_a_server_without_starttls_gets_neither_password_nor_text() -> None:
    double = SmtpDouble(login=("me", PASSWORD))
    async with posting(double, tls="starttls", username="me", password=Secret(PASSWORD)) as (sender, _):
        outcome = await sender.send(outbound_message())
        assert outcome == Rejected(RejectionKind.MISCONFIGURED, "the server offers no TLS or no log-in")
        assert double.lines == ["EHLO example.com"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"535 5.7.8 wrong\r\n", Rejected(RejectionKind.UNAUTHORISED, "reply 535 5.7.8")),
        (b"454 4.7.0 later\r\n", RetryLater(10.0, "reply 454")),
    ],
)
async def test_a_login_that_is_refused(reply: bytes, expected: Outcome, tmp_path: Path) -> None:
    context, _ = certificate_for("localhost", tmp_path)
    double = SmtpDouble(login=("me", PASSWORD), tls=context)
    async with posting(
        double,
        host="localhost",
        tls="tls",
        ca_file=str(tmp_path / "both.pem"),
        username="me",
        password=Secret(PASSWORD),
    ) as (sender, _):
        double.replies["AUTH"] = reply
        outcome = await sender.send(outbound_message())
        assert outcome == expected
        double.replies["AUTH"] = reply
        health = await sender.health()
        assert (health.is_ready, health.detail) == (False, f"reply {reply[:3].decode()}")


async def test_a_name_that_leads_inside_needs_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    async def inside(_resolver: SystemResolver, _host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(SystemResolver, "__call__", inside)
    async with SmtpDouble() as double:
        sender = make(port=double.port, tls="starttls")
        await sender.open()
        outcome = await sender.send(outbound_message(to="anna@example.org"))
        assert outcome == Rejected(RejectionKind.MISCONFIGURED, "address not allowed")
        assert (await sender.health()).detail == "address not allowed"
        await sender.close()
        assert double.n_greeted == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": ""}, "post.host must be"),
        ({"host": "mail.example:25/x"}, "post.host must be"),
        ({"host": "me@mail.example"}, "post.host must be"),
        ({"host": "10.0.0.1"}, "post.host leads into a private network"),
        ({"host": "127.1"}, "post.host leads into a private network"),
        ({"tls": "none"}, "post.tls must be tls or starttls"),
        ({"from_address": "nobody"}, "post.from_address must be"),
        ({"from_address": "a@b.example\r\nBcc: x@y.example"}, "post.from_address must be"),
        ({"subject": "a\r\nBcc: x@y.example"}, "post.subject must not"),
        ({"from_name": 'a" <x@y.example>, "b'}, "post.from_name must not"),
        ({"to": "fixed@sms.example"}, "post.to must be"),
        ({"to": "{digits}"}, "post.to must be"),
        ({"to": "{digits}@sms.example\r\nBcc: x@y.example"}, "post.to must be"),
        ({"username": "me"}, "post.username and password"),
        ({"password": Secret(PASSWORD)}, "post.username and password"),
        (
            {"username": "me", "password": Secret(PASSWORD), "tls": "none", "allow_private": True},
            "post.password would travel in clear",
        ),
        ({"tls": "none", "allow_private": True, "ca_file": "x.pem"}, "post.ca_file needs"),
    ],
)
def test_settings_that_cannot_work_are_told_at_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        make(**settings)
    assert PASSWORD not in str(caught.value)


async def test_certificates_that_cannot_be_read_are_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "broken.pem").write_text("nothing")
    for file in ("broken.pem", "missing.pem"):
        sender = make(ca_file=str(tmp_path / file))
        with pytest.raises(ConfigurationError, match=r"post\.ca_file cannot be read"):
            await sender.open()
        await sender.close()


def test_claims() -> None:
    assert make().capabilities.channels == {Channel.EMAIL}
    able = make(to="{digits}@sms.example").capabilities
    assert able.channels == {Channel.EMAIL, Channel.SMS}
    assert not any((able.is_idempotent, able.honours_expiry, able.has_receipts, able.can_cancel))


def test_nothing_secret_prints() -> None:
    sender = make(username="me", password=Secret(PASSWORD))
    assert PASSWORD not in f"{sender!r} {sender.settings!r}"
