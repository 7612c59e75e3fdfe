"""What moving, keeping and reading events needs from the outside: `redis` has the streams, `postgres` the history.

Every call raises ApiError SERVICE_UNAVAILABLE where its store is away, never a driver's own error.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from otpsvc.events.model import Backlog, Event, StreamEntry


class Recent(NamedTuple):
    """A page of events in the order in which they became visible, and the cursor that goes on after it."""

    events: list[Event]
    cursor: str


class EventStream(Protocol):
    """The event streams of all partitions, read by one group of drains: an entry goes to one of them."""

    async def prepare(self) -> None:
        """Make the consumer groups where they are missing; safe to repeat."""
        ...

    async def read(self, *, limit: int, wait_s: float) -> list[StreamEntry]:
        """Return new entries, at the latest after `wait_s`; they are this drain's until acknowledged."""
        ...

    async def reclaim(self, *, idle_s: float, limit: int) -> list[StreamEntry]:
        """Take over entries that a drain has read and then said nothing about for `idle_s`."""
        ...

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Say that these are committed: they are read by nobody again and trimmed. Safe to repeat."""
        ...

    async def backlog(self) -> Backlog:
        """Say how much waits to be written."""
        ...


class EventLog(Protocol):
    """The history of events and messages."""

    async def write(self, events: Sequence[Event]) -> int:
        """Write events and what they mean for messages; return how many were new.

        All of them are committed when it returns; where it raises, some may be. Safe to repeat, in any order and
        division. An event that the store refuses for what is in it is replaced by its stand-in; then, and where the
        store is slow, a batch takes more than one transaction.
        """
        ...

    async def of_otp(self, client_id: str, mode: str, otp_id: str, *, since_ms: int | None = None) -> list[Event]:
        """Return what happened to an OTP, oldest first; empty for an unknown one and for another owner's.

        `since_ms`, where it is known when the OTP was made, spares looking through all days.
        """
        ...

    async def recent(
        self, *, limit: int, after: str | None, otp_id: str | None = None, client_id: str | None = None
    ) -> Recent:
        """Return up to `limit` events that came after a cursor; without one the newest, oldest first.

        Going on from cursor to cursor misses no event, however late and by however many drains they are written,
        but those that are written more than a week after they happened.
        """
        ...

    async def keep_house(self) -> None:
        """Make the tables of the coming days, drop those that are past their time. Any number may call it at once."""
        ...


class SentTo(NamedTuple):
    """A message that went to a number, and whose it is."""

    client_id: str
    mode: str
    message_id: str


class NumberRecords(Protocol):
    """What the history remembers about numbers."""

    async def mark_forgotten(self, to_index: str, *, client_id: str | None, mode: str | None) -> list[SentTo]:
        """Say that a number is forgotten, to whoever writes from now on; erase nothing yet.

        Returns the messages to it of which the living store may still have a record. None means every client, and
        both modes.
        """
        ...

    async def forget(self, to_index: str, *, client_id: str | None, mode: str | None) -> int:
        """Erase a number, by its blind index, from all that was sent to it; return from how many messages.

        None means every client, and both modes. What is about to be written of earlier messages is covered too.
        """
        ...


class DrainObserver(Protocol):
    """Is told how the drain does, for metrics."""

    def drained(self, n_new: int, n_repeated: int) -> None:
        """Events were committed and acknowledged; repeated ones had been written before."""
        ...

    def outage(self, store: str) -> None:
        """`stream` or `history` has begun to fail."""
        ...
