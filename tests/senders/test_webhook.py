"""The signed webhook: what it posts, what it makes of every answer, and which receipts it believes."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from otpsvc.clock import SystemClock
from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Channel,
    OutboundMessage,
    Outcome,
    ReceiptRequest,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    SenderContext,
    Unknown,
)
from otpsvc.senders.webhook import WebhookSender, WebhookSettings
from otpsvc.senders.webhook_signing import WebhookSigner
from otpsvc.testing import ManualClock, Reply, outbound_message, sender_context
from otpsvc.testing.conformance import Scene, SenderConformance
from tests.gateways.webhook import OTHER_SECRET, SECRET, WebhookDouble, signed

NOW = 1_800_000_000.0


def make(url: str = "https://hook.example/otp", context: SenderContext | None = None, **settings: Any) -> WebhookSender:
    given: dict[str, Any] = {"url": url, "secret": Secret(SECRET), "receipts": True} | settings
    return WebhookSender("local", WebhookSettings(**given), context or sender_context(clock=ManualClock(NOW)))


@asynccontextmanager
async def posting(gateway: WebhookDouble | None = None, **settings: Any) -> AsyncIterator[Scene]:
    async with gateway or WebhookDouble() as double:
        context = sender_context(clock=SystemClock())
        sender = make(f"{double.url}/otp", context, allow_private=True, timeout_s=1.0, **settings)
        await sender.open()
        try:
            yield Scene(sender, double)
        finally:
            await sender.close()


async def sent(reply: Reply, **settings: Any) -> Outcome:
    """What a message comes to that is answered so."""
    double = WebhookDouble()
    async with posting(double, **settings) as scene:
        double.next_reply = reply
        return await scene.sender.send(coded("482913 is your code.", 6))


def coded(text: str, code_length: int) -> OutboundMessage:
    return msgspec.structs.replace(outbound_message(text=text), code_length=code_length)


class TestConformance(SenderConformance):
    """The suite, on the form that carries the whole text."""

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with posting(receipts=True, honours_expiry=True) as scene:
            yield scene

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, WebhookDouble)
        return [str(body["text"]) for body in scene.gateway.taken]

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        now = time.time()
        return [
            signed({"id": message.message_id, "status": "delivered"}, at=now),
            signed({"message_id": provider_id, "status": "failed", "error": "undeliverable"}, at=now),
            signed([{"id": message.message_id, "status": "sent", "at": "2027-01-15T08:00:00Z"}], at=now),
        ]

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        headers = WebhookSigner.from_setting(SECRET, key="secret").headers("r-1", time.time(), body)
        return ReceiptRequest(method="POST", url="https://otp.example/receipts/local", headers=headers, body=body)

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        return signed({"id": message.message_id, "status": "failed", "error": "never-heard-of"}, at=time.time())

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, WebhookDouble)
        scene.gateway.next_reply = Reply(422, {"error": "invalid_number"})
        return True


async def test_the_request_is_the_documented_one() -> None:
    async with posting() as scene:
        message = outbound_message(now=time.time(), life_s=299.7, try_number=2)
        assert await scene.sender.send(message) == Accepted("local-1")
        [request] = scene.gateway.requests
        assert (request.method, request.path) == ("POST", "/otp")
        assert request.headers["content-type"] == "application/json"
        assert request.headers["webhook-id"] == message.message_id
        assert request.json() == {
            "id": message.message_id,
            "to": "+33612345678",
            "text": "123456 is your verification code.",
            "channel": "sms",
            "expires_at": datetime.fromtimestamp(int(message.expires_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "life_s": 299,
            "mode": "live",
            "client_id": "client_100000000001",
            "try_number": 2,
        }


async def test_the_supabase_form_carries_the_code() -> None:
    async with posting(format="supabase") as scene:
        assert await scene.sender.send(coded("482913 is your code, valid 5 min.", 6)) == Accepted("local-1")
        assert scene.gateway.requests[0].json() == {"user": {"phone": "+33612345678"}, "sms": {"otp": "482913"}}


@pytest.mark.parametrize(
    ("text", "code_length", "code"),
    [
        ("482913 is your code.\n@example.com #482913", 6, "482913"),
        ("Code 482913, call 0800123 for help", 6, "482913"),
        ("G-482913", 6, "482913"),
        ("482913 or 555555", 6, None),
        ("4829131", 6, None),
        ("no code", 6, None),
        ("٤٨٢٩١٣", 6, None),
        ("482913", 0, None),
        ("12 is your code", 2, "12"),
    ],
)
async def test_the_code_is_taken_only_where_there_is_no_doubt(text: str, code_length: int, code: str | None) -> None:
    async with posting(format="supabase") as scene:
        outcome = await scene.sender.send(coded(text, code_length))
        if code is None:
            assert outcome == Rejected(RejectionKind.TEXT_REFUSED, "no single code in the text")
            assert scene.gateway.requests == []
        else:
            assert scene.gateway.requests[0].json()["sms"] == {"otp": code}


@pytest.mark.parametrize(
    "secrets", [f"{SECRET} {OTHER_SECRET}", f"{OTHER_SECRET} {SECRET}", f"v1,{SECRET}", SECRET[6:]]
)
async def test_a_receiver_with_either_secret_is_satisfied(secrets: str) -> None:
    async with posting(secret=Secret(secrets)) as scene:
        assert isinstance(await scene.sender.send(outbound_message()), Accepted)


async def test_a_receiver_with_another_secret_refuses_us() -> None:
    async with posting(secret=Secret(OTHER_SECRET)) as scene:
        assert await scene.sender.send(outbound_message()) == Rejected(RejectionKind.UNAUTHORISED, "status 401")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(200), Accepted()),
        (Reply(204), Accepted()),
        (Reply(202, b"queued"), Accepted()),
        (Reply(200, {"message_id": 17}), Accepted("17")),
        (Reply(200, {"message_id": "+33612345678"}), Accepted()),
        (Reply(200, {"message_id": {"a": 1}}), Accepted()),
        (Reply(200, [1]), Accepted()),
        (Reply(200, {"message_id": "17", "error": ""}), Accepted("17")),
        (Reply(200, {"error": False}), Accepted()),
        (Reply(200, {"error": {}}), Accepted()),
        (Reply(400, {"error": ""}), Rejected(RejectionKind.GATEWAY_ERROR, "status 400")),
        (Reply(429), RetryLater(5.0, "status 429")),
        (Reply(429, b"", {"retry-after": "30"}), RetryLater(30.0, "status 429")),
        (Reply(503, b"", {"retry-after": "2"}), RetryLater(2.0, "status 503")),
        (Reply(503, b"", {"retry-after": "true"}), RetryLater(5.0, "status 503")),
        (Reply(503), Unknown("status 503")),
        (Reply(503, {"error": "no_credit"}), Rejected(RejectionKind.NO_CREDIT, "code no_credit")),
        (Reply(503, {"error": "out of cheese"}), Unknown("status 503")),
        (Reply(303, b"", {"location": "/messages/17"}), Unknown("status 303")),
        (Reply(500), Unknown("status 500")),
        (Reply(502, b"<html>"), Unknown("status 502")),
        (Reply(504), Unknown("status 504")),
        (Reply(408), Unknown("status 408")),
        (Reply(500, {"error": "no_credit"}), Rejected(RejectionKind.NO_CREDIT, "code no_credit")),
        (Reply(500, {"error": "out of cheese"}), Unknown("status 500")),
        (Reply(422, {"error": "invalid_number"}), Rejected(RejectionKind.INVALID_NUMBER, "code invalid_number")),
        (Reply(400, {"error": "BLOCKED"}), Rejected(RejectionKind.BLOCKED, "code blocked")),
        (Reply(400), Rejected(RejectionKind.GATEWAY_ERROR, "status 400")),
        (Reply(400, {"error": {"message": "482913 refused"}}), Rejected(RejectionKind.GATEWAY_ERROR, "status 400")),
        (
            Reply(400, {"error": "no-such-word"}),
            Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code no-such-word", is_unmapped=True),
        ),
        (
            Reply(400, {"error": "482913 is your code."}),
            Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code (not shown)", is_unmapped=True),
        ),
        (Reply(401), Rejected(RejectionKind.UNAUTHORISED, "status 401")),
        (Reply(403), Rejected(RejectionKind.UNAUTHORISED, "status 403")),
        (Reply(404), Rejected(RejectionKind.MISCONFIGURED, "status 404")),
        (Reply(301, b"", {"location": "https://elsewhere"}), Rejected(RejectionKind.MISCONFIGURED, "status 301")),
        (Reply(200, {"error": "invalid_number"}), Rejected(RejectionKind.INVALID_NUMBER, "code invalid_number")),
        (Reply(200, {"error": {"http_code": 403, "message": "x"}}), Rejected(RejectionKind.UNAUTHORISED, "status 403")),
        (Reply(200, {"error": {"http_code": 429}}), RetryLater(5.0, "status 429")),
        (Reply(200, {"error": {"http_code": 503}}), Unknown("status 503")),
        (Reply(200, {"error": {"http_code": 500, "message": "x"}}), Unknown("status 500")),
        (Reply(200, {"error": {"http_code": "x"}}), Unknown("status 500")),
        (Reply(200, {"error": True}), Unknown("status 500")),
    ],
)
async def test_answers(reply: Reply, expected: Outcome) -> None:
    for form in ("otpsvc", "supabase"):
        assert await sent(reply, format=form) == expected


async def test_a_receiver_that_is_claimed_to_deduplicate_takes_a_message_once() -> None:
    async with posting() as scene:
        assert isinstance(scene.gateway, WebhookDouble)
        message = outbound_message()
        for _ in range(2):
            assert await scene.sender.send(message) == Accepted("local-1")
        assert len(scene.gateway.taken) == 1


@pytest.mark.parametrize("body", [b"", {"message_id": "local-1"}, {"error": "duplicate"}])
async def test_a_conflict_means_that_an_earlier_call_arrived(body: object) -> None:
    taken = await sent(Reply(409, body))
    assert isinstance(taken, Accepted)
    assert await sent(Reply(409, body), deduplicates=False) == Unknown("status 409")
    assert await sent(Reply(409, {"error": "blocked"})) == Rejected(RejectionKind.BLOCKED, "code blocked")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"deduplicates": False}, False),
        ({"format": "supabase"}, False),
        ({"format": "supabase", "deduplicates": True}, True),
    ],
)
def test_only_a_receiver_that_was_written_for_us_is_trusted_to_deduplicate(
    settings: dict[str, Any], expected: bool
) -> None:
    assert make(**settings).capabilities.is_idempotent is expected


def test_channels_and_claims_follow_the_settings() -> None:
    able = make(channels=("sms", "whatsapp"), honours_expiry=True, receipt_within_s=20.0).capabilities
    assert (able.channels, able.honours_expiry) == (frozenset({Channel.SMS, Channel.WHATSAPP}), True)
    assert (able.has_receipts, able.receipt_within_s) == (True, 20.0)
    mute = make(format="supabase", channels=("voice",), honours_expiry=True, receipts=False, receipt_within_s=20.0)
    able = mute.capabilities
    assert (able.channels, able.honours_expiry) == (frozenset({Channel.SMS}), False)
    assert (able.has_receipts, able.receipt_within_s) == (False, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://hook.example"}, "senders.local.url must begin with https"),
        ({"url": "https://10.0.0.1/hook"}, "senders.local.url leads into a private network"),
        ({"secret": Secret("whsec_short")}, "senders.local.secret must"),
        ({"secret": Secret("whsec_" + "é" * 40)}, "senders.local.secret must"),
        ({"secret": Secret("whsec_" + base64.b64encode(b"x" * 23).decode())}, "senders.local.secret must hold 24 to"),
        ({"secret": Secret(f"{SECRET} " * 5)}, "senders.local.secret must hold one to 4"),
    ],
)
def test_settings_that_cannot_work_are_told_at_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        make(**settings)
    assert SECRET not in str(caught.value)


def test_a_slash_at_the_end_stays() -> None:
    assert make("https://hook.example/otp/")._url == "https://hook.example/otp/"


def test_secrets_do_not_print() -> None:
    sender = make()
    shown = f"{sender!r} {sender.settings!r} {sender._signer!r}"
    assert SECRET[6:] not in shown
