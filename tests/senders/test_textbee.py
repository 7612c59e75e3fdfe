"""The textbee sender on its double: never a message twice, three shapes of error, receipts without a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from otpsvc.senders.contract import (
    Accepted,
    OutboundMessage,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    SentMessage,
    Unknown,
)
from otpsvc.senders.textbee import TextBeeSender, TextBeeSettings
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message, sender_context
from tests.gateways.textbee import API_KEY, DEVICE, PAUSED_AFTER, SECRET, TextBeeDouble
from tests.senders.polls import UNWELCOME, assert_a_poll_stops

Stand = tuple[TextBeeSender, TextBeeDouble, ManualClock]


@asynccontextmanager
async def stand(**changed: Any) -> AsyncIterator[Stand]:
    clock = ManualClock()
    async with TextBeeDouble(clock) as double:
        given: dict[str, Any] = {
            "api_key": Secret(API_KEY),
            "device_id": DEVICE,
            "url": double.base,
            "signing_secret": Secret(SECRET),
            "allow_private": True,
            "timeout_s": 1.0,
        }
        sender = TextBeeSender("phones", TextBeeSettings(**(given | changed)), sender_context(clock=clock))
        try:
            await sender.open()
            yield sender, double, clock
        finally:
            await sender.close()


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with stand() as (sender, double, _):
            yield Scene(sender, double)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, TextBeeDouble)
        return [message["message"] for message in scene.gateway.messages]

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, TextBeeDouble)
        scene.gateway.refuses_with = Reply(400, {"success": False, "error": "No enabled device"})
        return True

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        double = scene.gateway
        assert isinstance(double, TextBeeDouble)
        (taken,) = (taken for taken in double.messages if taken["smsBatchId"] == provider_id)
        kinds = ("MESSAGE_DELIVERED", "MESSAGE_SENT", "MESSAGE_FAILED")
        return [double.posted(double.event(taken, kind, errorCode="4")) for kind in kinds]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        double = scene.gateway
        assert isinstance(double, TextBeeDouble)
        (taken,) = (taken for taken in double.messages if taken["smsBatchId"] == provider_id)
        return double.posted(double.event(taken, "MESSAGE_FAILED", errorCode="999", errorMessage="never heard of"))

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, TextBeeDouble)
        return scene.gateway.posted(body)


async def test_what_leaves() -> None:
    async with stand(sim_subscription_id=3) as (sender, double, _):
        message = outbound_message()
        outcome = await sender.send(message)
        (request,) = double.requests
        assert (request.method, request.path, request.query) == ("POST", "/api/v1/gateway/send-sms", {})
        assert request.headers["x-api-key"] == API_KEY
        assert request.json() == {
            "deviceId": DEVICE,
            "recipients": [message.to],
            "message": message.text,
            "simSubscriptionId": 3,
        }
        assert outcome == Accepted(double.messages[0]["smsBatchId"])


async def test_an_older_server_is_found_out_once() -> None:
    async with stand() as (sender, double, _):
        double.is_old = True
        for _ in range(2):
            assert isinstance(await sender.send(outbound_message()), Accepted)
        assert [request.path.removeprefix("/api/v1") for request in double.requests] == [
            "/gateway/send-sms",
            f"/gateway/devices/{DEVICE}/send-sms",
            f"/gateway/devices/{DEVICE}/send-sms",
        ]
        assert len(double.messages) == 2


async def test_a_server_without_a_queue_names_no_batch_so_nothing_is_asked_about_it() -> None:
    async with stand() as (sender, double, _):
        double.has_queue = False
        message = outbound_message()
        assert await sender.send(message) == Accepted(None)
        double.refuses_with = Reply(200, {"data": {"success": True, "message": "SMS added to queue"}})
        assert await sender.send(message) == Accepted(None)
        double.requests.clear()
        sent = SentMessage(message_id=message.message_id, provider_id=None, channel=message.channel, sent_at=0.0)
        assert await sender.poll([sent]) == []
        assert double.requests == []


async def test_the_same_call_twice_would_be_two_messages_so_it_claims_nothing() -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        double.misbehave(Fault.HANG)
        assert isinstance(await sender.send(message), Unknown)
        await sender.send(message)
        assert len(double.messages) == 2
        able = sender.capabilities
        assert not able.is_idempotent
        assert not able.honours_expiry
        assert able.max_lifetime_s == 72 * 3600


LIMIT = {"message": "You have reached your daily limit", "hasReachedLimit": True, "dailyLimit": 50, "dailyRemaining": 0}


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (
            Reply(400, {"success": False, "error": "Device does not exist or is not enabled"}),
            RejectionKind.MISCONFIGURED,
        ),
        (Reply(400, {"error": "Invalid recipients"}), RejectionKind.MISCONFIGURED),
        (Reply(400, {"message": "Please verify your email to send"}), RejectionKind.UNAUTHORISED),
        (Reply(401, {"error": "Unauthorized", "code": "AUTH_INVALID"}), RejectionKind.UNAUTHORISED),
        (Reply(404, {"error": "Device not found"}), RejectionKind.MISCONFIGURED),
        (Reply(404, b"<html>"), RejectionKind.MISCONFIGURED),
        (Reply(429, LIMIT), RejectionKind.NO_CREDIT),
    ],
)
async def test_refusals_in_all_their_shapes(reply: Reply, kind: RejectionKind) -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = reply
        outcome = await sender.send(outbound_message())
        assert isinstance(outcome, Rejected)
        assert (outcome.kind, outcome.is_unmapped) == (kind, False)


async def test_words_that_no_row_knows_are_counted_and_not_repeated() -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = Reply(400, {"success": False, "error": "33612345678"})
        outcome = await sender.send(outbound_message())
        assert outcome == Rejected(RejectionKind.GATEWAY_ERROR, "status 400, unmapped", is_unmapped=True)


async def test_throttled_later_and_broken_unknown() -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = Reply(429, {"message": "ThrottlerException: Too Many Requests"})
        assert isinstance(await sender.send(outbound_message()), RetryLater)
        # The push may have been made before it failed.
        double.refuses_with = Reply(400, {"success": False, "error": "Failed to send SMS"})
        assert isinstance(await sender.send(outbound_message()), Unknown)
        double.refuses_with = Reply(500, {"success": False, "error": "Failed to add SMS to queue"})
        assert isinstance(await sender.send(outbound_message()), Unknown)
        double.refuses_with = Reply(200, {"data": {"successCount": 0, "failureCount": 1}})
        assert isinstance(await sender.send(outbound_message()), Unknown)


async def sent_one(sender: TextBeeSender, double: TextBeeDouble) -> tuple[dict[str, Any], SentMessage]:
    message = outbound_message()
    outcome = await sender.send(message)
    assert isinstance(outcome, Accepted)
    asked = SentMessage(
        message_id=message.message_id, provider_id=outcome.provider_id, channel=message.channel, sent_at=0.0
    )
    return double.messages[-1], asked


async def test_a_completed_batch_of_a_phone_that_never_woke_is_not_sent() -> None:
    async with stand() as (sender, double, clock):
        taken, asked = await sent_one(sender, double)
        double.is_reachable = False
        double.push(taken)
        (receipt,) = await sender.poll([asked])
        assert receipt.status is ReceiptStatus.ACCEPTED
        double.move(taken, "unknown")
        (receipt,) = await sender.poll([asked])
        assert receipt.status is ReceiptStatus.UNKNOWN
        double.is_reachable = True
        clock.advance(71 * 3600)
        double.push(taken)
        double.move(taken, "sent")
        (receipt,) = await sender.poll([asked])
        assert receipt == Receipt(
            status=ReceiptStatus.SENT,
            message_id=asked.message_id,
            provider_id=asked.provider_id,
            happened_at=clock.time(),
        )


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"errorCode": "4", "errorMessage": "No service"}, RejectionKind.UNAVAILABLE),
        ({"errorCode": 2}, RejectionKind.UNAVAILABLE),
        ({"errorCode": "1", "errorMessage": "Generic failure"}, RejectionKind.UNDELIVERABLE),
        ({"errorCode": "120"}, RejectionKind.MISCONFIGURED),
        ({"errorCode": "-1", "errorMessage": "Unknown delivery error"}, RejectionKind.UNDELIVERABLE),
        ({"errorMessage": "something about +33612345678"}, RejectionKind.GATEWAY_ERROR),
        ({}, RejectionKind.GATEWAY_ERROR),
    ],
)
async def test_why_a_phone_failed(told: dict[str, object], kind: RejectionKind) -> None:
    async with stand() as (sender, double, _):
        taken, asked = await sent_one(sender, double)
        double.move(taken, "failed", **told)
        (polled,) = await sender.poll([asked])
        said = await sender.parse_receipt(double.posted(double.event(taken, "MESSAGE_FAILED", **told)))
        assert isinstance(said, Receipts)
        for receipt in (polled, *said.items):
            assert (receipt.status, receipt.kind) == (ReceiptStatus.FAILED, kind)
            assert "336" not in receipt.detail


async def test_a_receipt_says_ids_and_status_and_none_of_the_text() -> None:
    async with stand() as (sender, double, clock):
        taken, asked = await sent_one(sender, double)
        body = double.event(taken, "MESSAGE_DELIVERED", deliveredAt=double.now(), idempotencyKey="key-1")
        expected = Receipt(
            status=ReceiptStatus.DELIVERED, provider_id=asked.provider_id, receipt_id="key-1", happened_at=clock.time()
        )
        assert await sender.parse_receipt(double.posted(body)) == Receipts((expected,))
        clock.advance(72 * 3600)
        assert await sender.parse_receipt(double.posted(body)) == Receipts((expected,)), "a replay says the same again"


async def test_receipts_of_other_phones_and_other_events_say_nothing() -> None:
    async with stand() as (sender, double, _):
        taken, _ = await sent_one(sender, double)
        for body in (
            double.event(taken, "MESSAGE_RECEIVED"),
            double.event(taken, "MESSAGE_SENT", deviceId="another"),
            double.event(taken, "MESSAGE_SENT", smsBatchId=None),
            double.event(taken, "MESSAGE_SENT", deviceId=[]),
            double.event(taken, "MESSAGE_SENT", webhookEvent={"": []}),
        ):
            assert await sender.parse_receipt(double.posted(body)) == Receipts(())


async def test_forged_and_changed_receipts() -> None:
    async with stand() as (sender, double, _):
        taken, _ = await sent_one(sender, double)
        genuine = double.posted(double.event(taken, "MESSAGE_SENT"))
        forged = double.posted(genuine.body, secret="another secret of twenty")
        changed = msgspec.structs.replace(genuine, body=genuine.body.replace(b"_SENT", b"_FAILED"))
        for request in (forged, changed):
            said = await sender.parse_receipt(request)
            assert said == ReceiptRefusal(RefusalKind.UNAUTHENTIC, "signature is wrong")
    async with stand(signing_secret=Secret()) as (sender, double, _):
        said = await sender.parse_receipt(genuine)
        assert isinstance(said, ReceiptRefusal)
        assert said.kind is RefusalKind.UNSUPPORTED


async def test_receipts_about_unknown_messages_are_taken_or_the_webhook_would_be_paused() -> None:
    async with stand() as (sender, double, _):
        taken, _ = await sent_one(sender, double)

        async def answered(request: ReceiptRequest) -> int:
            return 200 if isinstance(await sender.parse_receipt(request), Receipts) else 401

        for number in range(PAUSED_AFTER + 1):
            unknown = double.event(taken, "MESSAGE_SENT", smsBatchId=f"batch{number}x")
            assert await double.bring(unknown, answered)
        paused = [double.is_paused]

        async def refused(request: ReceiptRequest) -> int:
            return 404

        for _ in range(PAUSED_AFTER + 1):
            await double.bring(double.event(taken, "MESSAGE_SENT"), refused)
        assert [*paused, double.is_paused] == [False, True]
        assert not await double.bring(double.event(taken, "MESSAGE_SENT"), answered)


@pytest.mark.parametrize("status", UNWELCOME)
async def test_a_poll_stops_where_it_is_unwelcome(status: int) -> None:
    async with stand() as (sender, double, _):
        await assert_a_poll_stops(sender, double, status)


async def test_health_follows_the_heartbeat_and_the_switch() -> None:
    async with stand() as (sender, double, clock):
        assert (await sender.health()).is_ready
        double.skew_s = -600.0
        clock.advance(35 * 60)
        assert (await sender.health()).is_ready
        clock.advance(6 * 60)
        assert not (await sender.health()).is_ready
        double.beat_at = clock.time()
        double.is_enabled = False
        assert (await sender.health()).detail == "switched off"
