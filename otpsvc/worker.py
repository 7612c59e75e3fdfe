"""The delivery loop: waits for due messages, claims no more than it can start at once, delivers, never spins.

One loop per partition, all sharing the same slots. A claimed message starts at once, so that its lease is spent on
sending and not on waiting here. Nothing in here opens a message: it knows ids and tokens only.
"""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from otpsvc.clock import Clock
from otpsvc.faults import described
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import ClaimedMessage
from otpsvc.messages.ports import MessageQueue

MAX_WAIT_S = 5.0
_MIN_CYCLE_S = 0.002
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 2.0

_log = logging.getLogger(__name__)
_random = random.SystemRandom()

T = TypeVar("T")


async def run_worker(
    queues: Sequence[MessageQueue],
    dispatcher: Dispatcher,
    *,
    batch: int,
    concurrency: int,
    stop: asyncio.Event,
    clock: Clock,
    drain_s: float = 10.0,
) -> None:
    """Deliver until `stop` is set.

    `batch` bounds one claim, `concurrency` the messages in flight over all queues. After `stop` nothing new begins;
    what is in flight has `drain_s` to end, the rest is cancelled and comes back uncertain when its lease ends. Store
    failures are waited out. Returns when nothing of it runs any more; raises only for a fault of its own.
    """
    if batch < 1 or concurrency < 1 or not queues:
        raise ValueError("batch and concurrency must be at least 1, and there must be a queue")
    worker = _Worker(dispatcher, batch=batch, slots=_Slots(concurrency), stop=stop, clock=clock)
    await worker.run(queues, drain_s)


class _Slots:
    """How many more deliveries may run. Slots are taken before a claim, so that loops never overcommit together."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._freed = asyncio.Event()

    async def take(self, most: int) -> int:
        """Take between one and `most` slots as soon as there is one."""
        while self._free == 0:
            self._freed.clear()
            await self._freed.wait()
        taken = min(most, self._free)
        self._free -= taken
        return taken

    def give(self, count: int) -> None:
        self._free += count
        self._freed.set()


class _Outage:
    """Tells one failing stretch of one queue: one line when it begins, one when it ends, longer pauses in between."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._failures = 0

    def failed(self, error: Exception) -> float:
        """Count a failure and return how long to pause, in seconds."""
        if self._failures == 0:
            _log.warning("queue %d: cannot claim messages, trying on: %s", self._number, described(error))
        pause_s = min(_FIRST_BACKOFF_S * 2.0 ** min(self._failures, 10), _MAX_BACKOFF_S)
        self._failures += 1
        return max(pause_s * _random.uniform(0.5, 1.0), _FIRST_BACKOFF_S)

    def worked(self) -> None:
        if self._failures:
            _log.warning("queue %d: claiming messages again", self._number)
        self._failures = 0


class _Worker:
    def __init__(self, dispatcher: Dispatcher, *, batch: int, slots: _Slots, stop: asyncio.Event, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._batch = batch
        self._slots = slots
        self._stop = stop
        self._clock = clock
        self._deliveries: set[asyncio.Task[None]] = set()

    async def run(self, queues: Sequence[MessageQueue], drain_s: float) -> None:
        self._stopping = asyncio.create_task(self._stop.wait())
        loops = [asyncio.create_task(self._serve(i, queue)) for i, queue in enumerate(queues)]
        try:
            # A loop that ends before `stop` has a fault, which is raised below.
            await asyncio.wait({self._stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
            self._stopping.cancel()
            await asyncio.wait({*loops, *self._deliveries}, timeout=drain_s)
        finally:
            await self._end({self._stopping, *loops, *self._deliveries})
        for loop in loops:
            if not loop.cancelled():
                loop.result()

    def _is_stopping(self) -> bool:
        return self._stop.is_set() or self._stopping.done()

    async def _end(self, tasks: "set[asyncio.Task[Any]]") -> None:
        if n_cut_off := sum(not task.done() for task in self._deliveries):
            _log.warning("%d deliveries cut off: they come back when their lease ends", n_cut_off)
        # A library may swallow a cancellation; the loops also see that `_stopping` is over, so they end either way.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, number: int, queue: MessageQueue) -> None:
        outage = _Outage(number)
        while not self._is_stopping():
            try:
                await self._cycle(queue)
            except Exception as error:  # noqa: BLE001 - delivery outlives whatever a store does, one line per outage
                await self._until_stop(asyncio.sleep(outage.failed(error)))
            else:
                outage.worked()

    async def _cycle(self, queue: MessageQueue) -> None:
        """Claim and start what is due; where that was not all that could start, wait for more."""
        taken = await self._until_stop(self._slots.take(self._batch))
        if taken is None:
            return
        n_started = 0
        try:
            lease_ends_at = self._clock.monotonic() + self._dispatcher.lease_s
            claimed = await queue.claim(limit=taken, lease_s=self._dispatcher.lease_s)
            for message in () if self._is_stopping() else claimed.messages:
                self._start(queue, message, lease_ends_at)
                n_started += 1
        finally:
            self._slots.give(taken - n_started)
        if self._is_stopping():
            await self._release(queue, claimed.messages)
        elif n_started < taken:
            due_in_ms = claimed.next_due_in_ms
            await self._wait(queue, MAX_WAIT_S if due_in_ms is None else due_in_ms / 1000)

    async def _wait(self, queue: MessageQueue, timeout_s: float) -> None:
        began_at = time.monotonic()
        await self._until_stop(queue.wait(min(max(timeout_s, _MIN_CYCLE_S), MAX_WAIT_S)))
        # Needless wake-ups in a row must not become a busy loop.
        too_soon_s = _MIN_CYCLE_S - (time.monotonic() - began_at)
        if too_soon_s > 0:
            await asyncio.sleep(too_soon_s)

    def _start(self, queue: MessageQueue, claimed: ClaimedMessage, lease_ends_at: float) -> None:
        task = asyncio.create_task(self._deliver(queue, claimed, lease_ends_at))
        self._deliveries.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._deliveries.discard(task)
        self._slots.give(1)

    async def _deliver(self, queue: MessageQueue, claimed: ClaimedMessage, lease_ends_at: float) -> None:
        try:
            await self._dispatcher.deliver(claimed, queue=queue, lease_ends_at=lease_ends_at)
        except Exception as error:  # noqa: BLE001 - the lease brings the message back, the loop goes on
            _log.error("message %s: delivery broke off: %s", claimed.message_id, described(error))

    async def _release(self, queue: MessageQueue, messages: Sequence[ClaimedMessage]) -> None:
        for message in messages:
            try:
                await queue.release(message.message_id, message.token, due_in_s=0.0, reason="worker_stopping")
            except Exception as error:  # noqa: BLE001 - the others must be given back all the same
                _log.warning("message %s was not given back: %s", message.message_id, described(error))

    async def _until_stop(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns, or None if `stop` comes first; then `work` is cancelled and has ended."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        return None if task.cancelled() else task.result()
