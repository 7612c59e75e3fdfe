"""Events as the scripts write them, for every test that needs some."""

from typing import Any

from otpsvc import ids
from otpsvc.events.model import Event

CLIENT, OTHER_CLIENT = "client_100000000001", "client_100000000002"
NOON = 1_785_067_200_000  # 2026-07-26 12:00 UTC
DAY_MS = 86_400_000
TO, TO_INDEX, TEXT = "+44 •••• ••1234", "0123456789abcdef" * 2, "Your code is ••••••"
SEALED = b"\x00\xff\xfe sealed \x80"


def otp_id() -> str:
    return ids.new_otp_id(partition=0, slot=b"ab", profile=1).text


def message_id() -> str:
    return ids.new_message_id(partition=0).text


def event(name: str, at: int = NOON, **given: Any) -> Event:
    """An event with ids of its own, but for those that are given; all other names are details."""
    own = {"event_id": ids.new_event_id(), "otp_id": otp_id(), "message_id": message_id(), "client_id": CLIENT}
    fields = {key: given.pop(key, value) for key, value in own.items()}
    sealed = given.pop("to_sealed", b"")
    mode = given.pop("mode", "live")
    return Event(name=name, mode=mode, occurred_at=at, to_sealed=sealed, data=given, **fields)


def sent(at: int = NOON, name: str = "otp.sent", **given: Any) -> Event:
    """A code on its way: the OTP's first, or by name a resend."""
    details = {
        "channel": "sms",
        "parts": "1",
        "to": TO,
        "to_index": TO_INDEX,
        "to_sealed": SEALED,
        "text": TEXT,
        "purpose": "login",
        "code_length": "6",
        "max_attempts": "3",
        "expires_at": str(at + 300_000),
        "resend_at": str(at + 30_000),
        "metadata": '{"order":"\\u0000 7"}',
    }
    return event(name, at, **(details | given))


def of_message(name: str, begun: Event, after_ms: int, **details: str) -> Event:
    """What became of the message that began with an event."""
    return event(
        name,
        begun.occurred_at + after_ms,
        otp_id=begun.otp_id,
        message_id=begun.message_id,
        client_id=begun.client_id,
        mode=begun.mode,
        **({"created_at": str(begun.occurred_at), "channel": "sms", "tries": "1"} | details),
    )


def of_otp(name: str, begun: Event, after_ms: int, **details: str) -> Event:
    """What became of the OTP that began with an event."""
    return event(
        name,
        begun.occurred_at + after_ms,
        otp_id=begun.otp_id,
        message_id=begun.message_id,
        client_id=begun.client_id,
        mode=begun.mode,
        **details,
    )


def life(at: int = NOON, **given: Any) -> list[Event]:
    """An OTP from its send to its verification, its message taken at the second try."""
    begun = sent(at, **given)
    return [
        begun,
        of_message("message.postponed", begun, 100, reason="retry_later", tries="1"),
        of_message("message.sent", begun, 900, sender="main", provider_id="p-1", tries="2"),
        of_otp("otp.rejected", begun, 5000, attempt="1"),
        of_otp("otp.verified", begun, 9000, attempt="2"),
    ]


def lives(count: int, at: int = NOON) -> list[Event]:
    return [event for n in range(count) for event in life(at + n)]


def fields_of(one: Event) -> dict[bytes, bytes]:
    """The event as it stands in the stream."""
    named = {
        "event_id": one.event_id,
        "event": one.name,
        "otp_id": one.otp_id,
        "message_id": one.message_id,
        "client": one.client_id,
        "mode": one.mode,
        "occurred_at": str(one.occurred_at),
        **one.data,
    }
    fields = {key.encode(): value.encode() for key, value in named.items()}
    return fields | {b"to_sealed": one.to_sealed} if one.to_sealed else fields


def without_personal(one: Event) -> Event:
    """The event as the history gives it back."""
    kept = {key: value for key, value in one.data.items() if key not in {"to", "to_index", "text", "metadata"}}
    return Event(
        event_id=one.event_id,
        name=one.name,
        client_id=one.client_id,
        mode=one.mode,
        otp_id=one.otp_id,
        message_id=one.message_id,
        occurred_at=one.occurred_at,
        data=kept,
    )
