"""`vonage-sms`: which receipts are believed, and what they say."""

from urllib.parse import parse_qsl, urlencode

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
from otpsvc.testing import ManualClock
from tests.gateways.vonage import PUBLIC_URL, VonageSmsGateway, sig_of
from tests.senders.test_vonage_sms import MESSAGE_ID, PROVIDER_ID, TOKEN, make


@pytest.mark.parametrize("style", ["json", "form", "query"])
async def test_a_receipt_in_each_form(style: str) -> None:
    gateway, sender = VonageSmsGateway(ManualClock()), make()
    said = await sender.parse_receipt(gateway.receipt(PROVIDER_ID, style=style, client_ref=MESSAGE_ID))
    assert isinstance(said, Receipts)
    (item,) = said.items
    assert (item.status, item.message_id, item.provider_id) == (ReceiptStatus.DELIVERED, MESSAGE_ID, PROVIDER_ID)
    assert (item.happened_at, item.kind, item.detail) == (1_800_000_000.0, None, "")


@pytest.mark.parametrize("method", ["md5hash", "md5", "sha1", "sha256", "sha512"])
async def test_a_receipt_signed_in_each_way(method: str) -> None:
    gateway, sender = VonageSmsGateway(ManualClock(), method=method), make(signature_method=method)
    genuine = gateway.receipt(PROVIDER_ID, note="a=b&c")
    assert isinstance(await sender.parse_receipt(genuine), Receipts)
    other = make(signature_method="sha1" if method != "sha1" else "md5")
    assert isinstance(await other.parse_receipt(genuine), ReceiptRefusal)


@pytest.mark.parametrize(
    ("word", "code", "status", "kind"),
    [
        ("accepted", "0", ReceiptStatus.SENT, None),
        ("buffered", "0", ReceiptStatus.DISPATCHED, None),
        ("delivered", "0", ReceiptStatus.DELIVERED, None),
        ("expired", "2", ReceiptStatus.EXPIRED, None),
        ("failed", "0", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("failed", "3", ReceiptStatus.FAILED, RejectionKind.INVALID_NUMBER),
        ("failed", "9", ReceiptStatus.FAILED, RejectionKind.BLOCKED),
        ("rejected", "6", ReceiptStatus.FAILED, RejectionKind.TEXT_REFUSED),
        ("rejected", "11", ReceiptStatus.FAILED, RejectionKind.UNSUPPORTED),
        ("rejected", "777", ReceiptStatus.FAILED, RejectionKind.GATEWAY_ERROR),
        ("unknown", "1", ReceiptStatus.UNKNOWN, None),
        ("a new word", "0", ReceiptStatus.UNKNOWN, None),
    ],
)
async def test_words_and_codes_of_receipts(
    word: str, code: str, status: ReceiptStatus, kind: RejectionKind | None
) -> None:
    gateway, sender = VonageSmsGateway(ManualClock()), make()
    said = await sender.parse_receipt(gateway.receipt(PROVIDER_ID, word, err_code=code))
    assert isinstance(said, Receipts)
    assert [(item.status, item.kind) for item in said.items] == [(status, kind)]


async def test_receipts_that_are_not_believed() -> None:
    gateway, sender = VonageSmsGateway(ManualClock()), make()
    now = gateway.clock.time()
    genuine = gateway.receipt(PROVIDER_ID)
    fields = dict(parse_qsl(gateway.receipt(PROVIDER_ID, style="form").body.decode()))
    hidden_name, code = f"api-key={fields.pop('api-key')}&err-code", fields.pop("err-code")
    hiding = urlencode({**fields, hidden_name: code}).encode()
    forged = {
        "unsigned": gateway.receipt(PROVIDER_ID, secret=None),
        "signed by another": gateway.receipt(PROVIDER_ID, secret="another-secret"),
        "twenty minutes old": gateway.receipt(PROVIDER_ID, at=now - 1200),
        "twenty minutes ahead": gateway.receipt(PROVIDER_ID, at=now + 1200),
        "of another account": gateway.receipt(PROVIDER_ID, api_key="other123"),
        "changed": ReceiptRequest(
            method="POST", url=genuine.url, headers={}, body=genuine.body.replace(b"delivered", b"failed")
        ),
        "with fields hidden in a name": ReceiptRequest(method="POST", url=genuine.url, headers={}, body=hiding),
        "with a second status": ReceiptRequest(
            method="POST",
            url=genuine.url,
            headers={},
            body=gateway.receipt(PROVIDER_ID, style="form").body + b"&status=failed",
        ),
        "only with the right token": gateway.receipt(PROVIDER_ID, secret=None, token=TOKEN),
    }
    for how, request in forged.items():
        said = await make(receipt_token=Secret(TOKEN)).parse_receipt(request)
        assert isinstance(said, ReceiptRefusal), how
        assert isinstance(await sender.parse_receipt(request), ReceiptRefusal), how
    assert isinstance(await sender.parse_receipt(genuine), Receipts)


async def test_a_receipt_again_within_its_time_says_the_same_and_later_nothing() -> None:
    clock = ManualClock()
    gateway, sender = VonageSmsGateway(clock), make(clock=clock)
    request = gateway.receipt(PROVIDER_ID)
    first = await sender.parse_receipt(request)
    clock.advance(899)
    assert await sender.parse_receipt(request) == first
    clock.advance(2)
    assert isinstance(await sender.parse_receipt(request), ReceiptRefusal)


async def test_without_a_proof_set_up_nothing_is_believed() -> None:
    gateway, sender = VonageSmsGateway(ManualClock()), make(signature_secret=None)
    said = await sender.parse_receipt(gateway.receipt(PROVIDER_ID, secret=None))
    assert said == ReceiptRefusal(RefusalKind.UNSUPPORTED)


async def test_a_message_from_a_phone_is_no_receipt_and_no_error() -> None:
    gateway, sender = VonageSmsGateway(ManualClock()), make()
    fields = {"msisdn": "33612345678", "to": "1", "messageId": PROVIDER_ID, "text": "STOP", "type": "text"}
    fields |= {"timestamp": "1800000000"}
    fields["sig"] = sig_of(fields, "sha256")
    url = f"{PUBLIC_URL}/receipts/vonage?" + "&".join(f"{name}={value}" for name, value in fields.items())
    assert await sender.parse_receipt(ReceiptRequest(method="GET", url=url, headers={}, body=b"")) == Receipts(())
    assert gateway.requests == []
