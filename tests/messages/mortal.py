"""Workers that die, stall or lose the store at any step, in front of gateways of which it is known what they took.

Each worker is a process of its own: its `Fate` strikes before and after each call of the queue, of the receipt book or
of a gateway takes effect, and a dead worker has no effect any more. Queue, book and gateways outlive it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

from otpsvc.crypto import Keyring
from otpsvc.messages.model import ClaimedBatch, ClaimedMessage, MessageStatus, ReceiptFact
from otpsvc.messages.policy import RouteStep
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    NoSettings,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    SentMessage,
    Unknown,
)
from otpsvc.testing import ManualClock, MemoryQueue, sender_context
from tests.messages.doubles import HandGates, MemoryBook, Observer, dispatcher_of

LEASE_S = 60.0
RECEIPT_S = 25.0
MIN_LIFE_S = 30.0
KEYRING = Keyring.from_masters({"a": b"k" * 32})
FINAL = {
    MessageStatus.SENT,
    MessageStatus.DELIVERED,
    MessageStatus.FAILED,
    MessageStatus.EXPIRED,
    MessageStatus.CANCELLED,
}

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


OPEN = {Reply.TAKES_SILENTLY, Reply.LOSES}
TAKEN = {Reply.TAKES, Reply.TAKES_SILENTLY}


class Call(NamedTuple):
    """One request that left: when, to whom, what became of it, and how old the code could grow yet.

    `begun_at` is when it was first written that this gateway is called: whoever wrote it may have died before it was.
    """

    at: float
    gateway: "Gateway"
    reply: Reply
    life_s: float
    begun_at: float


@dataclass
class Gateway:
    """What stands behind a sender: `choose` says what it does next, `n_taken` how many texts went out.

    With `receipt` it says that of what it took, `receipt_after_s` later; `has_receipts` says whether it ever would.
    """

    name: str
    is_idempotent: bool
    choose: Callable[[], Reply]
    has_receipts: bool = False
    receipt: ReceiptStatus | None = None
    receipt_after_s: float = 0.0
    n_taken: int = 0

    def ask(self) -> Reply:
        reply = self.choose()
        if self.is_idempotent and self.n_taken and reply is Reply.REFUSES:
            reply = Reply.TAKES  # it recognises the id of what it has
        if reply in TAKEN and not (self.is_idempotent and self.n_taken):
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

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        await self.step(is_store=True)
        answer = await call()
        await self.step(is_store=True)
        return answer


class GatewaySender(Sender[NoSettings]):
    """One worker's way to a gateway; each request that leaves is noted in the world's `calls`."""

    def __init__(self, gateway: Gateway, fate: Fate, world: "World") -> None:
        super().__init__(gateway.name, NoSettings(), sender_context())
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            is_idempotent=gateway.is_idempotent,
            has_receipts=gateway.has_receipts,
            receipt_within_s=RECEIPT_S if gateway.has_receipts else None,
        )
        self._gateway, self._fate, self._world = gateway, fate, world

    async def send(self, message: OutboundMessage) -> Outcome:
        await self._fate.step(is_store=False)
        reply = self._gateway.ask()
        world = self._world
        world.calls.append(Call(world.clock.time(), self._gateway, reply, world.life_s, world.record.begun_at))
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
        self._queue, self._through = queue, fate.through

    async def wait(self, timeout_s: float) -> None:
        await self._through(lambda: self._queue.wait(timeout_s))

    async def rewake(self) -> None:
        await self._through(self._queue.rewake)

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        return await self._through(lambda: self._queue.claim(limit=limit, lease_s=lease_s))

    async def begin(self, message_id: str, token: str, **told: Any) -> bool:
        return await self._through(lambda: self._queue.begin(message_id, token, **told))

    async def record_sent(self, message_id: str, token: str, **told: Any) -> bool:
        return await self._through(lambda: self._queue.record_sent(message_id, token, **told))

    async def record_kept(self, message_id: str, token: str, **told: Any) -> bool:
        return await self._through(lambda: self._queue.record_kept(message_id, token, **told))

    async def record_final(self, message_id: str, token: str, status: MessageStatus, **told: Any) -> bool:
        return await self._through(lambda: self._queue.record_final(message_id, token, status, **told))

    async def release(self, message_id: str, token: str, **told: Any) -> bool:
        return await self._through(lambda: self._queue.release(message_id, token, **told))


class MortalBook(MemoryBook):
    """One worker's way to the receipt book."""

    def __init__(self, world: "World", fate: Fate) -> None:
        super().__init__(world.queue)
        self.expected, self.parked = world.book.expected, world.book.parked
        self._through = fate.through

    async def expect(self, sent: SentMessage, **told: Any) -> Sequence[Receipt]:
        expect = super().expect
        return await self._through(lambda: expect(sent, **told))

    async def apply(self, message_id: str, sender: str, fact: ReceiptFact) -> str:
        apply = super().apply
        return await self._through(lambda: apply(message_id, sender, fact))


