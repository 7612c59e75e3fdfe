"""A worker that is told to stop, or cancelled: it finishes or gives back what it holds, and leaves nothing running."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from otpsvc.errors import problem
from otpsvc.messages.model import ClaimedBatch, MessageStatus
from otpsvc.testing import MemoryQueue, RecordingSender
from tests.workers import CLOCK, DEDUPES, KEYRING, Running, make_queue, statuses, until


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """In every test here: when the workers have returned, nothing of them runs."""
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


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


async def test_stop_cuts_off_what_does_not_end_and_gives_it_back(caplog: pytest.LogCaptureFixture) -> None:
    queue, sender = make_queue(), RecordingSender("a")
    sender.gate.clear()
    for _ in range(3):
        queue.add()
    async with Running([queue], sender, drain_s=0.02):
        await until(lambda: len(sender.sent) == 3)
    assert statuses(queue) == {"queued": 3}
    assert {record.claimed.begun_by for record in queue.messages.values()} == {"a"}
    assert "3 deliveries cut off" in caplog.text


async def test_what_was_cut_off_is_finished_by_the_next_worker_without_a_second_send() -> None:
    queue, sender = make_queue(), RecordingSender("a")
    sender.gate.clear()
    queue.add()
    async with Running([queue], sender, drain_s=0.01):
        await until(lambda: len(sender.sent) == 1)
    sender.gate.set()
    async with Running([queue], sender):
        await until(lambda: statuses(queue) == {"failed": 1})
    assert len(sender.sent) == 1
    (record,) = queue.messages.values()
    assert record.events == [(MessageStatus.QUEUED, "worker_stopping"), (MessageStatus.FAILED, "unknown_outcome")]


async def test_what_was_cut_off_in_a_deduping_sender_is_sent_by_the_next_worker_at_once() -> None:
    queue, sender = make_queue(), RecordingSender("a", capabilities=DEDUPES)
    sender.gate.clear()
    queue.add()
    async with Running([queue], sender, drain_s=0.01):
        await until(lambda: len(sender.sent) == 1)
    sender.gate.set()
    async with Running([queue], RecordingSender("b"), sender, lease_s=60):
        await until(lambda: statuses(queue) == {"sent": 1})
    assert len(sender.sent) == 2


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


async def test_what_is_given_back_unsent_keeps_what_was_in_doubt() -> None:
    stop_now = asyncio.Event()

    class StopsInTheClaim(MemoryQueue):
        async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
            batch = await super().claim(limit=limit, lease_s=lease_s)
            stop_now.set()
            await asyncio.sleep(0.01)
            return batch

    queue = StopsInTheClaim(CLOCK, KEYRING)
    for sender in ("a", ""):
        record = queue.messages[queue.add()]
        record.claimed = msgspec.structs.replace(record.claimed, begun_by=sender)
    async with Running([queue], RecordingSender("a")) as worker:
        await stop_now.wait()
        worker.stop.set()
    assert [record.claimed.begun_by for record in queue.messages.values()] == ["a", ""]


class OneToken(MemoryQueue):
    """Like the store, it wakes one waiting worker per token, and a cancelled wait may have taken it already."""

    def __init__(self) -> None:
        super().__init__(CLOCK, KEYRING)
        self.tokens: asyncio.Queue[int] = asyncio.Queue()
        self.took_one = asyncio.Event()
        self.n_waiting = 0

    async def wait(self, timeout_s: float) -> None:
        self.n_waiting += 1
        try:
            await asyncio.wait_for(self.tokens.get(), timeout_s)
            self.took_one.set()
            await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        finally:
            self.n_waiting -= 1

    async def rewake(self) -> None:
        await super().rewake()
        self.tokens.put_nowait(1)


async def test_a_token_taken_by_a_stopping_worker_wakes_another() -> None:
    queue, sender = OneToken(), RecordingSender("b")
    async with Running([queue], RecordingSender("a")) as stopping:
        await until(lambda: queue.n_waiting == 1)
        queue.add()
        queue.tokens.put_nowait(1)
        await queue.took_one.wait()
        stopping.stop.set()
    assert queue.tokens.qsize() == 1, "the message waits, and so must a token"
    async with Running([queue], sender):
        await until(lambda: statuses(queue) == {"sent": 1})


async def test_a_worker_that_claimed_since_its_last_wait_owes_no_token() -> None:
    queue, sender = OneToken(), RecordingSender("a")
    sender.gate.clear()
    async with Running([queue], sender, batch=1, concurrency=1, drain_s=0.01):
        await until(lambda: queue.n_waiting == 1)
        queue.add()
        queue.tokens.put_nowait(1)
        await sender.began.wait()
        await asyncio.sleep(0.01)
    assert queue.tokens.empty()


@pytest.mark.parametrize("fault", ["away", "hanging"])
async def test_a_store_that_is_away_does_not_keep_a_stopping_worker(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(MemoryQueue):
        async def rewake(self) -> None:
            if fault == "hanging":
                await asyncio.Event().wait()
            raise RuntimeError("echo 987654")

    queues = [Away(CLOCK, KEYRING) for _ in range(5)]
    async with asyncio.timeout(10), Running(queues, RecordingSender("a")):
        await until(lambda: all(queue.n_claims for queue in queues))
        await asyncio.sleep(0.01)
    (line,) = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert "5 queues were not woken" in line
    assert "987654" not in line


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
    assert statuses(queue) == {"queued": 1}
    (record,) = queue.messages.values()
    assert record.claimed.begun_by == "a"


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
