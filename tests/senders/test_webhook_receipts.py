"""Receipts of the signed webhook: which are believed, and what they say."""

from typing import Any

import pytest

from otpsvc.ids import new_message_id
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
from otpsvc.senders.webhook import RECEIPT_TOLERANCE_S, WebhookSender, WebhookSettings
from otpsvc.testing import ManualClock, sender_context
from tests.gateways.webhook import OTHER_SECRET, SECRET, signed

MESSAGE_ID = new_message_id(partition=0).text
NOW = 1_800_000_000.0


def make(**settings: Any) -> WebhookSender:
    given: dict[str, Any] = {"url": "https://hook.example/otp", "secret": Secret(SECRET), "receipts": True}
    return WebhookSender("local", WebhookSettings(**given | settings), sender_context(clock=ManualClock(NOW)))


async def test_receipts_are_read() -> None:
    said = await make().parse_receipt(
        signed(
            {
                "id": MESSAGE_ID,
                "message_id": "local-1",
                "status": "failed",
                "error": "blocked",
                "at": "2027-01-15T09:00:00+01:00",
            }
        )
    )
    assert said == Receipts(
        (
            Receipt(
                status=ReceiptStatus.FAILED,
                message_id=MESSAGE_ID,
                provider_id="local-1",
                receipt_id="r-1",
                happened_at=NOW,
                kind=RejectionKind.BLOCKED,
                detail="code blocked",
            ),
        )
    )


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"status": "delivered"}, (ReceiptStatus.DELIVERED, None, "")),
        ({"status": "Sent"}, (ReceiptStatus.SENT, None, "")),
        ({"status": "failed"}, (ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE, "")),
        (
            {"status": "failed", "error": "+33612345678"},
            (ReceiptStatus.FAILED, RejectionKind.GATEWAY_ERROR, "unmapped code (not shown)"),
        ),
        ({"status": "delivered", "error": "blocked"}, (ReceiptStatus.DELIVERED, None, "")),
        ({"status": "read"}, (ReceiptStatus.UNKNOWN, None, "")),
        ({"status": "delivered", "at": "yesterday"}, (ReceiptStatus.DELIVERED, None, "")),
    ],
)
async def test_states_and_reasons(entry: dict[str, object], expected: tuple[object, object, str]) -> None:
    said = await make().parse_receipt(signed({"id": MESSAGE_ID} | entry))
    assert isinstance(said, Receipts)
    [item] = said.items
    assert (item.status, item.kind, item.detail) == expected
    assert item.happened_at is None


async def test_a_list_is_read_whole_and_in_order() -> None:
    entries = [{"id": MESSAGE_ID, "status": "sent"}, {"message_id": "local-2", "status": "delivered"}]
    said = await make().parse_receipt(signed(entries))
    assert isinstance(said, Receipts)
    assert [(item.message_id, item.provider_id, item.receipt_id) for item in said.items] == [
        (MESSAGE_ID, None, None),
        (None, "local-2", None),
    ]


@pytest.mark.parametrize(
    "tree",
    [
        b"",
        b"not json",
        [],
        {},
        None,
        {"id": MESSAGE_ID},
        {"status": "delivered"},
        {"id": "otp_1", "status": "delivered"},
        {"id": MESSAGE_ID, "status": 7},
        {"message_id": "+33612345678", "status": "delivered"},
        [{"id": MESSAGE_ID, "status": "sent"}, "x"],
        [{"id": MESSAGE_ID, "status": "sent"}] * 1001,
        {"id": MESSAGE_ID, "status": "sent", "more": "x" * 65_536},
    ],
)
async def test_what_cannot_be_understood_is_refused_as_a_whole(tree: object) -> None:
    said = await make().parse_receipt(signed(tree))
    assert isinstance(said, ReceiptRefusal)
    assert said.kind is RefusalKind.MALFORMED


GENUINE: dict[str, str] = {"id": MESSAGE_ID, "status": "delivered"}


@pytest.mark.parametrize(
    "forged",
    [
        signed(GENUINE, OTHER_SECRET),
        signed(GENUINE, body=b'{"id":"msg_x","status":"failed"}'),
        signed(GENUINE, webhook_id="r-2"),
        signed(GENUINE, webhook_timestamp=str(int(NOW) + 1)),
        signed(GENUINE, webhook_timestamp="now"),
        signed(GENUINE, webhook_timestamp="9" * 5000),
        signed(GENUINE, webhook_timestamp=f"{NOW}"),
        signed(GENUINE, webhook_signature=""),
        signed(GENUINE, webhook_signature="v1,"),
        signed(GENUINE, webhook_signature="v1,é"),
        signed(GENUINE, webhook_signature="v1a," + "A" * 44),
        signed(GENUINE, at=NOW - RECEIPT_TOLERANCE_S - 1),
        signed(GENUINE, at=NOW + RECEIPT_TOLERANCE_S + 1),
        ReceiptRequest(method="POST", url="https://otp.example/receipts/local", headers={}, body=b"{}"),
    ],
)
async def test_forged_and_outdated_receipts(forged: ReceiptRequest) -> None:
    assert await make().parse_receipt(forged) == ReceiptRefusal(RefusalKind.UNAUTHENTIC)


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
async def test_a_clock_ten_minutes_off_costs_no_receipt(skew_s: float) -> None:
    assert isinstance(await make().parse_receipt(signed(GENUINE, at=NOW + skew_s)), Receipts)


async def test_receipts_may_carry_several_signatures_and_be_proven_by_any_of_our_secrets() -> None:
    request = signed(GENUINE)
    several = signed(GENUINE, webhook_signature=f"v1a,abc v1,{'A' * 44} {request.headers['webhook-signature']}")
    rotating = make(secret=Secret(f"{OTHER_SECRET}\n{SECRET}"))
    for genuine in (request, several):
        assert isinstance(await rotating.parse_receipt(genuine), Receipts)


async def test_without_receipts_none_is_believed() -> None:
    assert await make(receipts=False).parse_receipt(signed(GENUINE)) == ReceiptRefusal(RefusalKind.UNSUPPORTED)
