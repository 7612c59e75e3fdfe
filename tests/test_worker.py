"""The worker's loop over the queue's port: everything is delivered, nothing spins, an outage is waited out."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from otpsvc.errors import problem
from otpsvc.messages.model import ClaimedBatch
from otpsvc.senders.contract import OutboundMessage, Outcome, RetryLater
from otpsvc.testing import MemoryQueue, RecordingSender
from tests.workers import CLOCK, DEDUPES, KEYRING, Running, make_queue, statuses, until


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """In every test here: when the workers have returned, nothing of them runs."""
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


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
    assert [r.message.split(",")[0] for r in caplog.records] == ["cannot claim messages", "claiming messages again"]
    assert "987654" not in caplog.text


async def test_an_outage_of_many_queues_is_one_line_until_the_last_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queues, sender = [make_queue() for _ in range(8)], RecordingSender("a")
    for queue in queues:
        queue.fails_with = problem("SERVICE_UNAVAILABLE")
    with caplog.at_level(logging.INFO):
        async with Running(queues, sender):
            await until(lambda: all(queue.n_claims >= 2 for queue in queues))
            for queue in queues[1:]:
                queue.fails_with = None
                queue.add()
            await until(lambda: len(sender.sent) == 7)
            assert len(caplog.records) == 1
            queues[0].fails_with = None
            queues[0].add()
            await until(lambda: len(caplog.records) >= 2)
    assert [r.message.split(",")[0] for r in caplog.records] == ["cannot claim messages", "claiming messages again"]


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
        async def record_sent(self, message_id: str, token: str, **facts: Any) -> bool:
            if self.n_breaks > 0:
                self.n_breaks -= 1
                raise RuntimeError("echo 987654")
            return await super().record_sent(message_id, token, **facts)

        n_breaks = 3

    queue = Breaks(CLOCK, KEYRING)
    for _ in range(5):
        queue.add()
    async with Running([queue], RecordingSender("a"), concurrency=1):
        await until(lambda: statuses(queue) == {"sent": 2, "processing": 3})
    assert caplog.text.count("delivery broke off: RuntimeError at test_worker.py") == 3
    assert "987654" not in caplog.text


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
