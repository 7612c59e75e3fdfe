"""The sender contract: nothing in it prints a secret, every rejection has a rule, the optional parts refuse."""

from dataclasses import dataclass

import msgspec
import pytest

from otpsvc.senders.contract import (
    RULES,
    Channel,
    NoSettings,
    ReceiptRefusal,
    ReceiptRequest,
    RefusalKind,
    RejectionKind,
    SentMessage,
)
from otpsvc.testing import RecordingSender, outbound_message


def test_an_outbound_message_prints_neither_number_nor_text() -> None:
    message = outbound_message(to="+33698765432", text="987654 is your code")

    @dataclass
    class Holder:
        inner: object

    for printed in (repr(message), str(message), repr(Holder(message)), repr([message]), f"{message}"):
        assert "698765432" not in printed
        assert "987654" not in printed


def test_a_receipt_request_prints_nothing_it_carries() -> None:
    request = ReceiptRequest(
        method="POST",
        url="https://otp.example/receipts/a?to=%2B33698765432",
        headers={"authorization": "Bearer top-secret"},
        body=b'{"text": "987654 is your code"}',
    )
    for telling in ("698765432", "987654", "top-secret"):
        assert telling not in repr(request)


def test_every_rejection_has_a_rule_and_nothing_else_has() -> None:
    assert set(RULES) == set(RejectionKind)


@pytest.mark.parametrize("kind", [RejectionKind.INVALID_NUMBER, RejectionKind.BLOCKED])
def test_what_concerns_the_recipient_stops_the_route(kind: RejectionKind) -> None:
    assert not RULES[kind].next_may_try


async def test_the_optional_parts_promise_nothing() -> None:
    sender = RecordingSender()
    sent = SentMessage(message_id="msg_1", provider_id="p", channel=Channel.SMS, sent_at=1.0)
    request = ReceiptRequest(method="POST", url="https://otp.example/", headers={}, body=b"")
    assert await sender.parse_receipt(request) == ReceiptRefusal(RefusalKind.UNSUPPORTED)
    assert list(await sender.poll([sent])) == []
    assert await sender.cancel(sent) is False
    assert (await sender.health()).is_ready


def test_no_settings_accepts_no_key() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"surprise": 1}, NoSettings)
