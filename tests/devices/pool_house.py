"""The pool on the real store, from the send of a code to the phone that pulls it and the receipt that comes of it."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from otpsvc.clock import SystemClock
from otpsvc.devices.inbox import DeviceInbox, PhoneMessage, StateReport
from otpsvc.devices.minder import _look_at_some
from otpsvc.devices.model import Device, DeviceStatus, FailureWords, Gone, Sim
from otpsvc.devices.policy import Budget
from otpsvc.devices.pool import Pool
from otpsvc.ids import new_device_id
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.policy import RouteStep
from otpsvc.messages.receipts import ReceiptService
from otpsvc.messages.router import Router
from otpsvc.otp.model import SentOtp
from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from otpsvc.redis.gates import RedisGates
from otpsvc.redis.offers import RedisOffers
from otpsvc.senders.contract import RULES, Sender, SenderContext
from otpsvc.senders.phone_answers import phone_failure
from otpsvc.senders.phones import PhonesSender, PhonesSettings
from tests.devices.pool_doubles import Ledger
from tests.messages.doubles import NoHistory, one_route
from tests.otp.house import CLIENT, House, open_house
from tests.redis.lived import book_of

ONLINE_S = 60.0


def failure_of(text: str) -> FailureWords:
    """As the application reads the words of a phone."""
    kind, word, is_unmapped = phone_failure(text)
    return FailureWords(kind.value, RULES[kind].next_may_try, word, is_unmapped)


@dataclass
class Phone:
    """A phone as the store and the inbox see it; it says nothing by itself."""

    stand: "PoolHouse"
    device: Device
    stream: int = 1

    @property
    def id(self) -> str:
        return self.device.id

    async def appear(self) -> None:
        """Open a stream, or say that it is still open."""
        await self.stand.presence.seen(self.device, stream=f"s{self.stream}", online_s=ONLINE_S)

    async def leave(self) -> None:
        """End its stream; one that appears again opens another."""
        await self.stand.presence.left(self.device, f"s{self.stream}", Gone.APP_CLOSED)
        self.stream += 1

    async def pull(self) -> list[PhoneMessage]:
        messages = await self.stand.inbox.pull(self.device)
        assert messages is not None
        return messages

    async def say(self, message_id: str, *states: str, error: str = "") -> None:
        said = [StateReport(message_id=message_id, state=state, error=error) for state in states]
        assert await self.stand.inbox.report(self.device, said)


@dataclass
class PoolHouse:
    """One sender `phones` and whoever follows it, in front of the real store."""

    otp: House
    offers: RedisOffers
    presence: RedisDevices
    receipts: ReceiptService
    pool: Pool
    inbox: DeviceInbox
    dispatcher: Dispatcher
    ledger: Ledger = field(default_factory=Ledger)

    async def phone(self, *, is_there: bool = True, **facts: Any) -> Phone:
        """A phone of the first client's test mode, with a stream unless it is not there."""
        given: dict[str, Any] = {
            "id": new_device_id(),
            "client_id": CLIENT,
            "mode": "test",
            "name": "Pixel",
            "status": DeviceStatus.ACTIVE,
            "version": 1,
            "login": "phone-abcdef",
            "sims": (Sim(slot=0, number=1),),
            "budget": Budget(messages_per_window=10_000, recipients_per_day=10_000),
            "created_at": datetime(2026, 7, 1, tzinfo=UTC),
        }
        phone = Phone(self, Device(**(given | facts)))
        if is_there:
            await phone.appear()
        return phone

    async def send(self, **fields: Any) -> SentOtp:
        """Accept a code and let a worker bring it to the pool."""
        sent = await self.otp.send(**fields)
        await self.deliver()
        return sent

    async def deliver(self) -> int:
        """Be a worker once: deliver what is due; returns how many messages that was."""
        clock = SystemClock()
        claimed = await self.otp.claim(lease_s=60)
        for one in claimed:
            await self.dispatcher.deliver(one, queue=self.otp.queue, lease_ends_at=clock.monotonic() + 60)
        return len(claimed)

    async def mind(self) -> int:
        """Be a minder once; returns how many offers were looked at."""
        return await _look_at_some(self.pool, self.offers)

    async def pass_by(self, seconds: float, *phones: Phone) -> None:
        """Let time pass, after which these phones say that they are still there."""
        await self.otp.age(seconds)
        for phone in phones:
            await phone.appear()

    async def status(self, sent: SentOtp) -> tuple[str, str]:
        stored = await self.otp.message(sent.message_id)
        return stored["status"], stored.get("reason", "")

    async def told(self, sent: SentOtp) -> list[str]:
        """What the events say of a message: their names, and what came of a step."""
        events = [one for one in await self.otp.all_events() if one.message_id == sent.message_id]
        named = [(one.name.partition("."), one.data) for one in events]
        return [
            f"{name} {data['outcome']}" if "outcome" in data else name
            for (of, _, name), data in named
            if of == "message"
        ]

    def code(self, text: str) -> str:
        found = re.search(r"\d{4,}", text)
        assert found
        return found[0]


@asynccontextmanager
async def open_pool(
    redis_url: str, *, others: Sequence[Sender[Any]] = (), client: RedisClient | None = None, **settings: Any
) -> AsyncIterator[PoolHouse]:
    """Wire it as the application does; `others` follow the phones on the route, `client` is the pool's own way."""
    async with open_house(redis_url) as otp:
        ledger = Ledger()
        offers = RedisOffers(client or otp.client, otp.keys)
        senders: dict[str, Sender[Any]] = {}
        receipts = ReceiptService(book=book_of(otp), past=NoHistory(), senders=senders)
        pool = Pool(offers=offers, receipts=receipts.take, keyring=otp.keyring, observer=ledger)
        context = SenderContext(is_dev=False, clock=SystemClock(), phones=pool)
        senders["phones"] = PhonesSender("phones", PhonesSettings(**settings), context)
        senders |= {one.name: one for one in others}
        inbox = DeviceInbox(offers=offers, pool=pool, keyring=otp.keyring, failure_of=failure_of, observer=ledger)
        dispatcher = Dispatcher(
            keyring=otp.keyring,
            router=Router(one_route([RouteStep(sender=name) for name in senders]), (), senders),
            senders=senders,
            gates=RedisGates(otp.client, otp.keys, {}),
            book=book_of(otp),
            take_receipts=receipts.take,
            clock=SystemClock(),
            lease_s=60.0,
            step_timeout_s=5.0,
        )
        try:
            presence = RedisDevices(otp.client, otp.keys)
            yield PoolHouse(otp, offers, presence, receipts, pool, inbox, dispatcher, ledger)
        finally:
            inbox.close()
