"""The sender `notificore-2fa`: the gateway makes the code, and every guess is compared there once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from otpsvc.senders.contract import (
    Accepted,
    CheckOutcome,
    Health,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.notificore_2fa import NotificoreTwoFactorSender, NotificoreTwoFactorSettings
from otpsvc.settings_values import Given, read_struct
from otpsvc.testing import Fault, ManualClock, Reply, Scene, SenderConformance, outbound_message
from tests.gateways.notificore import API_KEY, NotificoreTwoFactorGateway

LOG_IN = "/api/auth/login"
START = "/api/2fa/authentications/otp"


@asynccontextmanager
async def on_stage(
    gateway: NotificoreTwoFactorGateway | None = None, clock: ManualClock | None = None, **given: Any
) -> AsyncIterator[tuple[NotificoreTwoFactorSender, NotificoreTwoFactorGateway]]:
    async with gateway or NotificoreTwoFactorGateway() as double:
        settings: dict[str, Any] = {
            "api_key": Secret(API_KEY),
            "sender": "Acme",
            "template_id": 4711,
            "url": double.base,
            "timeout_s": 1.0,
            "allow_private": True,
        }
        context = SenderContext(is_dev=False, clock=clock or ManualClock())
        sender = NotificoreTwoFactorSender("two", NotificoreTwoFactorSettings(**(settings | given)), context)
        await sender.open()
        try:
            yield sender, double
        finally:
            await sender.close()


def message(**given: Any) -> OutboundMessage:
    return msgspec.structs.replace(outbound_message(), code_length=6, max_attempts=3, **given)


def sent(provider_id: str | None) -> SentMessage:
    plain = message()
    return SentMessage(
        message_id=plain.message_id, provider_id=provider_id, channel=plain.channel, sent_at=1_800_000_000.0
    )


async def started(sender: NotificoreTwoFactorSender) -> str:
    outcome = await sender.send(message())
    assert isinstance(outcome, Accepted)
    assert outcome.provider_id is not None
    return outcome.provider_id


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06d}"


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with on_stage() as (sender, gateway):
            assert (await sender.health()).is_ready
            yield Scene(sender, gateway)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, NotificoreTwoFactorGateway)
        return [f"{session.code} is your code" for session in scene.gateway.sessions.values()]

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, NotificoreTwoFactorGateway)
        scene.gateway.refusals.append((400, "All numbers are in the stop list"))
        return True


async def test_what_leaves() -> None:
    async with on_stage(sender_alt="12345", channel="viber") as (sender, gateway):
        provider_id = await started(sender)
        log_in, start = gateway.requests
        assert (log_in.method, log_in.path, log_in.json()) == ("POST", LOG_IN, {"api_key": API_KEY})
        assert "authorization" not in log_in.headers
        assert (start.method, start.path) == ("POST", START)
        assert start.headers["authorization"] == f"Bearer {gateway.token}"
        assert start.json() == {
            "channel": "viber",
            "sender": "Acme",
            "sender_alt": "12345",
            "recipient": "33612345678",
            "template_id": 4711,
            "code_digits": 6,
            "code_lifetime": 300,
            "code_max_tries": 3,
        }
        assert list(gateway.sessions) == [provider_id]


async def test_our_code_never_leaves() -> None:
    async with on_stage() as (sender, gateway):
        await started(sender)
        assert not any(b"123456 is" in request.body for request in gateway.requests)


@pytest.mark.parametrize(("life_s", "told"), [(12.0, 30), (30.9, 30), (200.7, 200), (300.0, 300), (1800.0, 300)])
async def test_the_life_of_the_code_is_told_as_far_as_they_allow(life_s: float, told: int) -> None:
    async with on_stage() as (sender, gateway):
        await sender.send(message(life_s=life_s))
        assert gateway.requests[-1].json()["code_lifetime"] == told


@pytest.mark.parametrize("digits", [2, 10])
async def test_a_length_they_do_not_have_is_refused_here(digits: int) -> None:
    async with on_stage() as (sender, gateway):
        asked = msgspec.structs.replace(message(), code_length=digits)
        assert await sender.send(asked) == Rejected(RejectionKind.UNSUPPORTED, "codes there have 3 to 9 digits")
        assert gateway.requests == []


async def test_what_nobody_said_is_the_usual() -> None:
    async with on_stage() as (sender, gateway):
        await sender.send(outbound_message())
        body = gateway.requests[-1].json()
        assert (body["code_digits"], body["code_max_tries"]) == (6, 3)


TEXTS: list[tuple[int, str, Outcome]] = [
    (400, "Invalid phone number format", Rejected(RejectionKind.INVALID_NUMBER, "code invalid_phone_number_format")),
    (
        200,
        "All numbers are in the stop-list.",
        Rejected(RejectionKind.BLOCKED, "code all_numbers_are_in_the_stop_list"),
    ),
    (
        403,
        "Unavailable for your account status",
        Rejected(RejectionKind.UNAUTHORISED, "code unavailable_for_your_account_status"),
    ),
    (400, "Tariff not found", Rejected(RejectionKind.MISCONFIGURED, "code tariff_not_found")),
    (
        400,
        "The number 33612345678 is odd",
        Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code unlisted_message", is_unmapped=True),
    ),
    (
        400,
        "The phone number already exists in the user's contact book",
        Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code unlisted_message", is_unmapped=True),
    ),
    (500, "Server error", Unknown("status 500")),
    (429, "Too many attempts", RetryLater(5.0, "status 429")),
]


@pytest.mark.parametrize(("status", "text", "outcome"), TEXTS)
async def test_what_a_text_means(status: int, text: str, outcome: Outcome) -> None:
    async with on_stage() as (sender, gateway):
        gateway.refusals.append((status, text))
        assert await sender.send(message()) == outcome


@pytest.mark.parametrize("to", ["+67712345", "+2903456"])
async def test_a_good_number_that_is_too_short_for_them_is_left_to_the_next_sender(to: str) -> None:
    async with on_stage() as (sender, gateway):
        outcome = await sender.send(message(to=to))
        assert outcome == Rejected(RejectionKind.UNSUPPORTED, "numbers there have 9 to 15 digits")
        assert gateway.requests == []


class Answering(NotificoreTwoFactorGateway):
    """Logs in, then gives one answer to everything."""

    reply = Reply()

    async def respond(self, request: Any) -> Reply:
        return await super().respond(request) if request.path == LOG_IN else self.reply


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(201, {"data": {"id": "0-1", "status": "pending"}}), Accepted("0-1")),
        (
            Reply(201, {"data": {"id": "0-1", "status": "failed"}}),
            Unknown("a new verification that does not wait for its code"),
        ),
        (
            Reply(201, {"data": {"id": "0-1", "status": "pending"}, "errors": [{"message": "the balance is low"}]}),
            Unknown("a verification, and words of an error that are not listed"),
        ),
        (Reply(201, {"data": {"status": "pending"}}), Unknown("status 201, not understood")),
        (Reply(201, {"data": []}), Unknown("status 201, not understood")),
        (Reply(200, {"errors": []}), Unknown("status 200, not understood")),
        (Reply(422, {"message": "The given data was invalid."}), Rejected(RejectionKind.MISCONFIGURED, "status 422")),
    ],
)
async def test_what_an_odd_answer_means(reply: Reply, outcome: Outcome) -> None:
    gateway = Answering()
    gateway.reply = reply
    async with on_stage(gateway) as (sender, _):
        assert await sender.send(message()) == outcome


async def test_one_log_in_serves_many_for_fifty_minutes() -> None:
    clock = ManualClock()
    async with on_stage(clock=clock) as (sender, gateway):
        await asyncio.gather(*(sender.send(message()) for _ in range(20)))
        clock.advance(49 * 60)
        await sender.send(message())
        assert gateway.n_log_ins == 1
        clock.advance(7 * 60)
        await sender.send(message())
        assert gateway.n_log_ins == 2


async def test_a_token_that_is_refused_is_replaced_once_and_the_call_repeated() -> None:
    async with on_stage() as (sender, gateway):
        await started(sender)
        gateway.stale.add(gateway.token)
        await started(sender)
        assert [request.path for request in gateway.requests[2:]] == [START, LOG_IN, START]
        assert len(gateway.sessions) == 2


async def test_tokens_that_are_always_refused_end_after_one_repeat() -> None:
    gateway = Answering()
    gateway.reply = Reply(401, {"errors": [{"message": "Unauthenticated"}]})
    async with on_stage(gateway) as (sender, _):
        assert await sender.send(message()) == Rejected(RejectionKind.UNAUTHORISED, "status 401", is_unmapped=True)
        assert [request.path for request in gateway.requests] == [LOG_IN, START, LOG_IN, START]


async def test_a_wrong_key_is_told_and_not_tried_at_every_message() -> None:
    async with on_stage(api_key=Secret("live_wrong")) as (sender, gateway):
        refused = Rejected(RejectionKind.UNAUTHORISED, "status 401", is_unmapped=True)
        assert [await sender.send(message()) for _ in range(5)] == [refused] * 5
        assert len(gateway.requests) == 1
        assert await sender.health() == Health(is_ready=False, detail="status 401")


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_log_in_that_fails_means_that_nothing_left(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        gateway.misbehave(fault)
        outcome = await sender.send(message())
        assert isinstance(outcome, RetryLater | Rejected)
        assert gateway.sessions == {}
        assert not any(request.path == START for request in gateway.requests)


async def test_guesses_are_compared_there() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await started(sender)
        code = gateway.sessions[provider_id].code
        assert await sender.check(sent(provider_id), wrong(code)) is CheckOutcome.WRONG
        assert await sender.check(sent(provider_id), code) is CheckOutcome.RIGHT
        assert await sender.check(sent(provider_id), code) is CheckOutcome.ENDED
        assert gateway.requests[2].json() == {"access_code": wrong(code)}
        assert gateway.requests[2].path == f"{START}/{provider_id}/verify"


async def test_the_last_wrong_guess_ends_it() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await started(sender)
        code = gateway.sessions[provider_id].code
        said = [await sender.check(sent(provider_id), wrong(code)) for _ in range(3)]
        assert said == [CheckOutcome.WRONG, CheckOutcome.WRONG, CheckOutcome.ENDED]
        assert await sender.check(sent(provider_id), code) is CheckOutcome.ENDED
        assert gateway.sessions[provider_id].n_tries == 3


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_guess_without_an_answer_is_never_repeated_or_right(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await started(sender)
        gateway.misbehave(fault)
        assert await sender.check(sent(provider_id), gateway.sessions[provider_id].code) is CheckOutcome.UNKNOWN
        assert sum(request.path.endswith("/verify") for request in gateway.requests) <= 1


async def test_a_guess_under_a_stale_token_counts_once() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await started(sender)
        gateway.stale.add(gateway.token)
        code = gateway.sessions[provider_id].code
        assert await sender.check(sent(provider_id), wrong(code)) is CheckOutcome.WRONG
        assert gateway.sessions[provider_id].n_tries == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(404, b""), CheckOutcome.ENDED),
        (Reply(200, {"data": {"status": "pending"}}), CheckOutcome.WRONG),
        (Reply(200, {"data": {"status": "expired"}}), CheckOutcome.ENDED),
        (Reply(200, {"data": {"status": "canceled"}}), CheckOutcome.ENDED),
        (Reply(200, {"data": {"status": "promising"}}), CheckOutcome.UNKNOWN),
        (Reply(200, {"data": {"id": "0-1", "status": "verified"}}), CheckOutcome.RIGHT),
        (Reply(200, {"data": {"id": "0-2", "status": "verified"}}), CheckOutcome.UNKNOWN),
        (
            Reply(200, {"data": {"status": "verified"}, "errors": [{"message": "Already ended"}]}),
            CheckOutcome.UNKNOWN,
        ),
        (Reply(400, {"data": {"status": "verified"}}), CheckOutcome.UNKNOWN),
        (Reply(200, {}), CheckOutcome.UNKNOWN),
        (Reply(429, {"errors": [{"message": "Too many attempts"}]}), CheckOutcome.UNKNOWN),
        (Reply(400, {"errors": [{"message": "Invalid access code"}]}), CheckOutcome.UNKNOWN),
    ],
)
async def test_what_an_odd_answer_to_a_guess_means(reply: Reply, said: CheckOutcome) -> None:
    gateway = Answering()
    gateway.reply = reply
    async with on_stage(gateway) as (sender, _):
        assert await sender.check(sent("0-1"), "123456") is said


@pytest.mark.parametrize("provider_id", [None, "", "../accounts", "a b", "a/b?c"])
async def test_an_id_that_is_none_reaches_no_address(provider_id: str | None) -> None:
    async with on_stage() as (sender, gateway):
        assert await sender.check(sent(provider_id), "123456") is CheckOutcome.UNKNOWN
        assert not await sender.cancel(sent(provider_id))
        assert gateway.requests == []


async def test_cancel_ends_what_waits() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await started(sender)
        assert await sender.cancel(sent(provider_id))
        assert gateway.sessions[provider_id].status == "canceled"
        assert not await sender.cancel(sent(provider_id))
        assert await sender.check(sent(provider_id), gateway.sessions[provider_id].code) is CheckOutcome.ENDED


async def test_cancel_promises_nothing_on_a_bad_day() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await started(sender)
        for fault in (Fault.CLOSE_MID_BODY, Fault.HTML_500, Fault.NOT_JSON):
            gateway.misbehave(fault)
            assert not await sender.cancel(sent(provider_id))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sender", "A", "senders.two.sender must be"),
        ("sender", "Acme & Co", "senders.two.sender must be"),
        ("template_id", 0, "senders.two.template_id must be a whole number from 1 to 999999999"),
        ("channel", "voice", "senders.two.channel must be one of sms, viber"),
    ],
)
def test_settings_that_cannot_work_are_named(key: str, value: object, words: str) -> None:
    faults: list[str] = []
    given = {
        "api_key": Given("k", "here"),
        "sender": Given("Acme", "here"),
        "template_id": Given(1, "here"),
        key: Given(value, "here"),
    }
    assert read_struct(NotificoreTwoFactorSettings, given, path="senders.two", faults=faults) is None
    assert words in faults[0]
