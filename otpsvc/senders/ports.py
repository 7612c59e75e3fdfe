"""What the house lends to a sender beyond the contract: its pool of phones."""

from typing import Protocol

from otpsvc.senders.contract import OutboundMessage, Outcome, SentMessage


class PhonePool(Protocol):
    """The team's own phones, those of each client apart."""

    async def offer(
        self, sender: str, message: OutboundMessage, *, pull_within_s: float, report_within_s: float, wait_s: float
    ) -> Outcome:
        """Put a message into one phone's inbox; idempotent by the message id.

        A phone that has not pulled it `pull_within_s` later loses it to another; one that pulled it and says nothing
        for `report_within_s` is passed, and the message may arrive twice. Where no phone could take it and none is
        likely to within `wait_s` of its acceptance, Rejected(NO_DEVICE) or Rejected(DEVICE_OFFLINE), before that
        RetryLater; Unknown where the store cannot say.
        """
        ...

    async def cancel(self, message: SentMessage) -> bool:
        """Take a message back for good; True if no phone had pulled it, False also where nobody can tell."""
        ...

    async def is_ready(self) -> bool:
        """Say whether messages could be offered now, as far as that is the same for all clients."""
        ...
