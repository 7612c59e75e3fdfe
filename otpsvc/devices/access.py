"""Which device calls: a token becomes a device, nearly always from memory.

A token that this installation never made is refused by its text and costs no query. Known ones are looked up again
after 10 s; in between Redis, which `heard` asks at every call, says whether the device was retired, so that a disabled,
deleted or rotated one stops at once in every process. A token that was found dead stays so for 10 s; another one of the
same device is looked up all the same, because a phone that registers again calls with its new one at once. While
PostgreSQL does not answer, known tokens go on and unknown ones get SERVICE_UNAVAILABLE.

A token's text is never kept. Never answer for a device before its whole token was compared.
"""

import asyncio
import functools
import hashlib
import logging
import math
import secrets
from typing import NamedTuple, Protocol

import msgspec

from otpsvc import faults
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring, equal
from otpsvc.devices import tokens
from otpsvc.devices.model import Device, DeviceStatus, Registration, TokenRecord
from otpsvc.devices.ports import DevicePresence
from otpsvc.devices.rotation import HeldSecrets, Mover
from otpsvc.errors import ApiError, problem

KNOWN_FOR_S = 10.0
DEAD_FOR_S = 10.0
PROBE_EVERY_S = 1.0
ANSWER_TIMEOUT_S = 2.0
REFRESH_WAIT_S = 0.25
NOTED_EVERY_S = 60.0
MAX_KNOWN = 20_000
MAX_DEAD = 10_000
MAX_LOOKUPS = 256
# As many phones as an installation has may come at once, when a service was just started.
MAX_WAITING = 4096
PLACE_WAIT_S = 2.0
MAX_NOTES = 8

_MAY_CALL = (DeviceStatus.PENDING, DeviceStatus.ACTIVE)
_log = logging.getLogger(__name__)


class CalledRecords(HeldSecrets, Protocol):
    """What is needed of the records where phones call; all raise ApiError SERVICE_UNAVAILABLE."""

    async def find_token(self, device_id: str) -> TokenRecord | None:
        """Return what a token of this device is compared with, disabled ones too."""
        ...

    async def set_sims(self, device_id: str, registration: Registration) -> Device | None:
        """Take what the phone says of its SIMs."""
        ...

    async def note_seen(self, device_id: str) -> None:
        """Write down that the phone was heard of."""
        ...


class _Known(msgspec.Struct):
    """A device that exists; the times are on the monotonic clock."""

    record: TokenRecord
    fresh_until: float
    noted_at: float = -math.inf
    is_move_tried: bool = False


class _Answer(NamedTuple):
    """What a lookup brought; `is_reached` False: PostgreSQL did not answer."""

    is_reached: bool
    record: TokenRecord | None


class Heard(NamedTuple):
    """A phone that was heard of, as it is now, and how many messages wait for it."""

    device: Device
    waiting: int


