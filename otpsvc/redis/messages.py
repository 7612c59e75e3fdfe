"""Messages in the store: the queue of a partition with its leases, and one message as its owner may see it.

Decided in the scripts.
"""

from collections.abc import Collection, Sequence
from typing import Any

from otpsvc.ids import MessageId, new_event_id, random_base32
from otpsvc.messages.model import ClaimedBatch, ClaimedMessage, MessageStatus, MessageView, Tried
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys, PartitionKeys

MIN_LIFE_MS = 30_000  # a code that a person could not use in time is not sent (ARCHITECTURE, The life of a code)
# How long the record of a sent message stays: without it a receipt has to be looked up in the history.
_KEEP_MS, _KEEP_MS_WITH_RECEIPTS = 900_000, 3_600_000


class RedisMessageQueue:
    """Implements `messages.ports.MessageQueue` for one partition.

    `with_receipts` names the senders that have any, `with_codes` those whose gateways make codes of their own.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: PartitionKeys,
        *,
        is_fenced: bool = False,
        with_receipts: Collection[str] = (),
        with_codes: Collection[str] = (),
    ) -> None:
        self._client = client
        self._keys = keys
        self._is_fenced = int(is_fenced)
        self._with_receipts = frozenset(with_receipts)
        self._with_codes = frozenset(with_codes)
        self._unanswered: list[str] = []

    async def wait(self, timeout_s: float) -> None:
        """Sleep until a send leaves a token, or until the time is up."""
        await self._client.pop_token(self._keys.wake, timeout_s)

    async def rewake(self) -> None:
        """Run `message_wake`."""
        await self._client.run("message_wake", {"wake": self._keys.wake}, {})

    async def depth(self) -> tuple[int, float]:
        """Count the messages that wait or are on their way; say for how many seconds the most overdue one is due."""
        count = await self._client.command("ZCARD", self._keys.due)
        first = await self._client.command("ZRANGE", self._keys.due, 0, 0, "WITHSCORES")
        seconds, _ = await self._client.command("TIME")
        return count, max(0.0, int(seconds) - float(first[1]) / 1000) if first else 0.0

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Run `message_claim` under a fresh token, or under one whose answer never came."""
        is_repeated = bool(self._unanswered)
        token = self._unanswered.pop() if is_repeated else random_base32(10)
        try:
            next_due_in_ms, leased = await self._claim(token, is_repeated=is_repeated, limit=limit, lease_s=lease_s)
        except BaseException:
            self._unanswered.append(token)
            raise
        messages = [_claimed(token, facts) for facts in leased]
        return ClaimedBatch(messages, None if next_due_in_ms < 0 else next_due_in_ms)

    async def _claim(self, token: str, *, is_repeated: bool, limit: int, lease_s: float) -> list[Any]:
        _, claimed = await self._client.run(
            "message_claim",
            {"due": self._keys.due, "wake": self._keys.wake, "events": self._keys.events},
            {
                "token": token,
                "is_repeated": int(is_repeated),
                "lease_ms": int(lease_s * 1000),
                "limit": limit,
                "min_life_ms": MIN_LIFE_MS,
                "is_fenced": self._is_fenced,
                "otp_base": self._keys.otp_base,
                "message_base": self._keys.message_base,
                "sealed_base": self._keys.sealed_base,
                "event_id": new_event_id(),
            },
            is_repeatable=False,
        )
        return claimed

    async def begin(
        self, message_id: str, token: str, *, sender: str, tried: Sequence[Tried] = (), may_duplicate: bool = False
    ) -> bool:
        """Run `message_begin`."""
        status, _ = await self._client.run(
            "message_begin",
            {"message": self._keys.message_base + message_id, "events": self._keys.events},
            {
                "message_id": message_id,
                "token": token,
                "sender": sender,
                "tried": _words(tried),
                "may_duplicate": int(may_duplicate),
                "otp_base": self._keys.otp_base,
                "message_base": self._keys.message_base,
                "is_fenced": self._is_fenced,
                "event_id": new_event_id(),
            },
        )
        return status == "begun"

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
        """Record that a sender took the message, and that its receipt is awaited where that is said."""
        return await self._settle(
            message_id,
            token,
            "sent",
            sender=sender,
            provider_id=provider_id or "",
            tried=tried,
            due_in_s=receipt_in_s,
            keep_ms=_KEEP_MS_WITH_RECEIPTS if sender in self._with_receipts else _KEEP_MS,
        )

    async def record_kept(self, message_id: str, token: str, *, tried: Sequence[Tried] = ()) -> bool:
        """Leave a message that was sent as it is."""
        return await self._settle(message_id, token, "kept", tried=tried)

    async def record_final(
        self, message_id: str, token: str, status: MessageStatus, *, reason: str, tried: Sequence[Tried] = ()
    ) -> bool:
        """End the message as failed, expired or cancelled."""
        return await self._settle(message_id, token, status.value, reason=reason, tried=tried)

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
        """Give the message back for later."""
        return await self._settle(
            message_id, token, "queued", reason=reason, due_in_s=due_in_s, begun_by=begun_by, tried=tried
        )

    async def _settle(
        self,
        message_id: str,
        token: str,
        status: str,
        *,
        reason: str = "",
        due_in_s: float | None = None,
        sender: str = "",
        provider_id: str = "",
        begun_by: str = "",
        tried: Sequence[Tried] = (),
        keep_ms: int = _KEEP_MS,
    ) -> bool:
        outcome, _ = await self._client.run(
            "message_settle",
            {
                "message": self._keys.message_base + message_id,
                "due": self._keys.due,
                "wake": self._keys.wake,
                "events": self._keys.events,
            },
            {
                "message_id": message_id,
                "token": token,
                "status": status,
                "due_in_ms": "" if due_in_s is None else int(due_in_s * 1000),
                "reason": reason,
                "sender": sender,
                "provider_id": provider_id,
                "begun_by": begun_by,
                "tried": _words(tried),
                "keep_ms": keep_ms,
                "owns_code": int(sender in self._with_codes),
                "otp_base": self._keys.otp_base,
                "message_base": self._keys.message_base,
                "sealed_base": self._keys.sealed_base,
                "event_id": new_event_id(),
            },
        )
        return outcome == "recorded"


