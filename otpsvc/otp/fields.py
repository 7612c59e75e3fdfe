"""The fields of a request, each checked against its bounds and given the client's default.

Every check raises ApiError, VALIDATION_ERROR where nothing else is said; its details name the field and the reason,
never the value.
"""

import ipaddress
import re
from typing import Any

import msgspec

from otpsvc import phone
from otpsvc.errors import ApiError, problem
from otpsvc.ids import MalformedId, OtpId, parse_device_id, parse_otp_id
from otpsvc.otp.policy import (
    MAX_CODE_LENGTH,
    MAX_TTL_S,
    MIN_CODE_LENGTH,
    MIN_TTL_S,
    PURPOSES,
    Policy,
)

MAX_METADATA_BYTES = 1024  # ZimSend's limit
MAX_SESSION_LENGTH = 128
IPV6_END_USER_BITS = 64  # what one household or phone gets: a single address would be no limit

_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,3}\Z")  # the usual part of BCP 47


def invalid(field: str, reason: str) -> ApiError:
    """Make the refusal of one field."""
    return problem("VALIDATION_ERROR", details={"field": field, "reason": reason})


def purpose(given: str | None, policy: Policy) -> str:
    """Give the purpose, `verification` where none is named."""
    chosen = given if given is not None else PURPOSES[0]
    if not policy.allows_purpose(chosen):
        allowed = f"one of {', '.join(policy.purposes)}" if policy.purposes else "[a-z][a-z0-9_]{0,31}"
        raise invalid("purpose", f"expected {allowed}")
    return chosen


def code_length(given: int | None, policy: Policy) -> int:
    """Give the number of digits."""
    if given is None:
        return policy.code_length
    if not MIN_CODE_LENGTH <= given <= MAX_CODE_LENGTH:
        raise invalid("code_length", f"expected {MIN_CODE_LENGTH} to {MAX_CODE_LENGTH}")
    return given


def ttl_s(given: int | None, policy: Policy) -> int:
    """Give the code's life in seconds."""
    if given is None:
        return policy.ttl_s
    if not MIN_TTL_S <= given <= MAX_TTL_S:
        raise invalid("ttl_s", f"expected {MIN_TTL_S} to {MAX_TTL_S} seconds")
    return given


def otp_id(given: str) -> OtpId:
    """Give a parsed id; a malformed one looks like an unknown one: raises ApiError OTP_NOT_FOUND."""
    try:
        return parse_otp_id(given)
    except MalformedId:
        raise problem("OTP_NOT_FOUND") from None


def device_id(given: str | None) -> str:
    """Give the id of the phone that a send is pinned to, empty for none; raises ApiError INVALID_DEVICE_ID."""
    try:
        return parse_device_id(given) if given is not None else ""
    except MalformedId:
        raise problem("INVALID_DEVICE_ID") from None


def number(given: str) -> str:
    """Give a number as E.164; raises ApiError INVALID_PHONE_NUMBER."""
    try:
        return phone.normalise(given)
    except phone.InvalidNumber as error:
        raise problem("INVALID_PHONE_NUMBER", details={"field": "to", "reason": error.reason}) from None


def metadata(given: dict[str, Any] | None) -> str:
    """Give the metadata as JSON text, empty where there is none."""
    if given is None:
        return ""
    encoded = msgspec.json.encode(given)
    if len(encoded) > MAX_METADATA_BYTES:
        raise invalid("metadata", f"expected at most {MAX_METADATA_BYTES} bytes of JSON")
    return encoded.decode()


def metadata_of(text: str) -> dict[str, Any] | None:
    """Give stored metadata back as an object, None where there was none."""
    return msgspec.json.decode(text, type=dict[str, Any]) if text else None


def session(given: str | None) -> str | None:
    """Give the caller's session word, which is opaque to us."""
    if given is not None and not 1 <= len(given) <= MAX_SESSION_LENGTH:
        raise invalid("session", f"expected 1 to {MAX_SESSION_LENGTH} characters")
    return given


def locale(given: str | None) -> str | None:
    """Give the language tag of the text."""
    if given is not None and _LANGUAGE_TAG.match(given) is None:
        raise invalid("locale", "expected a language tag such as fr or fr-CA")
    return given


def end_user_network(given: str | None) -> str | None:
    """Give the network that an end user's address is counted under: IPv4 whole, IPv6 by its first 64 bits."""
    if given is None:
        return None
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        raise invalid("end_user_ip", "expected an IPv4 or IPv6 address") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), IPV6_END_USER_BITS), strict=False))
    return str(address)
