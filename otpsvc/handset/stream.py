"""Reading `text/event-stream`: bytes in as they come, events out. No connection in here.

A line or an event that grows without end is refused, so that a broken server cannot fill a phone's memory.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

_MOST_BYTES = 65_536


class StreamError(ValueError):
    """What arrives is no stream of events."""


class ServerEvent(NamedTuple):
    """One event: its name, and its data read as JSON, None where it has none that can be read."""

    name: str
    data: Any = None


class EventReader:
    """Puts events together from pieces that break anywhere, also between the two characters of a line end."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._had_return = False
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Take the next bytes and yield the events that they complete; raise StreamError."""
        if not piece:
            return
        if self._had_return:
            piece = piece.removeprefix(b"\n")
        self._had_return = piece.endswith(b"\r")
        *whole, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in whole:
            line = bytes(self._line) + part
            self._line.clear()
            event = self._take(line)
            if event is not None:
                yield event
        self._line += rest
        if len(self._line) > _MOST_BYTES:
            raise StreamError("a line without end")

    def _take(self, raw: bytes) -> ServerEvent | None:
        line = raw.decode("utf-8", "replace")
        if not line:
            event = ServerEvent(self._name or "message", _json("\n".join(self._data))) if self._holds_one else None
            self._name, self._data, self._size = "", [], 0
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._size += len(raw)
            if self._size > _MOST_BYTES:
                raise StreamError("an event without end")
            self._data.append(value)
        return None

    @property
    def _holds_one(self) -> bool:
        # A browser drops an event without data; a phone must not miss that a message waits for it.
        return bool(self._name or self._data)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text) if text else None
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
