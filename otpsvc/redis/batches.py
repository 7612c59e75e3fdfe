"""Commands written together: all that come up within one turn of the event loop share one write and one read.

A socket write costs more than a script. Under load, hundreds of calls therefore share a few connections instead of
queueing for one each, and nobody waits behind a pool. A batch runs in a task of its own, so that a caller who is
cancelled takes no reply with him: replies are matched by their order, and a connection that breaks or is late in the
middle of a batch is thrown away, never read on.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

MAX_BATCH = 256
MAX_WAITING = 10_000  # beyond this the server is not keeping up, and waiting longer helps nobody

Value = str | bytes | int


class _Call(NamedTuple):
    packed: bytes
    answer: "asyncio.Future[Any]"
    sent_by: float


class Batches:
    """Runs commands over `lanes` connections of a pool. A call that was not sent within `timeout_s` fails unsent."""

    def __init__(self, pool: ConnectionPool, *, lanes: int, timeout_s: float) -> None:
        self._pool = pool
        # The library leaves this method without types.
        self._connection: Callable[[], Awaitable[AbstractConnection]] = pool.get_connection
        self._free_lanes = lanes
        self._timeout_s = timeout_s
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
            while self._waiting and len(batch) < MAX_BATCH:
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
            connection = await self._connection()
        except (RedisError, OSError) as error:
            _fail(batch, error)
            return
        except BaseException:
            _fail(batch, RedisConnectionError("closed"))
            raise
        try:
            await connection.send_packed_command([call.packed for call in batch], check_health=False)
            for call in batch:
                try:
                    reply = await connection.read_response()
                except ResponseError as error:
                    _answer(call, error)
                else:
                    _answer(call, reply)
        except (RedisError, OSError) as error:
            await connection.disconnect()
            _fail(batch, error)
        except BaseException:
            # The loop is ending in the middle of a batch: nobody may read what is left of its replies.
            await connection.disconnect()
            _fail(batch, RedisConnectionError("closed"))
            raise
        finally:
            await self._pool.release(connection)


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
