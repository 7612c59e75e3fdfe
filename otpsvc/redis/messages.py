"""The message queue of one partition: the due-set, leases and what a worker records. Decided in the scripts."""

from typing import Any

from otpsvc.ids import random_base32
from otpsvc.messages.model import ClaimedBatch, ClaimedMessage, MessageStatus
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import PartitionKeys

MIN_LIFE_MS = 30_000  # a code that a person could not use in time is not sent (ARCHITECTURE, The life of a code)


class RedisMessageQueue:
    """Implements `messages.ports.MessageQueue` for one partition."""

    def __init__(self, client: RedisClient, keys: PartitionKeys) -> None:
        self._client = client
        self._keys = keys
        self._unanswered: list[str] = []

    async def wait(self, timeout_s: float) -> None:
        """Sleep until a send leaves a token, or until the time is up."""
        await self._client.pop_token(self._keys.wake, timeout_s)

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Run `message_claim` under a fresh token, or under one whose answer never came."""
        is_repeated = bool(self._unanswered)
        token = self._unanswered.pop() if is_repeated else random_base32(10)
        try:
            next_due_in_ms, leased = await self._claim(token, is_repeated=is_repeated, limit=limit, lease_s=lease_s)
        except BaseException:
            self._unanswered.append(token)
            raise
        messages = [
            ClaimedMessage(
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
                is_uncertain=bool(is_uncertain),
            )
            for (
                message_id,
                client,
                mode,
                otp_id,
                channel,
                sealed,
                created_at,
                expires_at,
                life,
                tries,
                is_uncertain,
            ) in leased
        ]
        return ClaimedBatch(messages, None if next_due_in_ms < 0 else next_due_in_ms)

    async def _claim(self, token: str, *, is_repeated: bool, limit: int, lease_s: float) -> list[Any]:
        _, claimed = await self._client.run(
            "message_claim",
            {"due": self._keys.due, "wake": self._keys.wake},
            {
                "token": token,
                "is_repeated": int(is_repeated),
                "lease_ms": int(lease_s * 1000),
                "limit": limit,
                "min_life_ms": MIN_LIFE_MS,
                "otp_base": self._keys.otp_base,
                "message_base": self._keys.message_base,
                "sealed_base": self._keys.sealed_base,
            },
            is_repeatable=False,
        )
        return claimed

    async def is_wanted(self, message_id: str, token: str) -> bool:
        """Run `message_wanted`."""
        status, _ = await self._client.run(
            "message_wanted",
            {"message": self._keys.message_base + message_id},
            {"message_id": message_id, "token": token, "otp_base": self._keys.otp_base},
        )
        return status == "wanted"

    async def record_sent(self, message_id: str, token: str, *, sender: str, provider_id: str | None) -> bool:
        """Record that a sender took the message."""
        return await self._settle(message_id, token, "sent", sender=sender, provider_id=provider_id or "")

    async def record_final(self, message_id: str, token: str, status: MessageStatus, *, reason: str) -> bool:
        """End the message as failed or expired."""
        return await self._settle(message_id, token, status.value, reason=reason)

    async def release(self, message_id: str, token: str, *, due_in_s: float, reason: str) -> bool:
        """Give the message back for later."""
        return await self._settle(message_id, token, "queued", reason=reason, due_in_ms=int(due_in_s * 1000))

    async def _settle(
        self,
        message_id: str,
        token: str,
        status: str,
        *,
        reason: str = "",
        due_in_ms: int = 0,
        sender: str = "",
        provider_id: str = "",
    ) -> bool:
        outcome, _ = await self._client.run(
            "message_settle",
            {
                "message": self._keys.message_base + message_id,
                "sealed": self._keys.sealed_base + message_id,
                "due": self._keys.due,
                "wake": self._keys.wake,
            },
            {
                "message_id": message_id,
                "token": token,
                "status": status,
                "due_in_ms": due_in_ms,
                "reason": reason,
                "sender": sender,
                "provider_id": provider_id,
            },
        )
        return outcome == "recorded"
