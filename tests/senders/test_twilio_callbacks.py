"""`twilio`: which callbacks are believed, and what they say."""

from typing import Any
from urllib.parse import urlencode

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
from otpsvc.senders.twilio_signing import is_signed, signature_of
from tests.gateways.twilio import (
    AUTH_TOKEN,
    PUBLIC_URL,
    TwilioGateway,
)
from tests.senders.test_twilio import BY_KEY, CALLBACK, MESSAGE_ID, SID, TOKEN, make


def test_the_signature_of_their_own_example() -> None:
    """The parameters and the token of the vendor's guide, for the address and for both ways to write its port."""
    fields = {
        "CallSid": "CA1234567890ABCDE",
        "From": "+12349013030",
        "To": "+18005551212",
        "Caller": "+12349013030",
        "Digits": "1234",
    }
    token = Secret("12345")
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert signature_of(url, fields, token) == "0/KCTR6DLpKmkAf8muzZqo1nDgQ="
    with_port = signature_of("https://mycompany.com:443/myapp.php?foo=1&bar=2", fields, token)
    for given in ("0/KCTR6DLpKmkAf8muzZqo1nDgQ=", with_port):
        assert is_signed(given, url, fields, token)
        assert is_signed(given, "https://mycompany.com:443/myapp.php?foo=1&bar=2", fields, token)
        assert not is_signed(given, "https://mycompany.com:8443/myapp.php?foo=1&bar=2", fields, token)
        assert not is_signed(given, url, fields | {"Digits": "1235"}, token)
    assert not is_signed(None, url, fields, token)


@pytest.mark.parametrize(
    ("word", "code", "status", "kind"),
    [
        ("queued", None, ReceiptStatus.ACCEPTED, None),
        ("sending", None, ReceiptStatus.DISPATCHED, None),
        ("sent", None, ReceiptStatus.SENT, None),
        ("delivered", None, ReceiptStatus.DELIVERED, None),
        ("undelivered", 30003, ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("undelivered", 30004, ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("undelivered", 30006, ReceiptStatus.FAILED, RejectionKind.UNSUPPORTED),
        ("undelivered", 30007, ReceiptStatus.FAILED, RejectionKind.TEXT_REFUSED),
        ("undelivered", 30999, ReceiptStatus.FAILED, RejectionKind.GATEWAY_ERROR),
        ("failed", None, ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("failed", 30036, ReceiptStatus.EXPIRED, None),
        ("canceled", None, ReceiptStatus.CANCELLED, None),
        ("a new word", None, ReceiptStatus.UNKNOWN, None),
    ],
)
async def test_words_and_codes_of_callbacks(
    word: str, code: int | None, status: ReceiptStatus, kind: RejectionKind | None
) -> None:
    said = await make().parse_receipt(TwilioGateway().callback(SID, word, url=CALLBACK, code=code))
    assert isinstance(said, Receipts)
    (item,) = said.items
    assert (item.status, item.kind, item.detail) == (status, kind, f"code {code}" if code else "")
    assert (item.message_id, item.provider_id) == (MESSAGE_ID, SID)


async def test_callbacks_that_are_not_believed() -> None:
    gateway = TwilioGateway()
    genuine = gateway.callback(SID, url=CALLBACK)
    other_url = CALLBACK.replace(MESSAGE_ID, MESSAGE_ID.replace("0", "1"))
    in_token_path = f"{PUBLIC_URL}/receipts/twilio/{TOKEN}"
    changed = {
        "another message": altered(genuine, url=other_url),
        "another status": altered(genuine, body=genuine.body.replace(b"delivered", b"failed")),
        "one field more": altered(genuine, body=genuine.body + b"&ErrorCode=30003"),
        "a second status": altered(genuine, body=genuine.body + b"&MessageStatus=failed"),
        "a first status": altered(genuine, body=b"MessageStatus=failed&" + genuine.body),
        "unsigned": gateway.callback(SID, url=CALLBACK, secret=None),
        "unsigned with the right token": gateway.callback(SID, url=in_token_path, secret=None),
        "signed by another": gateway.callback(SID, url=CALLBACK, secret="another-token"),
        "of another account": gateway.callback(SID, url=CALLBACK, account="AC" + "ff" * 16),
    }
    for sender in (make(), make(receipt_token=Secret(TOKEN))):
        for how, request in changed.items():
            said = await sender.parse_receipt(request)
            assert isinstance(said, ReceiptRefusal), how
            assert said.kind is RefusalKind.UNAUTHENTIC, how
        assert isinstance(await sender.parse_receipt(genuine), Receipts)


async def test_a_get_is_signed_over_its_address_alone() -> None:
    url = f"{CALLBACK}&{urlencode({'MessageSid': SID, 'MessageStatus': 'delivered'})}"
    headers = {"x-twilio-signature": signature_of(url, {}, Secret(AUTH_TOKEN))}
    said = await make().parse_receipt(ReceiptRequest(method="GET", url=url, headers=headers, body=b""))
    assert isinstance(said, Receipts)
    assert [(item.message_id, item.status) for item in said.items] == [(MESSAGE_ID, ReceiptStatus.DELIVERED)]


async def test_callbacks_again_and_out_of_order_each_say_their_own() -> None:
    gateway, sender = TwilioGateway(), make()
    for word, status in (("delivered", "delivered"), ("sent", "sent"), ("delivered", "delivered")):
        said = await sender.parse_receipt(gateway.callback(SID, word, url=CALLBACK))
        assert isinstance(said, Receipts)
        assert [item.status.value for item in said.items] == [status]


async def test_without_a_proof_set_up_nothing_is_believed() -> None:
    said = await make(**BY_KEY).parse_receipt(TwilioGateway().callback(SID, url=CALLBACK, secret=None))
    assert said == ReceiptRefusal(RefusalKind.UNSUPPORTED)


def altered(request: ReceiptRequest, **changes: Any) -> ReceiptRequest:
    """Copy a request with something else in it."""
    whole: dict[str, Any] = {"method": request.method, "url": request.url, "headers": request.headers}
    return ReceiptRequest(**whole | {"body": request.body} | changes)
