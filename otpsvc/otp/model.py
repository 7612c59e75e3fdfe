"""What an OTP is and what each call on it takes and gives. Times are ms since 1970 on the store's clock."""

from enum import StrEnum
from typing import Any

import msgspec


class OtpStatus(StrEnum):
    """The states of an OTP. All but `pending` are final."""

    PENDING = "pending"
    VERIFIED = "verified"
    EXPIRED = "expired"
    LOCKED = "locked"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class SendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A send as the caller means it; None takes the client's policy or the default.

    `device_id` pins it to one of the client's phones.
    """

    to: str
    purpose: str | None = None
    code_length: int | None = None
    ttl_s: int | None = None
    template: str | None = None
    locale: str | None = None
    session: str | None = None
    end_user_ip: str | None = None
    metadata: dict[str, Any] | None = None
    device_id: str | None = None

    def __repr__(self) -> str:
        """Hide the number."""
        return "SendRequest(…)"


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A guess, and what it must belong to where the caller says so."""

    otp_id: str
    code: str
    to: str | None = None
    purpose: str | None = None
    session: str | None = None

    def __repr__(self) -> str:
        """Hide the guess and the number."""
        return f"VerifyRequest(otp_id={self.otp_id!r}, …)"


class ResendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Another code for the same OTP."""

    otp_id: str
    session: str | None = None
    end_user_ip: str | None = None

    def __repr__(self) -> str:
        """Hide whose it is."""
        return f"ResendRequest(otp_id={self.otp_id!r}, …)"


class SentOtp(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted send or resend: all that a user interface needs to show. `to` is masked."""

    otp_id: str
    message_id: str
    to: str
    purpose: str
    status: str
    channel: str
    code_length: int
    expires_at: int
    resend_at: int
    attempts_remaining: int
    is_replay: bool = False


class VerifiedOtp(msgspec.Struct, frozen=True, kw_only=True):
    """The guess was right, and this call consumed the OTP."""

    otp_id: str
    to: str
    purpose: str
    metadata: dict[str, Any] | None
    verified_at: int
    is_replay: bool = False


class WrongGuess(msgspec.Struct, frozen=True, kw_only=True):
    """The guess was wrong and counted."""

    otp_id: str
    attempts_remaining: int
    is_replay: bool = False


class OtpView(msgspec.Struct, frozen=True, kw_only=True):
    """One OTP as its owner may see it. `to` is masked; `ended_at` is None while it is pending or expired unread."""

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
    created_at: int
    expires_at: int
    resend_at: int
    ended_at: int | None
    metadata: dict[str, Any] | None


class SealedRecipient(msgspec.Struct, frozen=True):
    """What a resend needs and the store may not read: sealed in the OTP's record."""

    to: str
    template: str | None
    locale: str | None
    device_id: str = ""

    def __repr__(self) -> str:
        """Hide the number."""
        return "SealedRecipient(…)"
