"""Moves API keys under the current master, so that an old one can leave the keyring.

Only the key's text can make a new tag, and only its owner has that: so a key moves when it is used. The store compares
the tag that was read and refuses to go back to an earlier master. What fails is tried again after the next look-up of
the key; nobody waits for it, and the key works as before.
"""

import asyncio
import logging

from otpsvc import faults
from otpsvc.clients import keys
from otpsvc.clients.cache import Known
from otpsvc.clients.ports import KeySource
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError

MAX_AT_ONCE = 8

_log = logging.getLogger(__name__)


class Retagger:
    """Runs the moves in the background, a few at a time."""

    def __init__(self, source: KeySource, keyring: Keyring) -> None:
        self._source = source
        self._keyring = keyring
        self._moves: set[asyncio.Task[None]] = set()

    def offer(self, known: Known, api_key: str) -> None:
        """Move a key that was just accepted, if it needs it and there is room. The text is not kept."""
        current = self._keyring.current
        if known.record.auth_key_id == current.slot or known.is_retag_tried or len(self._moves) >= MAX_AT_ONCE:
            return
        known.is_retag_tried = True
        tag = keys.tag_of(api_key, current)
        move = asyncio.create_task(self._move(known, current.slot, tag), name="api key retag")
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)

    async def close(self) -> None:
        """End the moves under way."""
        moves = list(self._moves)
        for move in moves:
            move.cancel()
        await asyncio.gather(*moves, return_exceptions=True)

    async def _move(self, known: Known, slot: bytes, tag: bytes) -> None:
        try:
            is_moved = await self._source.retag_key(known.record, auth_key_id=slot, tag=tag)
        except ApiError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is (a database user who may only read), the key works
            _log.warning("API key %s stays under its master: %s", known.record.public_id, faults.described(error))
            return
        if is_moved:
            _log.info("API key %s is now under the current master", known.record.public_id)
