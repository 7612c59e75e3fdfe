"""What message delivery needs from the outside; `redis` implements the queue, `redis` and `postgres` the records."""

from typing import Protocol

from otpsvc.ids import MessageId
from otpsvc.messages.model import ClaimedBatch, MessageStatus, MessageView


class MessageQueue(Protocol):
    """The due-set of one partition and the records behind it. Every call is one atomic step in the store.

    A call that raises ApiError may have run all the same. `record_sent`, `record_final` and `release` may therefore be
    repeated: the token that settled a lease is known, and is told True again.
    """

    async def wait(self, timeout_s: float) -> None:
        """Return when new work may be due, at the latest after `timeout_s`. Raises ApiError SERVICE_UNAVAILABLE."""
        ...

    async def rewake(self) -> None:
        """Leave a wake token for another worker: a `wait` that was cancelled may have taken one with it."""
        ...

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Lease up to `limit` due messages under fresh tokens.

        A message whose code is no longer wanted (verified, superseded, cancelled, replaced) or has under 30 s of life
        is not handed out: it ends as `cancelled` or `expired` within the same step.
        """
        ...

    async def begin(self, message_id: str, token: str, *, sender: str) -> bool:
        """Write down that the call of `sender` begins now, in place of any sender written there before.

        To be asked before every call of a sender. False, and nothing is written, where the lease was lost or the code
        is no longer wanted. Who gets no answer must not send.
        """
        ...

    async def record_sent(self, message_id: str, token: str, *, sender: str, provider_id: str | None) -> bool:
        """Record that `sender` took the message; False if the token is stale (nothing changed)."""
        ...

    async def record_final(self, message_id: str, token: str, status: MessageStatus, *, reason: str) -> bool:
        """End the message as `failed`, `expired` or `cancelled` with a reason; False if the token is stale."""
        ...

    async def release(self, message_id: str, token: str, *, due_in_s: float, reason: str, begun_by: str = "") -> bool:
        """Give the message back, due again after `due_in_s`; False if the token is stale.

        `begun_by` replaces what `begin` wrote: the sender whose outcome is still unknown, empty where there is none.
        """
        ...


class MessageRecords(Protocol):
    """Messages as they can be looked up: the living ones, or the history."""

    async def find(self, client_id: str, mode: str, message_id: MessageId) -> MessageView | None:
        """Return the client's message; None for one that is unknown, another client's or of the other mode."""
        ...


class HandoverObserver(Protocol):
    """Counts what delivery does. Its methods must be quick and must not raise: they run in the middle of it."""

    def handed_over(self, sender: str, outcome: str, seconds: float) -> None:
        """Take note of one call of a sender: `accepted`, `retry_later`, `unknown`, or the RejectionKind's value."""
        ...

    def ended(self, status: str, reason: str) -> None:
        """Take note of a message that a worker brought to its end; `reason` is empty for one that was sent."""
        ...
