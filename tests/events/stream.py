"""An event stream in memory that obeys the port and can be made to fail, for what a real one would not do on demand."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from otpsvc.errors import problem
from otpsvc.events.model import Backlog, Event, StreamEntry
from otpsvc.testing import ManualClock


class Partition:
    """What all drains share: entries, and of the delivered ones who has them since when."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.unread: list[StreamEntry] = []
        self.pending: dict[str, tuple[StreamEntry, str, float]] = {}
        self.acknowledged: Counter[str] = Counter()
        self.is_prepared = False
        self._n_added = 0

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            self._n_added += 1
            self.unread.append(StreamEntry(0, f"{self._n_added}-0", event))

    @property
    def is_done(self) -> bool:
        return not self.unread and not self.pending


class MemoryStream:
    """One drain's view of the partition. `faults` names calls that fail next: `read`, `read lost`, `acknowledge`, …"""

    def __init__(self, partition: Partition, drain: str = "a") -> None:
        self.partition = partition
        self.drain = drain
        self.faults: list[str] = []

    async def prepare(self) -> None:
        await self._answer("prepare")
        self.partition.is_prepared = True

    async def read(self, *, limit: int, wait_s: float) -> list[StreamEntry]:
        await self._answer("read")
        self._check_group()
        if not self.partition.unread:
            await asyncio.sleep(0.001)
        taken, self.partition.unread = self.partition.unread[:limit], self.partition.unread[limit:]
        self._hold(taken)
        await self._answer("read lost")
        return taken

    async def reclaim(self, *, idle_s: float, limit: int) -> list[StreamEntry]:
        await self._answer("reclaim")
        self._check_group()
        now = self.partition.clock.monotonic()
        idle = [entry for entry, _, since in self.partition.pending.values() if now - since >= idle_s][:limit]
        self._hold(idle)
        await self._answer("reclaim lost")
        return idle

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        await self._answer("acknowledge")
        for entry in entries:
            self.partition.pending.pop(entry.entry_id, None)
            self.partition.acknowledged[entry.entry_id] += 1
        await self._answer("acknowledge lost")

    async def backlog(self) -> Backlog:
        return Backlog(len(self.partition.unread) + len(self.partition.pending), 0.0)

    def _check_group(self) -> None:
        if not self.partition.is_prepared:
            raise problem("SERVICE_UNAVAILABLE")

    def _hold(self, entries: Sequence[StreamEntry]) -> None:
        now = self.partition.clock.monotonic()
        for entry in entries:
            self.partition.pending[entry.entry_id] = (entry, self.drain, now)

    async def _answer(self, step: str) -> None:
        await asyncio.sleep(0)
        if step in self.faults:
            self.faults.remove(step)
            raise problem("SERVICE_UNAVAILABLE")
