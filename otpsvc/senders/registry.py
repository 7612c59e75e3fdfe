"""The door: finds senders by their entry points, checks their settings, makes them.

Ours and a stranger's come through the same group. Everything that can be wrong is said at start-up in one line that
names the key or the distribution to mend; no value from the settings is ever repeated in such a line.
"""

import asyncio
import difflib
import inspect
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import Capabilities, Sender, SenderContext

GROUP = "otpsvc.senders"
# Keys of every sender's table that never reach its own struct.
HOUSE_KEYS = frozenset(
    {
        *("type", "rate_per_s", "concurrency", "breaker_failures", "breaker_pause_s"),
        *("missed_receipts", "missed_for_s", "demoted_probe_s"),
    }
)
_CLOSE_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)

AnySender = Sender[Any]
SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)
StructType = type[SettingsT]


class SenderTable(Protocol):
    """The table `[senders.<name>]`, as the settings hold it."""

    type: str

    def read(self, kind: StructType[SettingsT], /) -> SettingsT:
        """Read the rest of the table as that sender's own struct; raise ConfigurationError that names wrong keys."""
        ...


def load_senders(tables: Mapping[str, SenderTable], context: SenderContext) -> dict[str, AnySender]:
    """Make a sender from each table of the settings, by name, order kept.

    Raises ConfigurationError, in words for a person, for anything that would keep one of them from working.
    """
    installed = installed_senders()
    return {name: _make(name, table, installed, context) for name, table in tables.items()}


def installed_senders() -> dict[str, EntryPoint]:
    """Return the sender types that are installed, by type; raise ConfigurationError if two packages claim one."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        # The same distribution may be seen twice, through two entries of the path.
        if (_origin(other), other.value) != (_origin(point), point.value):
            raise ConfigurationError(
                f"sender type {point.name!r} is offered by both {_origin(other)} and {_origin(point)}: "
                "uninstall one of them"
            )
    return found


@asynccontextmanager
async def opened(senders: Iterable[AnySender]) -> AsyncIterator[None]:
    """Open senders in order for the body of a `with`, then close them, also those whose `open` failed.

    They are closed at once, last one first, and left behind where that takes long: however many hang, nobody waits for
    more than one of them.
    """
    begun: list[AnySender] = []
    try:
        for sender in senders:
            begun.append(sender)
            await sender.open()
        yield
    finally:
        await _close_all(begun[::-1])


async def _close_all(senders: Sequence[AnySender]) -> None:
    # Tasks of their own: one that swallows its cancellation holds up nobody.
    closing = {asyncio.create_task(_close(sender)): sender for sender in senders}
    if not closing:
        return
    try:
        _, hanging = await asyncio.wait(closing, timeout=_CLOSE_TIMEOUT_S)
        for task in hanging:
            _log.warning("sender %s did not close: TimeoutError", closing[task].name)
    finally:
        for task in closing:
            task.cancel()


async def _close(sender: AnySender) -> None:
    try:
        await sender.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one sender's bad manners must not keep the others open
        _log.warning("sender %s did not close: %s", sender.name, type(error).__name__)


def _make(
    name: str,
    table: SenderTable,
    installed: Mapping[str, EntryPoint],
    context: SenderContext,
) -> AnySender:
    where = f"senders.{name}"
    kind = table.type
    if kind not in installed:
        raise ConfigurationError(
            f"{where}.type: no sender type {kind!r} is installed{_nearest(kind, installed)}; "
            f"installed types: {_listed(installed)}"
        )
    point = installed[kind]
    sender_class = _load(where, point)
    if sender_class.is_dev_only and not context.is_dev:
        raise ConfigurationError(f"{where}: type {kind!r} shows codes in clear and loads under `otpsvc dev` only")
    settings: msgspec.Struct = table.read(sender_class.Settings)
    try:
        sender = sender_class(name, settings, context)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's: its words may repeat a secret
        raise ConfigurationError(
            f"{where}: {_origin(point)} failed to make the sender: {type(error).__name__}"
        ) from None
    if not isinstance(getattr(sender, "capabilities", None), Capabilities):
        raise ConfigurationError(f"{where}: {_origin(point)} does not say its `capabilities`: ask its author")
    return sender


def _load(where: str, point: EntryPoint) -> type[AnySender]:
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a stranger's code can raise anything
        raise ConfigurationError(
            f"{where}: {_origin(point)} offers {point.value!r}, which cannot be imported: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
    if not (isinstance(loaded, type) and issubclass(loaded, Sender)):
        raise ConfigurationError(f"{where}: {_origin(point)} offers {point.value!r}, which is not a Sender class")
    if inspect.isabstract(loaded):
        missing = ", ".join(sorted(loaded.__abstractmethods__))
        raise ConfigurationError(f"{where}: {_origin(point)} offers {point.value!r}, which lacks {missing}")
    settings: object = loaded.Settings
    if not (isinstance(settings, type) and issubclass(settings, msgspec.Struct)):
        raise ConfigurationError(
            f"{where}: {_origin(point)} offers {point.value!r}, whose Settings is not a msgspec.Struct"
        )
    taken = [field.name for field in msgspec.structs.fields(settings) if field.name in HOUSE_KEYS]
    if taken:
        raise ConfigurationError(
            f"{where}: {_origin(point)} offers {point.value!r}, whose Settings has the key {taken[0]!r}, "
            "which is read by otpsvc itself: its author must give it another name"
        )
    return loaded


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(installed: Mapping[str, EntryPoint]) -> str:
    return ", ".join(sorted(installed)) or "none (is otpsvc itself installed?)"


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"
