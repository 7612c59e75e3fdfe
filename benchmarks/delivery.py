"""What the delivery of a message costs, against the bare calls of the store that it is made of.

Run it with `python -m benchmarks.delivery`. One process is the worker, on stores of its own; the sender accepts at once
and costs nothing, so every figure is ours. Routes: one sender; two of which the first always refuses; and one whose
receipts come at once. The ceiling is as many calls of a script that does nothing, through the same client with as many
under way, measured in the same run: a message cannot cost less than its calls.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from otpsvc import ids
from otpsvc.clients.model import Principal
from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring
from otpsvc.embedded import start_stores
from otpsvc.messages.breaker import LocalGates
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import ReceiptFact
from otpsvc.messages.policy import Routes, SenderLimits
from otpsvc.messages.router import Router
from otpsvc.messages.text import Texts
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import CodeHasher
from otpsvc.otp.model import SendRequest
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
    NoSettings,
    OutboundMessage,
    Outcome,
    Receipt,
    Rejected,
    RejectionKind,
    Sender,
    SenderContext,
)
from otpsvc.worker import run_worker

N_MESSAGES = 3000
CONCURRENCY = 64
CALLS_PER_MESSAGE = 5  # claim, admit, begin, settle, report
_FIRST_NUMBER = 33_610_000_000


class Instant(Sender[NoSettings]):
    """Accepts, or refuses, at once; with `book` its receipt is there before its answer."""

    def __init__(self, name: str, context: SenderContext, *, is_open: bool = True) -> None:
        super().__init__(name, NoSettings(), context)
        self.capabilities = Capabilities(channels=frozenset({Channel.SMS}))
        self.n_taken = 0
        self.book: RedisReceiptBook | None = None
        self._is_open = is_open

    async def send(self, message: OutboundMessage) -> Outcome:
        """Take it."""
        if not self._is_open:
            return Rejected(RejectionKind.UNSUPPORTED)
        self.n_taken += 1
        if self.book is not None:
            await self.book.apply(message.message_id, self.name, ReceiptFact(status="delivered"))
        return Accepted(None)


class Row(NamedTuple):
    """One measurement: messages per second, and CPU of this process and of the store per message, in µs."""

    name: str
    per_s: float
    own_us: float
    store_us: float


async def _no_past(_sender: str, _receipts: Sequence[Receipt]) -> None:
    return None


async def _measure(redis_url: str) -> tuple[list[Row], float]:
    client = RedisClient(redis_url, timeout_s=30, max_connections=4)
    keys = Keys("bench", 1)
    keyring = Keyring.from_masters({"bench": os.urandom(32)})
    hasher = CodeHasher(keyring, "hmac-sha256")
    otp = OtpService(
        store=RedisOtpStore(client, keys),
        keyring=keyring,
        hasher=hasher,
        texts=Texts(),
        limits=Limits(),
        partitions=1,
        checker=GatewayChecks(),
    )
    rows = []
    try:
        for name, refuses, has_receipts in (
            ("one sender", False, False),
            ("the first of two refuses", True, False),
            ("receipts come at once", False, True),
        ):
            rows.append(await _delivered(name, client, keys, keyring, otp, refuses=refuses, has_receipts=has_receipts))
        ceiling = await _bare_calls(client, keys)
    finally:
        hasher.close()
        await client.close()
    return rows, ceiling


async def _delivered(
    name: str,
    client: RedisClient,
    keys: Keys,
    keyring: Keyring,
    otp: OtpService,
    *,
    refuses: bool,
    has_receipts: bool,
) -> Row:
    await client.command("FLUSHDB")
    caller = Principal("client_100000000001", "live", "bench", Policy(cooldown_s=0))
    for start in range(0, N_MESSAGES, 500):
        numbers = (f"+{_FIRST_NUMBER + start + n}" for n in range(500))
        await asyncio.gather(*(otp.send(caller, SendRequest(to=number)) for number in numbers))
    clock = SystemClock()
    context = SenderContext(is_dev=False, clock=clock)
    last = Instant("last", context)
    senders = {"first": Instant("first", context, is_open=False), "last": last} if refuses else {"last": last}
    limits = {sender: SenderLimits(concurrency=1000) for sender in senders}
    index = RedisReceiptIndex(client, keys)
    book = RedisReceiptBook(client, keys, index, event_limit=Limits().event_limit)
    last.book = book if has_receipts else None
    dispatcher = Dispatcher(
        keyring=keyring,
        router=Router(Routes(), list(senders), senders),
        senders=senders,
        gates=LocalGates(RedisGates(client, keys, limits), 1000),
        book=book,
        take_receipts=_no_past,
        clock=clock,
        lease_s=30,
        step_timeout_s=10,
    )
    stop = asyncio.Event()
    store_began, own_began, began_at = await _store_cpu(client), time.process_time(), time.perf_counter()
    queue = RedisMessageQueue(client, keys.partitions[0])
    worker = asyncio.create_task(
        run_worker([queue], dispatcher, batch=CONCURRENCY, concurrency=CONCURRENCY, stop=stop, clock=clock)
    )
    while (await queue.depth())[0]:  # noqa: ASYNC110 - the store is what is measured, and it says nothing by itself
        await asyncio.sleep(0.02)
    seconds, own_s = time.perf_counter() - began_at, time.process_time() - own_began
    store_s = await _store_cpu(client) - store_began
    stop.set()
    await worker
    if last.n_taken != N_MESSAGES:
        raise SystemExit(f"{name}: {last.n_taken} of {N_MESSAGES} messages were taken: no result")
    return Row(name, N_MESSAGES / seconds, own_s / N_MESSAGES * 1e6, store_s / N_MESSAGES * 1e6)


async def _bare_calls(client: RedisClient, keys: Keys) -> float:
    """Return messages per second if a message were nothing but its calls."""
    n_calls = N_MESSAGES * CALLS_PER_MESSAGE
    message = {"message": keys.partitions[0].message_base + ids.new_message_id(partition=0).text}
    given = {"client": "client_100000000001", "mode": "live", "otp_base": keys.partitions[0].otp_base}

    async def some() -> None:
        for _ in range(n_calls // CONCURRENCY):
            await client.run("message_get", message, given)

    began_at = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(CONCURRENCY)))
    return N_MESSAGES / (time.perf_counter() - began_at)


async def _store_cpu(client: RedisClient) -> float:
    said: Any = await client.command("INFO", "cpu")
    text = said.decode() if isinstance(said, bytes) else str(said)
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def main() -> int:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as directory,
        start_stores(Path(directory) / "stores", durable=True) as stores,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        rows, ceiling = runner.run(_measure(stores.redis_url))
    print(
        f"{N_MESSAGES} messages, {CONCURRENCY} under way; the ceiling ({CALLS_PER_MESSAGE} bare calls a message): "
        f"{ceiling:.0f} messages/s"
    )
    print(f"{'':<28}{'messages/s':>12}{'of ceiling':>12}{'worker µs':>12}{'Valkey µs':>12}")
    for row in rows:
        print(f"{row.name:<28}{row.per_s:>12.0f}{row.per_s / ceiling:>11.0%} {row.own_us:>11.0f}{row.store_us:>12.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
