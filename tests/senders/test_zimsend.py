"""The sender `zimsend`: what leaves, what either shape of answers means, what polling tells."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from otpsvc.senders.contract import (
    Accepted,
    Health,
    OutboundMessage,
    Outcome,
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
from otpsvc.senders.zimsend import ZimSendSender, ZimSendSettings
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message
from tests.gateways.zimsend import API_KEY, CLIENT_ID, DEVICE_ID, WEBHOOK_SECRET, ZimSendGateway

URL = "https://otp.example/receipts/zimsend"


@asynccontextmanager
async def on_stage(
    gateway: ZimSendGateway | None = None, clock: ManualClock | None = None, **given: Any
) -> AsyncIterator[tuple[ZimSendSender, ZimSendGateway]]:
    async with gateway or ZimSendGateway() as double:
        settings: dict[str, Any] = {
            "api_key": Secret(API_KEY),
            "client_id": CLIENT_ID,
            "device_id": DEVICE_ID,
            "webhook_secret": Secret(WEBHOOK_SECRET),
            "url": double.base,
            "timeout_s": 1.0,
            "allow_private": True,
        }
        context = SenderContext(is_dev=False, clock=clock or ManualClock(), public_url="https://otp.example")
        sender = ZimSendSender("zimsend", ZimSendSettings(**(settings | given)), context)
        await sender.open()
        try:
            yield sender, double
        finally:
            await sender.close()


def request_with(gateway: ZimSendGateway, body: bytes) -> ReceiptRequest:
    return ReceiptRequest(method="POST", url=URL, headers=gateway.signed(body), body=body)


def sent(provider_id: str | None) -> SentMessage:
    plain = outbound_message()
    return SentMessage(
        message_id=plain.message_id, provider_id=provider_id, channel=plain.channel, sent_at=1_800_000_000.0
    )


async def accepted(sender: ZimSendSender) -> str:
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Accepted)
    assert outcome.provider_id is not None
    return outcome.provider_id


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with on_stage() as (sender, gateway):
            yield Scene(sender, gateway)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, ZimSendGateway)
        return [sms["message"] for sms in scene.gateway.taken.values()]

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        gateway = scene.gateway
        assert isinstance(gateway, ZimSendGateway)
        names = ("sms.sent", "sms.delivered", "sms.failed", "sms.expired")
        return [request_with(gateway, gateway.event(provider_id or "", name)) for name in names]

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, ZimSendGateway)
        return request_with(scene.gateway, body)

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        gateway = scene.gateway
        assert isinstance(gateway, ZimSendGateway)
        return request_with(gateway, gateway.event(provider_id or "", "sms.failed", error={"code": "NEVER_HEARD_OF"}))

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, ZimSendGateway)
        scene.gateway.refusals.append((402, "NO_CREDIT"))
        return True


async def test_what_leaves() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        assert list(gateway.taken) == [provider_id]
        (request,) = gateway.requests
        assert (request.method, request.path) == ("POST", "/v1/sms/send")
        assert request.headers["x-api-key"] == API_KEY
        assert request.headers["x-client-id"] == CLIENT_ID
        assert request.headers["x-device-id"] == DEVICE_ID
        assert request.json() == {
            "to": "+33612345678",
            "message": "123456 is your verification code.",
            "priority": 1,
            "metadata": {"otpsvc_message_id": "msg_00000000000000000000000000"},
            "webhook_url": URL,
        }


async def test_what_was_not_set_does_not_leave() -> None:
    async with on_stage(device_id=None, webhook_secret=None) as (sender, gateway):
        await accepted(sender)
        (request,) = gateway.requests
        assert "x-device-id" not in request.headers
        assert request.json().keys() == {"to", "message", "priority", "metadata"}
        assert (sender.capabilities.polls_every_s, sender.capabilities.has_presence) == (20.0, False)
        refusal = ReceiptRefusal(RefusalKind.UNSUPPORTED, "no webhook_secret is set")
        assert await sender.parse_receipt(request_with(gateway, b"{}")) == refusal
    async with on_stage() as (sender, _):
        assert (sender.capabilities.polls_every_s, sender.capabilities.has_presence) == (None, True)


async def test_the_answer_of_the_specification_is_understood_too() -> None:
    gateway = ZimSendGateway()
    gateway.by_specification = True
    async with on_stage(gateway) as (sender, _):
        assert await sender.send(outbound_message()) == Accepted(next(iter(gateway.taken)))


CODES: list[tuple[int, str, Outcome]] = [
    (401, "INVALID_API_KEY", Rejected(RejectionKind.UNAUTHORISED, "code INVALID_API_KEY")),
    (401, "INVALID_CLIENT_ID", Rejected(RejectionKind.UNAUTHORISED, "code INVALID_CLIENT_ID")),
    (404, "INVALID_DEVICE_ID", Rejected(RejectionKind.MISCONFIGURED, "code INVALID_DEVICE_ID")),
    (503, "DEVICE_OFFLINE", RetryLater(60.0, "code DEVICE_OFFLINE")),
    (503, "NO_DEVICE_AVAILABLE", RetryLater(60.0, "code NO_DEVICE_AVAILABLE")),
    (400, "INVALID_PHONE_NUMBER", Rejected(RejectionKind.INVALID_NUMBER, "code INVALID_PHONE_NUMBER")),
    (400, "MESSAGE_TOO_LONG", Rejected(RejectionKind.TOO_LONG, "code MESSAGE_TOO_LONG")),
    (500, "NETWORK_ERROR", RetryLater(30.0, "code NETWORK_ERROR")),
    (402, "NO_CREDIT", Rejected(RejectionKind.NO_CREDIT, "code NO_CREDIT")),
    (403, "BLOCKED_NUMBER", Rejected(RejectionKind.BLOCKED, "code BLOCKED_NUMBER")),
    (504, "SMS_SEND_TIMEOUT", Unknown("code SMS_SEND_TIMEOUT")),
    (429, "RATE_LIMIT_EXCEEDED", RetryLater(60.0, "code RATE_LIMIT_EXCEEDED")),
    (429, "QUOTA_EXCEEDED", Rejected(RejectionKind.NO_CREDIT, "code QUOTA_EXCEEDED")),
    (200, "DEVICE_OFFLINE", RetryLater(60.0, "code DEVICE_OFFLINE")),
    (400, "NEW_CODE", Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code NEW_CODE", is_unmapped=True)),
    (500, "NEW_CODE", Unknown("status 500")),
]


@pytest.mark.parametrize(("status", "code", "outcome"), CODES)
async def test_what_a_code_means(status: int, code: str, outcome: Outcome) -> None:
    async with on_stage() as (sender, gateway):
        gateway.refusals.append((status, code))
        assert await sender.send(outbound_message()) == outcome


async def test_priorities_are_said_in_words_where_numbers_are_not_taken() -> None:
    gateway = ZimSendGateway()
    gateway.priorities = ("low", "normal", "high")
    async with on_stage(gateway) as (sender, _):
        first = await asyncio.gather(*(sender.send(outbound_message()) for _ in range(3)))
        assert first == [RetryLater(0.5, "code INVALID_PRIORITY")] * 3
        assert gateway.taken == {}
        await accepted(sender)
        assert [request.json()["priority"] for request in gateway.requests] == [1, 1, 1, "high"]
        gateway.priorities = ("urgent",)
        refused = Rejected(RejectionKind.MISCONFIGURED, "code INVALID_PRIORITY")
        assert [await sender.send(outbound_message()) for _ in range(2)] == [refused] * 2


class Answering(ZimSendGateway):
    """Gives one answer to everything."""

    reply = Reply()

    async def respond(self, request: object) -> Reply:
        return self.reply


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(200, {"success": True, "message_id": "msg_1"}), Accepted("msg_1")),
        (Reply(202, {"message_id": "msg_1"}), Accepted("msg_1")),
        (Reply(200, {"success": False, "message_id": "msg_1"}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True, "message_id": "to +33612345678"}), Unknown("status 200, not understood")),
        (Reply(200, {"success": True, "code": 200}), Unknown("status 200, not understood")),
        (Reply(200, None), Unknown("status 200, not understood")),
        (
            Reply(400, {"error": "…", "code": "INVALID_PRIORITY"}),
            RetryLater(0.5, "code INVALID_PRIORITY"),
        ),
        (Reply(402, b""), Rejected(RejectionKind.NO_CREDIT, "status 402")),
        (Reply(403, {"error": "no"}), Rejected(RejectionKind.UNAUTHORISED, "status 403")),
        (Reply(422, {"message": "no"}), Rejected(RejectionKind.MISCONFIGURED, "status 422")),
        (Reply(429, b"", {"retry-after": "9"}), RetryLater(9.0, "status 429")),
        (Reply(502, b"<html>"), Unknown("status 502")),
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
    settings = ZimSendSettings(
        api_key=Secret(API_KEY), client_id=CLIENT_ID, webhook_secret=Secret(secret) if secret else None
    )
    sender = ZimSendSender("s", settings, SenderContext(is_dev=False, clock=ManualClock(), public_url=public_url))
    assert (sender.capabilities.polls_every_s is not None) is polls


async def test_a_poll_tells_states() -> None:
    async with on_stage() as (sender, gateway):
        first, second = await accepted(sender), await accepted(sender)
        gateway.taken[first] |= {"status": "sent", "sent_at": "2027-01-15T08:00:02Z"}
        gateway.taken[second] |= {"status": "failed", "error": {"code": "NO_CREDIT", "message": "+33612345678"}}
        told = await sender.poll([sent(first), sent(None), sent("msg_gone"), sent(second)])
        assert {item.provider_id: (item.status, item.kind, item.happened_at) for item in told} == {
            first: (ReceiptStatus.SENT, None, 1_800_000_002.0),
            second: (ReceiptStatus.FAILED, RejectionKind.NO_CREDIT, None),
        }


async def test_a_poll_takes_no_word_about_another_message() -> None:
    gateway = Answering()
    gateway.reply = Reply(200, {"success": True, "message_id": "m2", "status": "delivered"})
    async with on_stage(gateway) as (sender, _):
        assert await sender.poll([sent("m1")]) == []


@pytest.mark.parametrize("fault", [Fault.CLOSE_MID_BODY, Fault.TOO_MANY])
async def test_a_poll_gives_up_at_the_first_failure(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        gateway.misbehave(fault)
        assert len(await sender.poll([sent(provider_id)] * 12)) <= 3
        assert len(gateway.requests) <= 1 + 4


async def test_a_poll_keeps_what_it_learnt_beside_a_question_that_hangs() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        gateway.misbehave(Fault.HANG)
        assert len(await sender.poll([sent(provider_id)] * 9)) == 8


async def test_cancel_takes_out_of_the_queue_only() -> None:
    async with on_stage() as (sender, gateway):
        first, second = await accepted(sender), await accepted(sender)
        assert await sender.cancel(sent(first))
        gateway.taken[second]["status"] = "sent"
        assert not await sender.cancel(sent(second))
        assert not await sender.cancel(sent("msg_gone"))
        assert not await sender.cancel(sent(None))
        assert not await sender.cancel(sent("../history"))
        assert {request.path for request in gateway.requests[2:]} == {
            f"/v1/sms/{first}",
            f"/v1/sms/{second}",
            "/v1/sms/msg_gone",
        }


@pytest.mark.parametrize("fault", [Fault.HTML_500, Fault.NOT_JSON, Fault.CLOSE_MID_BODY, Fault.REDIRECT])
async def test_cancel_promises_nothing_on_a_bad_day(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        gateway.misbehave(fault)
        assert not await sender.cancel(sent(provider_id))


async def test_health_tells_key_and_phone() -> None:
    async with on_stage() as (sender, gateway):
        assert await sender.health() == Health(is_ready=True)
        gateway.is_phone_online = False
        assert await sender.health() == Health(is_ready=False, detail="the phone is not connected")
        gateway.misbehave(Fault.HTML_500)
        assert await sender.health() == Health(is_ready=False, detail="status 500")
    async with on_stage(api_key=Secret("zs_live_wrong")) as (sender, _):
        assert await sender.health() == Health(is_ready=False, detail="code INVALID_API_KEY")


@pytest.mark.parametrize(("key", "value"), [("client_id", "client 1"), ("device_id", "a/b"), ("timeout_s", 61)])
def test_settings_that_cannot_work_are_named(key: str, value: object) -> None:
    faults: list[str] = []
    given = {"api_key": Given("k", "here"), "client_id": Given("client_1", "here"), key: Given(value, "here")}
    assert read_struct(ZimSendSettings, given, path="senders.z", faults=faults) is None
    assert f"senders.z.{key} must be" in faults[0]
