"""`twilio`: what leaves, what each answer means, and what polling tells."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    ReceiptRequest,
    Receipts,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    SentMessage,
    Unknown,
)
from otpsvc.senders.twilio import TwilioSender
from otpsvc.senders.twilio_settings import TwilioSettings
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message, sender_context
from tests.gateways.twilio import (
    ACCOUNT_SID,
    AUTH_TOKEN,
    KEY_SECRET,
    KEY_SID,
    PUBLIC_URL,
    SERVICE_SID,
    TwilioGateway,
    error,
    signed,
)

TOKEN = "an-unguessable-token"
MESSAGE_ID = "msg_00000000000000000000000000"
SID = "SM" + "3d" * 16
CALLBACK = f"{PUBLIC_URL}/receipts/twilio?ref={MESSAGE_ID}"
BY_KEY: dict[str, Any] = {"auth_token": None, "api_key_sid": KEY_SID, "api_key_secret": Secret(KEY_SECRET)}


def settings(base_url: str = "https://api.twilio.com", **changes: Any) -> TwilioSettings:
    values: dict[str, Any] = {
        "account_sid": ACCOUNT_SID,
        "auth_token": Secret(AUTH_TOKEN),
        "origin": "+15005550006",
        "base_url": base_url,
        "allow_private": True,
        "timeout_s": 1,
    }
    return TwilioSettings(**values | changes)


def make(base_url: str = "https://api.twilio.com", *, public: bool = True, **changes: Any) -> TwilioSender:
    context = dataclasses.replace(sender_context(clock=ManualClock()), public_url=PUBLIC_URL if public else None)
    return TwilioSender("twilio", settings(base_url, **changes), context)


@asynccontextmanager
async def stage(**changes: Any) -> AsyncIterator[tuple[TwilioSender, TwilioGateway]]:
    async with TwilioGateway() as gateway:
        sender = make(gateway.url, **changes)
        await sender.open()
        try:
            yield sender, gateway
        finally:
            await sender.close()


def sent_message(provider_id: str | None) -> SentMessage:
    return SentMessage(message_id=MESSAGE_ID, provider_id=provider_id, channel=Channel.SMS, sent_at=1_800_000_000)


async def send_one(sender: TwilioSender) -> str:
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Accepted)
    assert outcome.provider_id is not None
    return outcome.provider_id


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        async with stage() as (sender, gateway):
            yield Scene(sender, gateway)

    def scene(self) -> AbstractAsyncContextManager[Scene]:
        return self._scene()

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, TwilioGateway)
        return scene.gateway.texts

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, TwilioGateway)
        assert provider_id is not None
        return [
            scene.gateway.callback(provider_id, "sent"),
            scene.gateway.callback(provider_id, "undelivered", code=30003),
        ]

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        return signed(CALLBACK, body) if len(body) < 2000 and body.isascii() else None

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, TwilioGateway)
        return scene.gateway.callback(provider_id or "", "undelivered", code=30999)

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, TwilioGateway)
        scene.gateway.refusals.append(21610)
        return True


class TestConformanceWithServiceKeyAndToken(TestConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        changes = {"origin": None, "messaging_service_sid": SERVICE_SID, "receipt_token": Secret(TOKEN)}
        async with stage(**BY_KEY, **changes) as (sender, gateway):
            yield Scene(sender, gateway)

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, TwilioGateway)
        return [scene.gateway.callback(provider_id or "", secret=None)]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, TwilioGateway)
        return scene.gateway.callback(provider_id or "", "undelivered", code=30999, secret=None)

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        return None


async def test_the_whole_request() -> None:
    async with stage() as (sender, gateway):
        outcome = await sender.send(outbound_message(life_s=299.9))
        (request,) = gateway.requests
        assert (request.method, request.path) == ("POST", f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json")
        assert request.form() == {
            "To": "+33612345678",
            "From": "+15005550006",
            "Body": "123456 is your verification code.",
            "ValidityPeriod": "299",
            "StatusCallback": CALLBACK,
        }
        assert outcome == Accepted(next(iter(gateway.taken)), parts=1)


async def test_a_messaging_service_instead_of_a_number_and_a_key_instead_of_the_token() -> None:
    async with stage(**BY_KEY, origin=None, messaging_service_sid=SERVICE_SID) as (sender, gateway):
        await send_one(sender)
        form = gateway.requests[0].form()
        assert form["MessagingServiceSid"] == SERVICE_SID
        assert not {"From", "StatusCallback"} & form.keys()  # nothing could prove a callback


async def test_a_key_for_calls_and_the_token_for_callbacks() -> None:
    async with stage(**BY_KEY | {"auth_token": Secret(AUTH_TOKEN)}) as (sender, gateway):
        sid = await send_one(sender)
        assert isinstance(await sender.parse_receipt(gateway.callback(sid)), Receipts)


async def test_a_token_stands_at_the_end_of_the_callbacks_path() -> None:
    async with stage(**BY_KEY, receipt_token=Secret(TOKEN)) as (sender, gateway):
        await send_one(sender)
        expected = f"{PUBLIC_URL}/receipts/twilio/{TOKEN}?ref={MESSAGE_ID}"
        assert gateway.requests[0].form()["StatusCallback"] == expected
        assert sender.capabilities.has_receipts  # by polling


async def test_no_callback_without_a_public_address() -> None:
    async with stage(public=False) as (sender, gateway):
        await send_one(sender)
        assert "StatusCallback" not in gateway.requests[0].form()


@pytest.mark.parametrize(("life_s", "validity"), [(300.9, "300"), (0.2, "1"), (1e6, "14400")])
async def test_the_validity_is_the_life_left_within_their_bounds(life_s: float, validity: str) -> None:
    async with stage() as (sender, gateway):
        await sender.send(outbound_message(life_s=life_s))
        assert gateway.requests[0].form()["ValidityPeriod"] == validity


def failed(code: int | None, status: str = "failed") -> Reply:
    return Reply(201, {"sid": SID, "status": status, "error_code": code, "num_segments": "1"})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(20003, 401), Rejected(RejectionKind.UNAUTHORISED, "status 401, code 20003")),
        (error(20429, 429), RetryLater(1, "status 429, code 20429")),
        (error(21211), Rejected(RejectionKind.INVALID_NUMBER, "status 400, code 21211")),
        (error(21408), Rejected(RejectionKind.UNSUPPORTED, "status 400, code 21408")),
        (error(21606), Rejected(RejectionKind.SENDER_REFUSED, "status 400, code 21606")),
        (error(21610), Rejected(RejectionKind.BLOCKED, "status 400, code 21610")),
        (error(21612), Rejected(RejectionKind.UNSUPPORTED, "status 400, code 21612")),
        (error(21614), Rejected(RejectionKind.UNSUPPORTED, "status 400, code 21614")),
        (error(21617), Rejected(RejectionKind.TOO_LONG, "status 400, code 21617")),
        (error(30032), Rejected(RejectionKind.SENDER_REFUSED, "status 400, code 30032")),
        (error(63038, 429), Rejected(RejectionKind.UNAVAILABLE, "status 429, code 63038")),
        (error(21999), Rejected(RejectionKind.GATEWAY_ERROR, "status 400, code 21999", is_unmapped=True)),
        (error(70051, 401), Rejected(RejectionKind.UNAUTHORISED, "status 401, code 70051", is_unmapped=True)),
        (error(20023), Rejected(RejectionKind.INVALID_NUMBER, "status 400, code 20023")),
        (error(21266), Rejected(RejectionKind.UNSUPPORTED, "status 400, code 21266")),
        (error(21268), Rejected(RejectionKind.UNSUPPORTED, "status 400, code 21268")),
        (Reply(429, b"", {"retry-after": "30"}), RetryLater(30, "status 429")),
        (Reply(402, b""), Rejected(RejectionKind.NO_CREDIT, "status 402")),
        (Reply(400, {"code": "33612345678"}), Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        (Reply(418, b""), Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code http-418", is_unmapped=True)),
        (Reply(307, b""), Rejected(RejectionKind.MISCONFIGURED, "status 307")),
        (error(20500, 500), Unknown("status 500")),
        (error(20503, 503), Unknown("status 503")),
        (Reply(201, {"sid": "33612345678"}), Unknown("answer cannot be read")),
        (Reply(201, b"thank you"), Unknown("answer cannot be read")),
        (Reply(201, {"sid": SID, "num_segments": None}), Accepted(SID, None)),
        (Reply(201, {"sid": SID, "num_segments": "4"}), Accepted(SID, 4)),
        (failed(30007), Rejected(RejectionKind.TEXT_REFUSED, "code 30007")),
        (failed(39999), Rejected(RejectionKind.GATEWAY_ERROR, "code 39999", is_unmapped=True)),
        (failed(30007, "queued"), Accepted(SID, 1)),
        (Reply(201, {"sid": SID, "status": None, "num_segments": 2, "date_updated": 7}), Accepted(SID, 2)),
        (
            Reply(201, {"sid": SID, "status": "failed", "error_code": "30007"}),
            Rejected(RejectionKind.TEXT_REFUSED, "code 30007"),
        ),
    ],
)
async def test_what_answers_mean(reply: Reply, expected: Outcome) -> None:
    async with stage() as (sender, gateway):
        gateway.refusals.append(reply)
        assert await sender.send(outbound_message()) == expected


async def test_health_asks_whether_the_credentials_are_taken_and_reads_no_text() -> None:
    async with stage() as (sender, gateway):
        await send_one(sender)
        assert await sender.health() == Health(is_ready=True)
        assert gateway.requests[-1].query == {"PageSize": "1", "DateSent": "1970-01-01"}
        gateway.misbehave(Fault.HTML_500)
        assert await sender.health() == Health(is_ready=False, detail="status 500")
        gateway.misbehave(Fault.REFUSE)
        assert not (await sender.health()).is_ready
    async with stage(auth_token=Secret("of another account")) as (sender, _):
        assert await sender.health() == Health(is_ready=False, detail="status 401, code 20003")


async def test_a_cut_answer_is_unknown_and_a_shut_door_is_not() -> None:
    async with stage() as (sender, gateway):
        gateway.misbehave(Fault.CLOSE_MID_BODY)
        assert isinstance(await sender.send(outbound_message()), Unknown)
        gateway.misbehave(Fault.REFUSE)
        assert isinstance(await sender.send(outbound_message()), RetryLater)


async def test_a_poll_tells_how_far_each_message_is() -> None:
    async with stage() as (sender, gateway):
        sids = [await send_one(sender) for _ in range(6)]
        states = [("sent", None), ("delivered", None), ("undelivered", 30005), ("failed", 30036), ("odd", None)]
        gateway.states |= dict(zip(sids, states, strict=False))
        told = await sender.poll([sent_message(sid) for sid in (*sids, SID, None, "../../Accounts")])
        found = sorted(told, key=lambda item: sids.index(item.provider_id or ""))
        assert [(item.status.value, item.kind) for item in found] == [
            ("sent", None),
            ("delivered", None),
            ("failed", RejectionKind.UNDELIVERABLE),
            ("expired", None),
            ("accepted", None),
        ]
        assert {item.message_id for item in found} == {MESSAGE_ID}
        assert found[0].happened_at == 1_800_000_000
        assert len(gateway.requests) == 6 + 7


@pytest.mark.parametrize(("status", "n_asked"), [(401, 4), (403, 4), (429, 4), (503, 4), (404, 12)])
async def test_a_poll_stops_where_it_is_unwelcome(status: int, n_asked: int) -> None:
    async with stage() as (sender, gateway):
        gateway.refusals = [Reply(status, b"") for _ in range(12)]
        assert await sender.poll([sent_message(SID)] * 12) == []
        assert len(gateway.requests) == n_asked


async def test_a_poll_believes_no_answer_about_another_message() -> None:
    async with stage() as (sender, gateway):
        gateway.refusals.append(Reply(200, {"sid": SID.replace("3", "4"), "status": "delivered"}))
        assert await sender.poll([sent_message(SID)]) == []


async def test_a_poll_gives_up_at_a_gateway_that_is_away() -> None:
    async with stage() as (sender, gateway):
        sids = [await send_one(sender) for _ in range(12)]
        n_before = len(gateway.requests)
        gateway.misbehave(Fault.CLOSE_MID_BODY)
        found = await sender.poll([sent_message(sid) for sid in sids])
        assert len(found) == 3
        assert len(gateway.requests) == n_before + 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auth_token": None}, "give auth_token, or api_key_sid and api_key_secret"),
        ({"api_key_sid": KEY_SID}, "api_key_sid and api_key_secret go together"),
        ({"origin": None}, "either origin or messaging_service_sid"),
        ({"messaging_service_sid": SERVICE_SID}, "either origin or messaging_service_sid"),
        ({"receipt_token": Secret("short")}, "receipt_token must have at least 16 characters"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [("account_sid", "SK" + "0" * 32), ("origin", "a name that is too long"), ("origin", "33612345678")],
)
def test_a_wrong_value_is_told_by_its_key(key: str, value: str) -> None:
    given = {"account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN, "origin": "Acme"} | {key: value}
    faults: list[str] = []
    told = {name: Given(text, "otpsvc.toml") for name, text in given.items()}
    assert read_struct(TwilioSettings, told, path="senders.twilio", faults=faults) is None
    assert f"senders.twilio.{key} must be " in faults[0]


def test_an_address_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match=r"^senders\.twilio\.base_url must begin with https"):
        make("http://api.twilio.com", allow_private=False)
