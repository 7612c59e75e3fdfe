"""Both stores read from outside, as plain rows: what is true after the storm, whatever the service says about it."""

import asyncio
import json
import time
from typing import Any

import asyncpg
import redis.asyncio as redis_asyncio

from otpsvc.redis.keys import Keys
from otpsvc.settings import Settings
from tests.chaos.evidence import EventRow, Evidence, MessageRow, OtpRow

_POLL_S = 0.1


class Reader:
    """Reads what one client has in Redis and in PostgreSQL."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._redis: Any = redis_asyncio.Redis.from_url(settings.redis.url.reveal())
        self._database_url = settings.database.url.reveal()
        self._keys = Keys(settings.redis.prefix, settings.redis.partitions)
        self._partitions = self._keys.partitions
        self._senders = settings.routed_senders
        self._client_id = client_id

    async def close(self) -> None:
        await self._redis.aclose()

    async def unwritten(self) -> int:
        """How many events wait for the drain."""
        return sum([await self._redis.xlen(partition.events) for partition in self._partitions])

    async def waiting(self) -> int:
        """How many messages are on their way."""
        return sum([await self._redis.zcard(partition.due) for partition in self._partitions])

    async def offers_due(self) -> int:
        """How many messages the phones have of which not all is told yet."""
        return int(await self._redis.zcard(self._keys.offers))

    async def owed(self) -> int:
        """How many events wait for the drain or will come from what lives: what the bound on events is about.

        Counted in one moment, as the scripts do: a delivery that ends between two looks is missed by both.
        """
        async with self._redis.pipeline(transaction=True) as counts:
            for partition in self._partitions:
                counts.xlen(partition.events).zcard(partition.ends).zcard(partition.due)
            return sum(await counts.execute())

    async def overdue(self) -> int:
        """How many OTPs are over without anybody having said so."""
        now_ms = await self._now_ms()
        return sum([await self._redis.zcount(partition.ends, "-inf", now_ms) for partition in self._partitions])

    async def broken(self) -> list[str]:
        """The senders whose breaker has opened and has not closed again."""
        return [name for name in self._senders if await self._redis.hexists(self._keys.gate(name), "opened_at")]

    async def quiet(self, timeout_s: float) -> None:
        """Wait until nothing is left to do, or the time is up: the accounting then says what was left."""
        give_up_at = time.monotonic() + timeout_s
        # In the order in which work moves on: what a sweep ends between two looks must be met by the later one.
        while await self.overdue() or await self.waiting() or await self.unwritten():
            if time.monotonic() > give_up_at:
                return
            await asyncio.sleep(_POLL_S)

    async def delivered(self, timeout_s: float) -> None:
        """Wait until no message is on its way, or the time is up."""
        give_up_at = time.monotonic() + timeout_s
        while await self.waiting():
            if time.monotonic() > give_up_at:
                return
            await asyncio.sleep(_POLL_S)

    async def evidence(self) -> Evidence:
        """Gather both stores' side of it."""
        evidence = Evidence(unwritten=await self.unwritten(), waiting=await self.waiting(), now_ms=await self._now_ms())
        for partition in self._partitions:
            for name, fields in await self._hashes(partition.otp_base):
                evidence.living_otps.append(_otp(name.removeprefix(partition.otp_base), fields))
            for name, fields in await self._hashes(partition.message_base):
                evidence.living_messages.append(_living(name.removeprefix(partition.message_base), fields))
        evidence.immortal = await self._immortal()
        connection = await asyncpg.connect(self._database_url)
        try:
            evidence.events = [_event(row) for row in await connection.fetch(_EVENTS, self._client_id)]
            evidence.messages = [_message(row) for row in await connection.fetch(_MESSAGES, self._client_id)]
        finally:
            await connection.close()
        return evidence

    async def age(self, otp_ids: list[str] | None = None) -> None:
        """Let the lives of these OTPs, or of all, be over now, as if their time had passed."""
        now_ms = await self._now_ms() - 1
        for partition in self._partitions:
            for member in await self._redis.zrange(partition.ends, 0, -1):
                otp_id = member.split()[0].decode()
                if otp_ids is None or otp_id in otp_ids:
                    await self._redis.hset(partition.otp_base + otp_id, "expires_at", now_ms)
                    await self._redis.zadd(partition.ends, {member: now_ms}, xx=True)

    async def _immortal(self) -> list[str]:
        bounded = {name for keys in self._partitions for name in (keys.due, keys.ends, keys.events)}
        bounded |= {self._keys.offers, self._keys.presence}
        return [
            name.decode()
            async for name in self._redis.scan_iter(count=1000)
            if name.decode() not in bounded and await self._redis.pttl(name) == -1
        ]

    async def _hashes(self, base: str) -> list[tuple[str, dict[str, bytes]]]:
        found = []
        async for name in self._redis.scan_iter(match=f"{base}*", count=1000):
            fields = {key.decode(): value for key, value in (await self._redis.hgetall(name)).items()}
            if fields.get("client") == self._client_id.encode():
                found.append((name.decode(), fields))
        return found

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


_EVENTS = """
SELECT event_id, name, otp_id, message_id, (extract(epoch FROM occurred_at) * 1000)::bigint AS occurred_at, data
FROM events WHERE client_id = $1
"""
_MESSAGES = "SELECT message_id, otp_id, status, reason, sender, tries FROM messages WHERE client_id = $1"


def _event(row: Any) -> EventRow:
    data = json.loads(row["data"])
    attempt = int(data["attempt"]) if "attempt" in data else None
    sender, outcome, reason = (str(data.get(name, "")) for name in ("sender", "outcome", "reason"))
    told = sender, outcome, data.get("may_duplicate") == "1", reason
    return EventRow(row["event_id"], row["name"], row["otp_id"], row["message_id"], row["occurred_at"], attempt, *told)


def _message(row: Any) -> MessageRow:
    return MessageRow(
        row["message_id"], row["otp_id"], row["status"], row["reason"] or "", row["sender"] or "", row["tries"]
    )


def _living(message_id: str, fields: dict[str, bytes]) -> MessageRow:
    text = {name: fields.get(name, b"").decode() for name in ("otp_id", "status", "reason", "sender")}
    return MessageRow(message_id, **text, tries=int(fields["tries"]))


def _otp(otp_id: str, fields: dict[str, bytes]) -> OtpRow:
    return OtpRow(
        otp_id=otp_id,
        message_id=fields["message_id"].decode(),
        status=fields["status"].decode(),
        attempts=int(fields["attempts"]),
        resends=int(fields["resends"]),
        expires_at=int(fields["expires_at"]),
    )
