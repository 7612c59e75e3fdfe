"""What message delivery needs from the outside; `redis` implements it."""

from typing import Protocol

from otpsvc.messages.model import ClaimedBatch, MessageStatus


class MessageQueue(Protocol):
    """The due-set of one partition and the records behind it. Every call is one atomic step in the store."""

    async def wait(self, timeout_s: float) -> None:
        """Return when new work may be due, at the latest after `timeout_s`. Raises ApiError SERVICE_UNAVAILABLE."""
        ...

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Lease up to `limit` due messages under fresh tokens.

        A message whose code is no longer wanted (verified, superseded, cancelled, replaced) or has under 30 s of life
        is not handed out: it ends as `cancelled` or `expired` within the same step.
        """
        ...

    async def is_wanted(self, message_id: str, token: str) -> bool:
        """Say whether the lease still holds, the OTP is still pending and this message carries its current code."""
        ...

    async def record_sent(self, message_id: str, token: str, *, sender: str, provider_id: str | None) -> bool:
        """Record that `sender` took the message; False if the token is stale (nothing changed)."""
        ...

    async def record_final(self, message_id: str, token: str, status: MessageStatus, *, reason: str) -> bool:
        """End the message as `failed`, `expired` or `cancelled` with a reason; False if the token is stale."""
        ...

    async def release(self, message_id: str, token: str, *, due_in_s: float, reason: str) -> bool:
        """Give the message back, due again after `due_in_s`; False if the token is stale."""
        ...
