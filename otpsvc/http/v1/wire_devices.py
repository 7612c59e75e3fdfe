"""What goes over the wire of the device calls. These structs are the callers': they change by addition only.

What opens a door (login, password, code) stands in the answer to a pairing and nowhere else; a token nowhere at all.
Numbers of SIMs are shown as the phone told them: masked but for their last four digits.
"""

from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from otpsvc.devices import qr
from otpsvc.devices.model import DeviceStatus, DeviceView, OpenPairing, Pairing
from otpsvc.devices.policy import Budget
from otpsvc.devices.words import facts_of
from otpsvc.http.v1.times import Time
from otpsvc.messages.policy import TimeOfDay


class PairBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The optional body of `POST /v1/devices/pairings`: whether the phone may send as soon as it has registered."""

    confirms_by_itself: bool | None = None


class PairingAnswer(msgspec.Struct, kw_only=True):
    """What one phone registers with, shown this once. `qr_svg` is an SVG document that says the same.

    `api_url` is what is typed into the app, `warning` what speaks against that address.
    """

    success: bool = True
    server_url: str
    api_url: str
    login: str
    password: str
    code: str
    expires_at: Time
    code_expires_at: Time
    qr_svg: str
    warning: str | None

    def __repr__(self) -> str:
        """Name the login only."""
        return f"PairingAnswer({self.login!r})"

    @classmethod
    def of(cls, pairing: Pairing) -> "PairingAnswer":
        """Write a pairing that was just opened."""
        return cls(
            server_url=pairing.server_url,
            api_url=qr.api_url(pairing),
            login=pairing.login,
            password=pairing.password,
            code=pairing.code,
            expires_at=pairing.expires_at,
            code_expires_at=pairing.code_expires_at,
            qr_svg=qr.svg(pairing),
            warning=qr.warning(pairing.server_url),
        )


class OpenPairingEntry(msgspec.Struct, kw_only=True):
    """A pairing that waits for its phone: nothing of what opens the door but the login."""

    login: str
    created_at: Time
    expires_at: Time

    @classmethod
    def of(cls, pairing: OpenPairing) -> Self:
        """Write one pairing for its client."""
        return cls(login=pairing.login, created_at=pairing.created_at, expires_at=pairing.expires_at)


class PairingListAnswer(msgspec.Struct, kw_only=True):
    """What `GET /v1/devices/pairings` answers: those that wait for their phone, oldest first."""

    success: bool = True
    pairings: list[OpenPairingEntry]


class ClosedPairingAnswer(msgspec.Struct, kw_only=True):
    """What is left of a pairing that was closed: its login, which opens nothing any more."""

    success: bool = True
    login: str
    status: str = "closed"


class ConfirmBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The optional body of a confirmation: the `version` at which somebody has looked at the phone."""

    version: Annotated[int, Meta(ge=1, le=2**53)] | None = None


class Quiet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When a device is left alone: from `start` up to `end`, over midnight where `end` is earlier, in `zone`."""

    start: TimeOfDay
    end: TimeOfDay
    zone: str = "UTC"


class BudgetPatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change in a budget. A field that is absent stays as it is; `quiet: null` takes quiet hours away."""

    messages_per_window: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    window_s: Annotated[int, Meta(ge=60, le=86_400)] | UnsetType = UNSET
    recipients_per_day: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    quiet: Quiet | UnsetType | None = UNSET
    is_spare: bool | UnsetType = UNSET

    def changes(self) -> dict[str, Any]:
        """Return only what was given."""
        # The encoder leaves out what is unset.
        changes: dict[str, Any] = msgspec.to_builtins(self)
        return changes


class DevicePatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `PATCH /v1/devices/{device_id}`. Absent: stays. `null`: the default budget, no passphrase."""

    name: Annotated[str, Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    budget: BudgetPatch | UnsetType | None = UNSET
    passphrase: Annotated[str, Meta(min_length=1, max_length=128)] | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        # Refused here, before anything was changed: the fields are changed one after the other.
        for field, value in (("name", self.name), ("passphrase", self.passphrase)):
            if isinstance(value, str) and (not value.isprintable() or not value.strip()):
                raise ValueError(f"`{field}` must be of printable characters")

    def __repr__(self) -> str:
        """Hide the passphrase."""
        return "DevicePatch(…)"

    def budget_changes(self) -> dict[str, Any] | None:
        """Return what changes in the budget, None where nothing was said of it."""
        if isinstance(self.budget, UnsetType):
            return None
        return msgspec.to_builtins(Budget()) if self.budget is None else self.budget.changes()


class BudgetEntry(msgspec.Struct, kw_only=True):
    """What each SIM of a device may send."""

    messages_per_window: int
    window_s: int
    recipients_per_day: int
    quiet: Quiet | None
    is_spare: bool


class SimEntry(msgspec.Struct, kw_only=True):
    """One SIM, and what of its budget is used: messages in the window, different numbers in 24 hours."""

    slot: int
    number: int
    phone_number: str | None
    carrier: str | None
    iccid: str | None
    messages_used: int | None
    recipients_used: int | None


class DeviceEntry(msgspec.Struct, kw_only=True):
    """One device. What the store knows of it is `null` while the store does not answer.

    `version` grows with every change. `waiting`: messages of which the phone has not said what became of them. A phone
    that names no SIM has one all the same, in slot 0.
    """

    device_id: str
    name: str
    mode: str
    status: str
    version: int
    is_online: bool | None
    disconnect_reason: str | None
    waiting: int | None
    sims: list[SimEntry]
    budget: BudgetEntry
    has_passphrase: bool
    last_error: str | None
    last_error_at: Time | None
    created_at: Time
    confirmed_at: Time | None
    connected_at: Time | None
    last_seen_at: Time | None
    last_pulled_at: Time | None

    @classmethod
    def of(cls, view: DeviceView) -> Self:
        """Write one device for its client."""
        return msgspec.convert(facts_of(view), cls)


class DeviceAnswer(DeviceEntry, kw_only=True):
    """What the calls on one device answer."""

    success: bool = True


class DeviceListAnswer(msgspec.Struct, kw_only=True):
    """What `GET /v1/devices` answers: all of the client's in this mode, oldest first."""

    success: bool = True
    devices: list[DeviceEntry]


class DeletedDeviceAnswer(msgspec.Struct, kw_only=True):
    """What is left of a device that was deleted: its id."""

    success: bool = True
    device_id: str
    status: str = DeviceStatus.DELETED.value
