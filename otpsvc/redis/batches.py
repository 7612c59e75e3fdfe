"""Commands written together: all that come up within one turn of the event loop share one write and one read.

A socket write costs more than a script. Under load, hundreds of calls therefore share a few connections instead of
queueing for one each, and nobody waits behind a pool. A batch runs in a task of its own, so that a caller who is
cancelled takes no reply with him: replies are matched by their order, and a connection that breaks or is late in the
middle of a batch is thrown away, never read on.
"""

import asyncio
from collections import deque
from typing import Any, NamedTuple

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from otpsvc.redis.connections import BoundedPool
from otpsvc.redis.durability import Barrier
from otpsvc.redis.outages import is_from_replica

MAX_BATCH = 256
# A lane that waits for the disk is held for up to a second, and more calls have come by then.
MAX_DURABLE_BATCH = 2048
MAX_WAITING = 10_000  # beyond this the server is not keeping up, and waiting longer helps nobody
# A whole batch may take so many times as long as one reply: a server that dribbles would hold its lane for minutes.
MAX_TIMEOUTS = 4

Value = str | bytes | int


class _Call(NamedTuple):
    packed: bytes
    answer: "asyncio.Future[Any]"
    sent_by: float


class Batches:
    """Runs commands over `lanes` connections of a pool. A call that was not sent within `timeout_s` fails unsent.

    One that was sent fails when its reply, or what comes before it, takes longer than a few times that.

    With a `barrier`, nobody is answered before the whole batch has passed it.
    """

    def __init__(self, pool: BoundedPool, *, lanes: int, timeout_s: float, barrier: Barrier | None = None) -> None:
        self._pool = pool
        self._free_lanes = lanes
        self._timeout_s = timeout_s
        self._barrier = barrier
        self._max_batch = MAX_DURABLE_BATCH if barrier else MAX_BATCH
        self._waiting: deque[_Call] = deque()
        self._is_flush_due = False
        self._running: set[asyncio.Task[None]] = set()

    async def execute(self, *command: Value) -> Any:
        """Run one command; raises the library's RedisError."""
        if len(self._waiting) >= MAX_WAITING:
            raise RedisTimeoutError("too many commands are waiting")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says a tuple of one
        self._waiting.append(_Call(packed, answer, loop.time() + self._timeout_s))
        if not self._is_flush_due and self._free_lanes:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return await answer

    async def close(self) -> None:
        """Let what runs end."""
        while self._running:
            await asyncio.wait(self._running)

    def _flush(self) -> None:
        self._is_flush_due = False
        now = asyncio.get_running_loop().time()
        while self._waiting and self._free_lanes:
            batch: list[_Call] = []
            while self._waiting and len(batch) < self._max_batch:
                call = self._waiting.popleft()
                if call.answer.done():
                    continue
                if call.sent_by < now:
                    call.answer.set_exception(RedisTimeoutError("not sent in time"))
                else:
                    batch.append(call)
            if not batch:
                return
            self._free_lanes -= 1
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._free_lanes += 1
        self._flush()

    async def _run(self, batch: list[_Call]) -> None:
        try:
            connection = await self._pool.acquire()
        except (RedisError, OSError) as error:
            _fail(batch, error)
            return
        except BaseException:
            _fail(batch, RedisConnectionError("closed"))
            raise
        is_kept = False
        try:
            async with asyncio.timeout(MAX_TIMEOUTS * self._timeout_s):
                is_kept = await self._exchange(connection, batch)
        except (RedisError, OSError) as error:
            _fail(batch, error)
        except BaseException:
            # The loop is ending in the middle of a batch: nobody may read what is left of its replies.
            _fail(batch, RedisConnectionError("closed"))
            raise
        finally:
            if not is_kept:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def _exchange(self, connection: AbstractConnection, batch: list[_Call]) -> bool:
        """Write a batch and give each call its reply; say whether the connection leads to a primary."""
        end = self._barrier.packed if self._barrier else ()
        await connection.send_packed_command([*(call.packed for call in batch), *end], check_health=False)
        is_primary = True
        held: list[tuple[_Call, object]] = []
        for call in batch:
            try:
                # A server that loads its data says so to each call, and may be done before the last: it is read on.
                reply = await connection.read_response(disconnect_on_error=False)
            except (ResponseError, BusyLoadingError) as error:
                is_primary = is_primary and not is_from_replica(error)
                _answer(call, error)
            else:
                if self._barrier:
                    held.append((call, reply))
                else:
                    _answer(call, reply)
        if self._barrier:
            await self._barrier.passed(connection)
        for call, reply in held:
            _answer(call, reply)
        return is_primary


def _answer(call: _Call, reply: object) -> None:
    if call.answer.done():
        return
    if isinstance(reply, Exception):
        call.answer.set_exception(reply)
    else:
        call.answer.set_result(reply)


def _fail(batch: list[_Call], error: Exception) -> None:
    for call in batch:
        _answer(call, error)
