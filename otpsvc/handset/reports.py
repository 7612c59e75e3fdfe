"""Telling the server how far the phone is: each report until it is taken, ten times at most.

A report is never held back for another one: like a phone's, they come late, twice and out of order, and the server
must bear it.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias

from otpsvc.clock import Clock
from otpsvc.handset.link import LinkError
from otpsvc.handset.pace import MOST_TRIES, Pace
from otpsvc.handset.wire import Report

# After how many seconds each copy of a report leaves: one that is lost has none, one that is doubled has two.
Fate: TypeAlias = Callable[[], Sequence[float]]

_MOST_WAITING = 5000


class _Waiting(NamedTuple):
    due_at: float
    number: int
    report: Report
    tries: int


class Reporter:
    """Reports that wait to be told. They outlive `run`: what a phone could not tell, it tells when it is back."""

    def __init__(self, tell: Callable[[Report], Awaitable[None]], *, pace: Pace, clock: Clock, fate: Fate) -> None:
        self._tell = tell
        self._pace = pace
        self._clock = clock
        self._fate = fate
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._has_more = asyncio.Event()
        self._is_settled = asyncio.Event()
        self._is_settled.set()

    def add(self, report: Report) -> None:
        """Tell this as soon as possible, unless fate has it otherwise."""
        for delay_s in self._fate():
            self._wait(report, delay_s, tries=0)

    async def run(self) -> None:
        """Tell them until cancelled."""
        while True:
            pause_s = self._waiting[0].due_at - self._clock.monotonic() if self._waiting else None
            if pause_s is None or pause_s > 0:
                self._has_more.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._has_more.wait()
                continue
            await self._try(self._waiting[0])

    async def settled(self) -> None:
        """Wait until nothing waits any more."""
        await self._is_settled.wait()

    async def _try(self, one: _Waiting) -> None:
        tries = one.tries + 1
        try:
            await self._tell(one.report)
        except LinkError:
            self._drop(one)
            if tries < MOST_TRIES:
                self._wait(one.report, self._pace.retry_s(tries), tries=tries)
        else:
            self._drop(one)

    def _wait(self, report: Report, delay_s: float, *, tries: int) -> None:
        due_at = self._clock.monotonic() + delay_s
        heapq.heappush(self._waiting, _Waiting(due_at, next(self._numbers), report, tries))
        if len(self._waiting) > _MOST_WAITING:
            self._drop(min(self._waiting, key=lambda one: one.number))
        self._is_settled.clear()
        self._has_more.set()

    def _drop(self, one: _Waiting) -> None:
        with contextlib.suppress(ValueError):  # too many came meanwhile, and it was the oldest
            self._waiting.remove(one)
            heapq.heapify(self._waiting)
        if not self._waiting:
            self._is_settled.set()
