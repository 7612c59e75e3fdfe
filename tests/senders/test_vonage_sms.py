"""`vonage-sms`: what leaves, and what each answer means."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Health,
    OutboundMessage,
    Outcome,
    ReceiptRequest,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    Unknown,
)
from otpsvc.senders.vonage_settings import VonageSmsSettings
from otpsvc.senders.vonage_sms import VonageSmsSender
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message, sender_context
from tests.gateways.vonage import API_KEY, API_SECRET, PUBLIC_URL, SIGNATURE_SECRET, VonageSmsGateway, sig_of

TOKEN = "an-unguessable-token"
MESSAGE_ID = "msg_00000000000000000000000000"
PROVIDER_ID = "0C000000217B7F02"


def settings(base_url: str = "https://rest.nexmo.com", **changes: Any) -> VonageSmsSettings:
    values: dict[str, Any] = {
        "api_key": API_KEY,
        "api_secret": Secret(API_SECRET),
        "origin": "Acme",
        "signature_secret": Secret(SIGNATURE_SECRET),
        "base_url": base_url,
        "allow_private": True,
        "timeout_s": 1,
    }
    return VonageSmsSettings(**values | changes)


def make(base_url: str = "https://rest.nexmo.com", *, public: bool = True, **changes: Any) -> VonageSmsSender:
    clock = changes.pop("clock", ManualClock())
    context = dataclasses.replace(sender_context(clock=clock), public_url=PUBLIC_URL if public else None)
    return VonageSmsSender("vonage", settings(base_url, **changes), context)


@asynccontextmanager
async def stage(**changes: Any) -> AsyncIterator[tuple[VonageSmsSender, VonageSmsGateway]]:
    method, clock = changes.get("signature_method", "sha256"), changes.pop("gateway_clock", ManualClock())
    async with VonageSmsGateway(clock, method=method) as gateway:
        sender = make(gateway.url, **changes)
        await sender.open()
        try:
            yield sender, gateway
        finally:
            await sender.close()


async def sent_with(reply: Reply) -> Outcome:
    async with stage() as (sender, gateway):
        gateway.set_replies.append(reply)
        return await sender.send(outbound_message())


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        async with stage() as (sender, gateway):
            yield Scene(sender, gateway)

    def scene(self) -> AbstractAsyncContextManager[Scene]:
        return self._scene()

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, VonageSmsGateway)
        return scene.gateway.texts

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, VonageSmsGateway)
        return [
            scene.gateway.receipt(provider_id or "", style=style, client_ref=message.message_id)
            for style in ("json", "form", "query")
        ]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, VonageSmsGateway)
        return scene.gateway.receipt(provider_id or "", "failed", err_code="77")

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, VonageSmsGateway)
        scene.gateway.refusals.append(["15"])
        return True


class TestConformanceWithSignedCallsAndToken(TestConformance):
    @asynccontextmanager
    async def _scene(self) -> AsyncIterator[Scene]:
        changes = {"api_secret": None, "are_receipts_signed": False, "receipt_token": Secret(TOKEN)}
        async with stage(**changes) as (sender, gateway):
            yield Scene(sender, gateway)

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        assert isinstance(scene.gateway, VonageSmsGateway)
        return [
            scene.gateway.receipt(
                provider_id or "", style=style, client_ref=message.message_id, secret=None, token=TOKEN
            )
            for style in ("json", "form", "query")
        ]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        assert isinstance(scene.gateway, VonageSmsGateway)
        return scene.gateway.receipt(provider_id or "", "failed", err_code="77", secret=None, token=TOKEN)


async def test_the_whole_request_with_key_and_secret() -> None:
    async with stage() as (sender, gateway):
        outcome = await sender.send(outbound_message(life_s=299.9))
        (request,) = gateway.requests
        assert (request.method, request.path, request.query) == ("POST", "/sms/json", {})
        assert request.form() == {
            "from": "Acme",
            "to": "33612345678",
            "text": "123456 is your verification code.",
            "type": "text",
            "ttl": "299900",
            "client-ref": MESSAGE_ID,
            "status-report-req": "true",
            "callback": f"{PUBLIC_URL}/receipts/vonage",
        }
        assert request.headers["authorization"].startswith("Basic ")
        assert outcome == Accepted("0000000000000001", parts=1)


@pytest.mark.parametrize("method", ["md5hash", "md5", "sha1", "sha256", "sha512"])
async def test_a_signed_request_is_signed_over_all_of_it_and_carries_no_secret(method: str) -> None:
    async with stage(api_secret=None, signature_method=method) as (sender, gateway):
        text = "583920 a=b&c=d Né €"
        assert isinstance(await sender.send(outbound_message(text=text)), Accepted)
        (request,) = gateway.requests
        form = request.form()
        assert "authorization" not in request.headers
        assert "api_secret" not in form
        assert (form["api_key"], form["timestamp"], form["text"]) == (API_KEY, "1800000000", text)
        assert form.pop("sig") == sig_of(form, method).lower()


async def test_no_callback_without_a_proof_or_a_public_address() -> None:
    async with stage(signature_secret=None) as (sender, gateway):
        await sender.send(outbound_message())
        assert "callback" not in gateway.requests[0].form()
        assert gateway.requests[0].form()["status-report-req"] == "false"
        assert not sender.capabilities.has_receipts
    async with stage(public=False) as (sender, gateway):
        await sender.send(outbound_message())
        assert "callback" not in gateway.requests[0].form()
        assert gateway.requests[0].form()["status-report-req"] == "true"  # the account may name an address itself


async def test_a_token_stands_at_the_end_of_the_callback() -> None:
    async with stage(signature_secret=None, receipt_token=Secret(TOKEN)) as (sender, gateway):
        await sender.send(outbound_message())
        assert gateway.requests[0].form()["callback"] == f"{PUBLIC_URL}/receipts/vonage/{TOKEN}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("583920 Né à Ø [€]", "text"), ("583920 ваш код", "unicode"), ("583920 “x”", "unicode"), ("583920 ç", "unicode")],
)
async def test_the_alphabet_decides_the_type(text: str, kind: str) -> None:
    async with stage() as (sender, gateway):
        await sender.send(outbound_message(text=text))
        assert (gateway.requests[0].form()["type"], gateway.texts) == (kind, [text])


@pytest.mark.parametrize(("life_s", "ttl"), [(300.0, "300000"), (30.001, "30001"), (5.0, "20000"), (1e7, "604800000")])
async def test_the_validity_is_the_life_left_within_their_bounds(life_s: float, ttl: str) -> None:
    async with stage() as (sender, gateway):
        await sender.send(outbound_message(life_s=life_s))
        assert gateway.requests[0].form()["ttl"] == ttl


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["0", "0", "0"], Accepted("0000000000000001", parts=3)),
        (["1"], RetryLater(1, "status 1")),
        (["5"], Unknown("status 5")),
        (["10"], RetryLater(5, "status 10")),
        (["2"], Rejected(RejectionKind.MISCONFIGURED, "status 2")),
        (["3"], Rejected(RejectionKind.MISCONFIGURED, "status 3")),
        (["4"], Rejected(RejectionKind.UNAUTHORISED, "status 4")),
        (["6"], Rejected(RejectionKind.UNSUPPORTED, "status 6")),
        (["7"], Rejected(RejectionKind.BLOCKED, "status 7")),
        (["8"], Rejected(RejectionKind.UNAUTHORISED, "status 8")),
        (["9"], Rejected(RejectionKind.NO_CREDIT, "status 9")),
        (["12"], Rejected(RejectionKind.TOO_LONG, "status 12")),
        (["14"], Rejected(RejectionKind.UNAUTHORISED, "status 14")),
        (["15"], Rejected(RejectionKind.SENDER_REFUSED, "status 15")),
        (["33"], Rejected(RejectionKind.INVALID_NUMBER, "status 33")),
        (["77"], Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code 77", is_unmapped=True)),
        (["9", "9"], Rejected(RejectionKind.NO_CREDIT, "status 9")),
        (["0", "9"], Unknown("1 of 2 parts taken")),
        (["1", "0", "0"], Unknown("2 of 3 parts taken")),
    ],
)
async def test_what_the_statuses_of_the_parts_come_to(statuses: list[str], expected: Outcome) -> None:
    async with stage() as (sender, gateway):
        gateway.refusals.append(statuses)
        assert await sender.send(outbound_message()) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(401, {"messages": [{"status": "4"}]}), Rejected(RejectionKind.UNAUTHORISED, "status 401")),
        (Reply(429, b"", {"retry-after": "30"}), RetryLater(30, "status 429")),
        (Reply(429, b""), RetryLater(1, "status 429")),
        (Reply(404, b""), Rejected(RejectionKind.MISCONFIGURED, "status 404")),
        (
            Reply(302, b"", {"location": "https://elsewhere.example"}),
            Rejected(RejectionKind.MISCONFIGURED, "status 302"),
        ),
        (Reply(418, b""), Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code http-418", is_unmapped=True)),
        (Reply(200, {"messages": [{"status": "1"}]}, {"retry-after": "12"}), RetryLater(12, "status 1")),
        (Reply(503, b"", {"retry-after": "1"}), Unknown("status 503")),
        (Reply(200, {"message-count": "0", "messages": []}), Unknown("answer cannot be read")),
        (Reply(200, {"messages": [{"message-id": PROVIDER_ID}]}), Unknown("answer cannot be read")),
        (Reply(200, {"messages": [{"status": "33612345678"}]}), Unknown("answer cannot be read")),
        (Reply(200, {"messages": [{"status": 0, "message-id": PROVIDER_ID}]}), Accepted(PROVIDER_ID, 1)),
        (Reply(200, {"messages": [{"status": "0", "message-id": "33612345678"}]}), Accepted(None, 1)),
        (Reply(200, {"messages": [{"status": "0"}]}), Accepted(None, 1)),
        (Reply(200, [1]), Unknown("answer cannot be read")),
    ],
)
async def test_answers_of_other_forms(reply: Reply, expected: Outcome) -> None:
    assert await sent_with(reply) == expected


async def test_a_clock_ten_minutes_wrong_is_unauthorised_at_once() -> None:
    late = ManualClock()
    late.advance(600)
    async with stage(api_secret=None, gateway_clock=late) as (sender, gateway):
        assert await sender.send(outbound_message()) == Rejected(RejectionKind.UNAUTHORISED, "status 14")
        assert len(gateway.requests) == 1


async def test_the_timestamp_is_made_for_each_call() -> None:
    clock = ManualClock()
    async with stage(api_secret=None, clock=clock, gateway_clock=clock) as (sender, gateway):
        for _ in range(2):
            assert isinstance(await sender.send(outbound_message()), Accepted)
            clock.advance(1000)
        assert [request.form()["timestamp"] for request in gateway.requests] == ["1800000000", "1800001000"]


async def test_a_cut_answer_is_unknown_and_a_shut_door_is_not() -> None:
    async with stage() as (sender, gateway):
        gateway.misbehave(Fault.CLOSE_MID_BODY)
        assert isinstance(await sender.send(outbound_message()), Unknown)
        gateway.misbehave(Fault.REFUSE)
        assert isinstance(await sender.send(outbound_message()), RetryLater)


async def test_health_asks_whether_key_and_secret_are_taken_and_sends_nothing() -> None:
    async with stage() as (sender, gateway):
        assert await sender.health() == Health(is_ready=True)
        assert [(request.method, request.path) for request in gateway.requests] == [("GET", "/account/get-balance")]
        gateway.misbehave(Fault.HTML_500)
        assert await sender.health() == Health(is_ready=False, detail="status 500")
        gateway.misbehave(Fault.REFUSE)
        assert not (await sender.health()).is_ready
    async with stage(api_secret=Secret("of another account")) as (sender, gateway):
        assert await sender.health() == Health(is_ready=False, detail="status 401")
    async with stage(api_secret=None) as (sender, gateway):
        assert (await sender.health()).detail.startswith("not asked")
        assert gateway.requests == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_secret": None, "signature_secret": None}, "api_secret or signature_secret must be given"),
        ({"receipt_token": Secret("short")}, "receipt_token must have at least 16 characters"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [("origin", "far too long a name"), ("origin", "+33612345678"), ("api_key", "a key"), ("signature_method", "sha3")],
)
def test_a_wrong_value_is_told_by_its_key(key: str, value: str) -> None:
    given = {"api_key": API_KEY, "api_secret": API_SECRET, "origin": "Acme"} | {key: value}
    faults: list[str] = []
    told = {name: Given(text, "otpsvc.toml") for name, text in given.items()}
    assert read_struct(VonageSmsSettings, told, path="senders.vonage", faults=faults) is None
    assert f"senders.vonage.{key} must be " in faults[0]


def test_addresses_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match=r"^senders\.vonage\.base_url must begin with https"):
        make("http://rest.nexmo.com", allow_private=False)
    with pytest.raises(ConfigurationError, match="longer than the 100 characters"):
        make(signature_secret=None, receipt_token=Secret("t" * 80))
