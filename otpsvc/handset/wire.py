"""What goes over the wire between a phone and its server: the protocol's own names and dates.

Only shapes, no behaviour: what a field means for the phone is decided in `phone.py`. A field that we do not know is
passed over, and so is a message that cannot be read: a phone must go on with the others.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec


class PhoneState(StrEnum):
    """How far a phone is with a message, in the protocol's words."""

    PENDING = "Pending"
    PROCESSED = "Processed"  # handed to the radio
    SENT = "Sent"
    DELIVERED = "Delivered"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


CANCELLING = "Cancelling"
ENQUEUED_EVENT, CANCELLED_EVENT = "MessageEnqueued", "MessageCancelled"
SETTINGS_EVENT, WEBHOOKS_EVENT = "SettingsUpdated", "WebhooksUpdated"
EXPEDITED = 100


class SimCard(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One SIM: `slot_index` from 0, `sim_number` from 1. The rest arrives masked but for its last four characters."""

    slot_index: int
    sim_number: int
    phone_number: str | None = None
    carrier_name: str | None = None
    iccid: str | None = None


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answers a phone that registered."""

    id: str
    token: str
    login: str
    password: str | None = None

    def __repr__(self) -> str:
        """Name the device only."""
        return f"Registered({self.id})"


class _Text(msgspec.Struct, frozen=True):
    text: str


class WireMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One message as the server lists it."""

    id: str
    phone_numbers: tuple[str, ...] = ()
    message: str = ""
    text_message: _Text | None = None
    sim_number: int | None = None
    with_delivery_report: bool | None = True
    is_encrypted: bool = False
    valid_until: datetime | None = None
    schedule_at: datetime | None = None
    priority: int | None = 0
    state: str = PhoneState.PENDING

    def __repr__(self) -> str:
        """Name the message, hide number and text."""
        return f"WireMessage({self.id})"

    @property
    def text(self) -> str:
        """What to send: `textMessage` wins over the older field."""
        return self.text_message.text if self.text_message is not None else self.message

    @property
    def is_expedited(self) -> bool:
        """Whether it skips the phone's queue and pauses."""
        return (self.priority or 0) >= EXPEDITED


class RecipientReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How far the phone is with one number of a message."""

    phone_number: str
    state: str
    error: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How far the phone is with a message; `states` says when it came to each."""

    id: str
    state: str
    recipients: tuple[RecipientReport, ...] = ()
    states: dict[str, str] = {}

    def __repr__(self) -> str:
        """Name the message and its state, hide the number."""
        return f"Report({self.id}, {self.state})"


def read_messages(body: bytes) -> list[WireMessage]:
    """Read a list of messages; raise ValueError for what is no list. What cannot be read in it is left out."""
    found = msgspec.json.decode(body, type=list[msgspec.Raw])
    messages = []
    for raw in found:
        try:
            messages.append(msgspec.json.decode(raw, type=WireMessage))
        except msgspec.ValidationError:
            continue
    return messages


def moment(seconds: float) -> str:
    """Write seconds since 1970 as the protocol does: ISO 8601 with milliseconds and offset."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def registration(name: str, sims: Sequence[SimCard]) -> dict[str, Any]:
    """Return what a phone says of itself when it registers."""
    return {"name": name, "simCards": list(sims)}
