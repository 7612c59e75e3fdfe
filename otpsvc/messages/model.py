"""What a message is, its states, and what a worker holds while it delivers one."""

from enum import StrEnum

import msgspec


class MessageStatus(StrEnum):
    """The states of a message (ARCHITECTURE, Words). The last five never change."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Content(msgspec.Struct, frozen=True):
    """What is sealed together: the number (E.164) and the rendered text. Holds the plain code: never log it."""

    to: str
    text: str

    def __repr__(self) -> str:
        """Hide both, so that no traceback or log line can show them."""
        return "Content(…)"


class ClaimedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message leased to one worker: only `token` may record what became of it.

    `expires_at_ms` is the end of its code's life, `created_at_ms` its acceptance (both the store's clock, ms since
    1970), and `life_ms` what was left of that life at the claim: no worker's clock has a say in it. `tries` counts
    leases, this one included. `begun_by` names the sender whose call was begun and whose outcome nobody recorded, so
    that it may already have the message; where it is empty the message was surely not sent. `sealed` is opened by the
    worker alone.
    """

    message_id: str
    token: str
    client_id: str
    mode: str
    otp_id: str
    channel: str
    sealed: bytes
    created_at_ms: int
    expires_at_ms: int
    life_ms: int
    tries: int
    begun_by: str


class ClaimedBatch(msgspec.Struct, frozen=True):
    """What one claim brought: the leased messages, and in how many ms the next one falls due (None: none waits)."""

    messages: list[ClaimedMessage]
    next_due_in_ms: int | None


class MessageView(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a message to the client that caused it.

    `to` and `text` are masked, and empty once the number was forgotten; `metadata` is JSON text, empty where none was
    given. All times are ms since 1970 by the store's clock.
    """

    message_id: str
    otp_id: str
    status: str
    channel: str
    parts: int | None
    to: str
    text: str
    reason: str | None
    sender: str | None
    tries: int
    created_at: int
    sent_at: int | None
    delivered_at: int | None
    ended_at: int | None
    expires_at: int | None
    metadata: str
