"""What a device is: a paired Android phone with its SIMs, presence and budget; and what it is given to send."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from otpsvc.devices.policy import Budget


class DeviceStatus(StrEnum):
    """`pending`: registered, nobody has confirmed it. Only `active` ones send; `disabled` and `deleted` stay out."""

    PENDING = "pending"
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


class Gone(StrEnum):
    """Why a device is not connected any more: ZimSend's words."""

    CONNECTION_LOST = "CONNECTION_LOST"  # the stream broke, or nothing was heard of it for too long
    USER_LOGOUT = "USER_LOGOUT"  # disabled, deleted, or its token was rotated
    APP_CLOSED = "APP_CLOSED"  # the phone ended the stream in good order
    BATTERY_SAVER = "BATTERY_SAVER"  # the stream is open and three calls in a row were not answered
    UNKNOWN = "UNKNOWN"


class Tenant(NamedTuple):
    """Whose device it is: the client, and the mode it is used in (`live` or `test`)."""

    client_id: str
    mode: str


class Sim(msgspec.Struct, frozen=True, kw_only=True):
    """One SIM as the phone tells it: `slot` from 0, `number` from 1 (what `simNumber` of a message means).

    Everything about it arrives masked but for its last four characters, and is kept so.
    """

    slot: int
    number: int
    phone_number: str | None = None
    carrier: str | None = None
    iccid: str | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device as PostgreSQL has it. `version` grows with every change that the pool must know.

    `passphrase_sealed`: what the phone's end-to-end encryption is typed in with, sealed (keyring, record id = device
    id, count = `version` of that change, bound to client, mode, "passphrase"); empty where it is off.
    """

    id: str
    client_id: str
    mode: str
    name: str
    status: DeviceStatus
    version: int
    login: str
    sims: tuple[Sim, ...]
    budget: Budget
    created_at: datetime
    confirmed_at: datetime | None = None
    last_seen_at: datetime | None = None
    passphrase_sealed: bytes = b""
    passphrase_count: int = 0

    @property
    def tenant(self) -> Tenant:
        """Whose it is."""
        return Tenant(self.client_id, self.mode)

    @property
    def has_passphrase(self) -> bool:
        """Whether what it is given is encrypted end to end."""
        return bool(self.passphrase_sealed)


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to know a device by its token: the device, and the tag of the one token that is good."""

    device: Device
    token_tag: bytes
    auth_key_id: bytes

    def __repr__(self) -> str:
        """Name the device only."""
        return f"TokenRecord({self.device.id})"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A pairing: the login that one phone registers with, and what became of it.

    `device_id` is None until a phone has registered. `status` is that of the device.
    """

    login: str
    client_id: str
    mode: str
    password_hash: str
    expires_at: datetime
    device_id: str | None
    device_status: DeviceStatus | None
    is_confirmed_by_itself: bool

    def __repr__(self) -> str:
        """Name the login only."""
        return f"Account({self.login!r})"


class Pairing(msgspec.Struct, frozen=True, kw_only=True):
    """A pairing that was just opened. Holds what opens the door: shown once, never kept or logged."""

    server_url: str
    login: str
    password: str
    code: str
    code_expires_at: datetime
    expires_at: datetime

    def __repr__(self) -> str:
        """Name the login only."""
        return f"Pairing({self.login!r})"


class OpenPairing(msgspec.Struct, frozen=True, kw_only=True):
    """A pairing that waits for its phone, as it may be told: nothing of what opens the door but the login."""

    login: str
    client_id: str
    mode: str
    created_at: datetime
    expires_at: datetime

    @property
    def tenant(self) -> Tenant:
        """Whose it is."""
        return Tenant(self.client_id, self.mode)


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What a phone says of itself when it registers."""

    name: str
    sims: tuple[Sim, ...] = ()


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A registered phone. `token` is shown once; `password` only where the phone came by a code and has none yet."""

    device: Device
    token: str
    login: str
    password: str | None = None

    def __repr__(self) -> str:
        """Name the device only."""
        return f"Registered({self.device.id})"


class Seen(NamedTuple):
    """What the store answers when a phone is heard of: what waits for it, and the latest version it knows of it."""

    waiting: int
    version: int


class SimUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much of its budget one SIM has used: messages in the window, recipients in 24 h."""

    slot: int
    messages: int
    recipients: int


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows of a device now. Times are ms since 1970 by the store's clock, 0 where there was none.

    `waiting`: messages in its inbox, fetched or not, of which it has not said what became of them.
    """

    is_online: bool = False
    seen_at: int = 0
    pulled_at: int = 0
    connected_at: int = 0
    waiting: int = 0
    misses: int = 0
    last_error: str = ""
    last_error_at: int = 0
    gone: str = ""
    sims: tuple[SimUse, ...] = ()


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device for whoever runs it: the record, and its state (None while the store does not answer)."""

    device: Device
    state: DeviceState | None


class OfferStatus(StrEnum):
    """How far one device is with one message; only forward, and `failed` and `cancelled` are surely not sent."""

    OFFERED = "offered"  # in its inbox, not pulled: may be taken back
    PULLED = "pulled"  # the text has left for the phone
    PROCESSED = "processed"  # the phone has handed it to its radio
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"  # taken back before it was pulled
    SILENT = "silent"  # pulled, and no word in time: another may have it too


class Offer(NamedTuple):
    """What came of offering a message to the pool.

    `outcome`: `offered` (also if it was before) to `device_id`; else nobody has it: `none` (no device is online),
    `budget` (those online are over their budget or quiet), `empty` (the client has no device), `offline` (the pinned
    one), `foreign` (the pinned one is not the client's), `unwanted` (the code has ended). `age_ms`: since the message
    was accepted.
    """

    outcome: str
    device_id: str = ""
    age_ms: int = 0


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """One message that a phone may send now: what it needs, still sealed. `sealed` is the pool's own sealing."""

    message_id: str
    sealed: bytes
    sim_number: int | None
    created_at: int
    expires_at: int
    is_cancelling: bool = False


class FailureWords(NamedTuple):
    """What a phone's words about a failure mean: a RejectionKind, whether another may try, and our short word for why.

    `is_unmapped`: no table knows what it said.
    """

    kind: str
    next_may_try: bool
    error: str
    is_unmapped: bool = False


class PhoneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a phone says about one message; what its words mean (`FailureWords`) for `failed` alone."""

    message_id: str
    status: OfferStatus
    kind: str = ""
    next_may_try: bool = True
    error: str = ""
    is_unmapped: bool = False


class Told(NamedTuple):
    """What a report, a takeover or a look at an offer comes to.

    `outcome`: `ignored` (unknown, foreign, or nothing to say), `told` (see `status`, `kind`), `moved` (to `device_id`),
    `waiting` (look again later), `retired` (the device must be turned away). Where a receipt has to be told to the
    message, also with `moved`: `sender`, `status` (a ReceiptStatus) and `kind`. `seconds`: since its acceptance.
    """

    outcome: str
    client_id: str = ""
    message_id: str = ""
    sender: str = ""
    status: str = ""
    kind: str = ""
    device_id: str = ""
    may_duplicate: bool = False
    why: str = ""
    seconds: float = 0.0
