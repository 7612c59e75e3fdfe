"""The message queue's port kept in memory, for tests of what stands in front of it.

It obeys the port's words exactly (leases, tokens, `begun_by`), so that a test that passes here can be run again on the
real store.
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from otpsvc.clock import Clock
from otpsvc.crypto import Keyring
from otpsvc.ids import new_message_id, random_base32
from otpsvc.messages.model import ClaimedBatch, ClaimedMessage, Content, MessageStatus

MIN_LIFE_MS = 30_000


@dataclass
class QueuedMessage:
    """A record and all that was written to it: `events` holds (status, reason or sender) in order.

    `settled_by` is the token under which the record was last written, so that a repeat is known as one.
    """

    claimed: ClaimedMessage
    due_at: float
    status: MessageStatus = MessageStatus.QUEUED
    token: str | None = None
    settled_by: str | None = None
    provider_id: str | None = None
    events: list[tuple[MessageStatus, str]] = field(default_factory=list)


class MemoryQueue:
    """One partition.

    `messages` maps ids to records, `unwanted` names those whose code has ended, `fails_with` makes every call raise it
    while it is set.
    """

    def __init__(self, clock: Clock, keyring: Keyring) -> None:
        self.messages: dict[str, QueuedMessage] = {}
        self.unwanted: set[str] = set()
        self.fails_with: Exception | None = None
        self.n_claims = 0
        self._clock = clock
        self._keyring = keyring
        self._news = asyncio.Event()

    def add(
        self,
        *,
        to: str = "+33612345678",
        text: str = "123456 is your verification code.",
        channel: str = "sms",
        life_s: float = 300.0,
        due_in_s: float = 0.0,
    ) -> str:
        """Seal and queue a message as a send does; return its id."""
        message_id = new_message_id(partition=0).text
        client_id, mode = "client_100000000001", "live"
        now = self._clock.time()
        sealed = self._keyring.seal(
            msgspec.msgpack.encode(Content(to, text)),
            record_id=message_id,
            count=0,
            bound_to=(client_id, mode, message_id, channel),
        )
        claimed = ClaimedMessage(
            message_id=message_id,
            token="",
            client_id=client_id,
            mode=mode,
            otp_id="otp_00000000000000000000000000",
            channel=channel,
            sealed=sealed,
            created_at_ms=int(now * 1000),
            expires_at_ms=int((now + life_s) * 1000),
            life_ms=int(life_s * 1000),
            tries=0,
            begun_by="",
        )
        self.messages[message_id] = QueuedMessage(claimed, due_at=now + due_in_s)
        self._news.set()
        return message_id

    async def wait(self, timeout_s: float) -> None:
        """Return when something was added or given back since the last wait."""
        self._raise_if_down()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def rewake(self) -> None:
        """Let a wait return."""
        await asyncio.sleep(0)
        self._raise_if_down()
        self._news.set()

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Lease what is due, oldest due first."""
        self.n_claims += 1
        await asyncio.sleep(0)
        self._raise_if_down()
        now = self._clock.time()
        batch: list[ClaimedMessage] = []
        for record in sorted(self.messages.values(), key=lambda record: record.due_at):
            if record.status not in (MessageStatus.QUEUED, MessageStatus.PROCESSING):
                continue
            if record.due_at > now or len(batch) == limit:
                continue
            if record.claimed.message_id in self.unwanted:
                self._end(record, MessageStatus.CANCELLED, "cancelled")
                continue
            if record.claimed.expires_at_ms - now * 1000 < MIN_LIFE_MS:
                self._end(record, MessageStatus.EXPIRED, "expired")
                continue
            record.token = random_base32(10)
            record.claimed = msgspec.structs.replace(
                record.claimed,
                token=record.token,
                life_ms=int(record.claimed.expires_at_ms - now * 1000),
                tries=record.claimed.tries + 1,
            )
            record.status = MessageStatus.PROCESSING
            record.due_at = now + lease_s
            batch.append(record.claimed)
        waiting = [r.due_at for r in self.messages.values() if r.status in ("queued", "processing")]
        next_due_in_ms = max(0, int((min(waiting) - now) * 1000)) if waiting else None
        return ClaimedBatch(batch, next_due_in_ms)

    async def begin(self, message_id: str, token: str, *, sender: str) -> bool:
        """Write the sender down, unless the lease is lost or the code has ended (`unwanted`)."""
        await asyncio.sleep(0)
        self._raise_if_down()
        record = self.messages[message_id]
        if record.token != token or message_id in self.unwanted:
            return False
        record.claimed = msgspec.structs.replace(record.claimed, begun_by=sender)
        return True

    async def record_sent(self, message_id: str, token: str, *, sender: str, provider_id: str | None) -> bool:
        """End the record as sent."""
        await asyncio.sleep(0)
        self._raise_if_down()
        record = self.messages[message_id]
        if record.token == token:
            record.provider_id = provider_id
            self._settle(record, MessageStatus.SENT, sender)
        return record.settled_by == token

    async def record_final(self, message_id: str, token: str, status: MessageStatus, *, reason: str) -> bool:
        """End the record with a reason."""
        await asyncio.sleep(0)
        self._raise_if_down()
        record = self.messages[message_id]
        if record.token == token:
            self._settle(record, status, reason)
        return record.settled_by == token

    async def release(self, message_id: str, token: str, *, due_in_s: float, reason: str, begun_by: str = "") -> bool:
        """Make the record due again."""
        await asyncio.sleep(0)
        self._raise_if_down()
        record = self.messages[message_id]
        if record.token == token:
            self._settle(record, MessageStatus.QUEUED, reason)
            record.claimed = msgspec.structs.replace(record.claimed, begun_by=begun_by)
            record.due_at = self._clock.time() + due_in_s
            self._news.set()
        return record.settled_by == token

    def _settle(self, record: QueuedMessage, status: MessageStatus, word: str) -> None:
        record.settled_by = record.token
        self._end(record, status, word)

    def _end(self, record: QueuedMessage, status: MessageStatus, word: str) -> None:
        record.status = status
        record.token = None
        record.events.append((status, word))

    def _raise_if_down(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with
