"""Brings what is kept of a device under the current master, so that an old one can leave the keyring.

A token moves when it is shown, because only its text makes a new tag; a passphrase moves with it. The store refuses to
go back to an earlier master, and to write over what has changed since. What fails is tried again after the next look-up
of the device; nobody waits for it, and the device works as before.
"""

import asyncio
import logging
from typing import Protocol

from otpsvc import faults
from otpsvc.crypto import SLOT_BYTES, Keyring, UnsealError
from otpsvc.devices import tokens
from otpsvc.devices.model import Device, TokenRecord
from otpsvc.errors import ApiError

MAX_AT_ONCE = 8

_log = logging.getLogger(__name__)


class HeldSecrets(Protocol):
    """What is kept under a master. Both raise ApiError SERVICE_UNAVAILABLE."""

    async def retag_token(self, record: TokenRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        """Put a token under another master; False if it has changed or that master came earlier."""
        ...

    async def reseal_passphrase(self, device: Device, sealed: bytes) -> bool:
        """Put a passphrase that was sealed anew in place of the one that was read; False likewise."""
        ...


def passphrase_bound(device: Device) -> tuple[str, ...]:
    """Return what the sealed passphrase of a device is bound to."""
    return (device.client_id, device.mode, "passphrase")


class Mover:
    """Runs the moves in the background, a few at a time; `close` ends them."""

    def __init__(self, secrets: HeldSecrets, keyring: Keyring) -> None:
        self._secrets = secrets
        self._keyring = keyring
        self._moves: set[asyncio.Task[None]] = set()

    def offer(self, record: TokenRecord, text: str) -> None:
        """Move what is not under the current master, if there is room. The token's text was just accepted; not kept."""
        current = self._keyring.current
        sealed = record.device.passphrase_sealed
        has_old_seal = bool(sealed) and sealed[:SLOT_BYTES] != current.slot
        if (record.auth_key_id == current.slot and not has_old_seal) or len(self._moves) >= MAX_AT_ONCE:
            return
        tag = tokens.tag_of(text, current) if record.auth_key_id != current.slot else None
        move = asyncio.create_task(self._move(record, tag, has_old_seal=has_old_seal), name="device secrets move")
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)

    async def close(self) -> None:
        """End the moves under way."""
        moves = list(self._moves)
        for move in moves:
            move.cancel()
        await asyncio.gather(*moves, return_exceptions=True)

    async def _move(self, record: TokenRecord, tag: bytes | None, *, has_old_seal: bool) -> None:
        device, slot = record.device, self._keyring.current.slot
        try:
            is_moved = tag is not None and await self._secrets.retag_token(record, auth_key_id=slot, tag=tag)
            if has_old_seal:
                is_moved = await self._secrets.reseal_passphrase(device, self._resealed(device)) or is_moved
        except ApiError:
            return
        except UnsealError:
            _log.warning(
                "the passphrase of %s is sealed under a master that is not in the keyring: set it anew", device.id
            )
            return
        except Exception as error:  # noqa: BLE001 - whatever it is (a database user who may only read), the device works
            _log.warning("the secrets of %s stay under their master: %s", device.id, faults.described(error))
            return
        if is_moved:
            _log.info("the secrets of %s are now under the current master", device.id)

    def _resealed(self, device: Device) -> bytes:
        count, bound_to = device.passphrase_count, passphrase_bound(device)
        plain = self._keyring.unseal(device.passphrase_sealed, record_id=device.id, count=count, bound_to=bound_to)
        # The same count is right: under another master it gives another key, and what is sealed is the same text.
        return self._keyring.seal(plain, record_id=device.id, count=count, bound_to=bound_to)
