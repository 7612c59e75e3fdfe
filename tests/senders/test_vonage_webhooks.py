"""`vonage-messages`: which webhooks are believed, and what they say."""

import hashlib
from typing import Any

import jwt
import pytest

from otpsvc.senders.contract import (
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    RejectionKind,
    Secret,
)
from otpsvc.testing import ManualClock, outbound_message
from tests.gateways.vonage import API_KEY, SIGNATURE_SECRET, VonageMessagesGateway
from tests.senders.test_vonage_messages import MESSAGE_ID, TOKEN, UUID, make, stage


@pytest.mark.parametrize(
    ("word", "code", "status", "kind"),
    [
        ("submitted", None, ReceiptStatus.SENT, None),
        ("delivered", None, ReceiptStatus.DELIVERED, None),
        ("read", None, ReceiptStatus.DELIVERED, None),
        ("rejected", "1050", ReceiptStatus.FAILED, RejectionKind.BLOCKED),
        ("rejected", "1210", ReceiptStatus.FAILED, RejectionKind.TEXT_REFUSED),
        ("rejected", "1360", ReceiptStatus.EXPIRED, None),
        ("rejected", "1999", ReceiptStatus.FAILED, RejectionKind.GATEWAY_ERROR),
        ("rejected", None, ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("undeliverable", "1260", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("a new word", None, ReceiptStatus.UNKNOWN, None),
    ],
)
async def test_words_and_codes_of_webhooks(
    word: str, code: str | None, status: ReceiptStatus, kind: RejectionKind | None
) -> None:
    gateway, sender = VonageMessagesGateway(ManualClock()), make()
    said = await sender.parse_receipt(gateway.webhook(UUID, word, code=code, client_ref=MESSAGE_ID))
    assert isinstance(said, Receipts)
    (item,) = said.items
    assert (item.status, item.kind, item.detail) == (status, kind, f"code {code}" if code else "")
    assert (item.message_id, item.provider_id, item.happened_at) == (MESSAGE_ID, UUID, 1_800_000_000.0)


async def test_the_form_of_errors_before_the_current_one() -> None:
    gateway, sender = VonageMessagesGateway(ManualClock()), make()
    request = gateway.webhook(UUID, "rejected", error={"code": 1240, "reason": "33612345678 opted out"})
    said = await sender.parse_receipt(request)
    assert isinstance(said, Receipts)
    assert [(item.kind, item.detail) for item in said.items] == [(RejectionKind.BLOCKED, "code 1240")]


async def test_webhooks_that_are_not_believed() -> None:
    gateway = VonageMessagesGateway(ManualClock())
    now = gateway.clock.time()
    genuine = gateway.webhook(UUID)
    forged = {
        "unsigned": gateway.webhook(UUID, secret=None),
        "unsigned with the right token": gateway.webhook(UUID, secret=None, token=TOKEN),
        "signed by another": gateway.webhook(UUID, secret="another-secret-of-thirty-two-characters"),
        "signed with nothing": gateway.webhook(UUID, algorithm="none"),
        "signed otherwise": gateway.webhook(UUID, algorithm="HS512", secret=SIGNATURE_SECRET * 2),
        "twenty minutes old": gateway.webhook(UUID, at=now - 1200),
        "twenty minutes ahead": gateway.webhook(UUID, at=now + 1200),
        "of another account": gateway.webhook(UUID, api_key="other123"),
        "for another body": gateway.webhook(UUID, signed_body=b"{}"),
        "with its body swapped": ReceiptRequest(
            method="POST",
            url=genuine.url,
            headers=genuine.headers,
            body=gateway.webhook(UUID, "rejected", code="1050").body,
        ),
        "without a hash": ReceiptRequest(
            method="POST",
            url=genuine.url,
            headers={"authorization": f"Bearer {_token(iat=int(now), api_key=API_KEY)}"},
            body=genuine.body,
        ),
        "without a time": ReceiptRequest(
            method="POST",
            url=genuine.url,
            headers={"authorization": f"Bearer {_token(api_key=API_KEY, payload_hash=_hash(genuine.body))}"},
            body=genuine.body,
        ),
    }
    for sender in (make(), make(receipt_token=Secret(TOKEN))):
        assert isinstance(await sender.parse_receipt(genuine), Receipts)
        for how, request in forged.items():
            assert await sender.parse_receipt(request) == ReceiptRefusal(RefusalKind.UNAUTHENTIC), how


async def test_a_webhook_again_within_its_time_says_the_same_and_later_nothing() -> None:
    clock = ManualClock()
    gateway, sender = VonageMessagesGateway(clock), make(clock=clock)
    request = gateway.webhook(UUID)
    first = await sender.parse_receipt(request)
    assert isinstance(first, Receipts)
    clock.advance(899)
    assert await sender.parse_receipt(request) == first
    clock.advance(2)
    assert isinstance(await sender.parse_receipt(request), ReceiptRefusal)


async def test_a_message_from_a_phone_is_no_receipt_and_no_error() -> None:
    gateway, sender = VonageMessagesGateway(ManualClock()), make()
    body = b'{"message_uuid": "' + UUID.encode() + b'", "text": "STOP", "channel": "sms"}'
    assert await sender.parse_receipt(gateway.webhook(UUID, body=body)) == Receipts(())


async def test_without_a_proof_set_up_nothing_is_believed_and_no_webhook_is_asked_for() -> None:
    async with stage(signature_secret=None) as (sender, gateway):
        said = await sender.parse_receipt(gateway.webhook(UUID, secret=None))
        assert said == ReceiptRefusal(RefusalKind.UNSUPPORTED)
        await sender.send(outbound_message())
        assert "webhook_url" not in gateway.requests[0].json()
        assert not sender.capabilities.has_receipts
        assert sender.capabilities.receipt_within_s is None


def _token(**claims: Any) -> str:
    return jwt.encode(claims, SIGNATURE_SECRET, algorithm="HS256")


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
