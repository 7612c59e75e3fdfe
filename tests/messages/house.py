"""A queue with one message in it, and a dispatcher in front of the queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from otpsvc.crypto import Keyring
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import MessageStatus, ReceiptFact
from otpsvc.messages.policy import RouteStep
from otpsvc.messages.ports import HandoverObserver
from otpsvc.senders.contract import RULES, ReceiptStatus, RejectionKind, Sender
from otpsvc.testing import ManualClock, MemoryQueue
from tests.messages.doubles import HandGates, MemoryBook, dispatcher_of

NUMBER, CODE = "+33698765432", "987654"
LEASE_S = 60.0


@dataclass
class House:
    """A queue with one message and a dispatcher in front of it."""

    clock: ManualClock = field(default_factory=ManualClock)
    keyring: Keyring = field(default_factory=lambda: Keyring.from_masters({"a": b"k" * 32}))

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock, self.keyring)
        self.book = MemoryBook(self.queue)
        self.gates = HandGates()
        self.id = self.queue.add(to=NUMBER, text=f"{CODE} is your code")

    @property
    def record(self) -> Any:
        return self.queue.messages[self.id]

    @property
    def end(self) -> tuple[MessageStatus, str] | None:
        return self.record.events[-1] if self.record.events else None

    def dispatcher(
        self,
        *senders: Sender[Any],
        mirrors: Sequence[Sender[Any]] = (),
        lease_s: float = LEASE_S,
        step_timeout_s: float = 10.0,
        observer: HandoverObserver | None = None,
        steps: Mapping[str, RouteStep] | None = None,
        **rules: Any,
    ) -> Dispatcher:
        return dispatcher_of(
            senders,
            book=self.book,
            gates=self.gates,
            steps=steps,
            rules=rules,
            keyring=self.keyring,
            mirrors=mirrors,
            clock=self.clock,
            lease_s=lease_s,
            step_timeout_s=step_timeout_s,
            observer=observer,
        )

    async def deliver(self, dispatcher: Dispatcher) -> None:
        lease_ends_at = self.clock.monotonic() + LEASE_S
        (claimed,) = (await self.queue.claim(limit=1, lease_s=LEASE_S)).messages
        await dispatcher.deliver(claimed, queue=self.queue, lease_ends_at=lease_ends_at)

    async def come_back(self) -> None:
        """Wait until the message is due."""
        self.clock.advance(max(0.0, self.record.due_at - self.clock.time()))

    async def work(self, dispatcher: Dispatcher, *, most: int = 60) -> None:
        """Deliver again and again until nothing is due any more; fails if that never comes."""
        for _ in range(most):
            if not self.record.is_waiting:
                return
            await self.come_back()
            lease_ends_at = self.clock.monotonic() + LEASE_S
            for claimed in (await self.queue.claim(limit=1, lease_s=LEASE_S)).messages:
                await dispatcher.deliver(claimed, queue=self.queue, lease_ends_at=lease_ends_at)
        raise AssertionError(f"never over: {self.record}")

    async def hear(self, sender: str, status: ReceiptStatus, kind: RejectionKind | None = None) -> str:
        """A receipt comes."""
        fact = ReceiptFact(
            status=status.value,
            kind=kind.value if kind else "",
            next_may_try=RULES[kind].next_may_try if kind else True,
        )
        return await self.queue.apply(self.id, sender, fact)
