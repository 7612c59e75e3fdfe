"""What receipts change, in the store: the messages that still have a record, and an event for those that have none.

Decided in the scripts. Which message a gateway means is the index's business (`receipt_index`), to which this hands on.
"""

from collections.abc import Sequence
from typing import Protocol

from otpsvc.errors import problem
from otpsvc.ids import MalformedId, new_event_id, parse_message_id
from otpsvc.messages.model import PastMessage, ReceiptFact
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys, PartitionKeys
from otpsvc.senders.contract import Receipt, SentMessage


class ReceiptIndex(Protocol):
    """Which message a gateway's id names: the other half of `messages.ports.ReceiptBook`."""

    async def expect(
        self, sent: SentMessage, *, sender: str, expires_at_ms: int, poll_in_s: float | None
    ) -> Sequence[Receipt]:
        """As `ReceiptBook.expect`."""
        ...

    async def find_or_park(self, sender: str, receipt: Receipt) -> str | None:
        """As `ReceiptBook.find_or_park`."""
        ...

    async def due_polls(self, sender: str, *, limit: int, again_in_s: float) -> Sequence[SentMessage]:
        """As `ReceiptBook.due_polls`."""
        ...

    async def end_polls(self, sender: str, messages: Sequence[SentMessage]) -> None:
        """As `ReceiptBook.end_polls`."""
        ...


class RedisReceiptBook:
    """Implements `messages.ports.ReceiptBook`. `event_limit` is that of sends: receipts may use a quarter more."""

    def __init__(self, client: RedisClient, keys: Keys, index: ReceiptIndex, *, event_limit: int) -> None:
        self._client = client
        self._keys = keys
        self._index = index
        self._event_limit = event_limit + event_limit // 4

    async def expect(
        self, sent: SentMessage, *, sender: str, expires_at_ms: int, poll_in_s: float | None
    ) -> Sequence[Receipt]:
        """Note the gateway's id; return receipts that came earlier."""
        return await self._index.expect(sent, sender=sender, expires_at_ms=expires_at_ms, poll_in_s=poll_in_s)

    async def find_or_park(self, sender: str, receipt: Receipt) -> str | None:
        """Find the message that a receipt is about, or park the receipt."""
        return await self._index.find_or_park(sender, receipt)

    async def due_polls(self, sender: str, *, limit: int, again_in_s: float) -> Sequence[SentMessage]:
        """Return messages to poll now."""
        return await self._index.due_polls(sender, limit=limit, again_in_s=again_in_s)

    async def end_polls(self, sender: str, messages: Sequence[SentMessage]) -> None:
        """Poll these no more."""
        await self._index.end_polls(sender, messages)

    async def apply(self, message_id: str, sender: str, fact: ReceiptFact) -> str:
        """Run `message_receipt`. An id that this installation cannot have made is `unknown`."""
        partition = self._partition(message_id)
        if partition is None:
            return "unknown"
        status, _ = await self._client.run(
            "message_receipt",
            {
                "message": partition.message_base + message_id,
                "due": partition.due,
                "ends": partition.ends,
                "wake": partition.wake,
                "events": partition.events,
            },
            {
                "message_id": message_id,
                "sender": sender,
                "status": fact.status,
                "kind": fact.kind,
                "next_may_try": int(fact.next_may_try),
                "event_limit": self._event_limit,
                "message_base": partition.message_base,
                "sealed_base": partition.sealed_base,
                "event_id": new_event_id(),
            },
        )
        return _unless_busy(status)

    async def tell(self, past: PastMessage, sender: str, fact: ReceiptFact) -> None:
        """Run `message_tell` where the receipt says that the message was delivered, or that it failed."""
        partition = self._partition(past.message_id)
        if partition is None or fact.status not in ("delivered", "failed", "expired", "cancelled"):
            return
        is_delivered = fact.status == "delivered"
        status, _ = await self._client.run(
            "message_tell",
            {
                "told": partition.told_base + past.message_id,
                "due": partition.due,
                "ends": partition.ends,
                "events": partition.events,
            },
            {
                "message_id": past.message_id,
                "otp_id": past.otp_id,
                "client": past.client_id,
                "mode": past.mode,
                "channel": past.channel,
                "created_at": past.created_at_ms,
                "tries": past.tries,
                "sender": sender,
                "provider_id": past.provider_id,
                "status": "delivered" if is_delivered else "failed",
                "reason": "" if is_delivered else fact.kind or "undeliverable",
                "event_limit": self._event_limit,
                "event_id": new_event_id(),
            },
        )
        _unless_busy(status)

    def _partition(self, message_id: str) -> PartitionKeys | None:
        try:
            number = parse_message_id(message_id).partition
        except MalformedId:
            return None
        return self._keys.partitions[number] if number < len(self._keys.partitions) else None


def _unless_busy(status: str) -> str:
    if status == "busy":
        raise problem("SERVICE_UNAVAILABLE")
    return status
