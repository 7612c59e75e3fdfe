"""Phones and their pairings in PostgreSQL: implements `DeviceRecords`, and `HeldSecrets` for rotations.

What must hold however many do it at once is held by row locks, taken in one order: pairing, client, device. A code is
used by one phone, wrong ones are counted one by one, a client never has more devices than it may, and a login whose
device was disabled or deleted lets nobody in. Never tell anybody a tag, a hash or a sealed text.
"""

from datetime import datetime

import asyncpg
import msgspec

from otpsvc.devices.model import Account, Device, DeviceStatus, OpenPairing, Registration, Sim, Tenant, TokenRecord
from otpsvc.devices.policy import Budget
from otpsvc.errors import problem
from otpsvc.postgres import queries
from otpsvc.postgres.pool import Database, Session
from otpsvc.postgres.queries import Query

MOST_OPEN_PAIRINGS = 100

_DEFAULT_BUDGET = Budget()
_queries = queries.load("devices")


class PostgresDevices:
    """The records; every call is one transaction, and raises SERVICE_UNAVAILABLE as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- pairings

    async def check_room(self, tenant: Tenant) -> None:
        """Raise what `insert_pairing` would: RESOURCE_NOT_FOUND, or CONFLICT for too many open pairings."""
        _check_room(tenant, await self._database.value(_queries.count_open_pairings, client_id=tenant.client_id))

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
        """Open a pairing; False if the login, or the code while another waits under it, is taken.

        Raises ApiError as `check_room`.
        """
        async with self._database.transaction("insert_pairing") as session:
            await session.execute(_queries.drop_old_pairings)
            _check_room(tenant, await session.value(_queries.count_open_pairings, client_id=tenant.client_id))
            await session.execute(_queries.free_code, code_tag=code_tag)
            inserted = await session.value(
                _queries.insert_pairing,
                login=login,
                client_id=tenant.client_id,
                mode=tenant.mode,
                password_hash=password_hash,
                code_tag=code_tag,
                code_expires_at=code_expires_at,
                expires_at=expires_at,
                is_confirmed_by_itself=is_confirmed_by_itself,
            )
        return inserted is not None

    async def open_pairings(self, tenant: Tenant) -> list[OpenPairing]:
        """Return the pairings of a client that still wait for their phone, oldest first."""
        rows = await self._database.many(_queries.open_pairings, **tenant._asdict())
        return [OpenPairing(**row) for row in rows]

    async def all_open_pairings(self) -> list[OpenPairing]:
        """Return the open pairings of all clients."""
        return [OpenPairing(**row) for row in await self._database.many(_queries.all_open_pairings)]

    async def close_pairing(self, tenant: Tenant, login: str) -> bool:
        """End a pairing that waits for its phone; False where this client has no such one."""
        return await self._database.value(_queries.close_pairing, login=login, **tenant._asdict()) is not None

    async def account(self, login: str) -> Account | None:
        """Return the account of a login, whatever became of it."""
        row = await self._database.one(_queries.account, login=login)
        return _account(row) if row else None

    async def set_code(self, login: str, code_tag: bytes, code_expires_at: datetime) -> datetime | None:
        """Give a pairing that is open and unused another code; returns until when it is good.

        None if it is not open, if its code was used or closed, and if another pairing waits under this code.
        """
        try:
            async with self._database.transaction("set_code") as session:
                await session.execute(_queries.free_code, code_tag=code_tag)
                until: datetime | None = await session.value(
                    _queries.set_code, login=login, code_tag=code_tag, code_expires_at=code_expires_at
                )
        except asyncpg.UniqueViolationError:
            return None
        return until

    async def take_code(self, code_tag: bytes, *, most_wrong: int) -> Account | None:
        """Use up the open, unused pairing of this code; None if there is none, and every open one counts a wrong one.

        Those that reach `most_wrong` are closed.
        """
        async with self._database.transaction("take_code") as session:
            if not await session.value(_queries.has_open_codes):
                return None
            await session.value(_queries.lock_codes)
            row = await session.one(_queries.use_code, code_tag=code_tag)
            if row is None:
                await session.execute(_queries.count_wrong_code, most_wrong=most_wrong)
        return _account(row) if row else None

    async def set_password(self, login: str, password_hash: str) -> bool:
        """Replace the password of a login; False if there is no such login or its device is out."""
        return await self._database.value(_queries.set_password, login=login, password_hash=password_hash) is not None

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

        `password_hash` is for one that came by its code, which cannot be a second time. None also where the account's
        password is not any more the one that `account` was read with, and where the client is suspended. Raises
        ApiError CONFLICT where the client has `most_per_client` devices of this mode already.
        """
        async with self._database.transaction("register_device") as session:
            pairing = await session.one(_queries.lock_pairing, login=account.login)
            if pairing is None or not account.password_hash or pairing["password_hash"] != account.password_hash:
                return None
            token = {"token_tag": token_tag, "auth_key_id": auth_key_id}
            await session.execute(_queries.note_token_master, auth_key_id=auth_key_id)
            if pairing["device_id"] is None:
                is_taken = await _add_device(session, account, pairing, device_id, registration, token, most_per_client)
                if is_taken:
                    await session.execute(
                        _queries.bind_pairing, login=account.login, device_id=device_id, password_hash=password_hash
                    )
            else:
                device_id = pairing["device_id"]
                is_taken = password_hash is None and await _take_again(session, pairing, device_id, registration, token)
            if not is_taken:
                return None
            await _write_sims(session, device_id, registration.sims)
            return await _device_in(session, device_id)

    # -- devices

    async def find_token(self, device_id: str) -> TokenRecord | None:
        """Return what a token of this device is compared with; an empty tag where it has none any more."""
        row = await self._database.one(_queries.known_device, id=device_id)
        if row is None or row["status"] == DeviceStatus.DELETED:
            return None
        return TokenRecord(
            device=_device(row), token_tag=row["token_tag"] or b"", auth_key_id=row["auth_key_id"] or b""
        )

    async def find(self, tenant: Tenant, device_id: str) -> Device | None:
        """Return one device of a client."""
        row = await self._database.one(_queries.device_of_client, id=device_id, **tenant._asdict())
        return _device(row) if row else None

    async def list_devices(self, tenant: Tenant) -> list[Device]:
        """Return the devices of a client, oldest first, without deleted ones."""
        return [_device(row) for row in await self._database.many(_queries.devices_of_client, **tenant._asdict())]

    async def list_all(self) -> list[Device]:
        """Return every device that is not deleted, of all clients."""
        return [_device(row) for row in await self._database.many(_queries.all_devices)]

    async def confirm(self, tenant: Tenant, device_id: str, seen_version: int | None = None) -> Device | None:
        """Make a pending device active; None also where it is not pending, or not at `seen_version` any more."""
        return await self._changed(_queries.confirm_device, tenant, device_id, seen_version=seen_version)

    async def enable(self, tenant: Tenant, device_id: str) -> Device | None:
        """Make a disabled device what it was, active or pending; None also where it is not disabled."""
        return await self._changed(_queries.enable_device, tenant, device_id)

    async def disable(self, tenant: Tenant, device_id: str) -> Device | None:
        """Make a device disabled, whatever it was."""
        return await self._changed(_queries.disable_device, tenant, device_id)

    async def delete(self, tenant: Tenant, device_id: str) -> Device | None:
        """Delete a device: erases name, SIMs, login secrets and token."""
        async with self._database.transaction("delete_device") as session:
            await session.value(_queries.lock_pairing_of, device_id=device_id)
            if await session.value(_queries.delete_device, id=device_id, **tenant._asdict()) is None:
                return None
            await session.execute(_queries.close_pairing_of, device_id=device_id)
            await session.execute(_queries.delete_sims, device_id=device_id)
            return await _device_in(session, device_id)

    async def rename(self, tenant: Tenant, device_id: str, name: str) -> Device | None:
        """Give it another name; the phone's own word no longer changes it."""
        return await self._changed(_queries.rename_device, tenant, device_id, name=name)

    async def set_budget(self, tenant: Tenant, device_id: str, budget: Budget) -> Device | None:
        """Replace its budget."""
        return await self._changed(_queries.set_device_budget, tenant, device_id, budget=_differences(budget))

    async def set_passphrase(self, tenant: Tenant, device_id: str, sealed: bytes, count: int) -> Device | None:
        """Set or (empty) take away the passphrase; None also unless `count` is the version that this change makes."""
        return await self._changed(
            _queries.set_device_passphrase, tenant, device_id, sealed=sealed or None, count=count
        )

    async def clear_token(self, tenant: Tenant, device_id: str) -> Device | None:
        """Make its token worthless: the phone is out until it registers again with its login."""
        return await self._changed(_queries.clear_device_token, tenant, device_id)

    async def set_sims(self, device_id: str, registration: Registration) -> Device | None:
        """Take what the phone says of its SIMs; the version grows only where it says something new."""
        async with self._database.transaction("set_sims") as session:
            known = await session.one(_queries.lock_device, id=device_id)
            if known is None or known["status"] == DeviceStatus.DELETED:
                return None
            device = await _device_in(session, device_id)
            if sorted(registration.sims, key=_slot) == list(device.sims):
                return device
            await _write_sims(session, device_id, registration.sims)
            await session.execute(_queries.raise_version, id=device_id)
            return await _device_in(session, device_id)

    async def note_seen(self, device_id: str) -> None:
        """Write down that the phone was heard of; for people only, at most once a minute per device."""
        await self._database.execute(_queries.note_device_seen, id=device_id)

    # -- rotations

    async def retag_token(self, record: TokenRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        """Put a token under another master; False if it has changed or that master came earlier."""
        moved = await self._database.value(
            _queries.retag_token,
            id=record.device.id,
            old_auth_key_id=record.auth_key_id,
            old_tag=record.token_tag,
            auth_key_id=auth_key_id,
            tag=tag,
        )
        return moved is not None

    async def reseal_passphrase(self, device: Device, sealed: bytes) -> bool:
        """Put a passphrase that was sealed anew in place of the one that was read; False as `retag_token`."""
        moved = await self._database.value(
            _queries.reseal_passphrase, id=device.id, old_sealed=device.passphrase_sealed, sealed=sealed
        )
        return moved is not None

    async def _changed(self, query: Query, tenant: Tenant, device_id: str, **parameters: object) -> Device | None:
        """Run a change that answers the device's id, and return the device after it."""
        async with self._database.transaction(query.name) as session:
            changed = await session.value(query, id=device_id, **tenant._asdict(), **parameters)
            return await _device_in(session, device_id) if changed is not None else None


def _check_room(tenant: Tenant, n_open: int | None) -> None:
    if n_open is None:
        raise problem("RESOURCE_NOT_FOUND", details={"client_id": tenant.client_id})
    if n_open >= MOST_OPEN_PAIRINGS:
        raise problem("CONFLICT", details={"limit": "open_pairings", "allowed": MOST_OPEN_PAIRINGS})


async def _add_device(
    session: Session,
    account: Account,
    pairing: asyncpg.Record,
    device_id: str,
    registration: Registration,
    token: dict[str, bytes],
    most_per_client: int,
) -> bool:
    """Make a first device; False where the pairing has ended or the client is suspended."""
    client_id = account.client_id
    if not pairing["is_open"] or await session.value(_queries.lock_client, client_id=client_id) is None:
        return False
    if await session.value(_queries.count_devices, client_id=client_id, mode=account.mode) >= most_per_client:
        raise problem("CONFLICT", details={"limit": "devices", "allowed": most_per_client})
    status = DeviceStatus.ACTIVE if pairing["is_confirmed_by_itself"] else DeviceStatus.PENDING
    await session.execute(
        _queries.insert_device,
        id=device_id,
        client_id=client_id,
        mode=account.mode,
        phone_name=registration.name,
        status=status.value,
        **token,
    )
    return True


async def _take_again(
    session: Session, pairing: asyncpg.Record, device_id: str, registration: Registration, token: dict[str, bytes]
) -> bool:
    """Give a device that comes again its new token; False where it is out."""
    known = await session.one(_queries.lock_device, id=device_id)
    if known is None or known["status"] in {DeviceStatus.DISABLED, DeviceStatus.DELETED}:
        return False
    before = (await _device_in(session, device_id)).sims
    is_other = known["phone_name"] != registration.name or _are_others(before, registration.sims)
    await session.execute(
        _queries.register_again,
        id=device_id,
        phone_name=registration.name,
        must_be_confirmed=is_other and not pairing["is_confirmed_by_itself"],
        **token,
    )
    return True


async def _device_in(session: Session, device_id: str) -> Device:
    row = await session.one(_queries.known_device, id=device_id)
    if row is None:
        raise LookupError("a device that this transaction holds is not there")
    return _device(row)


async def _write_sims(session: Session, device_id: str, sims: tuple[Sim, ...]) -> None:
    await session.execute(_queries.delete_sims, device_id=device_id)
    if sims:
        await session.execute(_queries.insert_sims, device_id=device_id, sims=msgspec.json.encode(sims).decode())


def _are_others(before: tuple[Sim, ...], now: tuple[Sim, ...]) -> bool:
    """Say whether these are not the same SIMs. A carrier's name changes by itself, so it counts only alone."""
    return {_face(sim) for sim in before} != {_face(sim) for sim in now}


def _face(sim: Sim) -> tuple[int, int, str | None, str | None, str | None]:
    carrier = sim.carrier if sim.phone_number is None and sim.iccid is None else None
    return (sim.slot, sim.number, sim.phone_number, sim.iccid, carrier)


def _slot(sim: Sim) -> int:
    return sim.slot


def _differences(budget: Budget) -> str:
    """Write down what differs from the default, so that a later default reaches the devices that never differed."""
    names = (name for name in budget.__struct_fields__ if getattr(budget, name) != getattr(_DEFAULT_BUDGET, name))
    return msgspec.json.encode({name: getattr(budget, name) for name in names}).decode()


def _account(row: asyncpg.Record) -> Account:
    return Account(
        login=row["login"],
        client_id=row["client_id"],
        mode=row["mode"],
        password_hash=row["password_hash"],
        expires_at=row["expires_at"],
        device_id=row["device_id"],
        device_status=DeviceStatus(row["device_status"]) if row["device_status"] else None,
        is_confirmed_by_itself=row["is_confirmed_by_itself"],
    )


def _device(row: asyncpg.Record) -> Device:
    return Device(
        id=row["id"],
        client_id=row["client_id"],
        mode=row["mode"],
        name=row["name"],
        status=DeviceStatus(row["status"]),
        version=row["version"],
        login=row["login"],
        sims=msgspec.json.decode(row["sims"], type=tuple[Sim, ...]),
        budget=msgspec.json.decode(row["budget"], type=Budget),
        created_at=row["created_at"],
        confirmed_at=row["confirmed_at"],
        last_seen_at=row["last_seen_at"],
        passphrase_sealed=row["passphrase_sealed"] or b"",
        passphrase_count=row["passphrase_count"],
    )
