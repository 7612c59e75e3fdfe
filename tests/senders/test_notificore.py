"""The sender `notificore`: what leaves, and what each answer means."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Health,
    OutboundMessage,
    Outcome,
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
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.notificore import NotificoreSender, NotificoreSettings
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message
from tests.gateways.notificore import API_KEY, NotificoreGateway

TOKEN = "a-path-that-nobody-guesses"
REFERENCE = "msg00000000000000000000000000"
CALLBACK_URL = f"https://otp.example/receipts/notificore/{TOKEN}"


def sender_on(gateway: NotificoreGateway, **given: Any) -> NotificoreSender:
    settings: dict[str, Any] = {
        "api_key": Secret(API_KEY),
        "originator": "Acme",
        "receipt_token": Secret(TOKEN),
        "url": gateway.base,
        "timeout_s": 1.0,
        "allow_private": True,
    }
    context = SenderContext(is_dev=False, clock=ManualClock(), public_url="https://otp.example")
    return NotificoreSender("notificore", NotificoreSettings(**(settings | given)), context)


@asynccontextmanager
async def on_stage(**given: Any) -> AsyncIterator[tuple[NotificoreSender, NotificoreGateway]]:
    async with NotificoreGateway() as gateway:
        sender = sender_on(gateway, **given)
        await sender.open()
        try:
            yield sender, gateway
        finally:
            await sender.close()


def request_with(body: bytes, url: str = CALLBACK_URL) -> ReceiptRequest:
    return ReceiptRequest(method="POST", url=url, headers={"content-type": "application/json"}, body=body)


def sent(message: OutboundMessage, provider_id: str | None = None) -> SentMessage:
    return SentMessage(
        message_id=message.message_id, provider_id=provider_id, channel=message.channel, sent_at=1_800_000_000.0
    )


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with on_stage() as (sender, gateway):
            yield Scene(sender, gateway)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, NotificoreGateway)
        return [sms.body["body"] for sms in scene.gateway.taken]

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, NotificoreGateway)
        sms = scene.gateway.taken[-1]
        return [request_with(scene.gateway.callback(sms, "delivered", is_form=is_form)) for is_form in (False, True)]

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, NotificoreGateway)
        scene.gateway.refusals.append(8)
        return True


async def test_what_leaves() -> None:
    async with on_stage(tariff=3) as (sender, gateway):
        assert await sender.send(outbound_message(life_s=90)) == Accepted("700000")
        (request,) = gateway.requests
        assert (request.method, request.path) == ("POST", "/rest/sms/create")
        assert request.headers["x-api-key"] == API_KEY
        assert request.json() == {
            "destination": "phone",
            "originator": "Acme",
            "body": "123456 is your verification code.",
            "msisdn": "33612345678",
            "reference": f"{REFERENCE}3",
            "validity": 1,
            "tariff": 3,
            "callback_url": CALLBACK_URL,
        }


async def test_without_a_secret_address_none_is_given_away() -> None:
    async with on_stage(receipt_token=None) as (sender, gateway):
        await sender.send(outbound_message())
        assert "callback_url" not in gateway.requests[0].json()
        assert sender.receipt_url is None
        assert await sender.parse_receipt(request_with(b"{}")) == ReceiptRefusal(
            RefusalKind.UNSUPPORTED, "no receipt_token is set"
        )


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("are_numbers_text", [False, True])
async def test_both_shapes_of_answers_are_understood(is_older: bool, are_numbers_text: bool) -> None:
    async with on_stage() as (sender, gateway):
        gateway.is_older, gateway.are_numbers_text = is_older, are_numbers_text
        assert await sender.send(outbound_message()) == Accepted("700000")
        gateway.refusals.append(21)
        other = outbound_message(message_id="msg_00000000000000000000000001")
        assert await sender.send(other) == Rejected(RejectionKind.INVALID_NUMBER, "code 21")


async def test_a_message_it_has_already_is_accepted_and_not_doubled() -> None:
    async with on_stage() as (sender, gateway):
        gateway.misbehave(Fault.CLOSE_MID_BODY)
        assert isinstance(await sender.send(outbound_message()), Unknown)
        assert await sender.send(outbound_message(try_number=2)) == Accepted(REFERENCE)
        assert len(gateway.taken) == 1


async def test_two_tariffs_of_an_account_are_two_ways_and_each_has_its_own_message() -> None:
    async with on_stage() as (first, gateway), AsyncExitStack() as ends:
        second = sender_on(gateway, tariff=2)
        ends.push_async_callback(second.close)
        await second.open()
        message = outbound_message()
        assert [await sender.send(message) for sender in (first, second, second)] == [
            Accepted("700000"),
            Accepted("700001"),
            Accepted(f"{REFERENCE}2"),
        ]
        gateway.taken[0].status = "undeliverable"
        assert [(await sender.poll([sent(message)]))[0].status for sender in (first, second)] == [
            ReceiptStatus.FAILED,
            ReceiptStatus.SENT,
        ]
        said = await second.parse_receipt(request_with(gateway.callback(gateway.taken[0], "undeliverable")))
        assert isinstance(said, Receipts)
        assert (said.items[0].message_id, said.items[0].provider_id) == (None, "700000")


CODES: list[tuple[int | str, Outcome]] = [
    (1, Rejected(RejectionKind.UNAUTHORISED, "code 1")),
    (5, Unknown("code 5")),
    (8, Rejected(RejectionKind.NO_CREDIT, "code 8")),
    (11, RetryLater(5.0, "code 11")),
    (25, Rejected(RejectionKind.SENDER_REFUSED, "code 25")),
    (26, Rejected(RejectionKind.TOO_LONG, "code 26")),
    (33, Rejected(RejectionKind.UNSUPPORTED, "code 33")),
    (34, Rejected(RejectionKind.TEXT_REFUSED, "code 34")),
    (77, Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code 77", is_unmapped=True)),
]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(("code", "outcome"), CODES)
async def test_what_a_code_means(code: int | str, outcome: Outcome, status: int) -> None:
    async with on_stage() as (sender, gateway):
        gateway.error_status = status
        gateway.refusals.append(code)
        assert await sender.send(outbound_message()) == outcome


class Silent(NotificoreGateway):
    """Gives one answer to everything."""

    reply = Reply()

    async def respond(self, request: object) -> Reply:
        return self.reply


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(200, {}), Unknown("status 200, not understood")),
        (Reply(200, {"error": None, "id": 1}), Unknown("status 200, not understood")),
        (Reply(200, {"error": True, "id": 1}), Unknown("status 200, not understood")),
        (Reply(200, b"OK"), Unknown("status 200, not understood")),
        (Reply(200, [{"error": 0}, {"error": 0}]), Unknown("status 200, not understood")),
        (Reply(200, {"result": [{"error": 0, "id": 5}]}), Accepted("5")),
        (Reply(200, {"error": 0, "id": "+33612345678 123456"}), Accepted(REFERENCE)),
        (Reply(500, {"error": 0, "id": 1}), Unknown("status 500")),
        (Reply(500, {"error": 77}), Unknown("status 500")),
        (Reply(400, {"error": 0, "id": 1}), Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        (Reply(401, b""), Rejected(RejectionKind.UNAUTHORISED, "status 401")),
        (Reply(404, b"<html>"), Rejected(RejectionKind.MISCONFIGURED, "status 404")),
        (Reply(408, b""), Unknown("status 408")),
        (Reply(429, b""), RetryLater(5.0, "status 429")),
        (Reply(429, b"", {"retry-after": "30"}), RetryLater(30.0, "status 429")),
        (
            Reply(301, b"", {"location": "https://elsewhere.example"}),
            Rejected(RejectionKind.MISCONFIGURED, "status 301"),
        ),
        (Reply(599, b""), Unknown("status 599")),
    ],
)
async def test_what_an_odd_answer_means(reply: Reply, outcome: Outcome) -> None:
    async with Silent() as gateway:
        gateway.reply = reply
        sender = sender_on(gateway)
        await sender.open()
        assert await sender.send(outbound_message()) == outcome
        await sender.close()


async def test_a_poll_asks_by_reference() -> None:
    async with on_stage() as (sender, gateway):
        first, second = outbound_message(), outbound_message(message_id="msg_0000000000000000000000000z")
        await sender.send(first)
        gateway.taken[0].status = "undeliverable"
        assert await sender.poll([sent(first), sent(second)]) == [
            Receipt(
                status=ReceiptStatus.FAILED,
                message_id=first.message_id,
                provider_id="700000",
                kind=RejectionKind.UNDELIVERABLE,
                detail="code undeliverable",
            )
        ]
        assert [request.path for request in gateway.requests[1:]] == [
            f"/rest/sms/reference/{REFERENCE}",
            "/rest/sms/reference/msg0000000000000000000000000z",
        ]


async def test_a_poll_takes_no_word_about_another_message() -> None:
    async with Silent() as gateway:
        gateway.reply = Reply(200, {"error": 0, "id": 1, "reference": "msg" + "z" * 26, "status": "delivered"})
        sender = sender_on(gateway)
        await sender.open()
        assert await sender.poll([sent(outbound_message())]) == []
        await sender.close()


@pytest.mark.parametrize("fault", [Fault.CLOSE_MID_BODY, Fault.TOO_MANY])
async def test_a_poll_gives_up_at_the_first_failure(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        message = outbound_message()
        await sender.send(message)
        gateway.misbehave(fault)
        assert len(await sender.poll([sent(message)] * 12)) <= 3
        assert len(gateway.requests) <= 1 + 4


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_a_poll_stops_where_it_is_unwelcome(status: int) -> None:
    async with Silent() as gateway, AsyncExitStack() as ends:
        gateway.reply = Reply(status, {"error": 1})
        sender = sender_on(gateway)
        ends.push_async_callback(sender.close)
        await sender.open()
        assert await sender.poll([sent(outbound_message())] * 40) == []
        assert len(gateway.requests) <= 4


async def test_a_poll_keeps_what_it_learnt_beside_a_question_that_hangs() -> None:
    async with on_stage() as (sender, gateway):
        message = outbound_message()
        await sender.send(message)
        gateway.misbehave(Fault.HANG)
        assert len(await sender.poll([sent(message)] * 9)) == 8


async def test_health_needs_a_key_that_is_taken() -> None:
    async with on_stage() as (sender, gateway):
        assert (await sender.health()).is_ready
        gateway.misbehave(Fault.HTML_500)
        assert await sender.health() == Health(is_ready=False, detail="status 500")
    async with on_stage(api_key=Secret("live_wrong")) as (sender, _):
        health = await sender.health()
        assert (health.is_ready, health.detail) == (False, "code 1")


def test_an_address_that_could_be_guessed_stops_the_start() -> None:
    faults: list[str] = []
    given = {"api_key": Given("k", "here"), "originator": Given("Acme", "here"), "receipt_token": Given("hush", "here")}
    assert read_struct(NotificoreSettings, given, path="senders.n", faults=faults) is None
    assert faults == ["senders.n: receipt_token must have at least 16 characters"]


def test_a_key_that_sends_nothing_stops_the_start() -> None:
    with pytest.raises(ValueError, match="api_key is a test key"):
        NotificoreSettings(api_key=Secret("test_0123456789abcdef"), originator="Acme")


@pytest.mark.parametrize("url", ["http://api.notificore.ru/rest", "https://127.0.0.1/rest", "ftp://a.example", ""])
async def test_an_address_that_cannot_work_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^senders\.notificore\.url"):
        sender_on(NotificoreGateway(), url=url, allow_private=False)


@pytest.mark.parametrize("originator", ["Acme", "Acme & Co", "33612345678", "36111", "A"])
def test_originators_that_fit(originator: str) -> None:
    faults: list[str] = []
    given = {"api_key": Given("k", "here"), "originator": Given(originator, "here")}
    assert read_struct(NotificoreSettings, given, path="senders.n", faults=faults) is not None, faults


@pytest.mark.parametrize("originator", ["", "Twelve chars", "+33612345678", "123456789012345", "Ünïcode", "A\n"])
def test_originators_that_do_not(originator: str) -> None:
    faults: list[str] = []
    given = {"api_key": Given("k", "here"), "originator": Given(originator, "here")}
    assert read_struct(NotificoreSettings, given, path="senders.n", faults=faults) is None
    assert "senders.n.originator must be up to 11 letters" in faults[0]


async def test_many_under_way_each_get_their_own_answer() -> None:
    async with on_stage() as (sender, gateway):
        messages = [outbound_message(message_id=f"msg_{number:026d}") for number in range(30)]
        outcomes = await asyncio.gather(*map(sender.send, messages))
        by_reference = {sms.body["reference"]: str(sms.id) for sms in gateway.taken}
        assert [outcome.provider_id for outcome in outcomes if isinstance(outcome, Accepted)] == [
            by_reference[message.message_id.replace("_", "")] for message in messages
        ]
