"""The httpSMS sender on its double: never a message twice, and receipts that prove less than they seem to."""

import base64
import dataclasses
import logging
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
from otpsvc.senders.httpsms import HttpSmsSender, HttpSmsSettings
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message, sender_context
from tests.gateways.httpsms import API_KEY, ENCRYPTION_KEY, PHONE, PUBLIC_URL, SIGNING_KEY, HttpSmsDouble, opened
from tests.senders.polls import UNWELCOME, assert_a_poll_stops

Stand = tuple[HttpSmsSender, HttpSmsDouble, ManualClock]


@asynccontextmanager
async def stand(**changed: Any) -> AsyncIterator[Stand]:
    clock = ManualClock()
    async with HttpSmsDouble(clock) as double:
        given: dict[str, Any] = {
            "api_key": Secret(API_KEY),
            "phone": PHONE,
            "url": double.url,
            "signing_key": Secret(SIGNING_KEY),
            "allow_private": True,
            "timeout_s": 1.0,
        }
        context = dataclasses.replace(sender_context(clock=clock), public_url=PUBLIC_URL)
        sender = HttpSmsSender("phones", HttpSmsSettings(**(given | changed)), context)
        try:
            await sender.open()
            double.requests.clear()
            yield sender, double, clock
        finally:
            await sender.close()


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with stand() as (sender, double, _):
            yield Scene(sender, double)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, HttpSmsDouble)
        return [message["content"] for message in scene.gateway.messages]

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, HttpSmsDouble)
        scene.gateway.refuses_with = Reply(402, {"status": "error", "message": "limit reached"})
        return True

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        double = scene.gateway
        assert isinstance(double, HttpSmsDouble)
        (taken,) = (taken for taken in double.messages if taken["id"] == provider_id)
        return [
            double.posted(double.event(taken, "message.phone.delivered")),
            double.posted(double.event(taken, "message.phone.sent")),
            double.posted(double.event(taken, "message.send.failed", error_message="NO_SERVICE")),
            double.posted(double.event(taken, "message.send.expired", is_final=True)),
        ]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        double = scene.gateway
        assert isinstance(double, HttpSmsDouble)
        (taken,) = (taken for taken in double.messages if taken["id"] == provider_id)
        return double.posted(double.event(taken, "message.send.failed", error_message="never heard of"))

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, HttpSmsDouble)
        return scene.gateway.posted(body)


class TestConformanceWithEncryption(TestConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with stand(encryption_key=Secret(ENCRYPTION_KEY)) as (sender, double, _):
            yield Scene(sender, double)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        return [opened(content) for content in await super().accepted_texts(scene)]


async def test_what_leaves() -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        outcome = await sender.send(message)
        (request,) = double.requests
        assert (request.method, request.path, request.query) == ("POST", "/v1/messages/send", {})
        assert request.headers["x-api-key"] == API_KEY
        assert "authorization" not in request.headers
        assert request.json() == {
            "from": PHONE,
            "to": message.to,
            "content": message.text,
            "request_id": message.message_id,
        }
        assert outcome == Accepted(double.messages[0]["id"])
        double.answers_with = 202
        assert isinstance(await sender.send(message), Accepted)


async def test_encrypted_the_server_sees_the_number_alone() -> None:
    async with stand(encryption_key=Secret(ENCRYPTION_KEY)) as (sender, double, _):
        message = outbound_message(text="583920 – ваш код, больше шестнадцати байтов")
        await sender.send(message)
        body = double.requests[0].json()
        assert body["encrypted"] is True
        assert len(base64.b64decode(body["content"])) == 16 + len(message.text.encode())
        assert opened(body["content"]) == message.text
        await sender.send(message)
        assert double.messages[0]["content"] != double.messages[1]["content"]


async def test_the_longest_text_fits_encrypted_and_longer_ones_are_refused_here() -> None:
    async with stand(encryption_key=Secret(ENCRYPTION_KEY)) as (sender, double, _):
        longest = sender.capabilities.longest_text
        assert longest is not None
        assert isinstance(await sender.send(outbound_message(text="🙂" * longest)), Accepted)
        outcome = await sender.send(outbound_message(text="🙂" * (longest + 20)))
        assert isinstance(outcome, Rejected)
        assert outcome.kind is RejectionKind.TOO_LONG
        assert len(double.messages) == 1


async def test_the_same_call_twice_would_be_two_messages_so_it_claims_nothing() -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        double.misbehave(Fault.HANG)
        assert isinstance(await sender.send(message), Unknown)
        await sender.send(message)
        assert len(double.messages) == 2
        assert not sender.capabilities.is_idempotent
        assert not sender.capabilities.honours_expiry


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400, {"status": "error", "message": "bad"}), RejectionKind.MISCONFIGURED),
        (Reply(401, {"status": "error", "message": "no"}), RejectionKind.UNAUTHORISED),
        (Reply(402, {"status": "error", "message": "limit"}), RejectionKind.NO_CREDIT),
        (Reply(404, b"<html>"), RejectionKind.MISCONFIGURED),
        (Reply(422, {"data": {"to": ["+33612345678 is wrong"]}}), RejectionKind.UNSUPPORTED),
        (Reply(422, {"data": {"from": ["no such phone"]}}), RejectionKind.MISCONFIGURED),
        (Reply(422, {"data": {"content": ["too long"]}}), RejectionKind.TOO_LONG),
    ],
)
async def test_refusals(reply: Reply, kind: RejectionKind) -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = reply
        outcome = await sender.send(outbound_message())
        assert isinstance(outcome, Rejected)
        assert (outcome.kind, outcome.is_unmapped) == (kind, False)
        assert "336" not in outcome.detail


