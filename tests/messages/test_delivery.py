"""Delivery on the real store: what the service accepts, workers hand to a sender, once."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from otpsvc.clients.model import Principal
from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError, problem
from otpsvc.ids import parse_message_id
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.policy import Routes, RouteStep
from otpsvc.messages.receipts import ReceiptService
from otpsvc.messages.router import Router
from otpsvc.messages.text import Texts
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import CodeHasher
from otpsvc.otp.model import SendRequest, SentOtp, VerifiedOtp, VerifyRequest
from otpsvc.otp.policy import Limits, Policy
from otpsvc.otp.service import OtpService
from otpsvc.redis.client import RedisClient
from otpsvc.redis.gates import RedisGates
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.redis.otp import RedisOtpStore
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.redis.receipts import RedisReceiptBook
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    Unknown,
)
from otpsvc.testing import RecordingSender
from otpsvc.worker import run_worker
from tests.messages.doubles import NoHistory, one_route

CALLER = Principal("client_100000000001", "test", "key", Policy(cooldown_s=0))
KEYRING = Keyring.from_masters({"a": bytes(range(32))})
DEDUPES = Capabilities(channels=frozenset({Channel.SMS}), is_idempotent=True)
TELLS = Capabilities(channels=frozenset({Channel.SMS}), has_receipts=True, receipt_within_s=1.0)
# A second is the least that a route can wait for a receipt.
HASTY = one_route([RouteStep(sender=name, receipt_timeout_s=1.0) for name in "ab"])


@dataclass
class House:
    """A service and the queues behind it, as the application wires them."""

    service: OtpService
    queues: list[RedisMessageQueue]
    stop: asyncio.Event
    workers: list["asyncio.Task[None]"]
    client: RedisClient
    keys: Keys
    receipts: ReceiptService = field(init=False)

    @property
    def book(self) -> RedisReceiptBook:
        index = RedisReceiptIndex(self.client, self.keys)
        return RedisReceiptBook(self.client, self.keys, index, event_limit=100_000)

    async def tried(self, sent: SentOtp) -> list[tuple[str, str, bool]]:
        """What the stream of events says about the steps of a message."""
        queue = self.queues[parse_message_id(sent.message_id).partition]
        entries = await self.client.command("XRANGE", queue._keys.events, "-", "+")
        told = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]
        return [
            (one[b"sender"].decode(), one[b"outcome"].decode(), b"may_duplicate" in one)
            for one in told
            if one[b"event"] == b"message.tried" and one[b"message_id"].decode() == sent.message_id
        ]

    def work(
        self, *senders: Sender[Any], lease_s: float = 60.0, step_timeout_s: float = 5.0, routes: Routes | None = None
    ) -> None:
        names = {sender.name: sender for sender in senders}
        self.receipts = ReceiptService(book=self.book, past=NoHistory(), senders=names)
        dispatcher = Dispatcher(
            keyring=KEYRING,
            router=Router(routes or Routes(), tuple(names), names),
            senders=names,
            gates=RedisGates(self.client, self.keys, {}),
            book=self.book,
            take_receipts=self.receipts.take,
            clock=SystemClock(),
            lease_s=lease_s,
            step_timeout_s=step_timeout_s,
        )
        run = run_worker(
            self.queues,
            dispatcher,
            batch=8,
            concurrency=8,
            stop=self.stop,
            clock=SystemClock(),
            drain_s=0.1,
        )
        self.workers.append(asyncio.create_task(run))

    async def send(self, to: str = "+33612345678", **fields: Any) -> SentOtp:
        return await self.service.send(CALLER, SendRequest(to=to, **fields))

    async def queue_with_one(self) -> RedisMessageQueue:
        sent = await self.send()
        return self.queues[parse_message_id(sent.message_id).partition]

    async def until(self, sent: SentOtp, *statuses: str) -> str:
        async with asyncio.timeout(15):
            while True:
                view = await self.service.get(CALLER, sent.otp_id)
                if view.message_status in statuses:
                    return view.message_status
                await asyncio.sleep(0.005)


@pytest.fixture
async def house(redis_url: str) -> AsyncIterator[House]:
    client = RedisClient(redis_url, timeout_s=5, max_connections=32)
    keys = Keys("test", 3)
    hasher = CodeHasher(KEYRING, "hmac-sha256")
    service = OtpService(
        store=RedisOtpStore(client, keys),
        keyring=KEYRING,
        hasher=hasher,
        texts=Texts(),
        limits=Limits(),
        partitions=3,
        checker=GatewayChecks(),
    )
    queues = [RedisMessageQueue(client, partition) for partition in keys.partitions]
    opened = House(service, queues, asyncio.Event(), [], client, keys)
    yield opened
    opened.stop.set()
    await asyncio.gather(*opened.workers)
    hasher.close()
    await client.close()


async def test_a_code_arrives_in_its_language_and_verifies(house: House, caplog: pytest.LogCaptureFixture) -> None:
    sender = RecordingSender("a")
    with caplog.at_level(logging.DEBUG):
        house.work(sender)
        sent = await house.send()
        assert await house.until(sent, "sent", "failed") == "sent"
    (message,) = sender.sent
    assert message.to == "+33612345678"
    assert "votre code" in message.text
    code = re.findall(r"\d{6}", message.text)[0]
    assert isinstance(await house.service.verify(CALLER, VerifyRequest(otp_id=sent.otp_id, code=code)), VerifiedOtp)
    assert code not in caplog.text
    assert "612345678" not in caplog.text


async def test_two_workers_over_three_partitions_send_each_message_once(house: House) -> None:
    sender = RecordingSender("a")
    house.work(sender)
    house.work(sender)
    all_sent = await asyncio.gather(*(house.send(f"+336123456{n:02d}") for n in range(60)))
    for sent in all_sent:
        assert await house.until(sent, "sent", "failed") == "sent"
    assert len(sender.sent) == 60
    assert {message.message_id for message in sender.sent} == {sent.message_id for sent in all_sent}


async def test_failing_over_and_failing(house: House) -> None:
    no_credit = Rejected(RejectionKind.NO_CREDIT)
    house.work(RecordingSender("a", [no_credit, no_credit]), RecordingSender("b", [Unknown()]))
    assert await house.until(await house.send(), "sent", "failed") == "failed"
    assert await house.until(await house.send("+33612345679"), "sent", "failed") == "sent"


async def test_later_comes_again(house: House) -> None:
    sender = RecordingSender("a", [RetryLater(0.2)])
    house.work(sender)
    assert await house.until(await house.send(), "sent", "failed") == "sent"
    assert [message.try_number for message in sender.sent] == [1, 2]


@pytest.mark.parametrize(("can_dedupe", "end", "n_sends"), [(False, "failed", 1), (True, "sent", 2)])
async def test_a_worker_that_dies_in_a_send(can_dedupe: bool, end: str, n_sends: int, house: House) -> None:
    sender = RecordingSender("a", capabilities=DEDUPES if can_dedupe else RecordingSender().capabilities)
    sender.gate.clear()
    house.work(sender, lease_s=2.5, step_timeout_s=0.5)
    sent = await house.send()
    await sender.began.wait()
    (worker,) = house.workers
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    house.workers.clear()
    sender.gate.set()
    house.work(sender)
    assert await house.until(sent, "sent", "failed") == end
    assert len(sender.sent) == n_sends


async def test_a_cancelled_code_is_not_sent(house: House) -> None:
    sender = RecordingSender("a")
    sent = await house.send()
    await house.service.cancel(CALLER, sent.otp_id)
    house.work(sender)
    later = await house.send("+33612345679")
    assert await house.until(later, "sent", "failed") == "sent"
    assert await house.until(sent, "cancelled") == "cancelled"
    assert {message.message_id for message in sender.sent} == {later.message_id}


async def test_what_a_lost_answer_leased_is_handed_out_again(house: House) -> None:
    """The claim ran, its answer did not arrive: no sender has the messages, so they are not uncertain."""
    sent = await house.send()
    queue = house.queues[parse_message_id(sent.message_id).partition]
    real = queue._client.run

    async def run_then_lose_the_answer(*args: Any, **options: Any) -> Any:
        await real(*args, **options)
        raise problem("SERVICE_UNAVAILABLE")

    queue._client.run = run_then_lose_the_answer  # type: ignore[method-assign]  # the wire breaks after the script ran
    with pytest.raises(ApiError):
        await queue.claim(limit=5, lease_s=30)
    queue._client.run = real  # type: ignore[method-assign]  # and is mended
    (claimed,) = (await queue.claim(limit=5, lease_s=30)).messages
    assert claimed.begun_by == ""
    assert (await queue.claim(limit=5, lease_s=30)).messages == []


async def test_what_may_have_been_sent_stays_so_whoever_gives_it_back(house: House) -> None:
    """A lease runs out in a send; the next worker is stopping and gives it back; a third must not repeat it."""
    queue = await house.queue_with_one()
    (first,) = (await queue.claim(limit=1, lease_s=0)).messages
    assert await queue.begin(first.message_id, first.token, sender="a")
    (second,) = (await queue.claim(limit=1, lease_s=30)).messages
    assert second.begun_by == "a"
    assert await queue.release(
        second.message_id, second.token, due_in_s=0, reason="worker_stopping", begun_by=second.begun_by
    )
    (third,) = (await queue.claim(limit=1, lease_s=30)).messages
    assert third.begun_by == "a"
    assert await queue.release(third.message_id, third.token, due_in_s=0, reason="retry_later")
    (fourth,) = (await queue.claim(limit=1, lease_s=30)).messages
    assert fourth.begun_by == "", "a definite answer settles it"


async def test_a_worker_that_died_before_it_began_a_call_leaves_no_doubt(house: House) -> None:
    queue = await house.queue_with_one()
    await queue.claim(limit=1, lease_s=0)
    (claimed,) = (await queue.claim(limit=1, lease_s=30)).messages
    assert (claimed.begun_by, claimed.tries) == ("", 2)


async def test_no_call_of_a_cancelled_code_begins(house: House) -> None:
    sent = await house.send()
    queue = house.queues[parse_message_id(sent.message_id).partition]
    (claimed,) = (await queue.claim(limit=1, lease_s=30)).messages
    assert await queue.begin(claimed.message_id, claimed.token, sender="a")
    assert not await queue.begin(claimed.message_id, "another token", sender="b")
    await house.service.cancel(CALLER, sent.otp_id)
    assert not await queue.begin(claimed.message_id, claimed.token, sender="b")


async def test_what_was_recorded_once_is_told_again_and_changes_nothing(house: House) -> None:
    queue = await house.queue_with_one()
    (first,) = (await queue.claim(limit=1, lease_s=30)).messages
    for _ in range(2):
        assert await queue.release(first.message_id, first.token, due_in_s=0, reason="retry_later")
    (claimed,) = (await queue.claim(limit=1, lease_s=30)).messages
    for _ in range(2):
        assert await queue.record_sent(claimed.message_id, claimed.token, sender="a", provider_id="p")
    assert not await queue.record_sent(claimed.message_id, "another token", sender="b", provider_id=None)
    assert (await queue.claim(limit=1, lease_s=30)).messages == []


async def test_a_wake_token_that_a_cancelled_wait_took_is_left_again(house: House) -> None:
    queue = house.queues[0]
    await queue.rewake()
    async with asyncio.timeout(5):
        await queue.wait(60)


# -- receipts and other senders, on the real store


async def test_an_unknown_outcome_is_passed_after_the_deadline_and_told(house: House) -> None:
    first, second = RecordingSender("a", [Unknown()]), RecordingSender("b")
    house.work(first, second, routes=HASTY)
    sent = await house.send()
    assert await house.until(sent, "sent", "failed") == "sent"
    assert (len(first.sent), len(second.sent)) == (1, 1)
    assert await house.tried(sent) == [("a", "silent", True)]


async def test_a_receipt_settles_what_was_unknown(house: House) -> None:
    first, second = RecordingSender("a", [Unknown()], capabilities=TELLS), RecordingSender("b")
    house.work(first, second)
    sent = await house.send()
    assert await house.until(sent, "queued", "failed") == "queued"
    await first.began.wait()
    await house.receipts.take("a", [Receipt(status=ReceiptStatus.SENT, message_id=sent.message_id)])
    assert await house.until(sent, "sent", "failed") == "sent"
    assert second.sent == []


async def test_a_missing_receipt_lets_the_next_try(house: House) -> None:
    first, second = (RecordingSender(name, capabilities=TELLS) for name in "ab")
    house.work(first, second)
    sent = await house.send()
    async with asyncio.timeout(15):
        await second.began.wait()
    assert await house.until(sent, "sent", "failed") == "sent"
    assert await house.tried(sent) == [("a", "silent", True)]


@pytest.mark.parametrize(
    ("status", "end", "n_second"),
    [(ReceiptStatus.DELIVERED, "delivered", 0), (ReceiptStatus.FAILED, "sent", 1)],
)
async def test_a_receipt_that_comes_before_the_answer(
    status: ReceiptStatus, end: str, n_second: int, house: House
) -> None:
    early = Receipt(status=status, provider_id="g-1", kind=RejectionKind.UNDELIVERABLE)
    first, second = RecordingSender("a", [Accepted("g-1")], capabilities=TELLS), RecordingSender("b")
    first.gate.clear()
    house.work(first, second)
    sent = await house.send()
    await first.began.wait()
    await house.receipts.take("a", [early])
    first.gate.set()
    async with asyncio.timeout(15):
        while await house.until(sent, "sent", "delivered", "failed") != end or len(second.sent) != n_second:  # noqa: ASYNC110 - sent may come first
            await asyncio.sleep(0.005)


async def test_a_foreign_senders_receipt_changes_nothing(house: House) -> None:
    first, second = (RecordingSender(name, capabilities=TELLS) for name in "ab")
    house.work(first, second, routes=one_route([RouteStep(sender="a"), RouteStep(sender="b")], on_unknown="stop"))
    sent = await house.send()
    assert await house.until(sent, "sent", "failed") == "sent"
    forged = [Receipt(status=status, message_id=sent.message_id) for status in ReceiptStatus]
    await house.receipts.take("b", forged)
    assert await house.until(sent, "sent", "failed", "delivered") == "sent"
    assert await house.tried(sent) == []


async def test_the_gates_of_the_store_hold_a_sender_that_was_told_to_wait(house: House) -> None:
    first, second = RecordingSender("a", [RetryLater(30)]), RecordingSender("b")
    house.work(first, second)
    for number in range(3):
        assert await house.until(await house.send(f"+3361234567{number}"), "sent", "failed") == "sent"
    assert (len(first.sent), len(second.sent)) == (1, 3)
