"""The event streams of all partitions, as the drain reads them: one group, and nothing kept once it is written.

An entry that was read belongs to its reader until it is acknowledged. A reader that dies says nothing more; after a
while its entries are read again by another, and PostgreSQL knows those that it already has.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from otpsvc.events.model import Backlog, StreamEntry, event_or_stand_in
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys

GROUP = "history"
# All drains share one name: the group hands each entry to one of them either way, and the names of processes that are
# gone would pile up in it.
CONSUMER = "drain"
STREAMS_AT_ONCE = 8
_ACKNOWLEDGED_AT_ONCE = 1000


class RedisEventStream:
    """Implements `events.ports.EventStream`."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._streams = tuple(partition.events for partition in keys.partitions)
        self._owing = tuple((partition.events, partition.ends, partition.due) for partition in keys.partitions)
        self._partition_of = {name.encode(): number for number, name in enumerate(self._streams)}
        self._first = 0

    async def prepare(self) -> None:
        """Run `events_prepare` for each stream."""
        for stream in self._streams:
            await self._client.run("events_prepare", {"events": stream}, {"group": GROUP})

    async def read(self, *, limit: int, wait_s: float) -> list[StreamEntry]:
        """Read what no drain has read, about `limit` of all streams together; wait for it up to `wait_s`.

        The server counts per stream. A few streams at a time get a large share each, so that a single busy one moves as
        fast as many; when those have nothing, all are waited for.
        """
        for _ in range(0, len(self._streams), STREAMS_AT_ONCE):
            some = [self._streams[(self._first + n) % len(self._streams)] for n in range(STREAMS_AT_ONCE)]
            some = list(dict.fromkeys(some))
            self._first = (self._first + len(some)) % len(self._streams)
            if len(some) < len(self._streams) and (found := await self._read_from(some, limit // len(some), None)):
                return found
        return await self._read_from(self._streams, limit // len(self._streams), wait_s)

    async def _read_from(self, streams: Sequence[str], count: int, wait_s: float | None) -> list[StreamEntry]:
        # A count of nought would be for all there is.
        group = ("XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", max(1, count))
        names = ("STREAMS", *streams, *(">" for _ in streams))
        try:
            if wait_s is None:
                answer = await self._client.command(*group, *names, is_repeatable=False)
            else:
                answer = await self._client.waiting_command(
                    *group, "BLOCK", max(1, int(wait_s * 1000)), *names, timeout_s=wait_s
                )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            # The store was emptied under us.
            await self.prepare()
            return []
        found: list[StreamEntry] = []
        for stream, entries in answer or ():
            found += _read(self._partition_of[stream], entries)
        return found

    async def reclaim(self, *, idle_s: float, limit: int) -> list[StreamEntry]:
        """Take over what was read by a drain that did not acknowledge it within `idle_s`."""
        found: list[StreamEntry] = []
        for number, stream in enumerate(self._streams):
            if len(found) < limit:
                _, entries, *_ = await self._client.command(
                    "XAUTOCLAIM", stream, GROUP, CONSUMER, int(idle_s * 1000), "0", "COUNT", limit - len(found)
                )
                found += _read(number, entries)
        return found

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Run `events_acknowledge` for each stream that has one of these."""
        by_partition: dict[int, list[str]] = {}
        for entry in entries:
            by_partition.setdefault(entry.partition, []).append(entry.entry_id)
        await asyncio.gather(
            *(
                self._acknowledge(partition, entry_ids[start : start + _ACKNOWLEDGED_AT_ONCE])
                for partition, entry_ids in by_partition.items()
                for start in range(0, len(entry_ids), _ACKNOWLEDGED_AT_ONCE)
            )
        )

    async def backlog(self) -> Backlog:
        """Count what is not yet written; the oldest one's age is by its entry's time, on the store's clock."""
        seconds, _ = await self._client.command("TIME")
        lengths = await asyncio.gather(*(self._client.command("XLEN", stream) for stream in self._streams))
        firsts = await asyncio.gather(
            *(self._client.command("XRANGE", stream, "-", "+", "COUNT", 1) for stream in self._streams)
        )
        written_ms = [int(entry_id.split(b"-")[0]) for entries in firsts for entry_id, _ in entries]
        return Backlog(sum(lengths), max(0.0, int(seconds) - min(written_ms) / 1000) if written_ms else 0.0)

    async def fullest(self) -> int:
        """Give the most events that wait or are still owed in one partition: what `limits.event_limit` bounds."""

        async def owed(events: str, ends: str, due: str) -> int:
            length = self._client.command("XLEN", events)
            living, waiting = self._client.command("ZCARD", ends), self._client.command("ZCARD", due)
            return sum(await asyncio.gather(length, living, waiting))

        return max(await asyncio.gather(*(owed(*names) for names in self._owing)))

    async def _acknowledge(self, partition: int, entry_ids: list[str]) -> None:
        await self._client.run(
            "events_acknowledge",
            {"events": self._streams[partition]},
            {"group": GROUP, "entries": " ".join(entry_ids)},
        )


def _read(partition: int, entries: list[Any]) -> list[StreamEntry]:
    found = []
    for raw_id, words in entries:
        entry_id = raw_id.decode()
        fields = dict(zip(words[::2], words[1::2], strict=True))
        found.append(
            StreamEntry(partition, entry_id, event_or_stand_in(fields, partition=partition, entry_id=entry_id))
        )
    return found
