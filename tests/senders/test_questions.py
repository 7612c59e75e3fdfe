"""A poll asks about many messages, never hangs on one, and ends while its answers can still be used."""

import asyncio

import pytest

from otpsvc.messages import polling
from otpsvc.senders import questions
from otpsvc.senders.contract import Channel, Receipt, ReceiptStatus, SentMessage
from otpsvc.senders.http_client import GatewayAnswer, NoAnswer
from otpsvc.senders.questions import ask_each, gateway_time


def messages(amount: int) -> list[SentMessage]:
    return [
        SentMessage(message_id=f"m{number}", provider_id=None, channel=Channel.SMS, sent_at=0.0)
        for number in range(amount)
    ]


async def test_many_are_asked_a_few_at_a_time() -> None:
    under_way, most = 0, 0

    async def ask(message: SentMessage) -> Receipt | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        is_told = message.message_id != "m3"
        return Receipt(status=ReceiptStatus.SENT, message_id=message.message_id) if is_told else None

    found = await ask_each(messages(30), ask)
    assert {receipt.message_id for receipt in found} == {f"m{number}" for number in range(30)} - {"m3"}
    assert most == 4


async def test_no_answer_ends_the_asking_and_keeps_what_was_learnt() -> None:
    asked: list[str] = []

    async def ask(message: SentMessage) -> Receipt | None:
        asked.append(message.message_id)
        if len(asked) > 5:
            raise NoAnswer("time-out")
        return Receipt(status=ReceiptStatus.SENT, message_id=message.message_id)

    found = await ask_each(messages(100), ask)
    assert len(found) == 5
    assert len(asked) == 6


async def test_a_gateway_that_only_drips_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.senders.questions._POLL_TIMEOUT_S", 0.05)

    asked: list[str] = []

    async def ask(message: SentMessage) -> Receipt | None:
        asked.append(message.message_id)
        if len(asked) > 1:
            await asyncio.Event().wait()
        return Receipt(status=ReceiptStatus.SENT, message_id=message.message_id)

    assert [receipt.message_id for receipt in await ask_each(messages(9), ask)] == asked[:1]


def test_the_gateways_own_time() -> None:
    answer = GatewayAnswer(200, {"date": "Fri, 15 Jan 2027 08:00:00 GMT"}, b"")
    assert gateway_time(answer, 7.0) == 1_800_000_000.0
    for date in ("", "soon", "Fri, 99 Jan 2027 08:00:00 GMT"):
        assert gateway_time(GatewayAnswer(200, {"date": date}, b""), 7.0) == 7.0


def test_the_asking_ends_before_who_polls_gives_up() -> None:
    assert questions._POLL_TIMEOUT_S < polling.POLL_TIMEOUT_S - 2


async def test_an_answer_that_cannot_be_read_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(message: SentMessage) -> Receipt | None:
        if message.message_id == "m3":
            raise KeyError("+33612345678")
        return Receipt(status=ReceiptStatus.SENT, message_id=message.message_id)

    found = await ask_each(messages(9), ask)
    assert {receipt.message_id for receipt in found} == {f"m{number}" for number in range(9)} - {"m3"}
    assert "message m3: asking about it failed: KeyError" in caplog.text
    assert "612345678" not in caplog.text
