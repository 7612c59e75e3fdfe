"""A queue with one message in it, and a dispatcher in front of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from otpsvc.crypto import Keyring
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import MessageStatus
from otpsvc.messages.ports import HandoverObserver
from otpsvc.senders.contract import Sender
from otpsvc.testing import ManualClock, MemoryQueue

NUMBER, CODE = "+33698765432", "987654"
LEASE_S = 60.0


@dataclass
class House:
    """A queue with one message and a dispatcher in front of it."""

    clock: ManualClock = field(default_factory=ManualClock)
    keyring: Keyring = field(default_factory=lambda: Keyring.from_masters({"a": b"k" * 32}))

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock, self.keyring)
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
        step_timeout_s: float = 10.0,
        observer: HandoverObserver | None = None,
    ) -> Dispatcher:
        return Dispatcher(
            keyring=self.keyring,
            senders=senders,
            mirrors=mirrors,
            clock=self.clock,
            lease_s=LEASE_S,
            step_timeout_s=step_timeout_s,
            observer=observer,
        )

    async def deliver(self, dispatcher: Dispatcher) -> None:
        lease_ends_at = self.clock.monotonic() + LEASE_S
        (claimed,) = (await self.queue.claim(limit=1, lease_s=LEASE_S)).messages
        await dispatcher.deliver(claimed, queue=self.queue, lease_ends_at=lease_ends_at)
