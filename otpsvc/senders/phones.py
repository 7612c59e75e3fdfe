"""The clients' own phones: hands a message to the pool, which puts it into one phone's inbox.

What happens to it there (pulled, taken over by another phone, sent) is the pool's business, and comes back as receipts.
So `send` is over as soon as a phone is chosen, and asking again about a message that has one changes nothing.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Capabilities,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    Sender,
    SenderContext,
    SentMessage,
)
from otpsvc.senders.ports import PhonePool


class PhonesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long phones are waited for.

    A phone that has not pulled a message after `pull_within_s` loses it to another; one that has pulled it and says
    nothing for `report_within_s` is passed. A message is given up when no phone could take it for `wait_s` since it was
    accepted. `receipt_within_s`: so long the route waits for the word that it was sent, before it asks the next sender.
    """

    pull_within_s: Annotated[float, Meta(ge=3, le=60)] = 10.0
    report_within_s: Annotated[float, Meta(ge=5, le=120)] = 30.0
    wait_s: Annotated[float, Meta(ge=0, le=270)] = 30.0
    receipt_within_s: Annotated[float, Meta(ge=5, le=280)] = 60.0

    def __post_init__(self) -> None:
        if self.receipt_within_s <= self.pull_within_s:
            raise ValueError("receipt_within_s must be more than pull_within_s")


class PhonesSender(Sender[PhonesSettings]):
    """Offers messages to the phones of the client that each is from."""

    Settings = PhonesSettings

    def __init__(self, name: str, settings: PhonesSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            honours_expiry=True,
            is_idempotent=True,
            can_cancel=True,
            has_receipts=True,
            has_presence=True,
            is_pool=True,
            receipt_within_s=settings.receipt_within_s,
        )

    async def open(self) -> None:
        """Check that there is a pool; raises ConfigurationError in a process that was given none."""
        if self.context.phones is None:
            raise ConfigurationError(
                f"senders.{self.name}: the phones can be reached from a worker only; `otpsvc device list` shows them"
            )

    async def send(self, message: OutboundMessage) -> Outcome:
        """Offer a message to the phones; says Accepted once one of them has it in its inbox."""
        pool = self._pool
        if pool is None:
            return Rejected(RejectionKind.MISCONFIGURED, "no phones in this process")
        settings = self.settings
        return await pool.offer(
            self.name,
            message,
            pull_within_s=settings.pull_within_s,
            report_within_s=settings.report_within_s,
            wait_s=settings.wait_s,
        )

    async def cancel(self, message: SentMessage) -> bool:
        """Take a message back; True if no phone had pulled it."""
        return self._pool is not None and await self._pool.cancel(message)

    async def health(self) -> Health:
        """Say whether the pool's store answers. Whether a phone is there depends on whose message it is."""
        pool = self._pool
        if pool is None:
            return Health(is_ready=False, detail="no phones in this process")
        if not await pool.is_ready():
            return Health(is_ready=False, detail="the pool's store does not answer")
        return Health(is_ready=True)

    @property
    def _pool(self) -> PhonePool | None:
        return self.context.phones
