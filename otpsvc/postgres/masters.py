"""What PostgreSQL knows of the keyring: which master keys the indexes, which came after which, what depends on each.

It knows masters by their slot and by the index key's id only. Never give it a name or a secret of one.
"""

from typing import NamedTuple

from otpsvc.crypto import Keyring
from otpsvc.errors import ConfigurationError
from otpsvc.postgres import queries
from otpsvc.postgres.pool import Database

_queries = queries.load("masters")


class MasterUse(NamedTuple):
    """What is known of one slot: whether a process ever had its master first, and the API keys and phones that need it.

    A key that is revoked or expired needs nothing. A phone needs it for its token or its passphrase.
    """

    was_current: bool
    living_keys: int
    phones: int = 0


class PostgresMasters:
    """The masters' facts; every call raises SERVICE_UNAVAILABLE as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def indexed(self, keyring: Keyring, *, is_index_named: bool) -> Keyring:
        """Return the ring with the index master that this installation began with, wherever a rotation has put it.

        `is_index_named`: the settings name one, so the ring's own is right or wrong. Before anything was recorded the
        ring is returned as it is. Raises ConfigurationError where the recorded master is not in the ring, or another
        one is named.
        """
        recorded = await self._database.value(_queries.index_key)
        if recorded is None or recorded == keyring.index_key_id:
            return keyring
        found = keyring.indexed_by(recorded)
        if found is None:
            raise ConfigurationError(
                f"keys: the index key is {keyring.index_key_id}, but this database was set up with {recorded}: "
                "bring back the master that it came from"
            )
        if is_index_named:
            raise ConfigurationError(
                f"keys.index_master: the index key of this database is that of {found.index_master.name!r}, "
                f"not of {keyring.index_master.name!r}"
            )
        return found

    async def settle(self, keyring: Keyring, *, is_index_named: bool) -> Keyring:
        """Do as `indexed`, and record the index master if none was: from now on it cannot be another."""
        await self._database.execute(_queries.record_index_key, index_key_id=keyring.index_key_id)
        return await self.indexed(keyring, is_index_named=is_index_named)

    async def note_current(self, slot: bytes) -> None:
        """Take note at a start that this process has the master of this slot first; the first time decides its rank."""
        await self._database.execute(_queries.note_master, auth_key_id=slot)

    async def promote(self, slot: bytes) -> None:
        """Give a master the highest rank: API keys move to it from all others, and to no other from it."""
        await self._database.execute(_queries.promote_master, auth_key_id=slot)

    async def uses(self) -> dict[bytes, MasterUse]:
        """Return what is known, by slot; a slot that is missing was never first and nothing needs it."""
        rows = await self._database.many(_queries.known_masters)
        return {row["auth_key_id"]: MasterUse(row["was_current"], row["living_keys"], row["phones"]) for row in rows}
