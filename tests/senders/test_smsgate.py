"""The SMSGate sender on its double: what leaves, what is made of each answer, and how a message is known again."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from otpsvc import phone_encryption
from otpsvc.senders.contract import (
    Accepted,
    OutboundMessage,
    Outcome,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    SentMessage,
    Unknown,
)
from otpsvc.senders.smsgate import SmsGateSender
from otpsvc.senders.smsgate_settings import SmsGateSettings
from otpsvc.testing import Fault, ManualClock, Scene, SenderConformance, outbound_message, sender_context
from tests.gateways.smsgate import KEY, OTHER_PHONE, PASSPHRASE, PASSWORD, PHONE, USER, SmsGateDouble
from tests.senders.polls import UNWELCOME, assert_a_poll_stops

Stand = tuple[SmsGateSender, SmsGateDouble, ManualClock]


def settings_for(double: SmsGateDouble, **changed: Any) -> SmsGateSettings:
    given: dict[str, Any] = {
        "username": USER,
        "password": Secret(PASSWORD),
        "url": double.base,
        "device_id": PHONE,
        "signing_key": Secret(KEY),
        "allow_private": True,
        "timeout_s": 1.0,
    }
    return SmsGateSettings(**(given | changed))


@asynccontextmanager
async def stand(**changed: Any) -> AsyncIterator[Stand]:
    clock = ManualClock()
    async with SmsGateDouble(clock) as double:
        sender = SmsGateSender("phones", settings_for(double, **changed), sender_context(clock=clock))
        try:
            await sender.open()
            yield sender, double, clock
        finally:
            await sender.close()


def sent(message: OutboundMessage, provider_id: str | None) -> SentMessage:
    return SentMessage(
        message_id=message.message_id, provider_id=provider_id, channel=message.channel, sent_at=1_800_000_000.0
    )


class TestConformance(SenderConformance):
    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with stand() as (sender, double, _):
            yield Scene(sender, double)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene.gateway, SmsGateDouble)
        return [held.text for held in scene.gateway.held]

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene.gateway, SmsGateDouble)
        scene.gateway.refuses_with = (400, "can't use phone in row 1: not mobile phone number")
        return True

    def receipts_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> list[ReceiptRequest]:
        double = scene.gateway
        assert isinstance(double, SmsGateDouble)
        (held,) = (held for held in double.held if held.id == provider_id)
        kinds = ("sms:delivered", "sms:sent", "sms:failed", "sms:cancelled")
        return [double.posted(double.event(held, kind, reason="TTL expired")) for kind in kinds]

    def odd_failure_for(self, scene: Scene, message: OutboundMessage, provider_id: str | None) -> ReceiptRequest:
        double = scene.gateway
        assert isinstance(double, SmsGateDouble)
        (held,) = (held for held in double.held if held.id == provider_id)
        return double.posted(double.event(held, "sms:failed", reason="never heard of"))

    def receipt_with(self, scene: Scene, body: bytes) -> ReceiptRequest | None:
        assert isinstance(scene.gateway, SmsGateDouble)
        return scene.gateway.posted(body)


class TestConformanceWithTokensAndEncryption(TestConformance):
    @pytest.fixture(autouse=True)
    def few_rounds(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Encrypt fast, but where slowness is what is looked for."""
        if "held_up" not in request.node.name:
            monkeypatch.setattr(phone_encryption, "ROUNDS", 100)

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with stand(auth="jwt", passphrase=Secret(PASSPHRASE)) as (sender, double, _):
            if not double.access:  # the token is not what is tried here
                await sender.health()
            yield Scene(sender, double)

    def carries_number(self, scene: Scene, message: OutboundMessage) -> bool:
        assert isinstance(scene.gateway, SmsGateDouble)
        return scene.gateway.held[-1].to == message.to


async def test_what_leaves() -> None:
    async with stand(sim_number=2) as (sender, double, _):
        message = outbound_message(life_s=123.9)
        name = f"{message.message_id}-2"
        assert await sender.send(message) == Accepted(name)
        (request,) = double.requests
        assert (request.method, request.path, request.query) == ("POST", "/3rdparty/v1/messages", {})
        assert request.json() == {
            "id": name,
            "deviceId": PHONE,
            "textMessage": {"text": message.text},
            "phoneNumbers": [message.to],
            "simNumber": 2,
            "withDeliveryReport": True,
            "priority": 100,
            "ttl": 123,
        }
        assert len(name) <= 36


async def test_a_life_below_the_shortest_ttl_is_told_as_its_end() -> None:
    async with stand() as (sender, double, clock):
        message = outbound_message(life_s=4.5)
        assert isinstance(await sender.send(message), Accepted)
        assert "ttl" not in double.requests[0].json()
        assert double.held[0].ends_at == message.expires_at
        clock.advance(5)
        double.work()
        assert double.sent == []


