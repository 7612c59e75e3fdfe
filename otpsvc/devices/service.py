"""Devices as whoever runs them handles them: list, rename, confirm, switch off and on, delete, bound.

PostgreSQL is changed first, then the store is told, so that what was taken out stays out even if a process dies between
the two: the next look-up says so. What takes a device out fails aloud when the store cannot be told; any other change
reaches the store with the phone's next call at the latest. One tenant's devices do not exist for another.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from otpsvc import ids
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring
from otpsvc.devices.model import Device, DeviceStatus, DeviceView, Gone, Tenant
from otpsvc.devices.policy import Budget, DeviceSettings
from otpsvc.devices.ports import Calls, DeviceOffers, DevicePresence, DeviceRecords
from otpsvc.devices.rotation import passphrase_bound
from otpsvc.errors import ApiError, problem

MAX_NAME_LENGTH = 100
MAX_PASSPHRASE_LENGTH = 128

_PASSPHRASE_ROUNDS = 5


class DeviceService:
    """The operator's side of devices.

    Every method that names a device raises ApiError INVALID_DEVICE_ID for one that is unknown, foreign, deleted or
    malformed; all raise SERVICE_UNAVAILABLE where PostgreSQL does not answer.
    """

    def __init__(
        self,
        *,
        records: DeviceRecords,
        presence: DevicePresence,
        offers: DeviceOffers,
        calls: Calls,
        keyring: Keyring,
        settings: DeviceSettings,
        clock: Clock,
    ) -> None:
        self._records = records
        self._presence = presence
        self._offers = offers
        self._calls = calls
        self._keyring = keyring
        self._settings = settings
        self._clock = clock

    async def list_devices(self, tenant: Tenant) -> list[DeviceView]:
        """Return the tenant's devices, oldest first, each with its state while the store answers."""
        devices = await self._records.list_devices(tenant)
        return list(await asyncio.gather(*(self._view(device) for device in devices)))

    async def show(self, tenant: Tenant, device_id: str) -> DeviceView:
        """Return one device with its state."""
        return await self._view(await self._found(tenant, device_id))

    async def find(self, tenant: Tenant, id_or_name: str) -> Device:
        """Return the device of this id or name; raises ApiError CONFLICT for a name that several have."""
        with contextlib.suppress(ids.MalformedId):
            return await self._found(tenant, ids.parse_device_id(id_or_name))
        named = [device for device in await self._records.list_devices(tenant) if device.name == id_or_name]
        if len(named) > 1:
            raise problem("CONFLICT", details={"name": id_or_name, "devices": [device.id for device in named]})
        return _existing(named[0] if named else None)

    async def rename(self, tenant: Tenant, device_id: str, name: str) -> Device:
        """Give a device a name that the phone's own word does not change; raises ApiError VALIDATION_ERROR."""
        name = name.strip()
        if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise _fault("name", f"must be 1 to {MAX_NAME_LENGTH} printable characters")
        return await self._tell(self._records.rename(tenant, _parsed(device_id), name))

    async def confirm(self, tenant: Tenant, device_id: str, version: int | None = None) -> Device:
        """Let a phone that has registered send; `version` is the one that somebody has looked at. Twice is no error.

        Raises ApiError CONFLICT for a disabled one, and for one that has changed since: its details have both.
        """
        if changed := await self._records.confirm(tenant, _parsed(device_id), version):
            await self._spread(changed)
            return changed
        device = await self._found(tenant, device_id)
        # Confirming makes the next version, so this may be the answer that was lost.
        is_as_seen = version is None or device.version in (version, version + 1)
        if device.status is not DeviceStatus.ACTIVE or not is_as_seen:
            raise problem("CONFLICT", details={"status": device.status.value, "version": device.version})
        return device

    async def enable(self, tenant: Tenant, device_id: str) -> Device:
        """Take back `disable`: one that was confirmed may send again, any other waits for that. Twice is no error."""
        if changed := await self._records.enable(tenant, _parsed(device_id)):
            await self._spread(changed)
            return changed
        return await self._found(tenant, device_id)

    async def disable(self, tenant: Tenant, device_id: str) -> Device:
        """Turn a device and its login away until it is enabled; what it has not pulled goes to others."""
        return await self._retire(self._records.disable(tenant, _parsed(device_id)))

    async def delete(self, tenant: Tenant, device_id: str) -> Device:
        """Delete a device for good: its token and login are void, what it said of itself is erased."""
        return await self._retire(self._records.delete(tenant, _parsed(device_id)))

    async def rotate_token(self, tenant: Tenant, device_id: str) -> Device:
        """Make a device's token worthless: the phone is out until it registers again with its login."""
        return await self._retire(self._records.clear_token(tenant, _parsed(device_id)))

    async def set_budget(self, tenant: Tenant, device_id: str, changes: Mapping[str, Any]) -> Device:
        """Lay changes over a device's budget, `quiet: None` for no quiet hours.

        Raises ApiError VALIDATION_ERROR, its details `field` and `reason`, for what is unknown or out of bounds.
        """
        device = await self._found(tenant, device_id)
        return await self._tell(self._records.set_budget(tenant, device.id, _changed(device.budget, changes)))

    async def set_passphrase(self, tenant: Tenant, device_id: str, text: str | None) -> Device:
        """Encrypt what a device is given under this passphrase, None for no longer. Only sealed it is kept.

        Raises ApiError VALIDATION_ERROR; CONFLICT where others keep changing the device.
        """
        if text is not None and (not 1 <= len(text) <= MAX_PASSPHRASE_LENGTH or not text.isprintable()):
            raise _fault("passphrase", f"must be 1 to {MAX_PASSPHRASE_LENGTH} printable characters")
        for _ in range(_PASSPHRASE_ROUNDS):
            device = await self._found(tenant, device_id)
            count = device.version + 1
            sealed = self._sealed(device, text, count) if text is not None else b""
            if changed := await self._records.set_passphrase(tenant, device.id, sealed, count):
                await self._spread(changed)
                return changed
        raise problem("CONFLICT")

    async def _found(self, tenant: Tenant, device_id: str) -> Device:
        return _existing(await self._records.find(tenant, _parsed(device_id)))

    async def _view(self, device: Device) -> DeviceView:
        try:
            state = await self._presence.state(device)
        except ApiError:
            return DeviceView(device=device, state=None)
        return DeviceView(device=device, state=state)

    async def _retire(self, change: Awaitable[Device | None]) -> Device:
        device = _existing(await change)
        await self._presence.retire(device, Gone.USER_LOGOUT)
        await self._call(device, "gone")
        return device

    async def _tell(self, change: Awaitable[Device | None]) -> Device:
        device = _existing(await change)
        await self._spread(device)
        return device

    async def _spread(self, device: Device) -> None:
        with contextlib.suppress(ApiError):
            await self._presence.refresh(device)
        await self._call(device, "settings")

    async def _call(self, device: Device, what: str) -> None:
        with contextlib.suppress(ApiError):
            await self._calls.call(device.id, what)

    def _sealed(self, device: Device, text: str, count: int) -> bytes:
        return self._keyring.seal(text.encode(), record_id=device.id, count=count, bound_to=passphrase_bound(device))


def _parsed(device_id: str) -> str:
    try:
        return ids.parse_device_id(device_id)
    except ids.MalformedId:
        raise problem("INVALID_DEVICE_ID") from None


def _existing(device: Device | None) -> Device:
    if device is None:
        raise problem("INVALID_DEVICE_ID")
    return device


def _changed(budget: Budget, changes: Mapping[str, Any]) -> Budget:
    """Return the budget with changes; raise ApiError VALIDATION_ERROR."""
    for name in changes:
        if name not in budget.__struct_fields__:
            raise _fault(f"budget.{name}", "unknown field")
    try:
        changed = msgspec.convert({**msgspec.to_builtins(budget), **changes}, Budget)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise _fault("budget" + path.rstrip("`"), reason) from None
    if (quiet := changed.quiet) is not None:
        if quiet.start == quiet.end:
            raise _fault("budget.quiet.end", "must not be the start")
        if not _is_zone(quiet.zone):
            raise _fault("budget.quiet.zone", "no such time zone")
    return changed


def _is_zone(name: str) -> bool:
    try:
        return name == "UTC" or bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


def _fault(field: str, reason: str) -> ApiError:
    return problem("VALIDATION_ERROR", details={"field": field, "reason": reason})
