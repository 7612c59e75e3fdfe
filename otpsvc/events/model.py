"""What an event is, and how one is read from the flat fields of a stream entry.

An event that cannot be read must never hold up the others: it has a stand-in, which keeps its place and its ids where
they are readable and says nothing else. Details of unreadable events belong in no log line either.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

SENT, RESENT = "otp.sent", "otp.resent"
ENDINGS = {
    "otp.verified": "verified",
    "otp.locked": "locked",
    "otp.superseded": "superseded",
    "otp.expired": "expired",
    "otp.cancelled": "cancelled",
}
MESSAGE_PREFIX = "message."

# What is about a person, or in a person's words. PostgreSQL keeps it with the message and nowhere else, so that one
# table has to be touched to forget a number.
PERSONAL = frozenset({"to", "to_index", "text", "metadata"})

END_OF_TIME_MS = 253_370_764_800_000  # the year 9999: the last one is taken for infinity by some
_PLAIN = re.compile(r"[\x20-\x7e]{0,100}")
_HEADER = {b"event_id", b"event", b"otp_id", b"message_id", b"client", b"mode", b"occurred_at", b"to_sealed"}
_NUMBER = re.compile(r"[0-9]{1,15}")
_ENTRY_TIME = re.compile(r"([0-9]{1,15})-[0-9]+")


class UnreadableEvent(ValueError):
    """A stream entry is not an event; the message names the field, never its value."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One fact.

    `occurred_at` is ms since 1970 on the store's clock. `data` holds the details as text, by the event's name, but
    `to_sealed`, the sealed number of `otp.sent` and `otp.resent`. Read back from PostgreSQL, an event has nothing
    personal in it: neither `to_sealed` nor the fields of `PERSONAL`.
    """

    event_id: str
    name: str
    client_id: str
    mode: str
    otp_id: str
    message_id: str
    occurred_at: int
    data: dict[str, str]
    to_sealed: bytes = b""

    def __repr__(self) -> str:
        """Hide the details: a rendered text and a number are among them."""
        return f"Event({self.event_id!r}, {self.name!r}, …)"


class StreamEntry(NamedTuple):
    """An event and its place in the stream of a partition."""

    partition: int
    entry_id: str
    event: Event


class Backlog(NamedTuple):
    """How many events wait to be written, and for how long the oldest has waited: 0.0 where none does."""

    unwritten: int
    oldest_age_s: float


def event_of(fields: Mapping[bytes, bytes]) -> Event:
    """Read a stream entry; raise UnreadableEvent."""
    event = Event(
        event_id=_text(fields, b"event_id"),
        name=_text(fields, b"event"),
        client_id=_text(fields, b"client"),
        mode=_text(fields, b"mode"),
        otp_id=_text(fields, b"otp_id"),
        message_id=_text(fields, b"message_id"),
        occurred_at=_time(_text(fields, b"occurred_at"), "occurred_at"),
        data={_name(key): _text(fields, key) for key in fields if key not in _HEADER},
        to_sealed=fields.get(b"to_sealed", b""),
    )
    if not event.event_id or not event.name:
        raise UnreadableEvent("event_id or event is empty")
    if event.name.startswith(MESSAGE_PREFIX):
        # Without it nobody could tell which of the daily tables the message is in.
        _time(event.data.get("created_at", ""), "created_at")
    return event


def event_or_stand_in(fields: Mapping[bytes, bytes], *, partition: int, entry_id: str) -> Event:
    """Read a stream entry, or make its stand-in: the same one each time, at the time that the entry's id tells."""
    try:
        return event_of(fields)
    except UnreadableEvent:
        written = _ENTRY_TIME.fullmatch(entry_id)
        place = f"unreadable-{partition}-{entry_id}"
        return stand_in(
            Event(
                event_id=_lenient(fields, b"event_id") or place,
                name=_lenient(fields, b"event") or "unreadable",
                client_id=_lenient(fields, b"client"),
                mode=_lenient(fields, b"mode"),
                otp_id=_lenient(fields, b"otp_id"),
                message_id=_lenient(fields, b"message_id"),
                occurred_at=int(written[1]) if written else 0,
                data={},
            )
        )


def stand_in(event: Event) -> Event:
    """Return what can be written of an event that a store refuses: its ids where they are plain text, no details."""
    return Event(
        event_id=_plain(event.event_id),
        name=_plain(event.name),
        client_id=_plain(event.client_id),
        mode=_plain(event.mode),
        otp_id=_plain(event.otp_id),
        message_id=_plain(event.message_id),
        occurred_at=min(max(event.occurred_at, 0), END_OF_TIME_MS - 1),
        data={"is_unreadable": "true"},
    )


def _text(fields: Mapping[bytes, bytes], key: bytes) -> str:
    try:
        return fields[key].decode()
    except KeyError:
        raise UnreadableEvent(f"{key.decode()} is missing") from None
    except UnicodeDecodeError:
        raise UnreadableEvent(f"{_name(key)} is not UTF-8") from None


def _lenient(fields: Mapping[bytes, bytes], key: bytes) -> str:
    return fields.get(key, b"").decode(errors="backslashreplace")


def _name(key: bytes) -> str:
    try:
        return key.decode("ascii")
    except UnicodeDecodeError:
        raise UnreadableEvent("the name of a field is not ASCII") from None


def _time(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) >= END_OF_TIME_MS:
        raise UnreadableEvent(f"{name} is not a time in ms")
    return int(text)


def _plain(text: str) -> str:
    """Keep what any store takes; put a digest in the place of anything else, so that it stays one of its kind."""
    if _PLAIN.fullmatch(text):
        return text
    return f"unreadable-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"
