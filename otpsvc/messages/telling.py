"""What is said about a message on its way: to a sender, who gets all of it, and to the log, which gets none of it."""

import logging
from collections.abc import Sequence

from otpsvc.messages.lease import Lease
from otpsvc.messages.model import ClaimedMessage, Content
from otpsvc.senders.contract import (
    RULES,
    Accepted,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RetryLater,
    SentMessage,
    Unknown,
)

_log = logging.getLogger(__name__)


def outbound(lease: Lease, content: Content) -> OutboundMessage:
    """Return the message as a sender gets it now."""
    claimed = lease.claimed
    return OutboundMessage(
        message_id=claimed.message_id,
        client_id=claimed.client_id,
        mode=claimed.mode,
        channel=Channel(claimed.channel),
        to=content.to,
        text=content.text,
        expires_at=claimed.expires_at_ms / 1000,
        life_s=lease.life_s(),
        try_number=claimed.tries,
        code_length=claimed.code_length,
        max_attempts=claimed.max_attempts,
        device_id=content.device_id,
    )


def taken(lease: Lease, provider_id: str | None, sent_at: float) -> SentMessage:
    """Return the message as a sender knows it that has taken it; `sent_at` in seconds since 1970."""
    claimed = lease.claimed
    return SentMessage(
        message_id=claimed.message_id,
        provider_id=provider_id,
        channel=Channel(claimed.channel),
        sent_at=sent_at,
        client_id=claimed.client_id,
        mode=claimed.mode,
    )


def word_of(outcome: Outcome) -> str:
    """Name an outcome: `accepted`, `retry_later`, `unknown`, `unmapped`, or the RejectionKind's value."""
    match outcome:
        case Accepted():
            return "accepted"
        case Rejected(is_unmapped=True):
            return "unmapped"
        case Rejected(kind):
            return kind.value
        case RetryLater():
            return "retry_later"
        case Unknown():
            return "unknown"


def log_outcome(claimed: ClaimedMessage, sender: str, outcome: Outcome) -> None:
    """Say what did not go well; details were scrubbed on their way here."""
    if isinstance(outcome, Accepted):
        return
    level, word = logging.WARNING if isinstance(outcome, Unknown) else logging.INFO, word_of(outcome)
    if isinstance(outcome, Rejected):
        # That no table knows the code stands in the detail.
        word = outcome.kind.value
        if RULES[outcome.kind].needs_operator or outcome.is_unmapped:
            level = logging.ERROR
    _log.log(level, "message %s: sender %s: %s %s", claimed.message_id, sender, word, outcome.detail)


def log_may_have(claimed: ClaimedMessage, senders: Sequence[str]) -> None:
    """Say who may have a message that ends without anybody's knowing."""
    _log.warning("message %s may have been sent by %s", claimed.message_id, ", ".join(senders))
