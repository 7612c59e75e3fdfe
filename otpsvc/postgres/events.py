"""The history of events in PostgreSQL: implements `EventLog`.

A batch goes in with three statements over arrays, which for some hundred rows is as fast as COPY into a temporary table
and for a few rows twice as fast, and leaves nothing behind in the catalog. What is personal in an event goes to the
table of messages only, never into `events.data`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import NamedTuple

import asyncpg
import msgspec

from otpsvc.errors import problem
from otpsvc.events.model import PERSONAL, SENT, Event, stand_in
from otpsvc.events.ports import Recent
from otpsvc.messages.model import MessageStatus
from otpsvc.postgres import queries
from otpsvc.postgres.history import Parent, moment, ms_of, stretches
from otpsvc.postgres.message_rows import MessageRow, precedence, rows_of
from otpsvc.postgres.pool import Database, Session

DAYS_AHEAD = 3
LATE_DAYS = 7  # so late may an event be written and still be shown by `recent` to who follows
TOMBSTONE_DAYS = 7
LOST_DAYS = range(2, 11)  # so many days ago a message began that nothing will end any more
LOST_AT_ONCE = 1000
UNBOUNDED = 1 << 30
GROW_AFTER = 16
_DROP_TRIES = 3
_DROP_PAUSE_S = 1.0

# What the server says about a value. All else it may say is about itself, or about us.
_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)

# What a step of the house-keeping may end with and the next still do; a lost connection fails that one too.
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_queries = queries.load("events")
_log = logging.getLogger(__name__)
_decode_data = msgspec.json.Decoder(dict[str, str]).decode


class _RefusedError(Exception):
    """The batch holds a value that cannot be written; nothing of the batch was."""


class _TooSlowError(Exception):
    """A statement was not done in time, and nothing of the batch was written."""


class _Pace:
    """How many events PostgreSQL can write in time: half as many after each time-out, and more again only slowly."""

    def __init__(self) -> None:
        self.size = UNBOUNDED
        self._n_in_time = 0

    def was_too_slow(self, n_events: int) -> None:
        # Two batches of one size may fail at once; they do not halve it twice.
        self.size = min(self.size, max(n_events // 2, 1))
        self._n_in_time = 0
        _log.warning("%s events could not be written in time: now %s at once", n_events, self.size)

    def was_in_time(self, n_events: int) -> None:
        # Fewer than were allowed prove nothing.
        self._n_in_time += n_events >= self.size
        if self._n_in_time >= GROW_AFTER:
            self.size *= 2
            self._n_in_time = 0


class _Batch(NamedTuple):
    """A batch as the statements take it: columns, not rows."""

    event_days: list[date]
    message_days: list[date]
    events: dict[str, list[object]]
    messages: dict[str, list[object]]


class PostgresEventLog:
    """Events and messages by the day. `event_days` and `message_days` are how long they are kept."""

    def __init__(self, database: Database, *, event_days: int, message_days: int) -> None:
        self._database = database
        self._days: dict[Parent, int] = {"events": event_days, "messages": message_days}
        self._pace = _Pace()

    async def write(self, events: Sequence[Event]) -> int:
        """Write events and what they mean for messages; return how many were new (`EventLog.write`).

        What PostgreSQL cannot write in time is written in smaller transactions, down to one event each, so that a slow
        server gets on. SERVICE_UNAVAILABLE may therefore come after a part was written.
        """
        n_new = 0
        waiting = [events] if events else []
        while waiting:
            some = waiting.pop()
            if len(some) > self._pace.size:
                waiting += [some[self._pace.size :], some[: self._pace.size]]
                continue
            try:
                n_new += await self._insert_or_stand_in(some)
            except _RefusedError:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
            except _TooSlowError:
                self._pace.was_too_slow(len(some))
                if len(some) == 1:
                    raise problem("SERVICE_UNAVAILABLE") from None
                waiting.append(some)
            else:
                self._pace.was_in_time(len(some))
        return n_new

    async def of_otp(self, client_id: str, mode: str, otp_id: str, *, since_ms: int | None = None) -> list[Event]:
        """Return what happened to an OTP, oldest first; empty for an unknown one and for another owner's."""
        found: list[Event] = []
        since = moment(since_ms) if since_ms else None
        async with aclosing(stretches(self._database, "events", since=since)) as walk:
            async for stretch in walk:
                rows = await self._database.many(
                    _queries.events_of_otp, client_id=client_id, mode=mode, otp_id=otp_id, **stretch._asdict()
                )
                found[:0] = [_event(row) for row in rows]
                if any(event.name == SENT for event in found):
                    break
        return found

    async def recent(
        self, *, limit: int, after: str | None, otp_id: str | None = None, client_id: str | None = None
    ) -> Recent:
        """Return a page of events and the cursor after it (`EventLog.recent`).

        Events are paged by the transaction that wrote them, and only up to the oldest transaction that still runs: all
        below it have ended, so no event can turn up behind a cursor, in whatever order drains commit. The price is that
        any writing transaction in the server that stays open holds the pages back until it ends.

        Transactions are numbered by each server for itself. What was brought here from another by a dump and restore is
        old: without a cursor it is shown, and a cursor from there goes on with what is written here from now on. Of the
        last week's, some may be shown again to who follows when this server has come to their numbers.
        """
        horizon = str(await self._database.value(_queries.reading_horizon))
        if after is None:
            return Recent(await self._newest(limit, horizon, otp_id, client_id), f"{horizon}/")
        tx, _, event_id = after.partition("/")
        rows = await self._database.many(
            _queries.events_after,
            tx=tx,
            event_id=event_id,
            horizon=horizon,
            otp_id=otp_id,
            client_id=client_id,
            from_at=datetime.now(UTC) - timedelta(days=LATE_DAYS),
            max_rows=limit,
        )
        cursor = f"{rows[-1]['tx']}/{rows[-1]['event_id']}" if len(rows) == limit else f"{horizon}/"
        return Recent([_event(row) for row in rows], cursor)

    async def keep_house(self) -> None:
        """Make the tables of the coming days, drop those that are past their time; one process at a time does it.

        A step that fails keeps no other from being done; its failure is raised at the end.
        """
        async with self._database.session("keep_house") as session:
            if not await session.value(_queries.begin_house_keeping):
                return
            today: date = await session.value(_queries.today)
            ahead = [today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)]
            ago = [datetime.combine(today, time(), UTC) - timedelta(days=n) for n in range(max(LOST_DAYS) + 1)]
            steps = [partial(session.value, _queries.begin_history_write, event_days=ahead, message_days=ahead)]
            for parent, days in self._days.items():
                steps.append(partial(_drop_days, session, parent, keep_from=today - timedelta(days=days)))
            steps += [partial(_end_lost_messages, session, ago[n]) for n in LOST_DAYS]
            steps.append(partial(session.execute, _queries.purge_forgotten_numbers, before=ago[TOMBSTONE_DAYS]))
            await _do_all(steps)
            # Not in a `finally`: after a failure the connection, and the lock with it, goes back to the pool reset.
            await session.value(_queries.end_house_keeping)

    async def _newest(self, limit: int, horizon: str, otp_id: str | None, client_id: str | None) -> list[Event]:
        found: list[Event] = []
        async with aclosing(stretches(self._database, "events")) as walk:
            async for stretch in walk:
                if len(found) >= limit:
                    break
                rows = await self._database.many(
                    _queries.newest_events,
                    otp_id=otp_id,
                    client_id=client_id,
                    horizon=horizon,
                    max_rows=limit - len(found),
                    **stretch._asdict(),
                )
                found += [_event(row) for row in rows]
        return found[::-1]

    async def _insert(self, events: Sequence[Event]) -> int:
        try:
            batch = _batch(events)
        except (ValueError, OverflowError):
            raise _RefusedError from None
        try:
            async with self._database.transaction("write_events") as session:
                try:
                    return await _write(session, batch)
                except (asyncpg.QueryCanceledError, TimeoutError):
                    raise _TooSlowError from None
        except asyncpg.PostgresError as error:
            # Neither about a value nor an outage as the pool knows them: the tables are not as we made them.
            _log.error("the history cannot be written: %s", type(error).__name__)
            raise problem("SERVICE_UNAVAILABLE") from None

    async def _insert_or_stand_in(self, events: Sequence[Event]) -> int:
        try:
            return await self._insert(events)
        except _RefusedError:
            if len(events) > 1:
                raise
        return await self._insert_stand_in(events[0])

    async def _insert_stand_in(self, event: Event) -> int:
        plain = stand_in(event)
        _log.error("event %s (%s) cannot be written as it is: its details are dropped", plain.event_id, plain.name)
        try:
            return await self._insert([plain])
        except _RefusedError:
            # The table refuses what any table of ours takes: it is not as our migrations made it.
            _log.error("event %s is refused without its details too", plain.event_id)
            raise problem("SERVICE_UNAVAILABLE") from None


