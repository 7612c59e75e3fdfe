"""Workers in the background of a test, over queues kept in memory."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring
from otpsvc.senders.contract import Capabilities, Channel, Sender
from otpsvc.testing import MemoryQueue
from otpsvc.worker import run_worker
from tests.messages.doubles import MemoryBook, dispatcher_of

KEYRING = Keyring.from_masters({"a": b"k" * 32})
CLOCK = SystemClock()
DEDUPES = Capabilities(channels=frozenset({Channel.SMS}), is_idempotent=True)


def make_queue() -> MemoryQueue:
    return MemoryQueue(CLOCK, KEYRING)


class Running:
    """A worker in the background for the body of a `with`; stopped and awaited at its end."""

    def __init__(
        self,
        queues: Sequence[MemoryQueue],
        *senders: Sender[Any],
        batch: int = 10,
        concurrency: int = 10,
        drain_s: float = 10.0,
        lease_s: float = 60.0,
    ) -> None:
        self.stop = asyncio.Event()
        dispatcher = dispatcher_of(
            senders,
            # None of these senders has receipts, so one queue stands for all.
            book=MemoryBook(next(iter(queues), make_queue())),
            keyring=KEYRING,
            clock=CLOCK,
            lease_s=lease_s,
            step_timeout_s=10.0,
        )
        self._run = run_worker(
            queues,
            dispatcher,
            batch=batch,
            concurrency=concurrency,
            stop=self.stop,
            clock=CLOCK,
            drain_s=drain_s,
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        if not self.task.cancelled():
            await self.task


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - any condition a test can think of
            await asyncio.sleep(0.001)


def statuses(queue: MemoryQueue) -> Counter[str]:
    return Counter(record.status.value for record in queue.messages.values())
