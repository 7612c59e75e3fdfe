"""The sender `unimsg`: what leaves, what each answer means, what polling tells."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    ReceiptStatus,
    RefusalKind,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.unimsg import UniMsgSender, UniMsgSettings
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message
from tests.gateways.unimsg import CLIENT_ID, CLIENT_SECRET, WEBHOOK_SECRET, UniMsgGateway

URL = "https://otp.example/receipts/unimsg"
NOW = ManualClock().time()


@asynccontextmanager
async def on_stage(
    gateway: UniMsgGateway | None = None, clock: ManualClock | None = None, **given: Any
) -> AsyncIterator[tuple[UniMsgSender, UniMsgGateway]]:
    async with gateway or UniMsgGateway() as double:
        settings: dict[str, Any] = {
            "client_id": CLIENT_ID,
            "client_secret": Secret(CLIENT_SECRET),
            "webhook_secret": Secret(WEBHOOK_SECRET),
            "url": double.url,
            "timeout_s": 1.0,
            "allow_private": True,
        }
        context = SenderContext(is_dev=False, clock=clock or ManualClock(), public_url="https://otp.example")
        sender = UniMsgSender("unimsg", UniMsgSettings(**(settings | given)), context)
        await sender.open()
        try:
            yield sender, double
        finally:
            await sender.close()


def request_with(headers: dict[str, str], body: bytes) -> ReceiptRequest:
    return ReceiptRequest(method="POST", url=URL, headers=headers, body=body)


def sent(provider_id: str | None) -> SentMessage:
    plain = outbound_message()
    return SentMessage(
        message_id=plain.message_id, provider_id=provider_id, channel=plain.channel, sent_at=1_800_000_000.0
    )


async def accepted(sender: UniMsgSender) -> str:
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Accepted)
    assert outcome.provider_id is not None
    return outcome.provider_id


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with on_stage() as (sender, gateway):
            assert (await sender.health()).is_ready
            yield Scene(sender, gateway)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, UniMsgGateway)
        return [sms["message"] for sms in scene.gateway.taken.values()]

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, UniMsgGateway)
        names = ("message.sent", "message.delivered", "message.failed")
        events = [scene.gateway.event(provider_id or "", name) for name in names]
        return [request_with(*scene.gateway.webhook(event, scene.sender.context.clock.time())) for event in events]

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, UniMsgGateway)
        return request_with(scene.gateway.signed(body, scene.sender.context.clock.time()), body)

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, UniMsgGateway)
        event = scene.gateway.event(provider_id or "", "message.failed", error_code="NEVER_HEARD_OF")
        return request_with(*scene.gateway.webhook(event, scene.sender.context.clock.time()))

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, UniMsgGateway)
        scene.gateway.refusals.append((402, "INSUFFICIENT_CREDITS", {}))
        return True


async def test_what_leaves() -> None:
    async with on_stage(sender="Acme") as (sender, gateway):
        outcome = await sender.send(outbound_message())
        assert outcome == Accepted(next(iter(gateway.taken)), 1)
        token, send = gateway.requests
        assert (token.method, token.path) == ("POST", "/oauth/token")
        assert token.form() == {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": "sms:send sms:read",
        }
        assert (send.method, send.path) == ("POST", "/v1/sms/send")
        assert send.headers["authorization"] == f"Bearer {gateway.token}"
        assert send.json() == {
            "to": "+33612345678",
            "message": "123456 is your verification code.",
            "sender": "Acme",
            "callback_url": URL,
        }


async def test_without_a_webhook_secret_it_asks_instead() -> None:
    async with on_stage(webhook_secret=None) as (sender, gateway):
        await sender.send(outbound_message())
        assert gateway.requests[-1].json().keys() == {"to", "message"}
        assert sender.capabilities.polls_every_s == 30.0
        refusal = ReceiptRefusal(RefusalKind.UNSUPPORTED, "no webhook_secret is set")
        assert await sender.parse_receipt(request_with({}, b"{}")) == refusal
    async with on_stage() as (sender, _):
        assert sender.capabilities.polls_every_s is None


CODES: list[tuple[int, str, Outcome]] = [
    (403, "NEW_CODE", Rejected(RejectionKind.UNAUTHORISED, "status 403", is_unmapped=True)),
    (403, "ACCOUNT_SUSPENDED", Rejected(RejectionKind.UNAUTHORISED, "code ACCOUNT_SUSPENDED")),
    (403, "IP_NOT_ALLOWED", Rejected(RejectionKind.UNAUTHORISED, "code IP_NOT_ALLOWED")),
    (422, "INVALID_PHONE", Rejected(RejectionKind.INVALID_NUMBER, "code INVALID_PHONE")),
    (400, "INVALID_SENDER", Rejected(RejectionKind.SENDER_REFUSED, "code INVALID_SENDER")),
    (400, "MISSING_PARAMETER", Rejected(RejectionKind.MISCONFIGURED, "code MISSING_PARAMETER")),
    (402, "INSUFFICIENT_CREDITS", Rejected(RejectionKind.NO_CREDIT, "code INSUFFICIENT_CREDITS")),
    (502, "GATEWAY_ERROR", Unknown("code GATEWAY_ERROR")),
    (503, "GATEWAY_UNAVAILABLE", RetryLater(8.0, "code GATEWAY_UNAVAILABLE")),
    (500, "INTERNAL_ERROR", Unknown("code INTERNAL_ERROR")),
    (429, "RATE_LIMITED", RetryLater(5.0, "code RATE_LIMITED")),
    (400, "NEW_CODE", Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code NEW_CODE", is_unmapped=True)),
    (500, "NEW_CODE", Unknown("status 500")),
    (200, "INVALID_PHONE", Rejected(RejectionKind.INVALID_NUMBER, "code INVALID_PHONE")),
]


@pytest.mark.parametrize(("status", "code", "outcome"), CODES)
async def test_what_a_code_means(status: int, code: str, outcome: Outcome) -> None:
    async with on_stage() as (sender, gateway):
        gateway.refusals.append((status, code, {}))
        assert await sender.send(outbound_message()) == outcome


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({"retry-after": "17", "x-ratelimit-reset": f"{int(NOW) + 40}"}, 17.0),
        ({"x-ratelimit-reset": f"{int(NOW) + 40}"}, 40.0),
        ({"x-ratelimit-reset": f"{int(NOW) + 90_000}"}, 3600.0),
        ({"x-ratelimit-reset": f"{int(NOW) - 5}"}, 5.0),
        ({"x-ratelimit-reset": "9" * 400}, 5.0),
        ({"x-ratelimit-reset": "soon"}, 5.0),
    ],
)
async def test_a_pause_is_as_long_as_they_say(headers: dict[str, str], after_s: float) -> None:
    async with on_stage() as (sender, gateway):
        gateway.refusals.append((429, "RATE_LIMITED", headers))
        assert await sender.send(outbound_message()) == RetryLater(after_s, "code RATE_LIMITED")


async def test_only_too_many_calls_wait_for_the_count_to_begin_anew() -> None:
    async with on_stage() as (sender, gateway):
        gateway.refusals.append((503, "GATEWAY_UNAVAILABLE", {"x-ratelimit-reset": f"{int(NOW) + 3000}"}))
        assert await sender.send(outbound_message()) == RetryLater(8.0, "code GATEWAY_UNAVAILABLE")


async def test_a_pause_is_counted_by_their_clock() -> None:
    async with on_stage() as (sender, gateway):
        headers = {"x-ratelimit-reset": "1800003640", "date": "Fri, 15 Jan 2027 09:00:00 GMT"}
        gateway.refusals.append((429, "RATE_LIMITED", headers))
        assert await sender.send(outbound_message()) == RetryLater(40.0, "code RATE_LIMITED")


class Answering(UniMsgGateway):
    """Gives tokens, then one answer to everything."""

    reply = Reply()

    async def respond(self, request: Any) -> Reply:
        return await super().respond(request) if request.path == "/oauth/token" else self.reply


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(200, {"success": True, "data": {"message_id": "m1", "segments": 2}}), Accepted("m1", 2)),
        (Reply(202, {"success": True, "data": {"message_id": "m1", "segments": "x"}}), Accepted("m1")),
        (Reply(200, {"success": True, "data": {}}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True}), Unknown("status 200, not understood")),
        (Reply(200, {"success": "true", "data": {"message_id": "m1"}}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True, "data": {"message_id": "+33 6"}}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True, "data": {}, "error": ""}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True, "data": {}, "error": "none"}), Unknown("status 200, not understood")),
        (Reply(200, []), Unknown("status 200, not understood")),
        (Reply(401, b""), Rejected(RejectionKind.UNAUTHORISED, "status 401")),
        (Reply(404, b"<html>"), Rejected(RejectionKind.MISCONFIGURED, "status 404")),
        (Reply(503, b"<html>"), Unknown("status 503")),
    ],
)
async def test_what_an_odd_answer_means(reply: Reply, outcome: Outcome) -> None:
    gateway = Answering()
    gateway.reply = reply
    async with on_stage(gateway) as (sender, _):
        assert await sender.send(outbound_message()) == outcome


@pytest.mark.parametrize(
    ("secret", "public_url", "polls"),
    [(WEBHOOK_SECRET, "https://otp.example", False), (WEBHOOK_SECRET, None, True), (None, "https://otp.example", True)],
)
def test_it_asks_wherever_webhooks_cannot_come(secret: str | None, public_url: str | None, polls: bool) -> None:
    settings = UniMsgSettings(
        client_id=CLIENT_ID, client_secret=Secret(CLIENT_SECRET), webhook_secret=Secret(secret) if secret else None
    )
    sender = UniMsgSender("s", settings, SenderContext(is_dev=False, clock=ManualClock(), public_url=public_url))
    assert (sender.capabilities.polls_every_s is not None) is polls


async def test_a_poll_tells_states() -> None:
    async with on_stage() as (sender, gateway):
        first, second = await accepted(sender), await accepted(sender)
        gateway.taken[first] |= {"status": "delivered", "delivered_at": "2027-01-15T10:00:05+02:00"}
        gateway.taken[second] |= {"status": "failed", "error_code": "GATEWAY_UNAVAILABLE"}
        told = await sender.poll([sent(first), sent(None), sent("msg_sms_unknown"), sent(second)])
        assert sorted(told, key=lambda receipt: receipt.status) == [
            Receipt(status=ReceiptStatus.DELIVERED, provider_id=first, happened_at=1_800_000_005.0),
            Receipt(
                status=ReceiptStatus.FAILED,
                provider_id=second,
                kind=RejectionKind.UNAVAILABLE,
                detail="code GATEWAY_UNAVAILABLE",
            ),
        ]


async def test_a_poll_takes_no_word_about_another_message() -> None:
    gateway = Answering()
    gateway.reply = Reply(200, {"success": True, "data": {"message_id": "m2", "status": "delivered"}})
    async with on_stage(gateway) as (sender, _):
        assert await sender.poll([sent("m1")]) == []


@pytest.mark.parametrize("fault", [Fault.CLOSE_MID_BODY, Fault.TOO_MANY])
async def test_a_poll_gives_up_at_the_first_failure(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        gateway.misbehave(fault)
        assert len(await sender.poll([sent(provider_id)] * 12)) <= 3
        assert len(gateway.requests) <= 2 + 4


async def test_a_poll_keeps_what_it_learnt_beside_a_question_that_hangs() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        gateway.misbehave(Fault.HANG)
        assert len(await sender.poll([sent(provider_id)] * 9)) == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [("sender", "TwelveChars1"), ("sender", "Ac me"), ("scope", "all"), ("client_id", "a b"), ("timeout_s", 0.5)],
)
def test_settings_that_cannot_work_are_named(key: str, value: object) -> None:
    faults: list[str] = []
    given = {"client_id": Given("c", "here"), "client_secret": Given("s", "here"), key: Given(value, "here")}
    assert read_struct(UniMsgSettings, given, path="senders.u", faults=faults) is None
    assert f"senders.u.{key} must be" in faults[0]


def test_an_address_in_a_private_network_stops_the_start() -> None:
    settings = UniMsgSettings(client_id="c", client_secret=Secret("s"), url="https://10.0.0.1")
    with pytest.raises(ConfigurationError, match=r"^senders\.unimsg\.url leads into a private network"):
        UniMsgSender("unimsg", settings, SenderContext(is_dev=False, clock=ManualClock()))


def test_nothing_secret_prints() -> None:
    settings = UniMsgSettings(client_id="c", client_secret=Secret("hush-hush"), webhook_secret=Secret("hush-hush"))
    sender = UniMsgSender("unimsg", settings, SenderContext(is_dev=False, clock=ManualClock()))
    assert "hush" not in f"{settings!r}{settings}{sender!r}{msgspec.structs.asdict(settings)}"