async def _write(session: Session, batch: _Batch) -> int:
    await session.value(_queries.begin_history_write, event_days=batch.event_days, message_days=batch.message_days)
    try:
        n_new: int = await session.value(_queries.insert_events, **batch.events)
        if batch.message_days:
            await session.execute(_queries.merge_messages, **batch.messages)
    except _REFUSALS as error:
        if _is_missing_day(error):
            raise problem("SERVICE_UNAVAILABLE") from None
        raise _RefusedError from None
    except asyncpg.InterfaceError as error:
        # The driver's own kind of refusal, for a value that it cannot even put on the wire.
        if isinstance(error, ValueError):
            raise _RefusedError from None
        raise
    return n_new


def _batch(events: Sequence[Event]) -> _Batch:
    """Turn events into columns; raises ValueError or OverflowError for what no column can hold."""
    moments = [moment(event.occurred_at) for event in events]
    messages = rows_of(events)
    return _Batch(
        event_days=_days_of(moments),
        message_days=_days_of(row.created_at for row in messages),
        events={
            "occurred_at": [*moments],
            "event_id": [event.event_id for event in events],
            "name": [event.name for event in events],
            "client_id": [event.client_id for event in events],
            "mode": [event.mode for event in events],
            "otp_id": [event.otp_id for event in events],
            "message_id": [event.message_id for event in events],
            "data": [_data(event) for event in events],
        },
        messages={name: [row[i] for row in messages] for i, name in enumerate(MessageRow._fields)},
    )


