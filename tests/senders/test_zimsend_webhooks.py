"""`zimsend`: which webhooks are believed, and what they say."""

import hashlib
import hmac

import msgspec
import pytest

from otpsvc.senders.contract import (
    Receipt,
    ReceiptRefusal,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    RejectionKind,
)
from otpsvc.testing import ManualClock
from tests.gateways.zimsend import DEVICE_ID, WEBHOOK_SECRET
from tests.senders.test_zimsend import accepted, on_stage, request_with


async def test_a_webhook_names_our_message_and_theirs() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        said = await sender.parse_receipt(request_with(gateway, gateway.event(provider_id)))
        assert said == Receipts(
            (
                Receipt(
                    status=ReceiptStatus.DELIVERED,
                    message_id="msg_00000000000000000000000000",
                    provider_id=provider_id,
                    receipt_id=f"evt_delivered_{provider_id[-6:]}",
                    happened_at=1_800_000_005.0,
                ),
            )
        )


@pytest.mark.parametrize("age_s", [-600, 0, 600, 7 * 86_400])
async def test_a_replayed_webhook_says_the_same_as_before(age_s: float) -> None:
    clock = ManualClock()
    async with on_stage(clock=clock) as (sender, gateway):
        provider_id = await accepted(sender)
        request = request_with(gateway, gateway.event(provider_id))
        first = await sender.parse_receipt(request)
        clock.advance(age_s)
        assert await sender.parse_receipt(request) == first


FAILURES: list[tuple[object, RejectionKind, str]] = [
    ({"code": "NETWORK_ERROR", "message": "+33612345678"}, RejectionKind.UNDELIVERABLE, "code NETWORK_ERROR"),
    ({"code": "INVALID_NUMBER"}, RejectionKind.INVALID_NUMBER, "code INVALID_NUMBER"),
    ({"code": "NO_CREDIT"}, RejectionKind.NO_CREDIT, "code NO_CREDIT"),
    ({"code": "BLOCKED_NUMBER"}, RejectionKind.BLOCKED, "code BLOCKED_NUMBER"),
    ({"code": "DEVICE_ERROR"}, RejectionKind.UNDELIVERABLE, "code DEVICE_ERROR"),
    ({"code": "TIMEOUT"}, RejectionKind.UNDELIVERABLE, "code TIMEOUT"),
    ({"code": "+33612345678"}, RejectionKind.GATEWAY_ERROR, "unmapped code (not shown)"),
    ({}, RejectionKind.UNDELIVERABLE, ""),
    ("broken", RejectionKind.UNDELIVERABLE, ""),
]


@pytest.mark.parametrize(("error", "kind", "detail"), FAILURES)
async def test_a_failure_says_why_in_our_words(error: object, kind: RejectionKind, detail: str) -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        said = await sender.parse_receipt(request_with(gateway, gateway.event(provider_id, "sms.failed", error=error)))
        assert isinstance(said, Receipts)
        assert [(item.status, item.kind, item.detail) for item in said.items] == [(ReceiptStatus.FAILED, kind, detail)]


@pytest.mark.parametrize("name", ["device.disconnected", "otp.verified"])
async def test_events_about_other_things_tell_nothing(name: str) -> None:
    async with on_stage() as (sender, gateway):
        body = msgspec.json.encode({"event": name, "event_id": "evt_1", "data": {"device_id": DEVICE_ID}})
        assert await sender.parse_receipt(request_with(gateway, body)) == Receipts(())


@pytest.mark.parametrize("metadata", [None, [], {"otpsvc_message_id": "msg_../../x"}, {"otpsvc_message_id": 7}])
async def test_what_rides_along_and_is_no_id_of_ours_is_left_out(metadata: object) -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        body = gateway.event(provider_id, "sms.sent", metadata=metadata)
        said = await sender.parse_receipt(request_with(gateway, body))
        assert isinstance(said, Receipts)
        assert (said.items[0].message_id, said.items[0].provider_id) == (None, provider_id)


async def test_forged_webhooks_are_refused() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        body = gateway.event(provider_id)
        genuine = request_with(gateway, body)
        signature = genuine.headers["x-webhook-signature"]
        as_sha1 = hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha1).hexdigest()
        forged = [
            msgspec.structs.replace(genuine, body=body.replace(b"delivered", b"expired")),
            msgspec.structs.replace(genuine, headers={}),
            *(
                msgspec.structs.replace(genuine, headers={"x-webhook-signature": proof})
                for proof in ("", signature[:-1], signature.upper(), f"sha256={signature}", as_sha1)
            ),
            msgspec.structs.replace(genuine, headers=gateway.signed(body, secret="another")),
            msgspec.structs.replace(genuine, headers=gateway.signed(body, secret="")),
        ]
        for request in forged:
            assert await sender.parse_receipt(request) == ReceiptRefusal(RefusalKind.UNAUTHENTIC, "wrong signature")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"event":"sms.sent"}', b'{"event":"sms.sent","data":{"message_id":""}}']
)
async def test_what_is_signed_but_cannot_be_read_is_refused(body: bytes) -> None:
    async with on_stage() as (sender, gateway):
        said = await sender.parse_receipt(request_with(gateway, body))
        assert isinstance(said, ReceiptRefusal)
        assert said.kind is RefusalKind.MALFORMED