@dataclass
class World:
    """A queue with one message, and the gateways; workers come and go."""

    gateways: list[Gateway]
    rules: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, RouteStep] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=ManualClock)
    calls: list[Call] = field(default_factory=list)
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock, KEYRING)
        self.book = MemoryBook(self.queue)
        self.gates = HandGates()
        self.id = self.queue.add()
        self.told: dict[str, tuple[float, ReceiptStatus]] = {}

    @property
    def record(self) -> Any:
        return self.queue.messages[self.id]

    @property
    def life_s(self) -> float:
        claimed: ClaimedMessage = self.record.claimed
        return claimed.expires_at_ms / 1000 - self.clock.time()

    @property
    def is_over(self) -> bool:
        return self.record.status in FINAL and not self.record.is_waiting

    async def work(self, fate: Fate) -> None:
        """Be one worker for one claim."""
        queue = MortalQueue(self.queue, fate)
        dispatcher = dispatcher_of(
            [GatewaySender(gateway, fate, self) for gateway in self.gateways],
            book=MortalBook(self, fate),
            gates=self.gates,
            steps=self.steps,
            rules=self.rules,
            observer=self.observer,
            keyring=KEYRING,
            clock=self.clock,
            lease_s=LEASE_S,
            step_timeout_s=10.0,
        )
        lease_ends_at = self.clock.monotonic() + LEASE_S
        for claimed in (await queue.claim(limit=1, lease_s=LEASE_S)).messages:
            await dispatcher.deliver(claimed, queue=queue, lease_ends_at=lease_ends_at)

    async def advance(self, seconds: float) -> None:
        """Let time pass, and the receipts come that fall into it."""
        until = self.clock.time() + seconds
        while coming := [receipt for receipt in self._coming() if receipt[0] <= until]:
            at, gateway = min(coming, key=lambda receipt: receipt[0])
            self.clock.advance(max(0.0, at - self.clock.time()))
            await self.hear(gateway)
        self.clock.advance(until - self.clock.time())

    async def hear(self, gateway: Gateway) -> None:
        """The receipt of a gateway comes."""
        assert gateway.receipt is not None
        self.told[gateway.name] = (self.clock.time(), gateway.receipt)
        receipt = Receipt(status=gateway.receipt, provider_id=f"{gateway.name}-1")
        message_id = await self.book.find_or_park(gateway.name, receipt) or self.id
        kind = "undeliverable" if gateway.receipt is ReceiptStatus.FAILED else ""
        await self.queue.apply(message_id, gateway.name, ReceiptFact(status=gateway.receipt.value, kind=kind))

    def _coming(self) -> list[tuple[float, Gateway]]:
        first = {call.gateway.name: call for call in reversed(self.calls) if call.reply in TAKEN}
        return [
            (call.at + call.gateway.receipt_after_s, call.gateway)
            for name, call in first.items()
            if call.gateway.receipt is not None and name not in self.told
        ]

    async def finish(self) -> None:
        """Let workers that live come back until the message is final; fail if it is forgotten."""
        for _ in range(400):
            if self.is_over:
                return
            await self.advance(max(0.0, self.record.due_at - self.clock.time()))
            await self.work(Fate())
        raise AssertionError(f"never final: {self.record}")
