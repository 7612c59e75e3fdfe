"""Webhooks of UniMsg: believed only with the signature over their time and body, and only for fifteen minutes."""

import pytest

from otpsvc.senders.contract import (
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    RejectionKind,
    Secret,
)
from otpsvc.senders.unimsg import UniMsgSender, UniMsgSettings
from otpsvc.testing import ManualClock, sender_context
from tests.gateways.unimsg import CLIENT_ID, CLIENT_SECRET, WEBHOOK_SECRET, UniMsgGateway

NOW = ManualClock().time()


def request_with(headers: dict[str, str], body: bytes) -> ReceiptRequest:
    return ReceiptRequest(method="POST", url="https://otp.example/receipts/unimsg", headers=headers, body=body)


@pytest.fixture
def gateway() -> UniMsgGateway:
    return UniMsgGateway()


@pytest.fixture
def sender() -> UniMsgSender:
    settings = UniMsgSettings(
        client_id=CLIENT_ID, client_secret=Secret(CLIENT_SECRET), webhook_secret=Secret(WEBHOOK_SECRET)
    )
    return UniMsgSender("unimsg", settings, sender_context())


async def test_webhooks_are_read_in_any_order_and_again(sender: UniMsgSender, gateway: UniMsgGateway) -> None:
    told = []
    for name in ("message.delivered", "message.sent", "message.delivered", "message.read"):
        event = gateway.event("m1", name)
        said = await sender.parse_receipt(request_with(*gateway.webhook(event, NOW)))
        assert isinstance(said, Receipts)
        told += [(item.status, item.provider_id, item.receipt_id) for item in said.items]
    assert told == [
        (ReceiptStatus.DELIVERED, "m1", "evt_delivered_m1"),
        (ReceiptStatus.SENT, "m1", "evt_sent_m1"),
        (ReceiptStatus.DELIVERED, "m1", "evt_delivered_m1"),
        (ReceiptStatus.DELIVERED, "m1", "evt_read_m1"),
    ]


@pytest.mark.parametrize("channel", ["sms", "SMS"])
async def test_the_channel_is_known_in_any_case(sender: UniMsgSender, gateway: UniMsgGateway, channel: str) -> None:
    event = gateway.event("m1", "message.sent", channel=channel)
    said = await sender.parse_receipt(request_with(*gateway.webhook(event, NOW)))
    assert isinstance(said, Receipts)
    assert [item.status for item in said.items] == [ReceiptStatus.SENT]


async def test_a_failure_says_why_in_our_words(sender: UniMsgSender, gateway: UniMsgGateway) -> None:
    event = gateway.event("m1", "message.failed", error_code="INVALID_PHONE", error_message="+33612345600 is bad")
    said = await sender.parse_receipt(request_with(*gateway.webhook(event, NOW)))
    assert said == Receipts(
        (
            Receipt(
                status=ReceiptStatus.FAILED,
                provider_id="m1",
                receipt_id="evt_failed_m1",
                happened_at=1_800_000_005.0,
                kind=RejectionKind.INVALID_NUMBER,
                detail="code INVALID_PHONE",
            ),
        )
    )


@pytest.mark.parametrize("name", ["email.bounced", "credits.low", "message.delivered"])
async def test_events_about_other_things_tell_nothing(sender: UniMsgSender, gateway: UniMsgGateway, name: str) -> None:
    event = gateway.event("m1", name, channel="whatsapp")
    assert await sender.parse_receipt(request_with(*gateway.webhook(event, NOW))) == Receipts(())


@pytest.mark.parametrize("skew_s", [-1200, -901, 901, 1200])
async def test_a_webhook_of_another_time_is_refused(
    sender: UniMsgSender, gateway: UniMsgGateway, skew_s: float
) -> None:
    said = await sender.parse_receipt(request_with(*gateway.webhook(gateway.event("m1"), NOW + skew_s)))
    assert said == ReceiptRefusal(RefusalKind.UNAUTHENTIC, "outdated")


@pytest.mark.parametrize("skew_s", [-899, -600, 0, 600, 899])
async def test_a_webhook_of_about_this_time_is_read(
    sender: UniMsgSender, gateway: UniMsgGateway, skew_s: float
) -> None:
    said = await sender.parse_receipt(request_with(*gateway.webhook(gateway.event("m1"), NOW + skew_s)))
    assert isinstance(said, Receipts)


async def test_forged_webhooks_are_refused(sender: UniMsgSender, gateway: UniMsgGateway) -> None:
    headers, body = gateway.webhook(gateway.event("m1"), NOW)
    other = body.replace(b"m1", b"m2")
    fresher = headers | {"x-unimsg-timestamp": str(int(NOW) + 1)}
    unstamped = {name: value for name, value in headers.items() if name != "x-unimsg-timestamp"}
    stranger, _ = gateway.webhook(gateway.event("m1"), NOW, secret="another")
    for forged in (
        request_with(headers, other),
        request_with(fresher, body),
        request_with(unstamped, body),
        request_with(stranger, body),
        request_with({}, body),
    ):
        assert await sender.parse_receipt(forged) == ReceiptRefusal(RefusalKind.UNAUTHENTIC, "wrong signature")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"event":"message.sent"}', b'{"event":"message.sent","data":{"message_id":{}}}']
)
async def test_what_is_signed_but_cannot_be_read_is_refused(
    sender: UniMsgSender, gateway: UniMsgGateway, body: bytes
) -> None:
    said = await sender.parse_receipt(request_with(gateway.signed(body, NOW), body))
    assert isinstance(said, ReceiptRefusal)
    assert said.kind is RefusalKind.MALFORMED


async def test_an_unknown_event_is_no_guess(sender: UniMsgSender, gateway: UniMsgGateway) -> None:
    said = await sender.parse_receipt(request_with(*gateway.webhook(gateway.event("m1", "message.teleported"), NOW)))
    assert isinstance(said, Receipts)
    assert said.items[0].status is ReceiptStatus.UNKNOWN
