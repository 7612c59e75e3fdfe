"""`vonage-messages`: what leaves on each channel, tokens and clocks, problems."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import jwt
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    ReceiptRequest,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    Unknown,
)
from otpsvc.senders.vonage_messages import VonageMessagesSender
from otpsvc.senders.vonage_settings import VonageMessagesSettings
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message, sender_context
from tests.gateways.vonage import (
    API_KEY,
    API_SECRET,
    APPLICATION_ID,
    PUBLIC_URL,
    SIGNATURE_SECRET,
    VonageMessagesGateway,
    private_key,
    problem,
    public_key,
    public_pem,
)

TOKEN = "an-unguessable-token"
MESSAGE_ID = "msg_00000000000000000000000000"
UUID = "aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab"
BASIC: dict[str, Any] = {"api_secret": Secret(API_SECRET), "application_id": None, "private_key": None}


def settings(base_url: str = "https://api.nexmo.com", **changes: Any) -> VonageMessagesSettings:
    values: dict[str, Any] = {
        "api_key": API_KEY,
        "application_id": APPLICATION_ID,
        "private_key": Secret(private_key()),
        "origin": "Acme",
        "signature_secret": Secret(SIGNATURE_SECRET),
        "base_url": base_url,
        "allow_private": True,
        "timeout_s": 1,
    }
    return VonageMessagesSettings(**values | changes)


def make(base_url: str = "https://api.nexmo.com", *, public: bool = True, **changes: Any) -> VonageMessagesSender:
    clock = changes.pop("clock", ManualClock())
    context = dataclasses.replace(sender_context(clock=clock), public_url=PUBLIC_URL if public else None)
    return VonageMessagesSender("vonage", settings(base_url, **changes), context)


@asynccontextmanager
async def stage(**changes: Any) -> AsyncIterator[tuple[VonageMessagesSender, VonageMessagesGateway]]:
    async with VonageMessagesGateway(changes.pop("gateway_clock", ManualClock())) as gateway:
        sender = make(gateway.url, **changes)
        await sender.open()
        try:
            yield sender, gateway
        finally:
            await sender.close()


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        async with stage() as (sender, gateway):
            yield Scene(sender, gateway)

    def scene(self) -> AbstractAsyncContextManager[Scene]:
        return self._scene()

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return scene.gateway.texts

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return [
            scene.gateway.webhook(provider_id or "", "submitted", client_ref=message.message_id),
            scene.gateway.webhook(provider_id or "", "rejected", code="1250"),
        ]

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return scene.gateway.webhook(UUID, body=body)

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return scene.gateway.webhook(provider_id or "", "rejected", code="1999")

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        scene.gateway.refusals.append(problem(422, "1120"))
        return True


class TestConformanceWithBasicAndToken(TestConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        async with stage(**BASIC, signature_secret=None, receipt_token=Secret(TOKEN)) as (sender, gateway):
            yield Scene(sender, gateway)

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return [scene.gateway.webhook(provider_id or "", secret=None, token=TOKEN)]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return scene.gateway.webhook(provider_id or "", "rejected", code="1999", secret=None, token=TOKEN)

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, VonageMessagesGateway)
        return scene.gateway.webhook(UUID, body=body, secret=None, token=TOKEN)


class TestConformanceOnWhatsApp(TestConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        async with stage(origin=None, whatsapp_origin="33700000000") as (sender, gateway):
            yield Scene(sender, gateway)


async def test_the_whole_request_by_sms() -> None:
    async with stage() as (sender, gateway):
        outcome = await sender.send(outbound_message(life_s=299.9))
        (request,) = gateway.requests
        assert (request.method, request.path, request.query) == ("POST", "/v1/messages", {})
        assert request.headers["content-type"] == "application/json"
        assert request.json() == {
            "channel": "sms",
            "message_type": "text",
            "to": "33612345678",
            "from": "Acme",
            "text": "123456 is your verification code.",
            "client_ref": MESSAGE_ID,
            "ttl": 299,
            "sms": {"encoding_type": "auto"},
            "webhook_url": f"{PUBLIC_URL}/receipts/vonage",
            "webhook_version": "v1",
        }
        assert isinstance(outcome, Accepted)


async def test_the_whole_request_by_whatsapp() -> None:
    async with stage(whatsapp_origin="33700000000", public=False) as (sender, gateway):
        assert sender.capabilities.channels == {Channel.SMS, Channel.WHATSAPP}
        assert not sender.capabilities.honours_expiry
        await sender.send(outbound_message(channel=Channel.WHATSAPP))
        assert gateway.requests[0].json() == {
            "channel": "whatsapp",
            "message_type": "text",
            "to": "33612345678",
            "from": "33700000000",
            "text": "123456 is your verification code.",
            "client_ref": MESSAGE_ID,
        }


async def test_a_channel_without_an_origin_is_refused_here() -> None:
    async with stage() as (sender, gateway):
        outcome = await sender.send(outbound_message(channel=Channel.WHATSAPP))
        assert outcome == Rejected(RejectionKind.UNSUPPORTED, "channel not set up")
        assert gateway.requests == []


async def test_basic_and_token_never_come_together() -> None:
    async with stage(**BASIC) as (sender, gateway):
        assert isinstance(await sender.send(outbound_message()), Accepted)
        assert gateway.requests[0].headers["authorization"].startswith("Basic ")
    with pytest.raises(ValueError, match="either api_key and api_secret, or application_id and private_key"):
        settings(api_secret=Secret(API_SECRET))


async def test_the_token_names_the_application_and_serves_until_shortly_before_its_end() -> None:
    clock = ManualClock()
    async with stage(clock=clock, gateway_clock=clock) as (sender, gateway):
        for advance_s in (0, 839, 1, 5000):
            clock.advance(advance_s)
            assert isinstance(await sender.send(outbound_message()), Accepted)
        tokens = [request.headers["authorization"].removeprefix("Bearer ") for request in gateway.requests]
        assert tokens[0] == tokens[1]
        assert len(set(tokens)) == 3
        claims = jwt.decode(tokens[0], public_key(), algorithms=["RS256"], options={"verify_iat": False})
        assert claims["application_id"] == APPLICATION_ID
        assert (claims["iat"], claims["exp"], len(claims["jti"])) == (1_800_000_000, 1_800_000_900, 32)


async def test_a_clock_that_was_set_back_makes_a_new_token() -> None:
    clock = ManualClock()
    async with stage(clock=clock, gateway_clock=clock) as (sender, gateway):
        await sender.send(outbound_message())
        clock.advance(-600)
        assert isinstance(await sender.send(outbound_message()), Accepted)
        assert len({request.headers["authorization"] for request in gateway.requests}) == 2


@pytest.mark.parametrize(("ours_s", "told"), [(600, "-600"), (-600, "+600")])
async def test_a_clock_ten_minutes_wrong_is_unauthorised_and_says_so(ours_s: int, told: str) -> None:
    clock = ManualClock()
    clock.advance(ours_s)
    async with stage(clock=clock) as (sender, gateway):
        gateway.date = "Fri, 15 Jan 2027 08:00:00 GMT"
        if ours_s < 0:  # a fresh token is still good for five minutes there; one kept for longer is not
            await sender.send(outbound_message())
            gateway.clock.advance(301)  # type: ignore[attr-defined]  # the test's own clock
            gateway.date = "Fri, 15 Jan 2027 08:05:01 GMT"
            clock.advance(301)
            gateway.requests.clear()
        outcome = await sender.send(outbound_message())
        assert isinstance(outcome, Rejected)
        assert outcome.kind is RejectionKind.UNAUTHORISED
        assert outcome.detail.endswith(f"their clock is {told} s from ours")
        assert len(gateway.requests) == 1


async def test_a_refused_token_is_not_used_again() -> None:
    async with stage() as (sender, gateway):
        gateway.refusals.append(problem(401, "jwt-revoked"))
        refused = await sender.send(outbound_message())
        assert refused == Rejected(RejectionKind.UNAUTHORISED, "status 401, jwt-revoked")
        assert isinstance(await sender.send(outbound_message()), Accepted)
        assert len({request.headers["authorization"] for request in gateway.requests}) == 2


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (problem(401, "unauthorized"), Rejected(RejectionKind.UNAUTHORISED, "status 401, unauthorized")),
        (problem(402, "low-balance"), Rejected(RejectionKind.NO_CREDIT, "status 402, low-balance")),
        (problem(403, "out-of-credit"), Rejected(RejectionKind.NO_CREDIT, "status 403, out-of-credit")),
        (problem(403, "account-suspended"), Rejected(RejectionKind.UNAUTHORISED, "status 403, account-suspended")),
        (problem(422, "1120"), Rejected(RejectionKind.SENDER_REFUSED, "status 422, 1120")),
        (problem(422, "1170"), Rejected(RejectionKind.INVALID_NUMBER, "status 422, 1170")),
        (problem(422, "1240"), Rejected(RejectionKind.BLOCKED, "status 422, 1240")),
        (problem(422, "1420"), Rejected(RejectionKind.SENDER_REFUSED, "status 422, 1420")),
        (problem(422, "1430"), Rejected(RejectionKind.INVALID_NUMBER, "status 422, 1430")),
        # What an account's own rules or limits bar, another gateway may carry.
        (problem(422, "1470"), Rejected(RejectionKind.UNSUPPORTED, "status 422, 1470")),
        (problem(422, "1472"), Rejected(RejectionKind.UNSUPPORTED, "status 422, 1472")),
        (problem(422, "1473"), Rejected(RejectionKind.BLOCKED, "status 422, 1473")),
        (problem(422, "1100"), RetryLater(5, "status 422, 1100")),
        (problem(422, "1999"), Rejected(RejectionKind.GATEWAY_ERROR, "status 422, 1999", is_unmapped=True)),
        (problem(422, "1150", wrong=("to",)), Rejected(RejectionKind.INVALID_NUMBER, "status 422, 1150")),
        (problem(422, "a-new-slug", wrong=("to",)), Rejected(RejectionKind.INVALID_NUMBER, "status 422, a-new-slug")),
        (problem(422, "1150", wrong=("to", "ttl")), Rejected(RejectionKind.MISCONFIGURED, "status 422, 1150")),
        (Reply(422, {"invalid_parameters": ["to"]}), Rejected(RejectionKind.MISCONFIGURED, "status 422")),
        (problem(429, "1010", retry_after="9"), RetryLater(9, "status 429, 1010")),
        (problem(401, "unathorized"), Rejected(RejectionKind.UNAUTHORISED, "status 401, unathorized")),
        (problem(422, "invalid-params"), Rejected(RejectionKind.MISCONFIGURED, "status 422, invalid-params")),
        (problem(429, "throttled"), RetryLater(1, "status 429, throttled")),
        (problem(429, "throttled", retry_after="9"), RetryLater(9, "status 429, throttled")),
        (problem(429, None), RetryLater(1, "status 429")),
        (problem(402, None), Rejected(RejectionKind.NO_CREDIT, "status 402")),
        (problem(401, "a-new-slug"), Rejected(RejectionKind.UNAUTHORISED, "status 401, a-new-slug", is_unmapped=True)),
        (problem(418, None), Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code http-418", is_unmapped=True)),
        (problem(400, "33612345678"), Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        (Reply(422, {"title": 1120}), Rejected(RejectionKind.SENDER_REFUSED, "status 422, 1120")),
        (Reply(400, b"<html>"), Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        (Reply(302, b""), Rejected(RejectionKind.MISCONFIGURED, "status 302")),
        (problem(500, "throttled"), Unknown("status 500")),
        (problem(503, None, retry_after="1"), Unknown("status 503")),
        (Reply(202, {"message_uuid": "33612345678"}), Unknown("no message id")),
        (Reply(202, {}), Unknown("answer cannot be read")),
        (Reply(200, b"thank you"), Unknown("answer cannot be read")),
        (Reply(202, {"message_uuid": UUID, "workflow_id": "1"}), Accepted(UUID)),
    ],
)
async def test_what_answers_mean(reply: Reply, expected: Outcome) -> None:
    async with stage() as (sender, gateway):
        gateway.refusals.append(reply)
        assert await sender.send(outbound_message()) == expected


async def test_health_asks_whether_the_credentials_are_taken_and_sends_nothing() -> None:
    async with stage() as (sender, gateway):
        assert await sender.health() == Health(is_ready=True)
        assert [request.json() for request in gateway.requests] == [{}]
        assert gateway.taken == []
        gateway.refusals.append(problem(402, "low-balance"))
        assert await sender.health() == Health(is_ready=False, detail="status 402, low-balance")
        gateway.misbehave(Fault.HTML_500)
        assert await sender.health() == Health(is_ready=False, detail="status 500")
        gateway.misbehave(Fault.REFUSE)
        assert not (await sender.health()).is_ready
    async with stage(**BASIC | {"api_secret": Secret("of another account")}) as (sender, _):
        assert await sender.health() == Health(is_ready=False, detail="status 401, unauthorized")
    clock = ManualClock()
    clock.advance(-2000)
    async with stage(clock=clock) as (sender, gateway):
        gateway.date = "Fri, 15 Jan 2027 08:00:00 GMT"
        assert (await sender.health()).detail == "status 401, jwt-expired, their clock is +2000 s from ours"


async def test_a_cut_answer_is_unknown_and_a_shut_door_is_not() -> None:
    async with stage() as (sender, gateway):
        gateway.misbehave(Fault.CLOSE_MID_BODY)
        assert isinstance(await sender.send(outbound_message()), Unknown)
        gateway.misbehave(Fault.REFUSE)
        assert isinstance(await sender.send(outbound_message()), RetryLater)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"private_key": None}, "application_id and private_key go together"),
        ({"application_id": None, "private_key": None}, "give either"),
        ({"origin": None}, "origin or whatsapp_origin must be given"),
        ({"api_key": None}, "signature_secret needs api_key"),
        (BASIC | {"api_key": None, "signature_secret": None}, "api_secret needs api_key"),
        ({"receipt_token": Secret("short")}, "receipt_token must have at least 16 characters"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changes)


@pytest.mark.parametrize("form", ["text", "cut", "public", "empty lines"])
def test_a_key_that_cannot_sign_is_told_at_start_and_not_shown(form: str) -> None:
    pem = {
        "text": "not a key at all",
        "cut": private_key()[:500],
        "public": public_pem(),
        "empty lines": "\n\n",
    }[form]
    with pytest.raises(ConfigurationError) as caught:
        make(private_key=Secret(pem))
    assert str(caught.value).startswith("senders.vonage.private_key must be an RSA private key")
    assert caught.value.__cause__ is None
    assert pem.strip()[-20:] not in str(caught.value) or not pem.strip()


async def test_a_key_in_one_line_signs_too() -> None:
    async with stage(private_key=Secret(private_key().replace("\n", "\\n"))) as (sender, _):
        assert isinstance(await sender.send(outbound_message()), Accepted)
