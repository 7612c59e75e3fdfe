"""Why a message was refused or failed: the closed list that every gateway's codes are mapped to, and what follows.

Part of the contract, which passes these names on; import them from there.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class RejectionKind(StrEnum):
    """Why a message was surely not sent, or not delivered: the closed list every gateway's codes are mapped to."""

    INVALID_NUMBER = "invalid_number"  # no such number, on any gateway
    BLOCKED = "blocked"  # the recipient opted out, or is on a stop list
    UNSUPPORTED = "unsupported"  # this country, operator, channel or alphabet is not served here
    TEXT_REFUSED = "text_refused"  # content filter, or a template that was not approved
    TOO_LONG = "too_long"
    SENDER_REFUSED = "sender_refused"  # the sender id (origin) is unknown or not permitted
    NO_CREDIT = "no_credit"
    UNAUTHORISED = "unauthorised"  # key, token, scope or address list; suspended account
    MISCONFIGURED = "misconfigured"  # the call itself is wrong: parameter, tariff, unknown device
    UNAVAILABLE = "unavailable"  # nobody took it: connection refused
    NO_DEVICE = "no_device"  # no phone is online and within its budget
    DEVICE_OFFLINE = "device_offline"  # the phone that should send it is not connected, or its radio is off
    SEND_TIMEOUT = "send_timeout"  # the phone had it too long
    UNDELIVERABLE = "undeliverable"  # the network gave up: phone off, absent, radio error
    GATEWAY_ERROR = "gateway_error"  # refused with a code that no table knows


class Rule(NamedTuple):
    """What follows from a rejection: whether the next sender may carry the message, whether an operator must act."""

    next_may_try: bool
    needs_operator: bool


RULES: Mapping[RejectionKind, Rule] = {
    RejectionKind.INVALID_NUMBER: Rule(next_may_try=False, needs_operator=False),
    RejectionKind.BLOCKED: Rule(next_may_try=False, needs_operator=False),
    RejectionKind.UNSUPPORTED: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.TEXT_REFUSED: Rule(next_may_try=True, needs_operator=True),
    RejectionKind.TOO_LONG: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.SENDER_REFUSED: Rule(next_may_try=True, needs_operator=True),
    RejectionKind.NO_CREDIT: Rule(next_may_try=True, needs_operator=True),
    RejectionKind.UNAUTHORISED: Rule(next_may_try=True, needs_operator=True),
    RejectionKind.MISCONFIGURED: Rule(next_may_try=True, needs_operator=True),
    RejectionKind.UNAVAILABLE: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.NO_DEVICE: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.DEVICE_OFFLINE: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.SEND_TIMEOUT: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.UNDELIVERABLE: Rule(next_may_try=True, needs_operator=False),
    RejectionKind.GATEWAY_ERROR: Rule(next_may_try=True, needs_operator=False),
}


# What a caller is told, by the catalogue of errors, where a gateway's own table does not say it better.
ERROR_OF: Mapping[RejectionKind, str] = {
    RejectionKind.INVALID_NUMBER: "INVALID_PHONE_NUMBER",
    RejectionKind.BLOCKED: "BLOCKED_NUMBER",
    RejectionKind.UNSUPPORTED: "GATEWAY_ERROR",
    RejectionKind.TEXT_REFUSED: "INVALID_TEMPLATE",
    RejectionKind.TOO_LONG: "MESSAGE_TOO_LONG",
    RejectionKind.SENDER_REFUSED: "INVALID_SENDER",
    RejectionKind.NO_CREDIT: "NO_CREDIT",
    RejectionKind.UNAUTHORISED: "GATEWAY_ERROR",
    RejectionKind.MISCONFIGURED: "GATEWAY_ERROR",
    RejectionKind.UNAVAILABLE: "GATEWAY_UNAVAILABLE",
    RejectionKind.NO_DEVICE: "NO_DEVICE_AVAILABLE",
    RejectionKind.DEVICE_OFFLINE: "DEVICE_OFFLINE",
    RejectionKind.SEND_TIMEOUT: "SMS_SEND_TIMEOUT",
    RejectionKind.UNDELIVERABLE: "NETWORK_ERROR",
    RejectionKind.GATEWAY_ERROR: "GATEWAY_ERROR",
}
