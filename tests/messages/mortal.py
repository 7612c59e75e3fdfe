"""Workers that die, stall or lose the store at any step, in front of gateways of which it is known what they took.

Each worker is a process of its own: its `Fate` strikes before and after each call of the queue or of a gateway takes
effect, and a dead worker has no effect any more. Queue and gateways outlive it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

from otpsvc.crypto import Keyring
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import ClaimedBatch, MessageStatus
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    NoSettings,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    Unknown,
)
from otpsvc.testing import ManualClock, MemoryQueue, sender_context

LEASE_S = 60.0
KEYRING = Keyring.from_masters({"a": b"k" * 32})
FINAL = {MessageStatus.SENT, MessageStatus.FAILED, MessageStatus.EXPIRED, MessageStatus.CANCELLED}

T = TypeVar("T")


class Killed(BaseException):
    """The worker is dead: nothing that follows takes effect."""


class Reply(Enum):
    """What a gateway does with one request, and what its caller hears."""

    TAKES = auto()
    TAKES_SILENTLY = auto()  # it goes out, the answer is lost
    LOSES = auto()  # it does not go out, and nobody says so
    REFUSES = auto()  # the gateway looked at it and said no
    THROTTLES = auto()  # answered before anybody looked
    UNREACHABLE = auto()  # the connection was refused


OPEN = {Reply.TAKES, Reply.TAKES_SILENTLY, Reply.LOSES}


@dataclass
class Gateway:
    """What stands behind a sender: `choose` says what it does next, `n_taken` how many texts went out."""

    name: str
    is_idempotent: bool
    choose: Callable[[], Reply]
    n_taken: int = 0

    def ask(self) -> Reply:
        reply = self.choose()
        if self.is_idempotent and self.n_taken and reply is Reply.REFUSES:
            reply = Reply.TAKES  # it recognises the id of what it has
        if reply in {Reply.TAKES, Reply.TAKES_SILENTLY} and not (self.is_idempotent and self.n_taken):
            self.n_taken += 1
        return reply


class Fate:
    """A worker's fate. It dies at step `dies_at`; the tests derive other fates from it."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.n_steps = 0
        self.is_dead = False

    async def step(self, *, is_store: bool) -> None:
        await asyncio.sleep(0)
        if self.n_steps == self.dies_at:
            self.is_dead = True
        if self.is_dead:
            raise Killed
        self.n_steps += 1
        if is_store:
            await self.strike()

    async def strike(self) -> None:
        """Let something happen to a living worker on its way to the store, or back."""


class GatewaySender(Sender[NoSettings]):
    """One worker's way to a gateway; each request that leaves is noted in `calls`."""

    def __init__(self, gateway: Gateway, fate: Fate, calls: list[tuple[Gateway, Reply]]) -> None:
        super().__init__(gateway.name, NoSettings(), sender_context())
        self.capabilities = Capabilities(channels=frozenset({Channel.SMS}), is_idempotent=gateway.is_idempotent)
        self._gateway, self._fate, self._calls = gateway, fate, calls

    async def send(self, message: OutboundMessage) -> Outcome:
        await self._fate.step(is_store=False)
        reply = self._gateway.ask()
        self._calls.append((self._gateway, reply))
        await self._fate.step(is_store=False)
        match reply:
            case Reply.TAKES:
                return Accepted(f"{self.name}-1")
            case Reply.REFUSES:
                return Rejected(RejectionKind.NO_CREDIT)
            case Reply.THROTTLES:
                return RetryLater(5)
            case Reply.UNREACHABLE:
                return Rejected(RejectionKind.UNAVAILABLE)
            case Reply.TAKES_SILENTLY | Reply.LOSES:
                return Unknown("no answer")


class MortalQueue:
    """One worker's way to the queue."""

    def __init__(self, queue: MemoryQueue, fate: Fate) -> None:
        self._queue, self._fate = queue, fate

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._fate.step(is_store=True)
        answer = await call()
        await self._fate.step(is_store=True)
        return answer

    async def wait(self, timeout_s: float) -> None:
        await self._through(lambda: self._queue.wait(timeout_s))

    async def rewake(self) -> None:
        await self._through(self._queue.rewake)

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        return await self._through(lambda: self._queue.claim(limit=limit, lease_s=lease_s))

    async def begin(self, message_id: str, token: str, *, sender: str) -> bool:
        return await self._through(lambda: self._queue.begin(message_id, token, sender=sender))

    async def record_sent(self, message_id: str, token: str, **told: Any) -> bool:
        return await self._through(lambda: self._queue.record_sent(message_id, token, **told))

    async def record_final(self, message_id: str, token: str, status: MessageStatus, *, reason: str) -> bool:
        return await self._through(lambda: self._queue.record_final(message_id, token, status, reason=reason))

    async def release(self, message_id: str, token: str, **told: Any) -> bool:
        return await self._through(lambda: self._queue.release(message_id, token, **told))


@dataclass
class World:
    """A queue with one message, and the gateways; workers come and go."""

    gateways: list[Gateway]
    clock: ManualClock = field(default_factory=ManualClock)
    calls: list[tuple[Gateway, Reply]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock, KEYRING)
        self.id = self.queue.add()

    @property
    def record(self) -> Any:
        return self.queue.messages[self.id]

    async def work(self, fate: Fate) -> None:
        """Be one worker for one claim."""
        queue = MortalQueue(self.queue, fate)
        dispatcher = Dispatcher(
            keyring=KEYRING,
            senders=[GatewaySender(gateway, fate, self.calls) for gateway in self.gateways],
            clock=self.clock,
            lease_s=LEASE_S,
            step_timeout_s=10.0,
        )
        lease_ends_at = self.clock.monotonic() + LEASE_S
        for claimed in (await queue.claim(limit=1, lease_s=LEASE_S)).messages:
            await dispatcher.deliver(claimed, queue=queue, lease_ends_at=lease_ends_at)

    async def finish(self) -> None:
        """Let workers that live come back until the message is final; fail if it is forgotten."""
        for _ in range(200):
            if self.record.status in FINAL:
                return
            self.clock.advance(max(0.0, self.record.due_at - self.clock.time()))
            await self.work(Fate())
        raise AssertionError(f"never final: {self.record}")

    def check(self) -> None:
        """No call goes out past one that may have sent, unless it asks that very gateway, which dedupes."""
        open_at: Gateway | None = None
        for gateway, reply in self.calls:
            if open_at is not None:
                assert gateway is open_at, self.calls
                assert gateway.is_idempotent, self.calls
            if reply in OPEN:
                open_at = gateway
            elif reply is Reply.REFUSES:
                open_at = None
        n_texts = sum(gateway.n_taken for gateway in self.gateways)
        assert n_texts <= 1, self.calls
        status, word = self.record.events[-1]
        if status is MessageStatus.SENT:
            assert n_texts == 1, self.calls
        elif status is MessageStatus.FAILED and word != "unknown_outcome":
            assert n_texts == 0, self.calls
