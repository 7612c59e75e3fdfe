"""The sender `phones`: the conformance suite on a real store with a phone at the end, its settings, words of phones."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
import redis.asyncio

from otpsvc.clock import SystemClock
from otpsvc.devices.inbox import DeviceInbox
from otpsvc.devices.model import Device, FailureWords, Gone, Offer, Tenant
from otpsvc.devices.policy import Budget
from otpsvc.devices.pool import Pool
from otpsvc.errors import ConfigurationError
from otpsvc.ids import parse_message_id
from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from otpsvc.redis.keys import Keys
from otpsvc.redis.offers import RedisOffers
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.phone_answers import phone_failure
from otpsvc.senders.phones import PhonesSender, PhonesSettings
from otpsvc.testing import outbound_message
from otpsvc.testing.conformance import Fault, Scene, SenderConformance
from otpsvc.testing.gateways import GatewayDouble, GatewayRequest
from tests.clients.cable import Cable
from tests.devices.pool_doubles import KEYRING, TENANT, Ledger, device
from tests.redis.lossy import LossyWay, lossy_way

_numbers = itertools.count()


class CountedOffers(RedisOffers):
    """The real pool; notes each call before it leaves. That our client repeats a lost one is a matter of its own."""

    requests: list[GatewayRequest]

    async def offer(self, **given: Any) -> Offer:
        told = {name: value for name, value in given.items() if name not in {"tenant", "sealed"}}
        body = msgspec.json.encode(told)
        self.requests.append(GatewayRequest(method="OFFER", path="/", query={}, headers={}, body=body))
        return await super().offer(**given)


class PhoneAtTheEnd(GatewayDouble):
    """A real store behind a way that hangs and loses answers, and one phone that pulls what it is offered.

    Each is alone in its store: the keys of each begin with another word.
    """

    def __init__(self, redis_url: str, folder: Path) -> None:
        super().__init__()
        self._redis_url = redis_url
        self._folder = folder
        self.device: Device = device(budget=Budget(messages_per_window=10_000, recipients_per_day=10_000))
        self.texts: dict[str, str] = {}
        self.told: set[str] = set()
        self.ends: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        number = next(_numbers)
        self.keys = Keys(f"scene{number}", 1)
        folder = self._folder / str(number)
        folder.mkdir()
        self._stack = AsyncExitStack()
        self._cable = Cable(Path(unquote(urlsplit(self._redis_url).path)), folder)
        await self._cable.plug_in()
        self._stack.push_async_callback(self._cable.cut)
        self._way: LossyWay
        self._way, url = await self._stack.enter_async_context(lossy_way(f"unix://{self._cable._socket}", folder))
        client = RedisClient(url, timeout_s=1, max_connections=4)
        self._stack.push_async_callback(client.close)
        self._raw = redis.asyncio.Redis.from_url(self._redis_url)
        self._stack.push_async_callback(self._raw.aclose)
        direct = RedisClient(self._redis_url, timeout_s=5, max_connections=4)
        self._stack.push_async_callback(direct.close)
        offers = CountedOffers(client, self.keys)
        offers.requests = self.requests
        ledger = Ledger()
        self.pool = Pool(offers=offers, receipts=ledger.take, keyring=KEYRING, observer=ledger)
        self.inbox = DeviceInbox(
            offers=RedisOffers(direct, self.keys),
            pool=self.pool,
            keyring=KEYRING,
            failure_of=lambda text: FailureWords("", next_may_try=True, error=""),
            observer=ledger,
        )
        self._stack.callback(self.inbox.close)
        self._presence = RedisDevices(direct, self.keys)
        await self._presence.seen(self.device, stream="s1", online_s=60)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cable.resume()
        await self._stack.aclose()

    def misbehave(self, *faults: Fault) -> None:
        for fault in faults:
            if fault is Fault.HANG:
                self._cable.hang()
            else:
                self._way.to_lose += 1

    async def restore(self) -> None:
        self._way.to_lose = 0
        self._cable.resume()

    async def is_asked_for(self, message: OutboundMessage) -> None:
        """Write what stands in the store when a worker calls a sender."""
        names, otp_id = self.keys.partitions[0], f"otp-of-{message.message_id}"
        seconds, _ = await self._raw.time()
        facts: dict[Any, Any] = {
            "otp_id": otp_id,
            "channel": "sms",
            "created_at": seconds * 1000,
            "tries": 1,
            "asked": "phones=begun",
        }
        await self._raw.hset(names.message_base + message.message_id, mapping=facts)
        await self._raw.hset(names.otp_base + otp_id, mapping={"status": "pending", "message_id": message.message_id})

    async def pull(self) -> list[str]:
        """Let the phone pull; returns all texts that it ever got, in order."""
        for one in await self.inbox.pull(self.device) or []:
            self.texts.setdefault(one.message_id, one.text)
            self.told.add(one.to)
            self.ends[one.message_id] = one.expires_at
        return list(self.texts.values())

    async def switch_off(self) -> None:
        await self._presence.left(self.device, "s1", Gone.APP_CLOSED)


class TestConformance(SenderConformance):
    """The suite. Between pool and store there is no HTTP, but a connection that can hang or end in the middle. Where it
    is refused (REFUSE), a client that repeats cannot say that nothing ran before, so the pool says Unknown: it
    recognises the message, and is asked again."""

    faults: ClassVar[Sequence[Fault]] = (Fault.HANG, Fault.CLOSE_MID_BODY)
    receipts_come_otherwise = True

    @pytest.fixture(autouse=True)
    def place(self, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.redis_url, self.folder = redis_url, tmp_path_factory.mktemp("s")

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with PhoneAtTheEnd(self.redis_url, self.folder) as phone:
            context = SenderContext(is_dev=False, clock=SystemClock(), phones=phone.pool)
            sender = PhonesSender("phones", PhonesSettings(), context)
            await sender.open()
            try:
                yield Scene(sender, phone)
            finally:
                await sender.close()

    async def send(self, scene: Scene, message: OutboundMessage) -> Outcome:
        await at_the_end(scene).is_asked_for(message)
        return await super().send(scene, message)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        return await at_the_end(scene).pull()

    def carries_number(self, scene: Scene, message: OutboundMessage) -> bool:
        """The phone got it; and it stood in no call to the store."""
        return message.to in at_the_end(scene).told and not super().carries_number(scene, message)

    async def refuse_next(self, scene: Scene) -> bool:
        await at_the_end(scene).switch_off()
        return True

    async def test_the_phone_is_told_when_the_code_ends(self) -> None:
        async with self.scene() as scene:
            message = self.message(scene, life_s=123.0)
            await self.send(scene, message)
            await self.accepted_texts(scene)
            assert at_the_end(scene).ends == {message.message_id: int(message.expires_at * 1000)}

    async def test_what_is_taken_back_reaches_no_phone(self) -> None:
        async with self.scene() as scene:
            first, second = self.message(scene, 1), self.message(scene, 2)
            for one in (first, second):
                assert await self.send(scene, one) == Accepted()
            assert await scene.sender.cancel(self.sent(scene, first, None))
            assert await self.accepted_texts(scene) == [second.text]
            assert not await scene.sender.cancel(self.sent(scene, second, None)), "it was pulled"

    async def test_health_tells_whether_the_store_answers(self) -> None:
        async with self.scene() as scene:
            assert (await scene.sender.health()).is_ready
            scene.gateway.misbehave(Fault.HANG)
            assert not (await self.within(scene.sender.health(), "health")).is_ready
            await scene.gateway.restore()
            assert (await scene.sender.health()).is_ready


def at_the_end(scene: Scene) -> PhoneAtTheEnd:
    assert isinstance(scene.gateway, PhoneAtTheEnd)
    return scene.gateway


# -- without a pool, and its settings


def make(phones: Any = None, **settings: Any) -> PhonesSender:
    context = SenderContext(is_dev=False, clock=SystemClock(), phones=phones)
    return PhonesSender("phones", msgspec.convert(settings, PhonesSettings), context)


async def test_without_a_pool_it_is_made_and_refuses_to_open() -> None:
    sender = make()
    with pytest.raises(ConfigurationError, match=r"senders\.phones: .*worker only"):
        await sender.open()
    assert not (await sender.health()).is_ready
    outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Rejected)
    assert outcome.kind is RejectionKind.MISCONFIGURED
    sent = SentMessage(message_id="m", provider_id=None, channel=Channel.SMS, sent_at=0.0)
    assert await sender.cancel(sent) is False
    await sender.close()


def test_what_it_claims() -> None:
    assert make(receipt_within_s=77).capabilities == Capabilities(
        channels=frozenset({Channel.SMS}),
        honours_expiry=True,
        is_idempotent=True,
        can_cancel=True,
        has_receipts=True,
        has_presence=True,
        is_pool=True,
        receipt_within_s=77,
    )
    assert make().capabilities.receipt_within_s == 60


class AskedPool:
    """A pool by the letter of the port."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, float]]] = []
        self.ready = True

    async def is_ready(self) -> bool:
        return self.ready

    async def offer(self, sender: str, message: OutboundMessage, **times: float) -> Outcome:
        self.asked.append((sender, message.message_id, times))
        return Unknown("x")

    async def cancel(self, message: SentMessage) -> bool:
        return True


