"""The history of events in PostgreSQL: implements `EventLog`.

A batch goes in with three statements over arrays, which for some hundred rows is as fast as COPY into a temporary table
and for a few rows twice as fast, and leaves nothing behind in the catalog. What is personal in an event goes to the
table of messages only, never into `events.data`.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
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
LOST_AFTER_DAYS, LOST_DAYS = 2, 10
_DROP_TRIES = 3
_DROP_PAUSE_S = 1.0

# What the server says about a value. All else it may say is about itself, or about us.
_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)

_queries = queries.load("events")
_log = logging.getLogger(__name__)
_decode_data = msgspec.json.Decoder(dict[str, str]).decode


class _RefusedError(Exception):
    """The batch holds a value that cannot be written; nothing of the batch was."""


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

    async def write(self, events: Sequence[Event]) -> int:
        """Write events and what they mean for messages; return how many were new (`EventLog.write`)."""
        if not events:
            return 0
        try:
            return await self._insert(events)
        except _RefusedError:
            if len(events) == 1:
                return await self._insert_stand_in(events[0])
        middle = len(events) // 2
        return await self.write(events[:middle]) + await self.write(events[middle:])

    async def of_otp(self, client_id: str, mode: str, otp_id: str, *, since_ms: int | None = None) -> list[Event]:
        """Return what happened to an OTP, oldest first; empty for an unknown one and for another owner's."""
        found: list[Event] = []
        async for stretch in stretches(self._database, "events", since=moment(since_ms) if since_ms else None):
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
        """Make the tables of the coming days, drop those that are past their time; one process at a time does it."""
        async with self._database.session("keep_house") as session:
            if not await session.value(_queries.begin_house_keeping):
                return
            today: date = await session.value(_queries.today)
            ahead = [today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)]
            await session.value(_queries.begin_history_write, event_days=ahead, message_days=ahead)
            for parent, days in self._days.items():
                await _drop_days(session, parent, keep_from=today - timedelta(days=days))
            await _end_lost_messages(session)
            before = datetime.combine(today, datetime.min.time(), UTC) - timedelta(days=TOMBSTONE_DAYS)
            await session.execute(_queries.purge_forgotten_numbers, before=before)
            # Not in a `finally`: after a failure the connection, and the lock with it, goes back to the pool reset.
            await session.value(_queries.end_house_keeping)

    async def _newest(self, limit: int, horizon: str, otp_id: str | None, client_id: str | None) -> list[Event]:
        found: list[Event] = []
        async for stretch in stretches(self._database, "events"):
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
                return await _write(session, batch)
        except asyncpg.PostgresError as error:
            # Neither about a value nor an outage as the pool knows them: the tables are not as we made them.
            _log.error("the history cannot be written: %s", type(error).__name__)
            raise problem("SERVICE_UNAVAILABLE") from None

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


async def _end_lost_messages(session: Session) -> None:
    """End what the living store has forgotten: a record lives for a day after its code, and here it still waits.

    An event that is only late holds against this, because this ranks below whatever the store says became of it.
    """
    now = datetime.now(UTC)
    n_lost = await session.value(
        _queries.end_lost_messages,
        from_at=now - timedelta(days=LOST_DAYS),
        until_at=now - timedelta(days=LOST_AFTER_DAYS),
        precedence=precedence(MessageStatus.PROCESSING, ms_of(now)),
    )
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
