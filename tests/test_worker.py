"""The worker's loop over the queue's port: everything is delivered, nothing spins, stopping loses nothing."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import pytest

from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring
from otpsvc.errors import problem
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import ClaimedBatch, MessageStatus
from otpsvc.senders.contract import Capabilities, Channel, OutboundMessage, Outcome, RetryLater, Sender
from otpsvc.testing import MemoryQueue, RecordingSender
from otpsvc.worker import run_worker

KEYRING = Keyring.from_masters({"a": b"k" * 32})
CLOCK = SystemClock()
DEDUPES = Capabilities(channels=frozenset({Channel.SMS}), is_idempotent=True)


def make_queue() -> MemoryQueue:
    return MemoryQueue(CLOCK, KEYRING)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """In every test here: when the workers have returned, nothing of them runs."""
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


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
        dispatcher = Dispatcher(keyring=KEYRING, senders=senders, clock=CLOCK, lease_s=lease_s, step_timeout_s=10.0)
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


async def test_what_waits_and_what_comes_later_is_delivered_once() -> None:
    queue, sender = make_queue(), RecordingSender("a")
    for _ in range(25):
        queue.add()
    async with Running([queue], sender):
        await until(lambda: statuses(queue) == {"sent": 25})
        queue.add()
        await until(lambda: statuses(queue) == {"sent": 26})
    assert len({message.message_id for message in sender.sent}) == len(sender.sent) == 26


async def test_a_message_due_later_is_not_forgotten_while_idle() -> None:
    queue, sender = make_queue(), RecordingSender("a", [RetryLater(0.2)])
    queue.add(due_in_s=0.1)
    async with Running([queue], sender):
        await until(lambda: statuses(queue) == {"sent": 1})
    assert len(sender.sent) == 2


async def test_several_queues_share_the_slots() -> None:
    queues, sender = [make_queue() for _ in range(5)], RecordingSender("a")
    for queue in queues:
        for _ in range(10):
            queue.add()
    sender.gate.clear()
    async with Running(queues, sender, concurrency=3, batch=2):
        await until(lambda: len(sender.sent) == 3)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(sender.sent) == 3
        in_work = sum((statuses(queue) for queue in queues), Counter())
        assert in_work == {"processing": 3, "queued": 47}, "nothing may be leased that cannot start"
        sender.gate.set()
        await until(lambda: all(statuses(queue) == {"sent": 10} for queue in queues))


async def test_one_hanging_message_does_not_hold_up_the_others() -> None:
    queue = make_queue()
    leave = asyncio.Event()
    held = queue.add()

    class HangsOnOne(RecordingSender):
        async def send(self, message: OutboundMessage) -> Outcome:
            if message.message_id == held:
                await leave.wait()
            return await super().send(message)

    async with Running([queue], HangsOnOne("a"), concurrency=2):
        for _ in range(20):
            queue.add()
        await until(lambda: statuses(queue) == {"sent": 20, "processing": 1})
        leave.set()
        await until(lambda: statuses(queue) == {"sent": 21})


async def test_an_idle_worker_does_not_spin() -> None:
    queue = make_queue()
    async with Running([queue], RecordingSender("a")):
        await asyncio.sleep(0.2)
    assert queue.n_claims <= 2


async def test_needless_wake_ups_do_not_make_it_spin() -> None:
    class Nervous(MemoryQueue):
        async def wait(self, timeout_s: float) -> None:
            return

    class Hasty(MemoryQueue):
        async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
            return ClaimedBatch((await super().claim(limit=limit, lease_s=lease_s)).messages, 0)

    for queue in (Nervous(CLOCK, KEYRING), Hasty(CLOCK, KEYRING)):
        async with Running([queue], RecordingSender("a")):
            await asyncio.sleep(0.2)
            queue.add()
            await until(lambda queue=queue: statuses(queue) == {"sent": 1})
        assert queue.n_claims < 250


@pytest.mark.parametrize("error", [problem("SERVICE_UNAVAILABLE"), RuntimeError("echo 987654")])
async def test_an_outage_is_waited_out_with_one_line(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    queue, sender = make_queue(), RecordingSender("a")
    queue.fails_with = error
    with caplog.at_level(logging.INFO):
        async with Running([queue], sender):
            await until(lambda: queue.n_claims >= 3)
            assert queue.n_claims < 10
            queue.add()
            queue.fails_with = None
            await until(lambda: statuses(queue) == {"sent": 1})
            await until(lambda: len(caplog.records) >= 2)
    assert [r.message.split(":")[1].split(",")[0] for r in caplog.records] == [
        " cannot claim messages",
        " claiming messages again",
    ]
    assert "987654" not in caplog.text


async def test_one_queues_outage_does_not_stop_another() -> None:
    broken, whole = make_queue(), make_queue()
    broken.fails_with = problem("SERVICE_UNAVAILABLE")
    async with Running([broken, whole], RecordingSender("a"), concurrency=1):
        for _ in range(5):
            whole.add()
        await until(lambda: statuses(whole) == {"sent": 5})


async def test_a_delivery_that_breaks_off_is_logged_and_its_slot_freed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Breaks(MemoryQueue):
        async def record_sent(self, message_id: str, token: str, *, sender: str, provider_id: str | None) -> bool:
            if self.n_breaks > 0:
                self.n_breaks -= 1
                raise RuntimeError("echo 987654")
            return await super().record_sent(message_id, token, sender=sender, provider_id=provider_id)

        n_breaks = 3

    queue = Breaks(CLOCK, KEYRING)
    for _ in range(5):
        queue.add()
    async with Running([queue], RecordingSender("a"), concurrency=1):
        await until(lambda: statuses(queue) == {"sent": 2, "processing": 3})
    assert caplog.text.count("delivery broke off: RuntimeError at test_worker.py") == 3
    assert "987654" not in caplog.text


# -- stopping


async def test_stop_lets_what_is_in_flight_end() -> None:
    queue, sender = make_queue(), RecordingSender("a")
    sender.gate.clear()
    for _ in range(5):
        queue.add()
    async with Running([queue], sender, concurrency=3) as worker:
        await until(lambda: len(sender.sent) == 3)
        worker.stop.set()
        await asyncio.sleep(0.01)
        assert not worker.task.done()
        sender.gate.set()
    assert statuses(queue) == {"sent": 3, "queued": 2}


async def test_stop_cuts_off_what_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    queue, sender = make_queue(), RecordingSender("a")
    sender.gate.clear()
    for _ in range(3):
        queue.add()
    async with Running([queue], sender, drain_s=0.02):
        await until(lambda: len(sender.sent) == 3)
    assert statuses(queue) == {"processing": 3}
    assert "3 deliveries cut off" in caplog.text


async def test_what_was_cut_off_is_finished_by_the_next_worker_without_a_second_send() -> None:
    queue, sender = make_queue(), RecordingSender("a")
    sender.gate.clear()
    queue.add()
    async with Running([queue], sender, drain_s=0.01):
        await until(lambda: len(sender.sent) == 1)
    for record in queue.messages.values():
        record.due_at = CLOCK.time()
    sender.gate.set()
    async with Running([queue], sender):
        await until(lambda: statuses(queue) == {"failed": 1})
    assert len(sender.sent) == 1
    (record,) = queue.messages.values()
    assert record.events == [(MessageStatus.FAILED, "unknown_outcome")]


async def test_a_claim_that_answers_after_stop_is_given_back() -> None:
    claiming, answer = asyncio.Event(), asyncio.Event()

    class Slow(MemoryQueue):
        async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
            batch = await super().claim(limit=limit, lease_s=lease_s)
            claiming.set()
            await answer.wait()
            return batch

    queue, sender = Slow(CLOCK, KEYRING), RecordingSender("a")
    queue.add()
    async with Running([queue], sender) as worker:
        await claiming.wait()
        worker.stop.set()
        await asyncio.sleep(0)
        answer.set()
    assert sender.sent == []
    (record,) = queue.messages.values()
    assert record.events == [(MessageStatus.QUEUED, "worker_stopping")]


async def test_stop_is_heard_while_idle_and_during_an_outage_and_without_a_free_slot() -> None:
    idle, broken, busy = make_queue(), make_queue(), make_queue()
    broken.fails_with = problem("SERVICE_UNAVAILABLE")
    sender = RecordingSender("a")
    sender.gate.clear()
    busy.add()
    busy.add()
    async with asyncio.timeout(2):
        async with Running([idle], sender), Running([broken], sender):
            await until(lambda: broken.n_claims and idle.n_claims)
        async with Running([busy], sender, concurrency=1, drain_s=0.01):
            await until(lambda: len(sender.sent) == 1)


async def test_stopped_before_it_began_it_claims_nothing() -> None:
    queue = make_queue()
    queue.add()
    async with Running([queue], RecordingSender("a")) as worker:
        worker.stop.set()
    assert queue.n_claims == 0


async def test_cancelling_the_worker_leaves_nothing_running() -> None:
    queue, sender = make_queue(), RecordingSender("a")
    sender.gate.clear()
    queue.add()
    async with Running([queue], sender) as worker:
        await until(lambda: len(sender.sent) == 1)
        worker.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker.task
    assert statuses(queue) == {"processing": 1}


async def test_a_store_that_swallows_a_cancellation_does_not_keep_the_worker() -> None:
    claiming = asyncio.Event()

    class Deaf(MemoryQueue):
        async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
            claiming.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return await super().claim(limit=limit, lease_s=lease_s)

    queue, sender = Deaf(CLOCK, KEYRING), RecordingSender("a")
    queue.add()
    async with asyncio.timeout(5), Running([queue], sender) as worker:
        await claiming.wait()
        worker.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker.task
    assert sender.sent == []
    assert statuses(queue) == {"queued": 1}


async def test_two_workers_on_one_queue_send_each_message_once() -> None:
    queue, sender = make_queue(), RecordingSender("a", capabilities=DEDUPES)
    async with Running([queue], sender, batch=3), Running([queue], sender, batch=3):
        for _ in range(200):
            queue.add()
            await asyncio.sleep(0)
        await until(lambda: statuses(queue) == {"sent": 200})
    assert len(sender.sent) == 200


@pytest.mark.parametrize(("batch", "concurrency", "n_queues"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
async def test_senseless_numbers_are_refused(batch: int, concurrency: int, n_queues: int) -> None:
    worker = Running([make_queue()] * n_queues, RecordingSender(), batch=batch, concurrency=concurrency)
    with pytest.raises(ValueError, match="at least 1"):
        await worker._run