def _claimed(token: str, facts: list[Any]) -> ClaimedMessage:
    (message_id, client, mode, otp_id, channel, sealed, created_at, expires_at, life, tries, begun_by, begun_ms_ago,
     awaiting, asked, code_length, max_attempts) = facts  # fmt: skip
    return ClaimedMessage(
        message_id=message_id.decode(),
        token=token,
        client_id=client.decode(),
        mode=mode.decode(),
        otp_id=otp_id.decode(),
        channel=channel.decode(),
        sealed=sealed,
        created_at_ms=int(created_at),
        expires_at_ms=int(expires_at),
        life_ms=life,
        tries=tries,
        begun_by=begun_by.decode(),
        begun_ms_ago=begun_ms_ago,
        asked={name.decode(): state.decode() for name, state in zip(asked[::2], asked[1::2], strict=True)},
        awaiting=awaiting.decode(),
        code_length=int(code_length or 0),
        max_attempts=int(max_attempts or 0),
    )


def _words(tried: Sequence[Tried]) -> str:
    """Write steps as the scripts read them. Neither a sender's name nor an outcome has a space in it."""
    return " ".join(f"{one.sender} {one.outcome}" for one in tried)


class RedisMessageRecords:
    """Implements `messages.ports.MessageRecords` for the messages that the store still holds."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def find(self, client_id: str, mode: str, message_id: MessageId) -> MessageView | None:
        """Run `message_get`."""
        # An id of another installation can name a partition that this one does not have; it is not there either way.
        partition = self._keys.partitions[message_id.partition % len(self._keys.partitions)]
        status, values = await self._client.run(
            "message_get",
            {"message": partition.message_base + message_id.text},
            {"client": client_id, "mode": mode, "otp_base": partition.otp_base},
        )
        if status != "found":
            return None
        (otp_id, message_status, channel, parts, to, text, reason, sender, tries, created_at, sent_at, ended_at,
         delivered_at, expires_at, metadata) = (value.decode() for value in values)  # fmt: skip
        return MessageView(
            message_id=message_id.text,
            otp_id=otp_id,
            status=message_status,
            channel=channel,
            parts=int(parts) if parts else None,
            to=to,
            text=text,
            reason=reason or None,
            sender=sender or None,
            tries=int(tries),
            created_at=int(created_at),
            sent_at=int(sent_at) if sent_at else None,
            delivered_at=int(delivered_at) if delivered_at else None,
            # Its record is done with once it is sent; the message itself may yet be delivered or fail.
            ended_at=int(ended_at) if ended_at and message_status != MessageStatus.SENT else None,
            expires_at=int(expires_at),
            metadata=metadata,
        )