async def test_encrypted_the_server_sees_neither_number_nor_text() -> None:
    async with stand(passphrase=Secret(PASSPHRASE)) as (sender, double, _):
        message = outbound_message(text="583920 è il tuo codice")
        await sender.send(message)
        (request,) = double.requests
        body = request.json()
        assert body["isEncrypted"] is True
        form = re.compile(r"\$aes-256-cbc/pbkdf2-sha1\$i=75000\$[A-Za-z0-9+/=]{24}\$[A-Za-z0-9+/=]+")
        fields = [body["textMessage"]["text"], *body["phoneNumbers"]]
        assert all(form.fullmatch(field) for field in fields)
        assert len({field.split("$")[3] for field in fields}) == 2
        assert (double.held[0].to, double.held[0].text) == (message.to, message.text)
        assert b"583920" not in request.body
        assert message.to[1:].encode() not in request.body


async def test_the_same_message_on_the_same_phone_is_one() -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        double.misbehave(Fault.HTML_500_AFTER)
        assert isinstance(await sender.send(message), Unknown)
        assert await sender.send(message) == Accepted(message.message_id)
        assert len(double.held) == 1


async def test_two_sims_of_a_phone_are_two_ways_and_each_has_its_own_message() -> None:
    async with stand(sim_number=1) as (first, double, clock), AsyncExitStack() as ends:
        second = SmsGateSender("second", settings_for(double, sim_number=2), sender_context(clock=clock))
        ends.push_async_callback(second.close)
        await second.open()
        message = outbound_message()
        outcomes = [await sender.send(message) for sender in (first, second, second)]
        assert [held.body["simNumber"] for held in double.held] == [1, 2], "the second SIM sends too, and once"
        assert len({outcome.provider_id for outcome in outcomes if isinstance(outcome, Accepted)}) == 2
        # The phone tells both addresses of both: each sender knows its own alone.
        event = double.posted(double.event(double.held[0], "sms:failed"))
        told = [await sender.parse_receipt(event) for sender in (first, second)]
        found = [said.items[0].message_id for said in told if isinstance(said, Receipts)]
        assert found == [message.message_id, None]
        double.fail(double.held[0], "TTL expired")
        asked = [sent(message, None)]
        polled = [(await sender.poll(asked))[0].status for sender in (first, second)]
        assert polled == [ReceiptStatus.EXPIRED, ReceiptStatus.ACCEPTED]


async def test_without_a_phone_it_claims_no_idempotency_and_would_double() -> None:
    async with stand(device_id=None, signing_key=Secret()) as (sender, double, _):
        assert not sender.capabilities.is_idempotent
        message = outbound_message()
        outcomes: list[Outcome] = [await sender.send(message) for _ in range(12)]
        assert len(double.held) == 2, "this is the trap: the same id on both phones"
        assert {type(outcome) for outcome in outcomes} == {Accepted, Unknown}
        assert double.requests[0].query == {"deviceActiveWithin": "1"}


async def test_without_a_phone_and_with_none_seen_it_asks_again_later() -> None:
    async with stand(device_id=None, signing_key=Secret()) as (sender, double, clock):
        clock.advance(2 * 3600)
        outcome = await sender.send(outbound_message())
        assert isinstance(outcome, RetryLater)
        assert double.held == []


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (400, "can't use phone in row 1: invalid phone number", RejectionKind.UNSUPPORTED),
        (400, "can't use phone in row 1: not mobile phone number", RejectionKind.UNSUPPORTED),
        (400, "record not found", RejectionKind.MISCONFIGURED),
        (400, "multiple messages found", RejectionKind.MISCONFIGURED),
        (401, "Unauthorized", RejectionKind.UNAUTHORISED),
        (403, "Forbidden", RejectionKind.UNAUTHORISED),
        (404, "Not Found", RejectionKind.MISCONFIGURED),
        (413, "Request Entity Too Large", RejectionKind.TOO_LONG),
    ],
)
async def test_refusals(status: int, words: str, expected: RejectionKind) -> None:
    async with stand() as (sender, double, _):
        double.refuses_with = (status, words)
        outcome = await sender.send(outbound_message())
        assert isinstance(outcome, Rejected)
        assert (outcome.kind, outcome.is_unmapped) == (expected, False)


async def test_words_that_no_row_knows_are_counted_and_not_repeated() -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        double.refuses_with = (400, f"cannot send to {message.to}: {message.text}")
        outcome = await sender.send(message)
        assert outcome == Rejected(RejectionKind.GATEWAY_ERROR, "status 400, unmapped", is_unmapped=True)


async def test_a_full_queue_is_told_apart_from_a_server_that_broke() -> None:
    async with stand() as (sender, double, _):
        double.queue_limit = 0
        assert await sender.send(outbound_message()) == RetryLater(15.0, "code queue limits exceeded")
        double.refuses_with = (503, "upstream")
        assert isinstance(await sender.send(outbound_message()), Unknown)
        double.refuses_with = (500, "failed to handle request")
        assert isinstance(await sender.send(outbound_message()), Unknown)


