"""Callbacks of Notificore: believed at the secret address alone, and read in every form they come in."""

from collections.abc import Callable

import msgspec
import pytest

from otpsvc.senders.contract import (
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
)
from otpsvc.testing import outbound_message
from tests.gateways.notificore import NotificoreGateway
from tests.senders.test_notificore import CALLBACK_URL, TOKEN, on_stage, request_with, sender_on


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("sent", ReceiptStatus.SENT),
        ("DELIVERED", ReceiptStatus.DELIVERED),
        ("expired", ReceiptStatus.EXPIRED),
        ("undeliverable", ReceiptStatus.FAILED),
        ("unknown", ReceiptStatus.UNKNOWN),
        ("abducted", ReceiptStatus.UNKNOWN),
    ],
)
async def test_a_callback_is_read(word: str, status: ReceiptStatus) -> None:
    async with on_stage() as (sender, gateway):
        await sender.send(outbound_message())
        for is_form in (False, True):
            said = await sender.parse_receipt(request_with(gateway.callback(gateway.taken[0], word, is_form=is_form)))
            assert isinstance(said, Receipts)
            (receipt,) = said.items
            assert (receipt.status, receipt.message_id) == (status, "msg_00000000000000000000000000")
            assert receipt.provider_id == "700000"
            assert receipt.happened_at is None


async def test_callbacks_may_come_together_and_of_others() -> None:
    body = msgspec.json.encode(
        [
            {"id": 1, "status": "sent"},
            {"reference": "msgXYZ", "id": "2", "status": "delivered"},
            {"id": {}, "status": 5},
        ]
    )
    async with on_stage() as (sender, _):
        said = await sender.parse_receipt(request_with(body))
        assert said == Receipts(
            (
                Receipt(status=ReceiptStatus.SENT, provider_id="1"),
                Receipt(status=ReceiptStatus.DELIVERED, provider_id="2"),
            )
        )


FORGED: list[Callable[[bytes], ReceiptRequest]] = [
    lambda body: request_with(body, "https://otp.example/receipts/notificore"),
    lambda body: request_with(body, "https://otp.example/receipts/notificore/"),
    lambda body: request_with(body, CALLBACK_URL + "x"),
    lambda body: request_with(body, CALLBACK_URL[:-1]),
    lambda body: request_with(body, f"https://otp.example/receipts/notificore?token={TOKEN}"),
    lambda body: request_with(body, f"https://otp.example/receipts/notificore/x#{TOKEN}"),
]


@pytest.mark.parametrize("forge", FORGED)
async def test_a_callback_elsewhere_is_not_believed(forge: Callable[[bytes], ReceiptRequest]) -> None:
    async with NotificoreGateway() as gateway:
        said = await sender_on(gateway).parse_receipt(forge(b'{"id": 1, "status": "delivered"}'))
        assert said == ReceiptRefusal(RefusalKind.UNAUTHENTIC, "wrong address")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"x" * 70_000,
        msgspec.json.encode([{"id": 1, "status": "sent"}] * 1001),
        b"&" * 60_000,
        b"a=b&" * 10_000,
    ],
)
async def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    async with NotificoreGateway() as gateway:
        said = await sender_on(gateway).parse_receipt(request_with(body))
        assert isinstance(said, ReceiptRefusal)
        assert said.kind is RefusalKind.MALFORMED
