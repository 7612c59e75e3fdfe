"""What a sender may never say aloud: the text, the code, the number and its own secrets, in whatever it hands back.

What it logs and prints meanwhile counts too, by whatever logger and at whatever level. The words found are not
repeated in the failure that tells of them.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO, cast

import msgspec

from otpsvc.senders.contract import OutboundMessage, Secret

_SHORTEST_SECRET = 4  # what is shorter stands in other words by chance


def secrets_in(value: object) -> set[str]:
    """Reveal every `Secret` of a settings struct, also inside structs, lists and tables."""
    match value:
        case Secret():
            return {value.reveal()} if len(value.reveal()) >= _SHORTEST_SECRET else set()
        case msgspec.Struct():
            return secrets_in(list(msgspec.structs.asdict(value).values()))
        case Mapping():
            return secrets_in(list(value.values()))
        case list() | tuple() | set() | frozenset():
            return set().union(*map(secrets_in, value))
    return set()


def breach(said: object, message: OutboundMessage | None, secrets: Iterable[str]) -> str | None:
    """Name what `said` gives away when it is printed, or None."""
    shown = f"{said!r} {said}"
    if any(secret in shown for secret in secrets):
        return "a secret"
    if message is None:
        return None
    if message.to[1:] in shown or message.to[4:] in re.sub(r"[\s().-]", "", shown):
        return "the number"
    if message.text in shown or any(_stands_alone(code, shown) for code in re.findall(r"\d{4,10}", message.text)):
        return "the text or its code"
    return None


class Heard:
    """What was logged and what was printed while somebody listened."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        self.printed: list[str] = []

    @property
    def logged(self) -> str:
        """Every log line, with its traceback and with what was given besides (`extra`), which some formats write."""
        return "\n".join(map(_line, self.records))


class _Echo:
    """Stands before a stream, and lets listeners hear what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO, ears: "_Ears") -> None:
        self._stream = stream
        self._ears = ears

    def write(self, text: str) -> int:
        for heard in self._ears.listeners:
            heard.printed.append(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Ears:
    """Hear everything for as long as somebody listens; calls under way together share them.

    Records are heard where they are made, because not every logger hands its own on to the root.
    """

    def __init__(self) -> None:
        self.listeners: list[Heard] = []

    def open(self) -> None:
        self._level, self._make = logging.getLogger().level, logging.getLogRecordFactory()
        logging.getLogger().setLevel(logging.DEBUG)
        logging.setLogRecordFactory(self._record)
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = (cast("TextIO", _Echo(stream, self)) for stream in self._streams)

    def close(self) -> None:
        logging.getLogger().setLevel(self._level)
        logging.setLogRecordFactory(self._make)
        sys.stdout, sys.stderr = self._streams

    def _record(self, *given: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*given, **named)
        for heard in self.listeners:
            heard.records.append(record)
        return record


_ears = _Ears()


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    """Collect what is logged meanwhile, by libraries and at the level debug too, and what is printed."""
    if not _ears.listeners:
        _ears.open()
    heard = Heard()
    _ears.listeners.append(heard)
    try:
        yield heard
    finally:
        _ears.listeners.remove(heard)
        if not _ears.listeners:
            _ears.close()


_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_format = logging.Formatter().format


def _line(record: logging.LogRecord) -> str:
    besides = {name: value for name, value in vars(record).items() if name not in _USUAL}
    return f"{_format(record)} {besides or ''}"


def _stands_alone(code: str, shown: str) -> bool:
    return re.search(rf"(?<![0-9a-zA-Z]){code}(?![0-9a-zA-Z])", shown) is not None
