"""Phones in the hands of a test: devices as PostgreSQL would have them, and what the store makes of them."""

import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec

from otpsvc.devices.model import Device, DeviceState, DeviceStatus, Sim
from otpsvc.devices.policy import Budget
from otpsvc.events.model import Event
from otpsvc.redis.devices import RedisDevices
from tests.otp.house import CLIENT, House

ONLINE_S = 60.0
TOLD_AGAIN_S = 10.0
_numbers = itertools.count(1)


def device_of(**fields: Any) -> Device:
    """Make a device that nobody else has; by default an active one of the first client, with two SIMs."""
    given: dict[str, Any] = {
        "id": f"dev_{next(_numbers):026d}",
        "client_id": CLIENT,
        "mode": "test",
        "name": "a phone",
        "status": DeviceStatus.ACTIVE,
        "version": 1,
        "login": "phone-abcdef",
        "sims": (Sim(slot=0, number=1, carrier="Free Mobile"), Sim(slot=1, number=2)),
        "budget": Budget(),
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Device(**given | fields)


def later(device: Device, **fields: Any) -> Device:
    """The same device after a change."""
    return msgspec.structs.replace(device, version=device.version + 1, **fields)


class Presence:
    """The store's view of phones, with short ways to look at it."""

    def __init__(self, house: House, *, event_limit: int = 500_000) -> None:
        self.house = house
        self.devices = RedisDevices(house.client, house.keys, event_limit=event_limit)

    async def seen(self, device: Device, **how: Any) -> int | None:
        """How many messages wait for the phone; None where it is to be turned away."""
        seen = await self.devices.seen(device, **{"online_s": ONLINE_S, **how})
        return seen.waiting if seen is not None else None

    async def state(self, device: Device) -> DeviceState:
        return await self.devices.state(device)

    async def is_online(self, device: Device) -> bool:
        return (await self.state(device)).is_online

    async def look(self) -> int:
        """Look at all that are to be looked at."""
        return await self.devices.lapsed(limit=1000)

    async def settle(self) -> None:
        """Let so much time pass that whatever is to be told is told, and tell it. Who is there stays there."""
        for device_key in [name for name in await self.house.names() if b":device:" in name]:
            if told_at := await self.house.raw.hget(device_key, "told_at"):
                await self.house.raw.hset(device_key, "told_at", int(told_at) - int(TOLD_AGAIN_S * 1000))
        waiting = await self.house.raw.zrange(self.house.keys.presence, 0, -1)
        if waiting:
            await self.house.raw.zadd(self.house.keys.presence, dict.fromkeys(waiting, 0))
        await self.look()

    async def record(self, device: Device) -> dict[str, str]:
        name = self.house.keys.devices(device.client_id).device_base + device.id
        return {key.decode(): value.decode() for key, value in (await self.house.raw.hgetall(name)).items()}

    async def pool(self, device: Device) -> float | None:
        """Until when the pool takes it for there; None where it is not in the pool."""
        score: float | None = await self.house.raw.zscore(
            self.house.keys.devices(device.client_id).pool_base + device.mode, device.id
        )
        return score

    async def now_ms(self) -> int:
        seconds, micros = await self.house.raw.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def events(self, device: Device | None = None) -> list[Event]:
        """What was told of phones, of one or of all."""
        events = [event for event in await self.house.all_events() if event.name.startswith("device.")]
        return [event for event in events if device is None or event.data["device"] == device.id]

    async def told(self, device: Device) -> list[str]:
        """What was told of one: `connected`, or why it went."""
        return [event.data.get("reason", "connected") for event in await self.events(device)]

    async def put_into_inbox(self, device: Device, *message_ids: str, look_in_ms: int = 60_000) -> None:
        """Put offers there as the pool does."""
        names, now = self.house.keys.devices(device.client_id), await self.now_ms()
        for message_id in message_ids:
            await self.house.raw.zadd(names.inbox_base + device.id, {message_id: now})
            await self.house.raw.zadd(self.house.keys.offers, {f"{device.client_id} {message_id}": now + look_in_ms})
        await self.house.raw.expire(names.inbox_base + device.id, 3600)

    async def hurried(self) -> list[str]:
        """The offers that the pool is to look at now."""
        now = await self.now_ms()
        return sorted(name.decode() for name in await self.house.raw.zrangebyscore(self.house.keys.offers, "-inf", now))
