"""What the devices need from the outside: their records (`postgres`), and everything that is decided now (`redis`)."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Protocol

from otpsvc.devices.model import (
    Account,
    Device,
    DeviceState,
    Gone,
    Offer,
    OpenPairing,
    PhoneReport,
    Pulled,
    Registration,
    Seen,
    Tenant,
    TokenRecord,
    Told,
)
from otpsvc.devices.policy import Budget


class DeviceRecords(Protocol):
    """Devices and pairings in PostgreSQL. Every call is one transaction; all raise ApiError SERVICE_UNAVAILABLE.

    Methods that change a device raise its `version` by one and return the new state; None where this client has no such
    device, or it was deleted.
    """

    async def check_room(self, tenant: Tenant) -> None:
        """Raise ApiError RESOURCE_NOT_FOUND for an unknown client, CONFLICT where it has too many open pairings."""
        ...

    async def insert_pairing(
        self,
        *,
        login: str,
        tenant: Tenant,
        password_hash: str,
        code_tag: bytes,
        code_expires_at: datetime,
        expires_at: datetime,
        is_confirmed_by_itself: bool,
    ) -> bool:
        """Open a pairing; False if the login is taken. Raises ApiError as `check_room`."""
        ...

    async def open_pairings(self, tenant: Tenant) -> list[OpenPairing]:
        """Return the pairings of a client that still wait for their phone, oldest first."""
        ...

    async def close_pairing(self, tenant: Tenant, login: str) -> bool:
        """End a pairing that waits for its phone; False where this client has no such one."""
        ...

    async def account(self, login: str) -> Account | None:
        """Return the account of a login, whatever became of it."""
        ...

    async def set_code(self, login: str, code_tag: bytes, code_expires_at: datetime) -> datetime | None:
        """Give a pairing that is open and unused another code; returns until when it is good, None if it is not open.

        Its count of wrong codes goes on, and one whose code enrolment was closed by wrong codes gets none.
        """
        ...

    async def take_code(self, code_tag: bytes, *, most_wrong: int) -> Account | None:
        """Use up the open, unused pairing of this code, whatever becomes of the phone after; None if there is none.

        Then every open code enrolment counts one wrong code more, and those that reach `most_wrong` are closed.
        """
        ...

    async def set_password(self, login: str, password_hash: str) -> bool:
        """Replace the password of a login; False if there is no such login or its device is out."""
        ...

    async def register(
        self,
        account: Account,
        device_id: str,
        registration: Registration,
        *,
        token_tag: bytes,
        auth_key_id: bytes,
        most_per_client: int,
        password_hash: str | None,
    ) -> Device | None:
        """Make the account's device, or give the one it has a new token, name and SIMs; under a lock on the account.

        `device_id` is for a new one. One that comes again with another name or other SIMs is `pending` anew, unless
        phones of this account are confirmed by themselves. None: the pairing has ended unused, its device is disabled
        or deleted. Raises ApiError CONFLICT where the client has `most_per_client` devices of this mode already.
        """
        ...

    async def find_token(self, device_id: str) -> TokenRecord | None:
        """Return what a token of this device is compared with, disabled ones too; None for deleted and unknown ones."""
        ...

    async def find(self, tenant: Tenant, device_id: str) -> Device | None:
        """Return one device of a client."""
        ...

    async def list_devices(self, tenant: Tenant) -> list[Device]:
        """Return the devices of a client, oldest first, without deleted ones."""
        ...

    async def list_all(self) -> list[Device]:
        """Return every device that is not deleted, of all clients: for the command line and for refilling the store."""
        ...

    async def confirm(self, tenant: Tenant, device_id: str, seen_version: int | None = None) -> Device | None:
        """Make a pending device active; None also where it is not pending, or not at `seen_version` any more."""
        ...

    async def enable(self, tenant: Tenant, device_id: str) -> Device | None:
        """Make a disabled device what it was, active or pending; None also where it is not disabled."""
        ...

    async def disable(self, tenant: Tenant, device_id: str) -> Device | None:
        """Make a device disabled, whatever it was."""
        ...

    async def delete(self, tenant: Tenant, device_id: str) -> Device | None:
        """Delete a device: erases name, SIMs, login secrets and token."""
        ...

    async def rename(self, tenant: Tenant, device_id: str, name: str) -> Device | None:
        """Give it another name; the phone's own word no longer changes it."""
        ...

    async def set_budget(self, tenant: Tenant, device_id: str, budget: Budget) -> Device | None:
        """Replace its budget."""
        ...

    async def set_passphrase(self, tenant: Tenant, device_id: str, sealed: bytes, count: int) -> Device | None:
        """Set or (empty) take away the passphrase; `count` is what it was sealed with."""
        ...

    async def clear_token(self, tenant: Tenant, device_id: str) -> Device | None:
        """Make its token worthless: the phone is out until it registers again with its login."""
        ...

    async def set_sims(self, device_id: str, registration: Registration) -> Device | None:
        """Take what the phone says of its SIMs (`PATCH /device`)."""
        ...

    async def note_seen(self, device_id: str) -> None:
        """Write down that the phone was heard of; for people only, at most once a minute per device."""
        ...


