"""What is measured while a long run goes on, and how time is made to pass faster in Redis.

A code's keys live for 15 minutes, an hour or a day, far longer than a run of some minutes: the store could only grow.
So `Ager` cuts what is left of every key's life to `STAY_S`, more than any code needs that still lives. A key that has
no end keeps none, which is how a leak shows.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio as redis_asyncio

from otpsvc.redis.keys import Keys
from tests.chaos.stand import Stand
from tests.soak.verdict import Sample

STAY_S = 90.0  # a code of 60 s, the sweep after it, and time to spare
_ROUND_S = 5.0

# Cuts the lives of a part of all keys. Answers the next cursor and how many keys here have no end.
_CUT = """
local page = redis.call('SCAN', ARGV[1], 'COUNT', 1000)
local endless = 0
for _, name in ipairs(page[2]) do
  local left = redis.call('PTTL', name)
  if left == -1 then
    endless = endless + 1
  elseif left > tonumber(ARGV[2]) then
    redis.call('PEXPIRE', name, ARGV[2])
  end
end
return {page[1], endless}
"""


class Ager:
    """Lets Redis forget as if its time passed faster."""

    def __init__(self, client: Any) -> None:
        self.n_endless = 0
        self._client = client
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Go over all keys every few seconds, until `stop`."""
        while not self._stop.is_set():
            await self.cut(STAY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _ROUND_S)

    def stop(self) -> None:
        """End `run` after the round under way: the library may swallow a cancellation in the middle of a call."""
        self._stop.set()

    async def cut(self, to_s: float) -> None:
        """Go over all keys once."""
        cursor, n_endless = b"0", 0
        while True:
            cursor, found = await self._client.eval(_CUT, 0, cursor, int(to_s * 1000))
            n_endless += found
            if cursor == b"0":
                self.n_endless = n_endless
                return


class Meter:
    """Takes samples of one stand."""

    def __init__(self, stand: Stand, client: Any, ager: Ager) -> None:
        self.samples: list[Sample] = []
        self._stand = stand
        self._client = client
        self._ager = ager
        self._done: list[tuple[float, int]] = []
        self._connection: asyncpg.Connection | None = None

    async def open(self) -> None:
        # The server's owner sees all connections, and this one is not counted.
        self._connection = await asyncpg.connect(self._stand.pair.database_url())

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def take(self, at_s: float, n_codes: int) -> Sample:
        """Measure now."""
        self._done.append((at_s, n_codes))
        sizes: dict[str, float] = {}
        for process in self._stand.running:
            sizes[f"{process.name}.rss"] = rss(process.pid)
            sizes[f"{process.name}.files"] = open_files(process.pid)
        sizes["redis.keys_without_end"] = self._ager.n_endless
        sizes["postgres.connections"] = await self._connections()
        # Until as much time has passed as anything stays, the store has only ever grown.
        earlier = [done for done_at_s, done in self._done if done_at_s < at_s - STAY_S - 2 * _ROUND_S]
        if earlier and (n_living := n_codes - earlier[-1]):
            memory = (await self._client.info("memory"))["used_memory"]
            sizes["redis.keys_per_code"] = await self._client.dbsize() / n_living
            sizes["redis.memory_per_code"] = memory / n_living
        self.samples.append(Sample(at_s, n_codes, sizes))
        return self.samples[-1]

    async def _connections(self) -> int:
        assert self._connection is not None
        count = await self._connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(count)


def rss(pid: int) -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def open_files(pid: int) -> int:
    """How many descriptors a process holds; 0 where only root may look, because the service lets nobody else in."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except PermissionError:
        return 0


async def what_stays(client: redis_asyncio.Redis, ager: Ager, stand: Stand) -> list[str]:
    """Let everything in Redis come to its end at once; give what has none but should."""
    await ager.cut(1.0)
    await asyncio.sleep(2.5)
    settings = stand.settings.redis
    bounded = {
        name
        for keys in Keys(settings.prefix, settings.partitions).partitions
        for name in (keys.due, keys.ends, keys.events)
    }
    left: list[str] = []
    async for raw in client.scan_iter(count=1000):
        name = raw.decode()
        size = await _size(client, name)
        if name not in bounded or size:
            left.append(f"{name} stays, with {size} in it")
    return left


async def _size(client: Any, name: str) -> int:
    match await client.type(name):
        case b"zset":
            return int(await client.zcard(name))
        case b"stream":
            return int(await client.xlen(name))
        case b"hash":
            return int(await client.hlen(name))
        case b"list":
            return int(await client.llen(name))
        case _:
            return 1