async def test_polling_follows_a_message_that_is_hashed_meanwhile() -> None:
    async with stand() as (sender, double, clock):
        message = outbound_message(life_s=120)
        outcome = await sender.send(message)
        assert isinstance(outcome, Accepted)
        asked = [sent(message, outcome.provider_id)]

        async def status() -> ReceiptStatus:
            (receipt,) = await sender.poll(asked)
            assert receipt.message_id == message.message_id
            assert receipt.happened_at == clock.time()
            return receipt.status

        assert await status() is ReceiptStatus.ACCEPTED
        double.phones[PHONE].is_online = False
        double.work()
        assert await status() is ReceiptStatus.ACCEPTED
        double.phones[PHONE].is_online = True
        double.work()
        assert double.held[0].is_hashed
        assert await status() is ReceiptStatus.SENT
        clock.advance(3)
        double.deliver(double.held[0])
        assert await status() is ReceiptStatus.DELIVERED


async def test_the_phone_drops_what_is_over_and_the_poll_says_so() -> None:
    async with stand() as (sender, double, clock):
        message = outbound_message(life_s=60)
        await sender.send(message)
        clock.advance(61)
        double.work()
        assert double.sent == []
        (receipt,) = await sender.poll([sent(message, message.message_id)])
        assert (receipt.status, receipt.kind) == (ReceiptStatus.EXPIRED, RejectionKind.UNDELIVERABLE)


async def test_the_newest_message_leaves_first() -> None:
    async with stand() as (sender, double, _):
        messages = [outbound_message(message_id=f"msg_{number:026d}", text=f"{number}") for number in range(3)]
        for message in messages:
            await sender.send(message)
        double.work()
        assert [held.text for held in double.sent] == ["2", "1", "0"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Send result: RESULT_ERROR_NO_SERVICE", RejectionKind.UNAVAILABLE),
        ("Send result: RESULT_ERROR_GENERIC_FAILURE", RejectionKind.UNDELIVERABLE),
        ("Send result: RESULT_RIL_SIM_ABSENT", RejectionKind.MISCONFIGURED),
        ("Send result: RESULT_OF_THE_FUTURE", RejectionKind.UNDELIVERABLE),
        ("sendSMS: uid 1 does not have android.permission.SEND_SMS", RejectionKind.MISCONFIGURED),
        ("Can't send message: No SIMs found", RejectionKind.MISCONFIGURED),
        ("Delivery result from SC is 64", RejectionKind.UNDELIVERABLE),
        ("something new about +33612345678", RejectionKind.GATEWAY_ERROR),
        (None, RejectionKind.GATEWAY_ERROR),
    ],
)
async def test_why_a_phone_failed(reason: str | None, kind: RejectionKind) -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        await sender.send(message)
        double.fail(double.held[0], reason or "")
        (receipt,) = await sender.poll([sent(message, message.message_id)])
        assert (receipt.status, receipt.kind) == (ReceiptStatus.FAILED, kind)
        assert "336" not in receipt.detail


async def test_a_poll_stops_at_a_gateway_that_is_away() -> None:
    async with stand(timeout_s=1.0) as (sender, double, _):
        double.misbehave(*[Fault.HANG] * 8)
        messages = [sent(outbound_message(), f"msg_{number:026d}") for number in range(100)]
        assert await sender.poll(messages) == []
        assert len(double.requests) == 4


async def test_cancelling_promises_only_what_is_certain() -> None:
    async with stand() as (sender, double, _):
        message = outbound_message()
        await sender.send(message)
        assert not await sender.cancel(sent(message, message.message_id)), "the phone may have it already"
        assert double.held[0].state == "Cancelling"
        double.is_local = True
        again = outbound_message(message_id="msg_00000000000000000000000001")
        await sender.send(again)
        assert await sender.cancel(sent(again, again.message_id))
        assert not await sender.cancel(sent(again, again.message_id))
        assert not await sender.cancel(sent(again, "msg_unknown"))


@pytest.mark.parametrize("status", UNWELCOME)
async def test_a_poll_stops_where_it_is_unwelcome(status: int) -> None:
    async with stand() as (sender, double, _):
        await assert_a_poll_stops(sender, double, status)


async def test_health_follows_when_the_phone_was_seen() -> None:
    async with stand() as (sender, double, clock):
        assert (await sender.health()).is_ready
        clock.advance(21 * 60)
        double.phones[OTHER_PHONE].seen_at = clock.time()
        assert not (await sender.health()).is_ready
        double.work()
        assert (await sender.health()).is_ready


async def test_health_does_not_care_that_the_clocks_differ_by_ten_minutes() -> None:
    async with stand() as (sender, double, clock):
        double.skew_s = -600.0
        clock.advance(15 * 60)
        assert (await sender.health()).is_ready
        double.skew_s = 600.0
        clock.advance(6 * 60)
        assert not (await sender.health()).is_ready


async def test_health_of_a_phones_own_server_and_of_an_unknown_phone() -> None:
    async with stand() as (sender, double, _):
        double.is_local = True
        assert (await sender.health()).is_ready
        double.phones[PHONE].device_id = "changed"
        double.is_local = False
        assert (await sender.health()).detail == "no such device"