class DevicePresence(Protocol):
    """Which phones are there, one state for all processes. Every call is one atomic step, or raises ApiError."""

    async def seen(self, device: Device, *, stream: str = "", is_pull: bool = False, online_s: float) -> Seen | None:
        """Note that the phone is there, by an open stream (named) or a pull, and tell the pool what the device may do.

        A version later than the caller's own: the caller knows less than the store. None: it was retired at this
        version or a later one, and must be turned away. The first connection ever, a connection after an absence: event
        `device.connected`.
        """
        ...

    async def left(self, device: Device, stream: str, why: Gone) -> None:
        """Note that a stream ended. With none left the device is not there: event `device.disconnected`."""
        ...

    async def retire(self, device: Device, why: Gone) -> None:
        """Take a device out (disabled, deleted, token gone) at its version; what it has not pulled goes to others.

        Also to be called for a pending one. A later `seen` with a higher version lets it back in.
        """
        ...

    async def refresh(self, device: Device) -> None:
        """Tell the store of a device's new version, if it holds a record of the device; changes no presence."""
        ...

    async def lapsed(self, *, limit: int) -> int:
        """Look at devices that were not heard of in time and say so (event); returns how many were looked at."""
        ...

    async def state(self, device: Device) -> DeviceState:
        """Return what the store knows of a device."""
        ...

    async def n_online(self) -> int:
        """Return how many devices of all clients are there now."""
        ...


class DeviceOffers(Protocol):
    """The pool: who gets which message. Every call is one atomic step in the store; ApiError SERVICE_UNAVAILABLE.

    Budgets are counted when a message is offered, so that no lost report can lead over them; what was taken back
    before it was pulled is given back.
    """

    async def offer(
        self,
        *,
        message_id: str,
        tenant: Tenant,
        sender: str,
        recipient: str,
        operator: str,
        sealed: bytes,
        expires_at_ms: int,
        pull_within_ms: int,
        report_within_ms: int,
        give_up_ms: int,
        pinned: str = "",
    ) -> Offer:
        """Choose a phone for a message and put it into its inbox; the same message again gets the same answer.

        Chosen is, among those that are active, online and within budget: first no spare one, then one whose SIM is of
        `operator` (empty: unknown), then the least loaded, then by chance. `recipient` is a blind index. `sealed` is
        number and text under the pool's own sealing. `give_up_ms`:
        so long after its acceptance a message that nobody has pulled is given up.
        """
        ...

    async def pull(self, device: Device, *, limit: int, slots: Collection[bytes]) -> Sequence[Pulled] | None:
        """Give the messages a phone may send, and those it pulled before and has said nothing of, all marked as pulled.

        `slots` are those of the masters that the caller has: what it could not open stays as it is, for others.
        Never one whose code has ended, whose offer was withdrawn, or that another sender has been asked for. A message
        that was pulled and is not wanted any more comes back with `is_cancelling`. None: the device is retired.
        """
        ...

    async def report(self, device: Device, report: PhoneReport) -> Told:
        """Take what a phone says. Only a device that the message was offered to is heard; states only move forward.

        A failure that another phone may do better goes to that phone (`moved`), if nobody else may have the message.
        """
        ...

    async def withdraw(self, tenant: Tenant, message_id: str) -> bool:
        """Take back an offer for good; True if nobody had pulled it."""
        ...

    async def due(self, *, limit: int, again_in_ms: int) -> Sequence[str]:
        """Return offers to look at now, each claimed for `again_in_ms`; named as `look` wants."""
        ...

    async def look(self, offer: str) -> Told:
        """Take an offer over that was not pulled in time or whose phone has gone; pass a pulled and silent one on.

        `moved` says to whom, and `may_duplicate` if the phone before had pulled it. Nobody left: `told` with FAILED and
        why, if surely nobody sent it. Where the receipt of an earlier step was never told to the message, that.
        """
        ...

    async def done(self, client_id: str, message_id: str, status: str) -> None:
        """Note that the message was told this receipt status: nothing more is due until something new happens."""
        ...

    async def reach(self, tenant: Tenant, pinned: str = "") -> str:
        """Say whether a message could be offered now: empty, or `none`, `empty`, `offline`, `foreign` as in `Offer`."""
        ...


class Calls(Protocol):
    """Wake-ups from whoever offers a message to whoever holds the phone's stream, across processes. May be lost."""

    def listen(self, device_id: str) -> AsyncIterator[str]:
        """Give, without end, `enqueued`, `cancelled <message id>`, `settings` or `gone` for one device.

        A process that lost its connection to the store says `enqueued` to all once it is back.
        """
        ...

    async def call(self, device_id: str, what: str) -> None:
        """Send a word to whoever listens; raises ApiError SERVICE_UNAVAILABLE."""
        ...


class PoolObserver(Protocol):
    """Counts what the pool does; quick, and never raises."""

    def offered(self, sender: str, outcome: str) -> None:
        """Take note of an offer: `Offer.outcome`."""
        ...

    def taken_over(self, sender: str, why: str, *, may_duplicate: bool) -> None:
        """Take note that a message went to another phone: `not_pulled`, `gone`, `silent` or `failed`."""
        ...

    def reported(self, sender: str, status: str, seconds: float | None) -> None:
        """Take note of a report: an OfferStatus, and for `sent` the seconds since the message was accepted."""
        ...
