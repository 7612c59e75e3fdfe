"""What goes over the wire of the message calls: ZimSend's answer and what ours says more. Changes by addition only."""

from typing import Any

import msgspec

from otpsvc.http.v1.times import Time, utc, utc_or_none
from otpsvc.messages.model import MessageStatus, MessageView

# ZimSend sends codes at its highest priority. All our messages are codes.
PRIORITY = 1


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
            reason=view.reason,
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
