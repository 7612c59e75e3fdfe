"""How the history is read: a stretch of days at a time, the newest first.

A query over all days would open and lock every day's table and its indexes, some 1500 for a year, and a few of those at
once fill the server's lock table. Whoever looks for something of unknown age therefore walks, and most stop at once.
Those who look for what is nowhere walk all the way, a query for each stretch. Only a few may do so at once: the other
connections are for those who check a key or write events.
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

from otpsvc.errors import problem
from otpsvc.events.model import END_OF_TIME_MS
from otpsvc.postgres import queries
from otpsvc.postgres.pool import Database

Parent = Literal["events", "messages"]

STRETCH_DAYS = 30
LONG_WALKS = 2
WALK_WAIT_S = 5.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_queries = queries.load("history")
# By pool, of which a process has one.
_walks: WeakKeyDictionary[Database, asyncio.Semaphore] = WeakKeyDictionary()


class Stretch(NamedTuple):
    """From the first moment of a day to just before that of another."""

    from_at: datetime
    until_at: datetime


async def stretches(
    database: Database, parent: Parent, *, since: datetime | None = None
) -> AsyncGenerator[Stretch, None]:
    """Give all of the history in stretches, the newest first: yesterday and all after, then up to 30 days each.

    Which days there are is asked only when the first stretch was not enough. From `since` on it is one stretch. Beyond
    the first, `LONG_WALKS` at once go on; who has waited `WALK_WAIT_S` for a turn gets SERVICE_UNAVAILABLE. Close it
    with `aclosing`, which gives the turn back at once.
    """
    if since is not None:
        yield Stretch(since, _END_OF_TIME)
        return
    first = datetime.now(UTC).date() - timedelta(days=1)
    yield Stretch(_midnight(first), _END_OF_TIME)
    turns = _walks.setdefault(database, asyncio.Semaphore(LONG_WALKS))
    try:
        async with asyncio.timeout(WALK_WAIT_S):
            await turns.acquire()
    except TimeoutError:
        raise problem("SERVICE_UNAVAILABLE") from None
    try:
        days = [row["day"] for row in await database.many(_queries.days_before, parent=parent, before=first)]
        for start in range(0, len(days), STRETCH_DAYS):
            some = days[start : start + STRETCH_DAYS]
            yield Stretch(_midnight(some[-1]), _midnight(some[0] + timedelta(days=1)))
    finally:
        turns.release()


def moment(ms: int) -> datetime:
    """Return the time of so many ms since 1970, exactly; raises OverflowError for one that no day's table can hold."""
    if not 0 <= ms < END_OF_TIME_MS:
        raise OverflowError("not a time")
    return _EPOCH + ms * _MS


def ms_of(at: datetime) -> int:
    """Return ms since 1970."""
    return (at - _EPOCH) // _MS


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
