"""What a sender may never say aloud: the text, the code, the number and its own secrets, in whatever it hands back.

The words found are not repeated in the failure that tells of them.
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping

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


class _Ear(logging.Handler):
    """Hears everything for as long as somebody listens; calls under way together share it."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[list[str]] = []
        self.level_before = logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        for lines in self.listeners:
            lines.append(self.format(record))


_ear = _Ear()


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Collect every log line that is written meanwhile, those of libraries and of the level debug too."""
    root = logging.getLogger()
    if not _ear.listeners:
        _ear.level_before = root.level
        root.addHandler(_ear)
        root.setLevel(logging.DEBUG)
    lines: list[str] = []
    _ear.listeners.append(lines)
    try:
        yield lines
    finally:
        # By identity: two listeners that have heard the same are equal as lists.
        _ear.listeners[:] = [one for one in _ear.listeners if one is not lines]
        if not _ear.listeners:
            root.removeHandler(_ear)
            root.setLevel(_ear.level_before)


def _stands_alone(code: str, shown: str) -> bool:
    return re.search(rf"(?<![0-9a-zA-Z]){code}(?![0-9a-zA-Z])", shown) is not None
