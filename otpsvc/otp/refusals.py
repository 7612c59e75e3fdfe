"""What each refusal of the store is called in the catalogue (ARCHITECTURE, What each case answers)."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from otpsvc.errors import ApiError, Quota, problem
from otpsvc.otp.policy import Limits, Policy
from otpsvc.otp.ports import Refusal

_HOUR_S = 3600

_CODES = {
    "conflict": "IDEMPOTENCY_CONFLICT",
    "locked_out": "OTP_LOCKED_OUT",
    "cooldown": "OTP_COOLDOWN",
    "number_limit": "OTP_RATE_LIMIT",
    "live_limit": "OTP_RATE_LIMIT",
    "ceiling": "OTP_RATE_LIMIT",
    "address_limit": "RATE_LIMIT_EXCEEDED",
    "resend_limit": "OTP_RESEND_LIMIT",
    "busy": "SERVICE_UNAVAILABLE",
    "undecided": "SERVICE_UNAVAILABLE",
    "not_found": "OTP_NOT_FOUND",
    "fenced": "OTP_NOT_FOUND",
    "expired": "OTP_EXPIRED",
    "locked": "OTP_MAX_ATTEMPTS",
    "no_attempts": "OTP_MAX_ATTEMPTS",
    "format": "INVALID_OTP_FORMAT",
    "ended": "OTP_NOT_PENDING",
}


def refusal_problem(refusal: Refusal, policy: Policy, limits: Limits) -> ApiError:
    """Turn a refusal into the catalogue's error, with the limit it met and when to come back where that is known."""
    details: dict[str, Any] = {}
    retry_after_s = None
    quota = _quota(refusal.status, policy, limits)
    if quota is not None:
        details["limit"] = quota.name
    if refusal.status == "ceiling":
        # When another client's code leaves the window is not for this one to know.
        refusal = msgspec.structs.replace(refusal, allowed_at=refusal.now + _HOUR_S * 1000)
    if refusal.allowed_at is not None:
        details["retry_at"] = _iso(refusal.allowed_at)
        retry_after_s = max(1, -(-(refusal.allowed_at - refusal.now) // 1000))
    if refusal.otp_id is not None:
        details["otp_id"] = refusal.otp_id
        details["resend"] = f"POST /v1/otp/{refusal.otp_id}/resend"
    if refusal.otp_status is not None:
        details["status"] = refusal.otp_status
    if refusal.code_length is not None:
        details["code_length"] = refusal.code_length
    return problem(
        _CODES[refusal.status], details=details, retry_after_s=retry_after_s, quota=quota, reason=refusal.status
    )


def refuse_unreachable(outcome: object, code: str) -> None:
    """Raise `code` where the store took a send for one that nobody can carry.

    It does not where the same operation was accepted before, and tells of some other limits first.
    """
    if isinstance(outcome, Refusal) and outcome.status == "unreachable":
        raise problem(code, reason=outcome.status)


def _quota(status: str, policy: Policy, limits: Limits) -> Quota | None:
    match status:
        case "locked_out":
            return Quota("wrong_guesses", limits.wrong_guesses_per_hour, _HOUR_S)
        case "cooldown":
            return Quota("cooldown", 1, policy.cooldown_s)
        case "number_limit" | "ceiling":
            # The service-wide ceiling shows as the client's own limit: to tell them apart would tell one client about
            # another's traffic.
            return Quota("number", policy.sends_per_hour, _HOUR_S)
        case "address_limit":
            return Quota("end_user_ip", limits.end_user_ip_sends_per_hour, _HOUR_S)
        case "live_limit":
            return Quota("live_sessions", limits.live_sessions, policy.ttl_s)
        case _:
            return None


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
