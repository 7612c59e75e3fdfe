"""What events mean for the message they are about: one row per message of a batch.

Two drains may write the events of one message in either order, twice, or in one batch. So a row is a sum that does not
depend on order: `merged` here for the events of a batch, `merge_messages` in sql/queries/events.sql, by the same rules,
for what is in the table already.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, TypeVar

from otpsvc.events.model import MESSAGE_PREFIX, RESENT, SENT, Event
from otpsvc.messages.model import UNKNOWN_OUTCOME, MessageStatus
from otpsvc.postgres.history import moment

T = TypeVar("T", int, str, bytes, datetime)

# An event with another name is about the message's way and not about the message: `message.tried`, for one.
_STATUS = {
    "message.postponed": MessageStatus.QUEUED,
    "message.sent": MessageStatus.SENT,
    "message.delivered": MessageStatus.DELIVERED,
    "message.failed": MessageStatus.FAILED,
    "message.expired": MessageStatus.EXPIRED,
    "message.cancelled": MessageStatus.CANCELLED,
}
_RANK = {MessageStatus.QUEUED: 0, MessageStatus.PROCESSING: 1, MessageStatus.SENT: 2}
_ENDED = 3
_TIMES = 1 << 50  # more ms than there are before the year 9999


class MessageRow(NamedTuple):
    """What is known of a message; the names are those of the columns."""

    created_at: datetime
    message_id: str
    client_id: str
    mode: str
    otp_id: str
    status: str
    precedence: int
    reason: str | None = None
    channel: str | None = None
    parts: int | None = None
    sender: str | None = None
    provider_id: str | None = None
    tries: int = 0
    sent_at: datetime | None = None
    delivered_at: datetime | None = None
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    to_sealed: bytes | None = None
    to_index: str | None = None
    to_masked: str | None = None
    text: str | None = None
    metadata: str | None = None
    sender_precedence: int | None = None


def rows_of(events: Iterable[Event]) -> list[MessageRow]:
    """Sum up what events say about messages; raises ValueError or OverflowError for a detail that is no number."""
    rows: dict[tuple[datetime, str], MessageRow] = {}
    for event in events:
        row = _row(event)
        if row is not None:
            key = (row.created_at, row.message_id)
            rows[key] = merged(rows[key], row) if key in rows else row
    return list(rows.values())


def merged(a: MessageRow, b: MessageRow) -> MessageRow:
    """Sum up two rows of one message, the same whichever comes first."""
    holds = max(a, b, key=lambda row: (row.precedence, row.status, row.reason or ""))
    carried = max(a, b, key=lambda row: (_or_below(row.sender_precedence), row.sender or "", row.provider_id or ""))
    return holds._replace(
        channel=_greatest(a.channel, b.channel),
        parts=_greatest(a.parts, b.parts),
        sender=carried.sender,
        provider_id=carried.provider_id,
        sender_precedence=carried.sender_precedence,
        tries=max(a.tries, b.tries),
        sent_at=_least(a.sent_at, b.sent_at),
        delivered_at=_least(a.delivered_at, b.delivered_at),
        ended_at=_least(a.ended_at, b.ended_at),
        expires_at=_greatest(a.expires_at, b.expires_at),
        to_sealed=_greatest(a.to_sealed, b.to_sealed),
        to_index=_greatest(a.to_index, b.to_index),
        to_masked=_greatest(a.to_masked, b.to_masked),
        text=_greatest(a.text, b.text),
        metadata=_greatest(a.metadata, b.metadata),
    )


def precedence(status: MessageStatus, at_ms: int, reason: str = "") -> int:
    """Say which status holds, the greatest: queued < processing < sent < ended.

    Of two that rank alike the later holds, but an end holds for good: there it is the earlier. What failed with
    `UNKNOWN_OUTCOME` may turn out sent, and what was sent may end so: these two rank alike.
    """
    is_open = status is MessageStatus.FAILED and reason == UNKNOWN_OUTCOME
    rank = _RANK[MessageStatus.SENT] if is_open else _RANK.get(status, _ENDED)
    order = at_ms if rank < _ENDED else _TIMES - 1 - at_ms
    return rank * _TIMES + order


def _row(event: Event) -> MessageRow | None:
    if event.name in (SENT, RESENT):
        return _begun(event)
    if event.name.startswith(MESSAGE_PREFIX) and event.name in _STATUS and "created_at" in event.data:
        return _changed(event, _STATUS[event.name])
    return None


def _begun(event: Event) -> MessageRow | None:
    data = event.data
    if not data.get("channel"):
        # As an earlier version wrote it, or the stand-in of one that was refused: of its message it says nothing.
        return None
    return MessageRow(
        created_at=moment(event.occurred_at),
        message_id=event.message_id,
        client_id=event.client_id,
        mode=event.mode,
        otp_id=event.otp_id,
        status=MessageStatus.QUEUED,
        precedence=precedence(MessageStatus.QUEUED, event.occurred_at),
        channel=data["channel"],
        parts=_number(data.get("parts")),
        expires_at=_moment(data.get("expires_at")),
        to_sealed=event.to_sealed or None,
        to_index=data.get("to_index") or None,
        to_masked=data.get("to") or None,
        text=data.get("text") or None,
        metadata=data.get("metadata") or None,
    )


def _changed(event: Event, status: MessageStatus) -> MessageRow:
    data, at = event.data, moment(event.occurred_at)
    rank = precedence(status, event.occurred_at, data.get("reason", ""))
    return MessageRow(
        created_at=moment(int(data["created_at"])),
        message_id=event.message_id,
        client_id=event.client_id,
        mode=event.mode,
        otp_id=event.otp_id,
        status=status,
        precedence=rank,
        reason=data.get("reason") or None,
        channel=data.get("channel") or None,
        sender=data.get("sender") or None,
        provider_id=data.get("provider_id") or None,
        tries=_number(data.get("tries")) or 0,
        sent_at=at if status is MessageStatus.SENT else None,
        delivered_at=at if status is MessageStatus.DELIVERED else None,
        ended_at=at if status not in _RANK else None,
        # A message may pass from sender to sender: it is the one whose word holds that carried it.
        sender_precedence=rank if data.get("sender") else None,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _moment(text: str | None) -> datetime | None:
    return moment(int(text)) if text else None


def _or_below(value: int | None) -> int:
    return -1 if value is None else value


def _greatest(a: T | None, b: T | None) -> T | None:
    return a if b is None else b if a is None else max(a, b)


def _least(a: T | None, b: T | None) -> T | None:
    return a if b is None else b if a is None else min(a, b)
