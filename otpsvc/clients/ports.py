"""What clients need from the outside; `postgres` implements it.

Every call raises ApiError SERVICE_UNAVAILABLE where the database does not answer.
"""

from datetime import datetime
from typing import Protocol

from otpsvc.clients.model import ApiKey, Client, ClientStatus, KeyRecord, Mode


class KeySource(Protocol):
    """Where authentication finds keys."""

    async def find_key(self, public_id: str) -> KeyRecord | None:
        """Return the key and what matters of its client, revoked and expired ones too."""
        ...

    async def retag_key(self, record: KeyRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        """Put a key under another master: its slot, and the tag made under it (32 bytes).

        False, and nothing is changed, unless what is stored is still `record`'s tag and the other
        master became current later than the one it is under.
        """
        ...


class KeyNewsReader(Protocol):
    """Who is told when keys or clients change. Never waits, never raises."""

    def invalidate(self, public_id: str) -> None:
        """Take note that this key was made, changed, revoked or deleted."""
        ...

    def invalidate_client(self, client_id: str) -> None:
        """Take note that this client was changed."""
        ...

    def invalidate_all(self) -> None:
        """Take note that anything may have changed."""
        ...


class ClientStore(Protocol):
    """Where clients and their keys are kept."""

    async def insert_client(self, *, client_id: str, name: str, policy: dict[str, object]) -> Client | None:
        """Add an active client; None if the id is taken."""
        ...

    async def get_client(self, client_id: str) -> Client | None:
        """Return a client."""
        ...

    async def list_clients(self) -> list[Client]:
        """Return all clients, oldest first."""
        ...

    async def set_policy(self, client_id: str, policy: dict[str, object]) -> Client | None:
        """Replace a client's overrides; None if there is no such client."""
        ...

    async def set_status(self, client_id: str, status: ClientStatus) -> Client | None:
        """Suspend or resume a client; None if there is no such client."""
        ...

    async def insert_key(
        self,
        *,
        public_id: str,
        client_id: str,
        mode: Mode,
        name: str,
        auth_key_id: bytes,
        tag: bytes,
        expires_at: datetime | None,
    ) -> ApiKey:
        """Add a key to a client that exists."""
        ...

    async def list_keys(self, client_id: str) -> list[ApiKey]:
        """Return a client's keys, oldest first, revoked and expired ones too."""
        ...

    async def revoke_key(self, client_id: str, public_id: str) -> ApiKey | None:
        """Revoke a client's key for good; None if the client has no such key."""
        ...
