"""What goes over the wire between the app and us. Its words belong to the app, not to us.

Liberal in what is read: unknown fields are passed over, names cut, SIMs that no message could name left out, because
a phone that is refused sends nothing at all. Exact in what is written. A SIM's number goes no further than this file
unmasked; the number that a report names is not even read.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from otpsvc.devices.inbox import PhoneMessage, StateReport
from otpsvc.devices.model import Device, Registered, Registration, Sim
from otpsvc.http.mobile import dates

MOST_SIMS = 4
LONGEST_NAME = 100
LONGEST_NUMBER = 40
LONGEST_ERROR = 200
SHOWN = 4
NAMELESS = "phone"

# At and above it a message skips the phone's own queue, limits and pauses.
EXPEDITED = 100

# What is kept of a SIM's place; a message names it by the number.
_SLOTS = range(10)
_NUMBERS = range(1, 11)


class SimBody(msgspec.Struct, rename="camel", kw_only=True):
    """One SIM as the phone tells it."""

    slot_index: int
    sim_number: int
    phone_number: str | None = None
    carrier_name: str | None = None
    iccid: str | None = None

    def __repr__(self) -> str:
        """Hide the number, which may have come whole."""
        return f"SimBody({self.slot_index})"

    def to_sim(self) -> Sim:
        """Cut and mask it."""
        return Sim(
            slot=self.slot_index,
            number=self.sim_number,
            phone_number=_masked(self.phone_number),
            carrier=_printable(self.carrier_name, LONGEST_NAME) or None,
            iccid=_masked(self.iccid),
        )


class RegistrationBody(msgspec.Struct, rename="camel", kw_only=True):
    """The body of `POST /device`."""

    name: str | None = None
    sim_cards: list[SimBody] | None = None

    def to_registration(self) -> Registration:
        """Give what the phone says of itself, as it may be kept."""
        name = _printable(self.name, LONGEST_NAME) or NAMELESS
        return Registration(name=name, sims=_sims(self.sim_cards or []))


class UpdateBody(msgspec.Struct, rename="camel", kw_only=True):
    """The body of `PATCH /device`."""

    id: str
    sim_cards: list[SimBody] | None = None

    def to_registration(self, name: str) -> Registration | None:
        """Give the SIMs that the phone has now, under the name that it has; None where it says nothing of them."""
        return Registration(name=name, sims=_sims(self.sim_cards)) if self.sim_cards is not None else None


class RecipientBody(msgspec.Struct, kw_only=True):
    """What became of one recipient; our messages have one."""

    error: str | None = None

    def __repr__(self) -> str:
        """Hide the phone's words, which can hold the number."""
        return "RecipientBody(…)"


class ReportBody(msgspec.Struct, kw_only=True):
    """One message in the body of `PATCH /message`."""

    id: str
    state: str
    recipients: list[RecipientBody] | None = None
    states: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Hide the phone's words."""
        return "ReportBody(…)"

    def to_report(self) -> StateReport:
        """Give what is believed of it."""
        errors = [each.error for each in self.recipients or () if each.error]
        at = dates.read((self.states or {}).get(self.state))
        return StateReport(
            message_id=self.id,
            state=self.state,
            error=errors[0][:LONGEST_ERROR] if errors else "",
            sent_at=at.timestamp() if at is not None else None,
        )


class PasswordBody(msgspec.Struct, rename="camel", kw_only=True):
    """The body of `PATCH /user/password`."""

    current_password: Annotated[str, Meta(max_length=256)]
    new_password: Annotated[str, Meta(max_length=256)]

    def __repr__(self) -> str:
        """Hide both."""
        return "PasswordBody(…)"


class RegisteredAnswer(msgspec.Struct, kw_only=True):
    """What `POST /device` answers; the only place where a token is seen."""

    id: str
    token: str
    login: str
    password: str | UnsetType = UNSET

    def __repr__(self) -> str:
        """Name the device only."""
        return f"RegisteredAnswer({self.id!r})"

    @classmethod
    def of(cls, registered: Registered) -> "RegisteredAnswer":
        """Write a registered phone."""
        return cls(
            id=registered.device.id,
            token=registered.token,
            login=registered.login,
            password=registered.password or UNSET,
        )


class DeviceAnswer(msgspec.Struct, rename="camel", kw_only=True):
    """A device for itself."""

    id: str
    name: str
    created_at: str
    last_seen: str | UnsetType = UNSET

    @classmethod
    def of(cls, device: Device) -> "DeviceAnswer":
        """Write a device."""
        seen_at = device.last_seen_at
        return cls(
            id=device.id,
            name=device.name,
            created_at=dates.written(device.created_at),
            last_seen=dates.written(seen_at) if seen_at is not None else UNSET,
        )


class AddressAnswer(msgspec.Struct, rename="camel", kw_only=True):
    """What `GET /device` answers, also to nobody in particular: the address that the phone is seen under."""

    external_ip: str
    device: DeviceAnswer | UnsetType = UNSET


class CodeAnswer(msgspec.Struct, rename="camel", kw_only=True):
    """What `GET /user/code` answers."""

    code: str
    valid_until: str

    def __repr__(self) -> str:
        """Hide the code."""
        return "CodeAnswer(…)"


class TextAnswer(msgspec.Struct, kw_only=True):
    """The text of a message as newer apps read it."""

    text: str

    def __repr__(self) -> str:
        """Hide the text."""
        return "TextAnswer(…)"


class MessageAnswer(msgspec.Struct, rename="camel", kw_only=True):
    """One message of `GET /message`. Newer apps read `textMessage`, older ones `message`: both are there."""

    id: str
    message: str
    text_message: TextAnswer
    phone_numbers: tuple[str, ...]
    sim_number: int | UnsetType = UNSET
    with_delivery_report: bool = True
    is_encrypted: bool
    valid_until: str
    priority: int = EXPEDITED
    state: str
    created_at: str

    def __repr__(self) -> str:
        """Name the message only."""
        return f"MessageAnswer({self.id!r})"

    @classmethod
    def of(cls, message: PhoneMessage) -> "MessageAnswer":
        """Write a message for the phone that pulled it."""
        return cls(
            id=message.message_id,
            message=message.text,
            text_message=TextAnswer(text=message.text),
            # One that is to be dropped says no more than that.
            phone_numbers=(message.to,) if message.to else (),
            sim_number=message.sim_number if message.sim_number is not None else UNSET,
            is_encrypted=message.is_encrypted,
            valid_until=dates.written_ms(message.expires_at),
            state="Cancelling" if message.is_cancelling else "Pending",
            created_at=dates.written_ms(message.created_at),
        )


def _sims(given: list[SimBody]) -> tuple[Sim, ...]:
    by_slot: dict[int, Sim] = {}
    for body in given[:MOST_SIMS]:
        if body.slot_index in _SLOTS and body.sim_number in _NUMBERS:
            by_slot.setdefault(body.slot_index, body.to_sim())
    return tuple(by_slot.values())


def _printable(text: str | None, most: int) -> str:
    # PostgreSQL keeps no NUL, and a terminal does what an escape tells it.
    letters = (text or "")[: 4 * most]
    return "".join(letter if letter.isprintable() else " " for letter in letters).strip()[:most].rstrip()


def _masked(text: str | None) -> str | None:
    kept = _printable(text, LONGEST_NUMBER)
    shown = kept[-SHOWN:] if len(kept) > SHOWN else ""
    return "*" * (len(kept) - len(shown)) + shown or None
