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
from otpsvc.messages.dispatcher import WORKER_STOPPING, Dispatcher
from otpsvc.messages.model import ClaimedMessage
from otpsvc.messages.ports import MessageQueue

MAX_WAIT_S = 5.0
_MIN_CYCLE_S = 0.002
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 2.0
_REWAKE_TIMEOUT_S = 1.0

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
    what is in flight has `drain_s` to end, the rest is cancelled and given back with the sender that was being called.
    Store failures are waited out. Returns when nothing of it runs any more; raises only for a fault of its own.
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
    """Tells one outage of the store: one line when the first queue fails, one when the last of them works again.

    Each queue has pauses of its own, which grow while it fails.
    """

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}

    def failed(self, number: int, error: Exception) -> float:
        """Count a failure of a queue and return how long it is to pause, in seconds."""
        if not self._failures:
            _log.warning("cannot claim messages, trying on: queue %d: %s", number, described(error))
        n_before = self._failures.get(number, 0)
        self._failures[number] = n_before + 1
        pause_s = min(_FIRST_BACKOFF_S * 2.0 ** min(n_before, 10), _MAX_BACKOFF_S)
        return max(pause_s * _random.uniform(0.5, 1.0), _FIRST_BACKOFF_S)

    def worked(self, number: int) -> None:
        if self._failures.pop(number, 0) and not self._failures:
            _log.warning("claiming messages again")


class _Worker:
    def __init__(self, dispatcher: Dispatcher, *, batch: int, slots: _Slots, stop: asyncio.Event, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._batch = batch
        self._slots = slots
        self._stop = stop
        self._clock = clock
        self._deliveries: set[asyncio.Task[None]] = set()
        self._outage = _Outage()
        # Queues whose last wait may have taken a wake token, and that were not claimed from since.
        self._owing: set[int] = set()

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
            await self._rewake([queues[number] for number in self._owing])
        for loop in loops:
            if not loop.cancelled():
                loop.result()

    def _is_stopping(self) -> bool:
        return self._stop.is_set() or self._stopping.done()

    async def _end(self, tasks: "set[asyncio.Task[Any]]") -> None:
        if n_cut_off := sum(not task.done() for task in self._deliveries):
            _log.warning("%d deliveries cut off: given back, or back when their lease ends", n_cut_off)
        # A library may swallow a cancellation; the loops also see that `_stopping` is over, so they end either way.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, number: int, queue: MessageQueue) -> None:
        while not self._is_stopping():
            try:
                await self._cycle(number, queue)
            except Exception as error:  # noqa: BLE001 - delivery outlives whatever a store does, one line per outage
                await self._until_stop(asyncio.sleep(self._outage.failed(number, error)))
            else:
                self._outage.worked(number)

    async def _cycle(self, number: int, queue: MessageQueue) -> None:
        """Claim and start what is due; where that was not all that could start, wait for more."""
        taken = await self._until_stop(self._slots.take(self._batch))
        if taken is None:
            return
        n_started = 0
        try:
            lease_ends_at = self._clock.monotonic() + self._dispatcher.lease_s
            claimed = await queue.claim(limit=taken, lease_s=self._dispatcher.lease_s)
            self._owing.discard(number)
            for message in () if self._is_stopping() else claimed.messages:
                self._start(queue, message, lease_ends_at)
                n_started += 1
        finally:
            self._slots.give(taken - n_started)
        if self._is_stopping():
            await self._release(queue, claimed.messages)
        elif n_started < taken:
            due_in_ms = claimed.next_due_in_ms
            self._owing.add(number)
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
        """Give back what was claimed and not begun; what cannot be given back comes back when its lease ends."""
        answers = await asyncio.gather(
            *(
                queue.release(m.message_id, m.token, due_in_s=0.0, reason=WORKER_STOPPING, begun_by=m.begun_by)
                for m in messages
            ),
            return_exceptions=True,
        )
        _tell_failures("messages were not given back", answers)

    async def _rewake(self, queues: Sequence[MessageQueue]) -> None:
        """Hand on the wake tokens that cancelled waits may have taken: other workers wait for them."""
        answers = await asyncio.gather(
            *(asyncio.wait_for(queue.rewake(), _REWAKE_TIMEOUT_S) for queue in queues), return_exceptions=True
        )
        _tell_failures("queues were not woken for other workers", answers)

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


def _tell_failures(what: str, answers: Sequence[object]) -> None:
    """Say once how many of many calls failed, and how the first of them did."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    if errors:
        _log.warning("%d %s: %s", len(errors), what, described(errors[0]))