def _days_of(moments: Iterable[datetime]) -> list[date]:
    # Sorted, so that two who make the same new days do it in the same order.
    return sorted({at.date() for at in moments})


def _data(event: Event) -> str:
    return msgspec.json.encode({key: event.data[key] for key in event.data if key not in PERSONAL}).decode()


def _is_missing_day(error: Exception) -> bool:
    """Say whether a day's table went away under the writer, which only one that is past its time can do."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


def _event(row: asyncpg.Record) -> Event:
    return Event(
        event_id=row["event_id"],
        name=row["name"],
        client_id=row["client_id"],
        mode=row["mode"],
        otp_id=row["otp_id"],
        message_id=row["message_id"],
        occurred_at=ms_of(row["occurred_at"]),
        data=_decode_data(row["data"]),
    )


async def _do_all(steps: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Do every step, whichever fail; raise what the first of those failed with."""
    failure: Exception | None = None
    for step in steps:
        try:
            await step()
        except _FAILURES as error:
            failure = failure or error
    if failure is not None:
        raise failure


async def _end_lost_messages(session: Session, day: datetime) -> None:
    """End what the living store has forgotten: a record lives for a day after its code, and here it still waits.

    An event that is only late holds against this, because this ranks below whatever the store says became of it.
    """
    now = datetime.now(UTC)
    n_lost, n_ended = 0, LOST_AT_ONCE
    while n_ended == LOST_AT_ONCE:
        n_ended = await session.value(
            _queries.end_lost_messages,
            from_at=day,
            until_at=min(day + timedelta(days=1), now - timedelta(days=LOST_DAYS[0])),
            precedence=precedence(MessageStatus.PROCESSING, ms_of(now)),
            max_rows=LOST_AT_ONCE,
        )
        n_lost += n_ended
    if n_lost:
        _log.error("%s messages were never delivered nor ended: no worker ran for a day", n_lost)


async def _drop_days(session: Session, parent: Parent, *, keep_from: date) -> None:
    """Drop the days before one; a day that somebody keeps reading is left for the next time."""
    n_busy = 0
    while n_busy < _DROP_TRIES:
        match await session.value(_queries.drop_history_day, parent=parent, keep_from=keep_from):
            case "dropped":
                _log.info("dropped a day of %s from before %s", parent, keep_from)
            case "busy":
                n_busy += 1
                await asyncio.sleep(_DROP_PAUSE_S)
            case _:
                return
    _log.warning("a day of %s from before %s is being read and was not dropped", parent, keep_from)
