"""What a phone sends with: the contract that a simulated radio and a real one keep."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from otpsvc.handset.wire import PhoneState

# Called with a state and, for FAILED, the phone's own words for why; DELIVERED may come long after `send` returned.
Told: TypeAlias = Callable[[PhoneState, str], None]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One SMS to one number. `sim_number` counts from 1; None leaves the choice to the phone."""

    message_id: str
    device_id: str
    to: str
    text: str
    sim_number: int | None = None

    def __repr__(self) -> str:
        """Name the message, hide the number and the text."""
        return f"Outgoing({self.message_id})"


class Radio(Protocol):
    """Sends one SMS after the other."""

    async def send(self, sms: Outgoing, told: Told) -> None:
        """Send it, and return when the next one may come.

        `told` hears SENT or FAILED before that; neither, where nobody can know whether it left. May be cancelled.
        """
        ...

    def close(self) -> None:
        """Forget what is still to be told."""
        ...
