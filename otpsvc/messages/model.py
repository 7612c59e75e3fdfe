"""What a message is, its states, and what a worker holds while it delivers one."""

from enum import StrEnum

import msgspec

# The reason of a message that failed, as far as anybody knows: a sender may have it, and its receipt may say so yet.
UNKNOWN_OUTCOME = "unknown_outcome"


class MessageStatus(StrEnum):
    """The states of a message (ARCHITECTURE, Words).

    The last four never change, but for one that failed with `UNKNOWN_OUTCOME`: it may turn out sent or delivered.
    """

    QUEUED = "queued"
    PROCESSING = "processing"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Content(msgspec.Struct, frozen=True):
    """What is sealed together: the number (E.164), the rendered text, and the one phone that may carry it, if any.

    Holds the plain code: never log it.
    """

    to: str
    text: str
    device_id: str = ""

    def __repr__(self) -> str:
        """Hide both, so that no traceback or log line can show them."""
        return "Content(…)"


class Tried(msgspec.Struct, frozen=True):
    """One step of a message's way that is over: whom it was meant for, and the one word for how it ended.

    A RejectionKind's value: refused for good, this sender is not asked again. `retry_later`, `held_open`, `held_rate`,
    `held_crowd`, `held_demoted`: not sent, may be asked again. `silent`: it may have the message and has not said so in
    time.
    """

    sender: str
    outcome: str


class ClaimedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message leased to one worker: only `token` may record what became of it.

    `expires_at_ms` is the end of its code's life, `created_at_ms` its acceptance (both the store's clock, ms since
    1970), and `life_ms` what was left of that life at the claim: no worker's clock has a say in it. `tries` counts
    leases, this one included. `begun_by` names the sender whose call was begun and whose outcome nobody recorded, so
    that it may already have the message, and `begun_ms_ago` when that was; where it is empty no question is open.
    `asked` has a state per sender that was ever asked: `begun`, `accepted`, `sent` (its receipt), `silent`, or
    `failed:<kind>` and `rejected:<kind>`. `awaiting` names the sender that took the message and whose receipt is
    overdue, or said that it failed; empty where none did. `sealed` is opened by the worker alone.
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
    begun_ms_ago: int = 0
    asked: dict[str, str] = {}
    awaiting: str = ""
    code_length: int = 0
    max_attempts: int = 0


class ClaimedBatch(msgspec.Struct, frozen=True):
    """What one claim brought: the leased messages, and in how many ms the next one falls due (None: none waits)."""

    messages: list[ClaimedMessage]
    next_due_in_ms: int | None


class ReceiptFact(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt says about a message, in the words of the store: no text, no number, no gateway's own words.

    `status` is a ReceiptStatus, `kind` a RejectionKind or empty, and `next_may_try` what follows from it.
    """

    status: str
    kind: str = ""
    next_may_try: bool = True


class PastMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the history knows of a message that the store holds no longer, enough to write one more event about it."""

    message_id: str
    client_id: str
    mode: str
    otp_id: str
    status: str
    channel: str
    created_at_ms: int
    tries: int
    provider_id: str
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Say whether it may yet turn out to have failed."""
        return self.status == MessageStatus.SENT

    @property
    def may_be_delivered(self) -> bool:
        """Say whether it may yet turn out to have been delivered."""
        return self.is_open or (self.status == MessageStatus.FAILED and self.reason == UNKNOWN_OUTCOME)


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
