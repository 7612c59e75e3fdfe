"""Which phones are there, in the store. Decided in the scripts; here a device is put into the words that they know."""

import asyncio
import time
from typing import Any

import msgspec

from otpsvc.devices.contract import facts_of
from otpsvc.devices.model import Device, DeviceState, Gone, Seen, SimUse
from otpsvc.ids import new_event_id
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys

# The longest that a script lets anything wait to be told (include/device_news.lua).
_LITTLE_MS = 10_000
# Who has claimed a phone looks at it at once; shorter than the little, so that a claimed one is still asked about.
_AGAIN_MS = 5000
_LONGEST_MS = 86_460_000  # the longest `devices.online_s`, and a minute
_MOST_ASKED = 1000
_EVERY = ("device", "pool", "streams", "inbox", "presence", "offers", "due", "ends", "events")


class RedisDevices:
    """Implements `devices.ports.DevicePresence`. Events of devices go to the first partition.

    Beyond `event_limit` events they wait: what is not told of a device is told once there is room.
    """

    def __init__(self, client: RedisClient, keys: Keys, *, event_limit: int = 500_000) -> None:
        self._client = client
        self._keys = keys
        self._event_limit = event_limit

    async def seen(self, device: Device, *, stream: str = "", is_pull: bool = False, online_s: float) -> Seen | None:
        """Run `device_seen`; raises ValueError for a stream's name with a space in it."""
        if " " in stream:
            raise ValueError("a stream's name has no space")
        status, values = await self._client.run(
            "device_seen",
            self._named(device, "device", "pool", "streams", "inbox", "presence", "due", "ends", "events"),
            {
                **_who(device),
                **_facts(device),
                "stream": stream,
                "is_pull": int(is_pull),
                "was_seen": int(device.last_seen_at is not None),
                "online_ms": int(online_s * 1000),
                **self._for_event(),
            },
        )
        return None if status == "retired" else Seen(*values)

    async def left(self, device: Device, stream: str, why: Gone) -> None:
        """Run `device_left`."""
        await self._client.run(
            "device_left",
            self._named(device, *_EVERY),
            {**_who(device), "stream": stream, "why": why, **self._for_event()},
        )

    async def retire(self, device: Device, why: Gone) -> None:
        """Run `device_retire`."""
        await self._client.run(
            "device_retire",
            self._named(device, *_EVERY),
            {**_who(device), "version": device.version, "why": why, **self._for_event()},
        )

    async def refresh(self, device: Device) -> None:
        """Run `device_refresh`."""
        await self._client.run("device_refresh", self._named(device, "device"), _facts(device))

    async def lapsed(self, *, limit: int) -> int:
        """Claim up to `limit` phones (at most 1000) that are to be looked at, and run `device_lapsed` for each."""
        _, claimed = await self._client.run(
            "devices_due",
            {"presence": self._keys.presence},
            {"limit": min(limit, 1000), "again_in_ms": _AGAIN_MS, "longest_ms": _LONGEST_MS},
        )
        await asyncio.gather(*(self._look(*member.decode().split(" ")) for member in claimed))
        return len(claimed)

    async def state(self, device: Device) -> DeviceState:
        """Run `device_state`; of a phone without a record nothing but its SIMs is known."""
        names = self._keys.devices(device.client_id)
        status, values = await self._client.run(
            "device_state",
            self._named(device, "device", "inbox"),
            {
                "sim_base": f"{names.sim_base}{device.id}:",
                "recipients_base": f"{names.recipients_base}{device.id}:",
            },
        )
        if status == "unknown":
            return DeviceState(sims=tuple(SimUse(slot=sim.slot, messages=0, recipients=0) for sim in device.sims))
        is_online, seen_at, pulled_at, connected_at, waiting, misses, error, error_at, gone, *sims = values
        return DeviceState(
            is_online=bool(is_online),
            seen_at=seen_at,
            pulled_at=pulled_at,
            connected_at=connected_at,
            waiting=waiting,
            misses=misses,
            last_error=error.decode(),
            last_error_at=error_at,
            gone=gone.decode(),
            sims=tuple(
                SimUse(slot=int(slot), messages=messages, recipients=recipients)
                for slot, messages, recipients in zip(sims[::3], sims[1::3], sims[2::3], strict=True)
            ),
        )

    async def n_online(self) -> int:
        """Run `devices_online`, and ask after each phone that it leaves in doubt, up to 1000 of them."""
        _, (now, n_sure, *doubtful) = await self._client.run(
            "devices_online", {"presence": self._keys.presence}, {"little_ms": _LITTLE_MS, "limit": _MOST_ASKED}
        )

        async def is_online(client_id: str, _: str, device_id: str) -> bool:
            name = self._keys.devices(client_id).device_base + device_id
            online_until: bytes | None = await self._client.command("HGET", name, "online_until")
            return int(online_until or 0) > int(now)

        return int(n_sure) + sum(await asyncio.gather(*(is_online(*member.decode().split(" ")) for member in doubtful)))

    async def _look(self, client_id: str, mode: str, device_id: str) -> None:
        await self._client.run(
            "device_lapsed",
            self._names(client_id, mode, device_id, ("device", "inbox", "presence", "offers", "due", "ends", "events")),
            {"client": client_id, "mode": mode, "device_id": device_id, **self._for_event()},
        )

    def _for_event(self) -> dict[str, str | int]:
        return {"event_limit": self._event_limit, "event_id": new_event_id()}

    def _named(self, device: Device, *words: str) -> dict[str, str]:
        return self._names(device.client_id, device.mode, device.id, words)

    def _names(self, client_id: str, mode: str, device_id: str, words: tuple[str, ...]) -> dict[str, str]:
        names, first = self._keys.devices(client_id), self._keys.partitions[0]
        every = {
            "device": names.device_base + device_id,
            "pool": names.pool_base + mode,
            "streams": names.streams_base + device_id,
            "inbox": names.inbox_base + device_id,
            "presence": self._keys.presence,
            "offers": self._keys.offers,
            "due": first.due,
            "ends": first.ends,
            "events": first.events,
        }
        return {word: every[word] for word in words}


def _who(device: Device) -> dict[str, str]:
    return {"client": device.client_id, "mode": device.mode, "device_id": device.id}


def _facts(device: Device) -> dict[str, Any]:
    """Give what the pool must know of a device's version, as `device_facts.lua` takes it."""
    facts, budget = facts_of(device, time.time()), device.budget
    return {
        "mode": device.mode,
        "version": device.version,
        "is_active": int(facts.is_active),
        "is_out": int(facts.is_out),
        "sims": msgspec.json.encode(facts.sims),
        "budget_messages": budget.messages_per_window,
        "budget_window_ms": budget.window_s * 1000,
        "budget_recipients": budget.recipients_per_day,
        "quiet_from": facts.quiet_from,
        "quiet_to": facts.quiet_to,
        "is_spare": int(budget.is_spare),
    }
