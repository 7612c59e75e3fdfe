"""Clients and their API keys as an operator handles them: make, list, change, suspend, revoke.

A key's text leaves this file once, in the answer of `create_key`, and is stored nowhere.
"""

from datetime import UTC, datetime
from typing import TypeVar

from otpsvc import ids
from otpsvc.clients import keys
from otpsvc.clients.model import ApiKey, Client, Mode, NewApiKey, merged_policy
from otpsvc.clients.ports import ClientStore
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError, problem
from otpsvc.otp.policy import Policy

MAX_NAME_LENGTH = 100
_ID_TRIES = 5

_Found = TypeVar("_Found", Client, ApiKey)


class ClientService:
    """The operator's side of clients. The keyring must have this installation's index master.

    Every method raises ApiError: VALIDATION_ERROR for what is malformed or out of bounds, NOT_FOUND
    for a client or key that does not exist, SERVICE_UNAVAILABLE where the database does not answer.
    How soon others follow: `postgres.listen`, and after 30 s at the latest.
    """

    def __init__(self, store: ClientStore, keyring: Keyring, default_policy: Policy, clock: Clock) -> None:
        self._store = store
        self._keyring = keyring
        self._default_policy = default_policy
        self._clock = clock

    async def create_client(self, name: str, policy: dict[str, object] | None = None) -> Client:
        """Make an active client with these policy overrides."""
        name = _checked_name(name)
        overrides = policy or {}
        merged_policy(self._default_policy, overrides)
        for _ in range(_ID_TRIES):
            client = await self._store.insert_client(client_id=ids.new_client_id(), name=name, policy=overrides)
            if client is not None:
                return client
        raise problem("SERVICE_UNAVAILABLE")

    async def get_client(self, client_id: str) -> Client:
        """Return a client."""
        return _found(await self._store.get_client(client_id), "client_id", client_id)

    async def list_clients(self) -> list[Client]:
        """Return all clients, oldest first."""
        return await self._store.list_clients()

    async def set_policy(self, client_id: str, overrides: dict[str, object]) -> Client:
        """Replace a client's overrides; running processes follow within a second."""
        merged_policy(self._default_policy, overrides)
        return _found(await self._store.set_policy(client_id, overrides), "client_id", client_id)

    async def suspend_client(self, client_id: str) -> Client:
        """Refuse all its keys from now on; running processes follow within a second."""
        client = await self._store.set_status(client_id, "suspended")
        return _found(client, "client_id", client_id)

    async def resume_client(self, client_id: str) -> Client:
        """Accept its keys again."""
        client = await self._store.set_status(client_id, "active")
        return _found(client, "client_id", client_id)

    async def create_key(
        self, client_id: str, mode: Mode, *, name: str = "", expires_at: datetime | None = None
    ) -> NewApiKey:
        """Make a key; this answer alone holds its text. `expires_at` needs a time zone."""
        if mode not in {"live", "test"}:
            raise _fault("mode", "must be live or test")
        name = _checked_name(name) if name else ""
        self._check_expiry(expires_at)
        await self.get_client(client_id)
        text = keys.make_key(mode, self._keyring)
        master = self._keyring.current
        key = await self._store.insert_key(
            public_id=text[keys.PUBLIC_ID_SLICE],
            client_id=client_id,
            mode=mode,
            name=name,
            auth_key_id=master.slot,
            tag=keys.tag_of(text, master),
            expires_at=expires_at,
        )
        return NewApiKey(key=key, text=text)

    async def list_keys(self, client_id: str) -> list[ApiKey]:
        """Return a client's keys, oldest first, revoked and expired ones too."""
        await self.get_client(client_id)
        return await self._store.list_keys(client_id)

    async def revoke_key(self, client_id: str, public_id: str) -> ApiKey:
        """Revoke a key for good; running processes follow within a second. Twice is no error."""
        key = await self._store.revoke_key(client_id, public_id)
        return _found(key, "key_id", public_id)

    def _check_expiry(self, expires_at: datetime | None) -> None:
        if expires_at is None:
            return
        if expires_at.tzinfo is None:
            raise _fault("expires_at", "needs a time zone")
        if expires_at <= datetime.fromtimestamp(self._clock.time(), UTC):
            raise _fault("expires_at", "is in the past")


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise _fault("name", f"must be 1 to {MAX_NAME_LENGTH} printable characters")
    return name


def _fault(field: str, reason: str) -> ApiError:
    return problem("VALIDATION_ERROR", details={"field": field, "reason": reason})


def _found(found: _Found | None, field: str, value: str) -> _Found:
    if found is None:
        raise problem("RESOURCE_NOT_FOUND", details={field: value})
    return found
