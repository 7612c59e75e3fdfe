"""What goes over the wire of the OTP calls. These structs belong to the callers: they change by addition only.

A send and a verify take both spellings of ZimSend (its guide's and its specification's) beside our own, nulls
included; a field that is given twice in different spellings must agree. Unknown fields are refused.
"""

from typing import Annotated, Any, TypeVar

import msgspec

from otpsvc.errors import problem
from otpsvc.events.history import Step
from otpsvc.events.lookup import LookedOtp
from otpsvc.http.v1.times import Time, utc, utc_or_none
from otpsvc.otp.model import OtpView, ResendRequest, SendRequest, SentOtp, VerifiedOtp, VerifyRequest, WrongGuess

_Value = TypeVar("_Value", int, str)


class SendBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/otp` and `POST /v1/sms/send-otp`."""

    to: str
    purpose: str | None = None
    code_length: int | None = None
    length: int | None = None
    ttl_s: int | None = None
    expiry: int | None = None
    expiry_minutes: int | None = None
    template: str | None = None
    locale: str | None = None
    session: str | None = None
    end_user_ip: str | None = None
    metadata: dict[str, Any] | None = None
    webhook_url: None = None

    def to_request(self, device_id: str | None = None) -> SendRequest:
        """Fold the spellings into one; raises ApiError VALIDATION_ERROR where they disagree."""
        minutes = self.expiry_minutes
        return SendRequest(
            to=self.to,
            purpose=self.purpose,
            code_length=_agreed(code_length=self.code_length, length=self.length),
            ttl_s=_agreed(
                ttl_s=self.ttl_s, expiry=self.expiry, expiry_minutes=minutes * 60 if minutes is not None else None
            ),
            template=self.template,
            locale=self.locale,
            session=self.session,
            end_user_ip=self.end_user_ip,
            metadata=self.metadata,
            device_id=device_id,
        )


class VerifyBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/otp/{otp_id}/verify`."""

    code: str
    to: str | None = None
    phone: str | None = None
    # An empty purpose is a mistake of the caller's, and must not be read as "any".
    purpose: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    session: str | None = None

    def to_request(self, otp_id: str) -> VerifyRequest:
        """Join the body with the id of the path."""
        return VerifyRequest(
            otp_id=otp_id,
            code=self.code,
            to=_agreed(to=self.to, phone=self.phone),
            purpose=self.purpose,
            session=self.session,
        )


class VerifyOtpBody(VerifyBody, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/sms/verify-otp`, which names the OTP itself."""

    otp_id: str


class ResendBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The optional body of `POST /v1/otp/{otp_id}/resend`."""

    session: str | None = None
    end_user_ip: str | None = None

    def to_request(self, otp_id: str) -> ResendRequest:
        """Join the body with the id of the path."""
        return ResendRequest(otp_id=otp_id, session=self.session, end_user_ip=self.end_user_ip)


class SendAnswer(msgspec.Struct, kw_only=True):
    """What a send or resend answers: all that a user interface needs. `to` is masked; times are UTC."""

    success: bool = True
    otp_id: str
    message_id: str
    to: str
    purpose: str
    status: str
    channel: str
    code_length: int
    expires_at: Time
    resend_at: Time
    attempts_remaining: int

    @classmethod
    def of(cls, sent: SentOtp) -> "SendAnswer":
        """Write an accepted send."""
        return cls(
            otp_id=sent.otp_id,
            message_id=sent.message_id,
            to=sent.to,
            purpose=sent.purpose,
            status=sent.status,
            channel=sent.channel,
            code_length=sent.code_length,
            expires_at=utc(sent.expires_at),
            resend_at=utc(sent.resend_at),
            attempts_remaining=sent.attempts_remaining,
        )


class VerifiedAnswer(msgspec.Struct, kw_only=True):
    """What a right guess answers."""

    success: bool = True
    valid: bool = True
    message: str
    otp_id: str
    to: str
    purpose: str
    metadata: dict[str, Any] | None
    verified_at: Time

    @classmethod
    def of(cls, verified: VerifiedOtp, message: str) -> "VerifiedAnswer":
        """Write a consumed OTP."""
        return cls(
            message=message,
            otp_id=verified.otp_id,
            to=verified.to,
            purpose=verified.purpose,
            metadata=verified.metadata,
            verified_at=utc(verified.verified_at),
        )


class WrongAnswer(msgspec.Struct, kw_only=True):
    """What a wrong guess answers: with status 200, as the call itself worked."""

    success: bool = True
    valid: bool = False
    message: str
    otp_id: str
    attempts_remaining: int

    @classmethod
    def of(cls, wrong: WrongGuess, message: str) -> "WrongAnswer":
        """Write a counted wrong guess."""
        return cls(message=message, otp_id=wrong.otp_id, attempts_remaining=wrong.attempts_remaining)


class OtpAnswer(msgspec.Struct, kw_only=True):
    """What `DELETE /v1/otp/{otp_id}` answers, and all but the history of what `GET` does."""

    success: bool = True
    otp_id: str
    message_id: str
    message_status: str | None
    message_parts: int | None
    message_reason: str | None
    to: str
    purpose: str
    status: str
    channel: str
    code_length: int
    attempts_remaining: int
    resends_remaining: int
    created_at: Time
    expires_at: Time
    resend_at: Time
    ended_at: Time | None
    metadata: dict[str, Any] | None

    @classmethod
    def of(cls, view: OtpView) -> "OtpAnswer":
        """Write one OTP for its owner."""
        return cls(
            otp_id=view.otp_id,
            message_id=view.message_id,
            message_status=view.message_status,
            message_parts=view.message_parts,
            message_reason=view.message_reason,
            to=view.to,
            purpose=view.purpose,
            status=view.status,
            channel=view.channel,
            code_length=view.code_length,
            attempts_remaining=view.attempts_remaining,
            resends_remaining=view.resends_remaining,
            created_at=utc(view.created_at),
            expires_at=utc(view.expires_at),
            resend_at=utc(view.resend_at),
            ended_at=utc_or_none(view.ended_at),
            metadata=view.metadata,
        )


class HistoryEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One step of an OTP's life. What it does not have is left out."""

    event: str
    at: Time
    message_id: str | None = None
    attempt: int | None = None
    sender: str | None = None
    reason: str | None = None
    device_id: str | None = None

    @classmethod
    def of(cls, step: Step) -> "HistoryEntry":
        """Write one step."""
        return cls(
            event=step.name,
            at=utc(step.at),
            message_id=step.message_id,
            attempt=step.attempt,
            sender=step.sender,
            reason=step.reason,
            device_id=step.device_id,
        )


class OtpHistoryAnswer(OtpAnswer, kw_only=True):
    """What `GET /v1/otp/{otp_id}` answers. `history` is oldest first, and null while it cannot be read."""

    history: list[HistoryEntry] | None

    @classmethod
    def of_looked(cls, looked: LookedOtp) -> "OtpHistoryAnswer":
        """Write one OTP with what happened to it."""
        facts = msgspec.structs.asdict(OtpAnswer.of(looked.view))
        steps = looked.steps
        return cls(**facts, history=[HistoryEntry.of(step) for step in steps] if steps is not None else None)


def _agreed(**spellings: _Value | None) -> _Value | None:
    given = {name: value for name, value in spellings.items() if value is not None}
    if len(set(given.values())) > 1:
        names = " and ".join(given)
        raise problem("VALIDATION_ERROR", details={"field": next(iter(given)), "reason": f"{names} differ"})
    return next(iter(given.values()), None)
