"""Clients and API keys in PostgreSQL: implements the ports of `clients`."""

from datetime import datetime

import asyncpg
import msgspec

from otpsvc.clients.model import ApiKey, Client, ClientStatus, KeyRecord, Mode
from otpsvc.postgres import queries
from otpsvc.postgres.pool import Database

_queries = queries.load("clients")


class PostgresClients:
    """The store of clients and keys; every call raises SERVICE_UNAVAILABLE as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_client(self, *, client_id: str, name: str, policy: dict[str, object]) -> Client | None:
        """Add an active client; None if the id is taken."""
        row = await self._database.one(_queries.insert_client, id=client_id, name=name, policy=_json(policy))
        return _client(row) if row else None

    async def get_client(self, client_id: str) -> Client | None:
        """Return a client."""
        row = await self._database.one(_queries.client_by_id, id=client_id)
        return _client(row) if row else None

    async def list_clients(self) -> list[Client]:
        """Return all clients, oldest first."""
        return [_client(row) for row in await self._database.many(_queries.all_clients)]

    async def set_policy(self, client_id: str, policy: dict[str, object]) -> Client | None:
        """Replace a client's overrides; None if there is no such client."""
        row = await self._database.one(_queries.set_client_policy, id=client_id, policy=_json(policy))
        return _client(row) if row else None

    async def set_status(self, client_id: str, status: ClientStatus) -> Client | None:
        """Suspend or resume a client; None if there is no such client."""
        row = await self._database.one(_queries.set_client_status, id=client_id, status=status)
        return _client(row) if row else None

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
        row = await self._database.one(
            _queries.insert_key,
            public_id=public_id,
            client_id=client_id,
            mode=mode,
            name=name,
            auth_key_id=auth_key_id,
            tag=tag,
            expires_at=expires_at,
        )
        if row is None:
            raise LookupError("an insert that returns its row returned none")
        return _key(row)

    async def list_keys(self, client_id: str) -> list[ApiKey]:
        """Return a client's keys, oldest first, revoked and expired ones too."""
        rows = await self._database.many(_queries.keys_of_client, client_id=client_id)
        return [_key(row) for row in rows]

    async def revoke_key(self, client_id: str, public_id: str) -> ApiKey | None:
        """Revoke a client's key for good; None if the client has no such key."""
        row = await self._database.one(_queries.revoke_key, client_id=client_id, public_id=public_id)
        return _key(row) if row else None

    async def find_key(self, public_id: str) -> KeyRecord | None:
        """Return the key and what matters of its client, revoked and expired ones too."""
        row = await self._database.one(_queries.key_for_authentication, public_id=public_id)
        if row is None:
            return None
        return KeyRecord(
            public_id=row["public_id"],
            client_id=row["client_id"],
            mode=row["mode"],
            auth_key_id=row["auth_key_id"],
            tag=row["tag"],
            expires_at=row["expires_at"],
            is_revoked=row["revoked_at"] is not None,
            is_client_active=row["client_status"] == "active",
            policy=_overrides(row["policy"]),
        )

    async def retag_key(self, record: KeyRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        """Put a key under another master; False if its tag has changed or that master came earlier."""
        moved = await self._database.value(
            _queries.retag_key,
            public_id=record.public_id,
            old_auth_key_id=record.auth_key_id,
            old_tag=record.tag,
            auth_key_id=auth_key_id,
            tag=tag,
        )
        return moved is not None


def _client(row: asyncpg.Record) -> Client:
    return Client(
        id=row["id"],
        name=row["name"],
        status=row["status"],
        policy=_overrides(row["policy"]),
        created_at=row["created_at"],
    )


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        public_id=row["public_id"],
        client_id=row["client_id"],
        mode=row["mode"],
        name=row["name"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


def _json(policy: dict[str, object]) -> str:
    return msgspec.json.encode(policy).decode()


def _overrides(text: str) -> dict[str, object]:
    return msgspec.json.decode(text, type=dict[str, object])