async def test_the_pool_is_told_how_long_phones_are_waited_for() -> None:
    pool, message = AskedPool(), outbound_message()
    sender = make(pool, pull_within_s=5, report_within_s=20, wait_s=0)
    assert await sender.send(message) == Unknown("x")
    times = {"pull_within_s": 5, "report_within_s": 20, "wait_s": 0}
    assert pool.asked == [("phones", message.message_id, times)]
    assert (await sender.health()).is_ready
    pool.ready = False
    assert not (await sender.health()).is_ready


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pull_within_s": 2}, ">= 3"),
        ({"pull_within_s": 61}, "<= 60"),
        ({"report_within_s": 4}, ">= 5"),
        ({"report_within_s": 121}, "<= 120"),
        ({"wait_s": -1}, ">= 0"),
        ({"wait_s": 271}, "<= 270"),
        ({"receipt_within_s": 281}, "<= 280"),
        ({"pull_within_s": 60}, "receipt_within_s must be more than pull_within_s"),
        ({"pull_within_s": 30, "receipt_within_s": 30}, "receipt_within_s must be more than pull_within_s"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, float], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        make(**settings)


def test_settings_at_their_edges() -> None:
    make(pull_within_s=3, report_within_s=5, wait_s=0, receipt_within_s=5)
    make(pull_within_s=60, report_within_s=120, wait_s=270, receipt_within_s=280)