async def test_a_field_that_no_row_knows_is_counted() -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = Reply(422, {"data": {"send_at": ["in the past"]}})
        outcome = await sender.send(outbound_message())
        assert outcome == Rejected(RejectionKind.GATEWAY_ERROR, "status 422, unmapped", is_unmapped=True)


async def test_a_server_that_breaks_leaves_it_unknown_and_one_that_throttles_does_not() -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = Reply(500, {"status": "error", "message": "internal"})
        assert isinstance(await sender.send(outbound_message()), Unknown)
        double.refuses_with = Reply(200, {"status": "success", "data": None})
        assert isinstance(await sender.send(outbound_message()), Unknown)
        double.refuses_with = Reply(429, {"status": "error", "message": "slow down"})
        assert isinstance(await sender.send(outbound_message()), RetryLater)


@pytest.mark.parametrize(
    ("expiry_s", "attempts", "is_warned"),
    [(90, 1, False), (0, 2, True), (None, 0, True), (600, 2, True), (120, 2, False)],
)
async def test_a_phone_that_keeps_messages_for_too_long_is_told_of_at_the_start(
    expiry_s: int | None, attempts: int, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand() as (sender, double, _):
        double.expiry_s, double.most_attempts = expiry_s, attempts
        with caplog.at_level(logging.WARNING):
            await sender.open()
        lines = [record.getMessage() for record in caplog.records if "message_expiration" in record.getMessage()]
        assert bool(lines) is is_warned
        assert PHONE not in caplog.text


async def sent_one(sender: HttpSmsSender, double: HttpSmsDouble) -> tuple[dict[str, Any], SentMessage]:
    message = outbound_message()
    await sender.send(message)
    taken = double.messages[-1]
    return taken, SentMessage(
        message_id=message.message_id, provider_id=taken["id"], channel=message.channel, sent_at=0.0
    )


async def test_polling_follows_a_message_that_expires_and_is_sent_late_after_all() -> None:
    async with stand() as (sender, double, clock):
        double.most_attempts = 2
        taken, asked = await sent_one(sender, double)

        async def states() -> list[ReceiptStatus]:
            return [receipt.status for receipt in await sender.poll([asked])]

        assert await states() == [ReceiptStatus.ACCEPTED]
        double.expire(taken)
        assert await states() == [], "it may be scheduled again, so it is no end"
        double.schedule(taken)
        assert await states() == [ReceiptStatus.ACCEPTED]
        clock.advance(1200)
        double.send(taken)
        (receipt,) = await sender.poll([asked])
        assert (receipt.status, receipt.happened_at) == (ReceiptStatus.SENT, clock.time())
        assert (receipt.message_id, receipt.provider_id) == (asked.message_id, taken["id"])
        double.deliver(taken)
        assert await states() == [ReceiptStatus.DELIVERED]


async def test_polling_tells_the_last_expiry_and_why_a_phone_failed() -> None:
    async with stand() as (sender, double, _):
        taken, asked = await sent_one(sender, double)
        double.expire(taken)
        assert [receipt.status for receipt in await sender.poll([asked])] == [ReceiptStatus.EXPIRED]
        for reason, kind in {
            "NO_SERVICE": RejectionKind.UNAVAILABLE,
            "GENERIC_FAILURE": RejectionKind.UNDELIVERABLE,
            "new words about +33612345678": RejectionKind.GATEWAY_ERROR,
        }.items():
            double.fail(taken, reason)
            (receipt,) = await sender.poll([asked])
            assert (receipt.status, receipt.kind) == (ReceiptStatus.FAILED, kind)
            assert "336" not in receipt.detail
        taken["status"] = "of the future"
        assert [receipt.status for receipt in await sender.poll([asked])] == [ReceiptStatus.UNKNOWN]


@pytest.mark.parametrize("status", UNWELCOME)
async def test_a_poll_stops_where_it_is_unwelcome(status: int) -> None:
    async with stand() as (sender, double, _):
        await assert_a_poll_stops(sender, double, status)


async def test_health_follows_the_heartbeat() -> None:
    async with stand() as (sender, double, clock):
        assert (await sender.health()).is_ready
        double.skew_s = 600.0
        clock.advance(15 * 60)
        assert (await sender.health()).is_ready
        clock.advance(6 * 60)
        assert not (await sender.health()).is_ready
        double.beat_at = None
        assert not (await sender.health()).is_ready


async def test_a_receipt_says_ids_and_status_and_none_of_the_text() -> None:
    async with stand() as (sender, double, clock):
        taken, asked = await sent_one(sender, double)
        said = await sender.parse_receipt(double.posted(double.event(taken, "message.phone.sent")))
        assert isinstance(said, Receipts)
        (receipt,) = said.items
        assert receipt == Receipt(
            status=ReceiptStatus.SENT,
            message_id=asked.message_id,
            provider_id=taken["id"],
            receipt_id=receipt.receipt_id,
            happened_at=clock.time(),
        )
        assert receipt.receipt_id
        undecided = double.event(taken, "message.send.expired", is_final=False)
        assert await sender.parse_receipt(double.posted(undecided)) == Receipts(())
        beat = double.event(taken, "phone.heartbeat.offline")
        assert await sender.parse_receipt(double.posted(beat)) == Receipts(())


async def test_another_phone_of_the_account_says_nothing_about_the_message_this_one_had() -> None:
    """The next sender of the route has the other phone, and its `request_id` is the same message of ours."""
    async with stand() as (sender, double, _):
        taken, _ = await sent_one(sender, double)
        for kind in ("message.phone.sent", "message.send.failed", "message.send.expired"):
            event = double.event(taken, kind, owner="+33700000002", is_final=True)
            assert await sender.parse_receipt(double.posted(event)) == Receipts(())


async def test_tokens_that_prove_nothing() -> None:
    async with stand() as (sender, double, clock):
        taken, _ = await sent_one(sender, double)
        body = double.event(taken, "message.phone.delivered")
        tokens = {
            "another address": double.token(aud=["https://otp.example/receipts/others"]),
            "no address": double.token(aud=None),
            "another issuer": double.token(iss="api.elsewhere.example"),
            "another key": double.token(key=f"another{SIGNING_KEY}"),
            "no algorithm": double.token(algorithm="none"),
            "another algorithm": double.token(algorithm="HS512"),
            "expired": double.token(exp=int(clock.time()) - 61),
            "no end": double.token(exp=None),
            "not yet": double.token(nbf=int(clock.time()) + 61),
            "from a clock ten minutes fast": double.token(skew_s=600),
            "from a clock eleven minutes slow": double.token(skew_s=-660),
        }
        for what, token in tokens.items():
            said = await sender.parse_receipt(double.posted(body, token))
            assert said == ReceiptRefusal(RefusalKind.UNAUTHENTIC, "token is missing or wrong"), what
        as_text = double.token(aud="https://otp.example/receipts/phones")
        assert isinstance(await sender.parse_receipt(double.posted(body, as_text)), Receipts)


async def test_a_good_token_under_another_body_is_worth_its_ids_only() -> None:
    """The known weakness of this gateway: who sees a token can use it for ten minutes, but must know an id of ours."""
    async with stand() as (sender, double, clock):
        taken, _ = await sent_one(sender, double)
        genuine = double.posted(double.event(taken, "message.phone.sent"))
        invented = msgspec.json.decode(genuine.body)
        invented["data"] |= {"id": "not-a-message-of-ours", "request_id": "+33612345678"}
        swapped = msgspec.structs.replace(genuine, body=msgspec.json.encode(invented))
        said = await sender.parse_receipt(swapped)
        assert isinstance(said, Receipts)
        assert (said.items[0].message_id, said.items[0].provider_id) == (None, "not-a-message-of-ours")
        clock.advance(661)
        assert isinstance(await sender.parse_receipt(swapped), ReceiptRefusal)


async def test_a_receipt_is_lost_after_two_tries_so_polling_is_not_a_luxury() -> None:
    async with stand() as (sender, double, _):
        taken, asked = await sent_one(sender, double)
        double.send(taken)

        async def down(request: ReceiptRequest) -> bool:
            return False

        assert not await double.bring(double.event(taken, "message.phone.sent"), down)
        assert [receipt.status for receipt in await sender.poll([asked])] == [ReceiptStatus.SENT]


async def test_without_a_key_or_a_public_address_nothing_is_believed() -> None:
    async with stand(signing_key=Secret()) as (sender, double, _):
        taken, _ = await sent_one(sender, double)
        said = await sender.parse_receipt(double.posted(double.event(taken, "message.phone.sent")))
        assert isinstance(said, ReceiptRefusal)
        assert said.kind is RefusalKind.UNSUPPORTED
        unreachable = HttpSmsSender("phones", sender.settings, sender_context())
        assert isinstance(await unreachable.parse_receipt(double.posted(b"{}")), ReceiptRefusal)