class DeviceAccess:
    """Turns the token of a phone's call into its device. One per process; `close` ends its tasks."""

    def __init__(
        self,
        *,
        records: CalledRecords,
        presence: DevicePresence,
        keyring: Keyring,
        clock: Clock,
        online_s: float,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._records = records
        self._presence = presence
        self._keyring = keyring
        self._clock = clock
        self._online_s = online_s
        self._answer_timeout_s = answer_timeout_s
        self._digest_key = secrets.token_bytes(32)
        self._known: dict[str, _Known] = {}
        self._dead: dict[bytes, float] = {}
        self._lookups: dict[str, asyncio.Task[_Answer]] = {}
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        self._n_waiting = 0
        self._slow: set[asyncio.Task[_Answer]] = set()
        self._notes: set[asyncio.Task[None]] = set()
        self._mover = Mover(records, keyring)
        self._next_probe_at = -math.inf

    async def device_of(self, authorization: str | None) -> Device:
        """Return the device of an `Authorization: Bearer` header: a pending or an active one.

        Whoever acts on the answer calls `heard` first. Raises ApiError DEVICE_UNAUTHORISED; SERVICE_UNAVAILABLE where
        that cannot be told now.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        token = token.strip()
        device_id = tokens.read_token(token, self._keyring) if scheme.lower() == "bearer" else None
        if device_id is None:
            raise problem("DEVICE_UNAUTHORISED")
        record = await self._record_of(device_id, token)
        if record.device.status not in _MAY_CALL:
            raise problem("DEVICE_UNAUTHORISED")
        known = self._known.get(device_id)
        if known is not None and known.record is record and not known.is_move_tried:
            known.is_move_tried = True
            self._mover.offer(record, token)
        return record.device

    async def heard(self, device: Device, *, stream: str = "", is_pull: bool = False) -> Heard:
        """Note that the phone is there, by an open stream (named), a pull, or any other call.

        The device that is returned is the one to go on with: it may have changed meanwhile. Raises ApiError
        DEVICE_UNAUTHORISED if it was retired.
        """
        seen = await self._presence.seen(device, stream=stream, is_pull=is_pull, online_s=self._online_s)
        if seen is None:
            self._forget(device)
            raise problem("DEVICE_UNAUTHORISED")
        if seen.version > device.version:
            device = await self._newest(device)
        self._note(device.id)
        return Heard(device, seen.waiting)

    async def update(self, device: Device, registration: Registration) -> Device:
        """Take what a phone says of its SIMs. Raises ApiError DEVICE_UNAUTHORISED if it was deleted meanwhile."""
        changed = await self._records.set_sims(device.id, registration)
        self._forget(device)
        if changed is None:
            raise problem("DEVICE_UNAUTHORISED")
        await self._presence.refresh(changed)
        return changed

    async def close(self) -> None:
        """End what is under way in the background."""
        tasks = [*self._lookups.values(), *self._notes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._mover.close()

    async def _newest(self, device: Device) -> Device:
        """Look a device up of which the store knows more; while PostgreSQL is away, the one at hand has to do."""
        known = self._known.get(device.id)
        if known is not None and known.record.device.version > device.version:
            return known.record.device
        answer = await self._answer(self._lookup(device.id))
        if not answer.is_reached:
            return device
        if answer.record is None or answer.record.device.status not in _MAY_CALL:
            raise problem("DEVICE_UNAUTHORISED")
        return answer.record.device

    async def _record_of(self, device_id: str, token: str) -> TokenRecord:
        known, now = self._known.get(device_id), self._clock.monotonic()
        kept = known.record if known is not None and self._fits(known.record, token) else None
        if kept is not None and known is not None and now < known.fresh_until:
            return kept
        digest = hashlib.blake2b(token.encode(), key=self._digest_key, digest_size=32).digest()
        if now < self._dead.get(digest, -math.inf):
            raise problem("DEVICE_UNAUTHORISED")
        if kept is None:
            answer = await self._answered_in_turn(device_id, token, digest)
            if not answer.is_reached:
                raise problem("SERVICE_UNAVAILABLE")
        elif now < self._next_probe_at:
            return kept
        else:
            answer = await self._answer_soon(self._lookup(device_id), kept)
            if not answer.is_reached:
                return kept
        if answer.record is None or not self._fits(answer.record, token):
            self._bury(digest)
            raise problem("DEVICE_UNAUTHORISED")
        return answer.record

    async def _answered_in_turn(self, device_id: str, token: str, digest: bytes) -> _Answer:
        """Look a device up of which nothing is known; raises ApiError SERVICE_UNAVAILABLE where no place was to be had.

        The places keep a flood of such tokens from queueing before the refresh of others, which takes none.
        """
        if self._clock.monotonic() < self._next_probe_at:
            return _Answer(is_reached=False, record=None)
        if self._n_waiting >= MAX_WAITING:
            raise problem("SERVICE_UNAVAILABLE", reason="lookups_busy")
        self._n_waiting += 1
        try:
            async with asyncio.timeout(PLACE_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise problem("SERVICE_UNAVAILABLE", reason="lookups_busy") from None
        finally:
            self._n_waiting -= 1
        try:
            if (now := self._clock.monotonic()) < self._next_probe_at:
                return _Answer(is_reached=False, record=None)
            if now < self._dead.get(digest, -math.inf):
                return _Answer(is_reached=True, record=None)
            return await self._answered(device_id, token)
        finally:
            self._places.release()

    async def _answered(self, device_id: str, token: str) -> _Answer:
        """Look a device up, together with whoever does."""
        known = self._known.get(device_id)
        if known is not None and self._fits(known.record, token) and self._clock.monotonic() < known.fresh_until:
            # Another call of the same phone had its turn meanwhile.
            return _Answer(is_reached=True, record=known.record)
        is_joined = device_id in self._lookups
        answer = await self._answer(self._lookup(device_id))
        if is_joined and answer.is_reached and (answer.record is None or not self._fits(answer.record, token)):
            # That question may have been asked before this token was made.
            answer = await self._answer(self._lookup(device_id))
        return answer

    async def _answer_soon(self, lookup: asyncio.Task[_Answer], kept: TokenRecord) -> _Answer:
        """Give a refresh the time that a PostgreSQL takes that is well; it goes on in the background."""
        if lookup not in self._slow:
            await asyncio.wait({lookup}, timeout=REFRESH_WAIT_S)
            if not lookup.done():
                self._slow.add(lookup)
        return lookup.result() if lookup.done() else _Answer(is_reached=True, record=kept)

    async def _answer(self, lookup: asyncio.Task[_Answer]) -> _Answer:
        # Not wait_for: a caller that goes away must not take the others' answer with it.
        done, _ = await asyncio.wait({lookup}, timeout=self._answer_timeout_s)
        if done:
            return lookup.result()
        self._next_probe_at = self._clock.monotonic() + PROBE_EVERY_S
        return _Answer(is_reached=False, record=None)

    def _lookup(self, device_id: str) -> asyncio.Task[_Answer]:
        """Join the lookup of this device that is under way, or start one."""
        lookup = self._lookups.get(device_id)
        if lookup is None or lookup.done():
            lookup = asyncio.create_task(self._look_up(device_id), name="device lookup")
            self._lookups[device_id] = lookup
            lookup.add_done_callback(functools.partial(self._end_lookup, device_id))
        return lookup

    def _end_lookup(self, device_id: str, lookup: asyncio.Task[_Answer]) -> None:
        self._slow.discard(lookup)
        if self._lookups.get(device_id) is lookup:
            del self._lookups[device_id]

    async def _look_up(self, device_id: str) -> _Answer:
        asked_at = self._clock.monotonic()
        try:
            record = await self._records.find_token(device_id)
        except ApiError:
            self._next_probe_at = self._clock.monotonic() + PROBE_EVERY_S
            return _Answer(is_reached=False, record=None)
        self._next_probe_at = -math.inf
        before = self._known.pop(device_id, None)
        if record is not None:
            noted_at = before.noted_at if before is not None else -math.inf
            self._known[device_id] = _Known(record, asked_at + KNOWN_FOR_S, noted_at)
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return _Answer(is_reached=True, record=record)

    def _fits(self, record: TokenRecord, token: str) -> bool:
        master = self._keyring.by_slot(record.auth_key_id)
        return master is not None and equal(tokens.tag_of(token, master), record.token_tag)

    def _bury(self, digest: bytes) -> None:
        self._dead[digest] = self._clock.monotonic() + DEAD_FOR_S
        if len(self._dead) > MAX_DEAD:
            del self._dead[next(iter(self._dead))]

    def _forget(self, device: Device) -> None:
        known = self._known.get(device.id)
        if known is not None and known.record.device.version <= device.version:
            del self._known[device.id]

    def _note(self, device_id: str) -> None:
        """Write down in the background that a phone was heard of, for people; now and then is enough."""
        known, now = self._known.get(device_id), self._clock.monotonic()
        if known is None or now < known.noted_at + NOTED_EVERY_S or len(self._notes) >= MAX_NOTES:
            return
        known.noted_at = now
        note = asyncio.create_task(self._write_seen(device_id), name="device seen")
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _write_seen(self, device_id: str) -> None:
        try:
            await self._records.note_seen(device_id)
        except ApiError:
            return
        except Exception as error:  # noqa: BLE001 - nobody but people needs it
            _log.warning("it was not written down that %s was heard of: %s", device_id, faults.described(error))
