"""A client's phones and messages on their way to them, in the hands of a test: real OTPs, a real pool, no radio."""

import itertools
from collections import defaultdict
from typing import Any

from otpsvc.clients.model import Mode
from otpsvc.devices.model import Device, Offer, OfferStatus, PhoneReport, Pulled, Sim, Tenant, Told
from otpsvc.events.model import Event
from otpsvc.messages.model import ReceiptFact
from otpsvc.redis.offers import RedisOffers
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.redis.receipts import RedisReceiptBook
from tests.otp.house import CLIENT, House
from tests.redis.presence import Presence, device_of

SENDER = "phones"
PULL_S, REPORT_S, GIVE_UP_S = 10, 30, 60
ONE_SIM = (Sim(slot=0, number=1),)
SEALED = b"sealed by the pool"
SLOTS = (SEALED[:2],)


class Phones:
    """Short ways to send by phones: codes of one client and mode, unless a call says otherwise."""

    def __init__(self, house: House, *, mode: Mode = "test", is_fenced: bool = False, **policy: Any) -> None:
        self.house = house
        self._mode: Mode = mode
        self._policy = policy
        self.presence = Presence(house)
        self.offers = RedisOffers(house.client, house.keys, is_fenced=is_fenced)
        index = RedisReceiptIndex(house.client, house.keys)
        self._receipts = RedisReceiptBook(house.client, house.keys, index, event_limit=100_000)
        self._numbers = itertools.count()
        self.otp_of: dict[str, str] = {}
        self.code_of: dict[str, str] = {}

    async def phone(self, *, is_there: bool = True, **fields: Any) -> Device:
        """Make a phone with one SIM that has a stream open."""
        device = device_of(**{"sims": ONE_SIM, **fields})
        await self.come(device) if is_there else await self.presence.seen(device)
        return device

    async def come(self, device: Device, stream: str = "s1") -> None:
        await self.presence.seen(device, stream=stream)

    async def go(self, device: Device) -> None:
        """Let a phone vanish without a word: nothing is hurried."""
        names, now = self.house.keys.devices(device.client_id), await self.presence.now_ms()
        await self.house.raw.hset(names.device_base + device.id, "online_until", now - 1)
        await self.house.raw.zadd(names.pool_base + device.mode, {device.id: now - 1}, xx=True)

    async def message(
        self, *, client_id: str = CLIENT, mode: Mode | None = None, sender: str = SENDER, to: str = ""
    ) -> str:
        """Let a code be sent and a worker begin with `sender`; give the message's id."""
        caller = self.house.caller(client_id, mode or self._mode, **self._policy)
        to = to or f"+336{next(self._numbers):08d}"
        sent, code = await self.house.send_with_code(caller, to=to)
        await self.begin(sent.message_id, sender)
        self.otp_of[sent.message_id], self.code_of[sent.message_id] = sent.otp_id, code
        return sent.message_id

    async def begin(self, message_id: str, sender: str = SENDER) -> None:
        """Do as a worker that takes up this message, and leaves alone what else is due."""
        (claimed,) = [one for one in await self.house.claim() if one.message_id == message_id]
        await self.house.queue.begin(message_id, claimed.token, sender=sender)
        await self.house.queue.record_sent(message_id, claimed.token, sender=sender, provider_id=None, receipt_in_s=250)

    async def offer(self, message_id: str, **fields: Any) -> Offer:
        seconds, _ = await self.house.raw.time()
        given: dict[str, Any] = {
            "message_id": message_id,
            "tenant": Tenant(CLIENT, self._mode),
            "sender": SENDER,
            "recipient": "to" + message_id[-8:],
            "operator": "",
            "sealed": SEALED,
            "expires_at_ms": int((await self.house.message(message_id)).get("expires_at", seconds * 1000)),
            "pull_within_ms": PULL_S * 1000,
            "report_within_ms": REPORT_S * 1000,
            "give_up_ms": GIVE_UP_S * 1000,
        }
        return await self.offers.offer(**given | fields)

    async def offered(self, **fields: Any) -> tuple[str, str]:
        """Send a code to a phone; give the message and whose it is."""
        message_id = await self.message()
        offer = await self.offer(message_id, **fields)
        assert offer.outcome == "offered", offer
        return message_id, offer.device_id

    async def pull(self, device: Device, *, limit: int = 100) -> list[Pulled]:
        await self.presence.seen(device, is_pull=True)
        pulled = await self.offers.pull(device, limit=limit, slots=SLOTS)
        assert pulled is not None
        return list(pulled)

    async def pulled_ids(self, device: Device) -> list[str]:
        return [message.message_id for message in await self.pull(device)]

    async def report(self, device: Device, message_id: str, status: str, **fields: Any) -> Told:
        fields = {"kind": "undeliverable" if status == "failed" else "", **fields}
        return await self.offers.report(
            device, PhoneReport(message_id=message_id, status=OfferStatus(status), **fields)
        )

    async def look(self, message_id: str, client_id: str = CLIENT) -> Told:
        return await self.offers.look(f"{client_id} {message_id}")

    async def settle(self, told: Told) -> None:
        """Take to the message what is to be told, as the service does."""
        if told.status:
            fact = ReceiptFact(status=told.status, kind=told.kind)
            await self._receipts.apply(told.message_id, told.sender, fact)
            await self.offers.done(told.client_id, told.message_id, told.status)

    async def mind(self) -> list[Told]:
        """Look once at all that is due, and tell what is to be told."""
        found = []
        for offer in await self.offers.due(limit=1000, again_in_ms=5000):
            told = await self.offers.look(offer)
            await self.settle(told)
            found.append(told)
        return found

    async def verify(self, message_id: str) -> None:
        caller = self.house.caller(CLIENT, self._mode)
        await self.house.verify(self.otp_of[message_id], self.code_of[message_id], caller)

    async def record(self, message_id: str, client_id: str = CLIENT) -> dict[str, str]:
        """The offer as it is stored."""
        stored = await self.house.raw.hgetall(self.house.keys.devices(client_id).offer_base + message_id)
        return {name.decode(): value.decode() for name, value in stored.items()}

    async def states(self, message_id: str) -> dict[str, str]:
        """How far each phone is with a message."""
        by = (await self.record(message_id)).get("by", "")
        return dict(pair.split("=") for pair in by.split())

    async def waiting(self) -> dict[str, float]:
        """The offers that somebody will look at, and when."""
        members = await self.house.raw.zrange(self.house.keys.offers, 0, -1, withscores=True)
        return {name.decode().split(" ")[1]: score for name, score in members}

    async def inbox(self, device: Device) -> list[str]:
        name = self.house.keys.devices(device.client_id).inbox_base + device.id
        return [member.decode() for member in await self.house.raw.zrange(name, 0, -1)]

    async def counted(self, device: Device, slot: int = 0) -> tuple[list[str], list[str]]:
        """The messages and the recipients that count against a SIM."""
        names, sim = self.house.keys.devices(device.client_id), f"{device.id}:{slot}"
        messages = await self.house.raw.zrange(names.sim_base + sim, 0, -1)
        recipients = await self.house.raw.zrange(names.recipients_base + sim, 0, -1)
        return [one.decode() for one in messages], [one.decode() for one in recipients]

    async def has_text(self, message_id: str) -> bool:
        return bool(await self.house.raw.exists(self.house.keys.devices(CLIENT).text_base + message_id))

    async def told_of(self, message_id: str) -> list[tuple[str, str]]:
        """What was told of a message in the pool: names of events, and of phones."""
        return [(event.name.removeprefix("message."), event.data["device"]) for event in await self.events(message_id)]

    async def events(self, message_id: str) -> list[Event]:
        events = await self.house.all_events()
        return [event for event in events if event.message_id == message_id and "device" in event.data]

    async def share(self, messages: int, **fields: Any) -> dict[str, int]:
        """Offer so many; give how many each phone got."""
        shares: dict[str, int] = defaultdict(int)
        for _ in range(messages):
            shares[(await self.offered(**fields))[1]] += 1
        return dict(shares)
