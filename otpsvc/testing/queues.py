"""The message queue's port kept in memory, for tests of what stands in front of it, with the receipts that change it.

It obeys the port's words exactly (leases, tokens, `begun_by`, `awaiting`, what a receipt settles), so that a test that
passes here can be run again on the real store. What a message may become is decided in `queued_message`.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from otpsvc.clock import Clock
from otpsvc.crypto import Keyring
from otpsvc.ids import new_message_id, random_base32
from otpsvc.messages.model import ClaimedBatch, ClaimedMessage, Content, MessageStatus, ReceiptFact, Tried
from otpsvc.testing.queued_message import QueuedMessage

MIN_LIFE_MS = 30_000


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
        client_id: str = "client_100000000001",
    ) -> str:
        """Seal and queue a message as a send does; return its id."""
        message_id = new_message_id(partition=0).text
        mode = "live"
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
            code_length=6,
            max_attempts=3,
        )
        self.messages[message_id] = QueuedMessage(claimed, due_at=now + due_in_s)
        self._news.set()
        return message_id

    async def wait(self, timeout_s: float) -> None:
        """Return when something was added or given back since the last wait."""
        await self._reached()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def rewake(self) -> None:
        """Let a wait return."""
        await self._reached()
        self._news.set()

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Lease what is due, oldest due first."""
        self.n_claims += 1
        await self._reached()
        now = self._clock.time()
        batch: list[ClaimedMessage] = []
        for record in sorted(self.messages.values(), key=lambda record: record.due_at):
            if not record.is_waiting or record.due_at > now or len(batch) == limit:
                continue
            unwanted = self._unwanted(record, now)
            if record.may_be_leased(now=now, unwanted=unwanted):
                batch.append(record.lease(random_base32(10), now=now, lease_s=lease_s))
        waiting = [record.due_at for record in self.messages.values() if record.is_waiting]
        next_due_in_ms = max(0, int((min(waiting) - now) * 1000)) if waiting else None
        return ClaimedBatch(batch, next_due_in_ms)

    async def begin(
        self, message_id: str, token: str, *, sender: str, tried: Sequence[Tried] = (), may_duplicate: bool = False
    ) -> bool:
        """Write the sender down, unless the lease is lost, the code has ended (`unwanted`) or a receipt says enough."""
        await self._reached()
        record = self.messages[message_id]
        if record.token != token or message_id in self.unwanted or record.is_settled_by_receipt:
            return False
        record.begin(sender, tried, now=self._clock.time(), may_duplicate=may_duplicate)
        return True

    async def record_sent(
        self,
        message_id: str,
        token: str,
        *,
        sender: str,
        provider_id: str | None,
        tried: Sequence[Tried] = (),
        receipt_in_s: float | None = None,
    ) -> bool:
        """Record that a sender took the message, and wait for its receipt where that is asked for."""
        await self._reached()
        record = self.messages[message_id]
        if record.settles(token, tried):
            record.accept(sender, provider_id, now=self._clock.time(), receipt_in_s=receipt_in_s)
            self._news.set()
        return record.settled_by == token

    async def record_kept(self, message_id: str, token: str, *, tried: Sequence[Tried] = ()) -> bool:
        """Leave a sent message as it is."""
        await self._reached()
        record = self.messages[message_id]
        if record.settles(token, tried):
            record.keep(now=self._clock.time())
        return record.settled_by == token

    async def record_final(
        self, message_id: str, token: str, status: MessageStatus, *, reason: str, tried: Sequence[Tried] = ()
    ) -> bool:
        """End the record with a reason."""
        await self._reached()
        record = self.messages[message_id]
        if record.settles(token, tried):
            record.finish(status, reason, now=self._clock.time())
            self._news.set()
        return record.settled_by == token

    async def release(
        self,
        message_id: str,
        token: str,
        *,
        due_in_s: float,
        reason: str,
        begun_by: str = "",
        tried: Sequence[Tried] = (),
    ) -> bool:
        """Make the record due again."""
        await self._reached()
        record = self.messages[message_id]
        if record.settles(token, tried):
            record.give_back(reason, begun_by, now=self._clock.time(), due_in_s=due_in_s)
            self._news.set()
        return record.settled_by == token

    async def apply(self, message_id: str, sender: str, fact: ReceiptFact) -> str:
        """Tell the message what a receipt says, as `ReceiptBook.apply` does."""
        await self._reached()
        record = self.messages.get(message_id)
        if record is None:
            return "unknown"
        outcome = record.take_receipt(sender, fact, now=self._clock.time())
        self._news.set()
        return outcome

    def _unwanted(self, record: QueuedMessage, now: float) -> MessageStatus | None:
        if record.claimed.message_id in self.unwanted:
            return MessageStatus.CANCELLED
        if record.claimed.expires_at_ms - now * 1000 < MIN_LIFE_MS:
            return MessageStatus.EXPIRED
        return None

    async def _reached(self) -> None:
        await asyncio.sleep(0)
        if self.fails_with is not None:
            raise self.fails_with
