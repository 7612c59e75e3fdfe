"""Moves events from the streams to the history, each exactly once: read, write, and only then acknowledge.

What was read and not acknowledged (a drain was killed, or could not reach a store) is taken over by another drain, and
the history takes a second writing of an event for the first. Nothing in here may acknowledge what was not committed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from otpsvc.clock import Clock
from otpsvc.events.model import StreamEntry
from otpsvc.events.ports import DrainObserver, EventLog, EventStream
from otpsvc.faults import described

READ_WAIT_S = 1.0
# A batch of a few costs nearly what one of hundreds does. So after a small one more is waited for, a moment only.
SMALL_BATCH, LINGER_S = 32, 0.05
RECLAIM_EVERY_S = 5.0
# Longer than a healthy drain needs for one batch. One that waits out an outage loses its batch to another, and then
# both write it: that costs work and nothing else.
RECLAIM_IDLE_S = 30.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_FINISHING_TRIES = 3
_HOUSE_KEEPING_RETRY_S = 60.0

_log = logging.getLogger(__name__)
_random = random.SystemRandom()

T = TypeVar("T")


class _NobodyToTell:
    def drained(self, n_new: int, n_repeated: int) -> None:
        pass

    def outage(self, store: str) -> None:
        pass


async def run_drain(
    stream: EventStream,
    log: EventLog,
    *,
    stop: asyncio.Event,
    clock: Clock,
    batch: int = 500,
    observer: DrainObserver | None = None,
    finish_s: float = 10.0,
) -> None:
    """Drain until `stop` is set; any number of drains may share the streams.

    Outages of either store are waited out. After `stop` nothing more is read, and what is in hand has `finish_s` to be
    committed and acknowledged; where it is not, another drain does it. Raises only for a fault of its own.
    """
    if batch < 1:
        raise ValueError("batch must be at least 1")
    drain = _Drain(stream, log, stop=stop, clock=clock, batch=batch, observer=observer or _NobodyToTell())
    await _run_until_stop(drain.run(), stop, finish_s)


async def run_housekeeping(
    log: EventLog, *, stop: asyncio.Event, clock: Clock, every_s: float = 3600.0, finish_s: float = 10.0
) -> None:
    """Keep the history's house until `stop` is set: at once, then every `every_s`; any number of processes may."""
    await _run_until_stop(_keep_house(log, stop, clock, every_s), stop, finish_s)


async def _keep_house(log: EventLog, stop: asyncio.Event, clock: Clock, every_s: float) -> None:
    while not stop.is_set():
        due_at = clock.monotonic() + every_s
        try:
            await log.keep_house()
        except Exception as error:  # noqa: BLE001 - the next time may do, and the tables are made days ahead
            _log.warning("the history's house was not kept: %s", described(error))
            due_at = clock.monotonic() + min(_HOUSE_KEEPING_RETRY_S, every_s)
        while not stop.is_set() and (left_s := due_at - clock.monotonic()) > 0:
            await _pause(stop, min(left_s, READ_WAIT_S))


class _Outage:
    """Tells one failing stretch of one store: one line when it begins, one when it ends, longer pauses in between."""

    def __init__(self, store: str, observer: DrainObserver) -> None:
        self._store = store
        self._observer = observer
        self._failures = 0

    def failed(self, error: Exception) -> float:
        """Count a failure and return how long to pause, in seconds."""
        if self._failures == 0:
            _log.warning("events wait: the %s fails, trying on: %s", self._store, described(error))
            self._observer.outage(self._store)
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** min(self._failures, 10), _MAX_PAUSE_S)
        self._failures += 1
        return pause_s * _random.uniform(0.5, 1.0)

    def worked(self) -> None:
        if self._failures:
            _log.warning("events: the %s works again", self._store)
        self._failures = 0


class _Drain:
    def __init__(
        self,
        stream: EventStream,
        log: EventLog,
        *,
        stop: asyncio.Event,
        clock: Clock,
        batch: int,
        observer: DrainObserver,
    ) -> None:
        self._stream = stream
        self._log = log
        self._stop = stop
        self._clock = clock
        self._batch = batch
        self._observer = observer
        self._stream_outage = _Outage("stream", observer)
        self._log_outage = _Outage("history", observer)
        self._reclaim_at = clock.monotonic()
        self._is_prepared = False

    async def run(self) -> None:
        while not self._stop.is_set():
            entries = await self._insist(self._stream_outage, self._next, is_finishing=False)
            if entries:
                await self._move(entries)
                if len(entries) < min(SMALL_BATCH, self._batch):
                    await _pause(self._stop, LINGER_S)

    async def _next(self) -> list[StreamEntry]:
        """Take over what others left, every few seconds and for as long as there is more; else wait for what is new."""
        try:
            if not self._is_prepared:
                await self._stream.prepare()
                self._is_prepared = True
            if self._clock.monotonic() >= self._reclaim_at:
                entries = await self._stream.reclaim(idle_s=RECLAIM_IDLE_S, limit=self._batch)
                if entries:
                    return entries
                self._reclaim_at = self._clock.monotonic() + RECLAIM_EVERY_S
            return await self._stream.read(limit=self._batch, wait_s=READ_WAIT_S)
        except Exception:
            # A store that comes back may have lost its consumer groups.
            self._is_prepared = False
            raise

    async def _move(self, entries: Sequence[StreamEntry]) -> None:
        written = await self._insist(
            self._log_outage, lambda: self._log.write([entry.event for entry in entries]), is_finishing=True
        )
        if written is None:
            return
        if await self._insist(self._stream_outage, lambda: self._acknowledge(entries), is_finishing=True):
            self._observer.drained(written, len(entries) - written)

    async def _acknowledge(self, entries: Sequence[StreamEntry]) -> bool:
        await self._stream.acknowledge(entries)
        return True

    async def _insist(self, outage: _Outage, step: Callable[[], Awaitable[T]], *, is_finishing: bool) -> T | None:
        """Do a step, again and again while it fails.

        None if it still fails at `stop`; one that finishes what is in hand has a few tries more after that.
        """
        n_left = _FINISHING_TRIES if is_finishing else 0
        while True:
            n_left -= self._stop.is_set()
            try:
                result = await step()
            except Exception as error:  # noqa: BLE001 - the drain outlives whatever a store does, one line per outage
                pause_s = outage.failed(error)
                if not self._stop.is_set():
                    await _pause(self._stop, pause_s)
                elif n_left > 0:
                    await asyncio.sleep(pause_s)
                if self._stop.is_set() and n_left <= 0:
                    return None
            else:
                outage.worked()
                return result


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but no longer than until `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _run_until_stop(work: Coroutine[Any, Any, None], stop: asyncio.Event, finish_s: float) -> None:
    """Run to the end; after `stop`, for `finish_s` more at most."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=finish_s)
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
    if not working.cancelled():
        working.result()
