"""What goes over the wire of the message calls: ZimSend's answer and what ours says more. Changes by addition only."""

from typing import Any

import msgspec

from otpsvc.errors import CATALOGUE
from otpsvc.http.v1.times import Time, utc, utc_or_none
from otpsvc.messages.model import MessageStatus, MessageView
from otpsvc.senders.contract import ERROR_OF

# ZimSend sends codes at its highest priority. All our messages are codes.
PRIORITY = 1

_GONE_OUT = (MessageStatus.SENT, MessageStatus.DELIVERED)

# Why a message failed where no sender refused it.
_OWN_REASONS = {
    "no_sender": "GATEWAY_UNAVAILABLE",
    "no_time_left": "SMS_SEND_TIMEOUT",
    "retry_later": "GATEWAY_UNAVAILABLE",
    "unknown_outcome": "SMS_SEND_TIMEOUT",
    "unreadable": "INTERNAL_ERROR",
}
_ERROR_OF_REASON = {**_OWN_REASONS, **{kind.value: code for kind, code in ERROR_OF.items()}}


class MessageError(msgspec.Struct):
    """Why a message failed, in the words of the catalogue of errors; `message` is English."""

    code: str
    message: str

    @classmethod
    def of(cls, view: MessageView) -> "MessageError | None":
        """Give the error of a message that failed, None for any other."""
        if view.status != MessageStatus.FAILED:
            return None
        code = _ERROR_OF_REASON.get(view.reason or "", "GATEWAY_ERROR")
        return cls(code, CATALOGUE[code].message["en"])


class MessageAnswer(msgspec.Struct, kw_only=True):
    """What `GET /v1/messages/{message_id}` answers.

    `to` is masked, and so is the code in `message`; both are empty once the number was forgotten. Times are UTC.
    """

    success: bool = True
    message_id: str
    otp_id: str
    status: str
    to: str
    message: str
    priority: int = PRIORITY
    channel: str
    parts: int | None
    sender: str | None
    reason: str | None
    error: MessageError | None
    created_at: Time
    queued_at: Time
    sent_at: Time | None
    delivered_at: Time | None
    ended_at: Time | None
    expires_at: Time | None
    metadata: dict[str, Any] | None

    @classmethod
    def of(cls, view: MessageView) -> "MessageAnswer":
        """Write one message for its owner."""
        created_at = utc(view.created_at)
        return cls(
            message_id=view.message_id,
            otp_id=view.otp_id,
            status=view.status,
            to=view.to,
            message=view.text,
            channel=view.channel,
            parts=view.parts,
            sender=view.sender,
            # While the next sender is looked for, a living record also says why the last one failed.
            reason=view.reason if view.status not in _GONE_OUT else None,
            error=MessageError.of(view),
            created_at=created_at,
            # The step that accepts a message queues it.
            queued_at=created_at,
            sent_at=utc_or_none(view.sent_at),
            delivered_at=utc_or_none(view.delivered_at),
            # What was sent may still be delivered or fail.
            ended_at=utc_or_none(view.ended_at) if view.status != MessageStatus.SENT else None,
            expires_at=utc_or_none(view.expires_at),
            metadata=msgspec.json.decode(view.metadata, type=dict[str, Any]) if view.metadata else None,
        )
