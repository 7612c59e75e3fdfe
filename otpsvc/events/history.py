"""What became of an OTP, told from its events: for its owner, when the living record is gone.

A pure fold. What is personal (`to`, `metadata`) is in no event of the history: it comes with the newest message, and is
empty once the number was forgotten or the message is past its time.
"""

from collections.abc import Sequence

import msgspec

from otpsvc.events.model import ENDINGS, RESENT, SENT, Event
from otpsvc.messages.model import MessageView

_GUESSES = ("otp.rejected", "otp.verified")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event as the owner may see it. `at` is ms since 1970; details that the event does not have are None.

    The `reason` of a `message.tried` is its outcome: why that sender did not take the message, or `silent`; that of a
    `message.taken_over` why the phone `device_id` lost it.
    """

    name: str
    at: int
    message_id: str | None
    reason: str | None
    sender: str | None
    attempt: int | None
    device_id: str | None


class OtpHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that an OTP's events add up to, and its steps, oldest first.

    Times are ms since 1970 on the store's clock. `to` is masked, `metadata` JSON text; both may be empty. `resends`
    counts the codes after the first. `ended_at` is None while it is pending or expired unread.
    """

    otp_id: str
    status: str
    message_id: str
    message_status: str | None
    message_reason: str | None
    message_parts: int | None
    to: str
    purpose: str
    channel: str
    code_length: int
    attempts_remaining: int
    resends: int
    created_at: int
    expires_at: int
    resend_at: int
    ended_at: int | None
    metadata: str
    steps: list[Step]


def history_of(events: Sequence[Event], message: MessageView | None, *, now: int) -> OtpHistory | None:
    """Fold the events of one OTP, in any order, and its newest message if it is still kept.

    `now` is ms since 1970: an OTP whose time is over is expired, whoever has written that down. None where the event
    that it began with is not there, or its details were unreadable.
    """
    ordered = sorted(events, key=lambda event: (event.occurred_at, _place(event.name), event.event_id))
    codes = [event for event in ordered if event.name in (SENT, RESENT)]
    if not codes or codes[0].name != SENT:
        return None
    first, newest = codes[0], codes[-1]
    expires_at, resend_at = _number(newest, "expires_at"), _number(newest, "resend_at")
    code_length, max_attempts = _number(first, "code_length"), _number(first, "max_attempts")
    if expires_at is None or code_length is None or max_attempts is None:
        return None
    ending = next((event for event in ordered if event.name in ENDINGS), None)
    attempts = max((_number(event, "attempt") or 0 for event in ordered if event.name in _GUESSES), default=0)
    status = ENDINGS[ending.name] if ending else "expired" if expires_at <= now else "pending"
    return OtpHistory(
        otp_id=first.otp_id,
        status=status,
        message_id=newest.message_id,
        message_status=message.status if message else None,
        message_reason=message.reason if message else None,
        message_parts=_number(newest, "parts"),
        to=message.to if message else "",
        purpose=first.data.get("purpose", ""),
        channel=newest.data.get("channel", ""),
        code_length=code_length,
        attempts_remaining=0 if status == "locked" else max(0, max_attempts - attempts),
        resends=len(codes) - 1,
        created_at=first.occurred_at,
        expires_at=expires_at,
        resend_at=resend_at if resend_at is not None else newest.occurred_at,
        ended_at=ending.occurred_at if ending else None,
        metadata=message.metadata if message else "",
        steps=[_step(event) for event in ordered],
    )


def _place(name: str) -> int:
    """Order what happened within one millisecond: a beginning before all else, the end of the OTP after it."""
    return 0 if name in (SENT, RESENT) else 2 if name in ENDINGS else 1


def _number(event: Event, key: str) -> int | None:
    text = event.data.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _step(event: Event) -> Step:
    return Step(
        name=event.name,
        at=event.occurred_at,
        message_id=event.message_id or None,
        reason=event.data.get("reason") or event.data.get("outcome") or None,
        sender=event.data.get("sender") or None,
        attempt=_number(event, "attempt"),
        device_id=event.data.get("device") or None,
    )