# -- the words of phones

K = RejectionKind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Send result: RESULT_ERROR_RADIO_OFF", K.DEVICE_OFFLINE),
        ("RESULT_ERROR_LIMIT_EXCEEDED", K.DEVICE_OFFLINE),
        ("16", K.DEVICE_OFFLINE),
        ("RESULT_ERROR_NO_SERVICE", K.UNDELIVERABLE),
        ("RESULT_RIL_NETWORK_NOT_READY", K.UNDELIVERABLE),
        ("RESULT_NETWORK_ERROR", K.UNDELIVERABLE),
        ("RESULT_ERROR_GENERIC_FAILURE", K.UNDELIVERABLE),
        ("RESULT_RIL_SIM_ABSENT", K.MISCONFIGURED),
        ("RESULT_SMS_BLOCKED_DURING_EMERGENCY", K.DEVICE_OFFLINE),
        ("RESULT_ENCODING_ERROR", K.UNSUPPORTED),
        ("Send result: RESULT_OF_TOMORROW", K.UNDELIVERABLE),
        ("TTL expired", K.SEND_TIMEOUT),
        ("java.net.SocketTimeoutException: timeout", K.SEND_TIMEOUT),
        ("SMS_SEND_TIMEOUT", K.SEND_TIMEOUT),
        ("the modem timed out", K.SEND_TIMEOUT),
        ("Not enough credit", K.NO_CREDIT),
        ("Your balance is too low", K.NO_CREDIT),
        ("NO_CREDIT", K.NO_CREDIT),
        ("BLOCKED_NUMBER", K.BLOCKED),
        ("recipient is on the blacklist", K.BLOCKED),
        ("Invalid phone number +33612345678", K.INVALID_NUMBER),
        ("INVALID_NUMBER", K.INVALID_NUMBER),
        ("Airplane mode is on", K.DEVICE_OFFLINE),
        ("No SIMs found", K.MISCONFIGURED),
        ("Error decrypting the message", K.MISCONFIGURED),
        ("android.permission.SEND_SMS missing", K.MISCONFIGURED),
        ("NETWORK_ERROR", K.UNDELIVERABLE),
        ("DEVICE_ERROR", K.UNDELIVERABLE),
        ("something else", K.GATEWAY_ERROR),
        ("", K.GATEWAY_ERROR),
        ("583920 to +33612345678", K.GATEWAY_ERROR),
        ("\ud800", K.GATEWAY_ERROR),
        ("x" * 100_000, K.GATEWAY_ERROR),
    ],
)
def test_why_a_phone_failed(text: str, kind: RejectionKind) -> None:
    found, word, is_unmapped = phone_failure(text)
    assert is_unmapped == (kind is K.GATEWAY_ERROR and text != "")
    assert found is kind
    assert "33612345678" not in word
    assert 0 < len(word) < 60
    if kind is not K.GATEWAY_ERROR:
        known = {row.code for name in ("phones", "android") for row in GatewayMap.load(name).rows.values()}
        assert word in known


def test_a_word_of_a_row_is_long_enough_to_mean_it() -> None:
    codes = [row.code for row in GatewayMap.load("phones").rows.values() if row.table == "failure"]
    assert [code for code in codes if len(code) < 6] == []


def test_messages_of_this_file_are_of_the_first_partition() -> None:
    """What `is_asked_for` relies on."""
    assert Tenant(outbound_message().client_id, outbound_message().mode) == TENANT
    assert parse_message_id(outbound_message().message_id).partition == 0
