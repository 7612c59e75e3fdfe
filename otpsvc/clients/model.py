"""What a client and an API key are, and what a request may do once its key was accepted."""

from datetime import datetime
from typing import Literal

import msgspec

from otpsvc.errors import problem
from otpsvc.otp.policy import Policy

Mode = Literal["live", "test"]
ClientStatus = Literal["active", "suspended"]


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. `policy` holds only what differs from the default policy of the settings."""

    id: str
    name: str
    status: ClientStatus
    policy: dict[str, object]
    created_at: datetime


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as it may be shown: its public id, never its text."""

    public_id: str
    client_id: str
    mode: Mode
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made: the only time that its `text` exists outside the caller's hands."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        """Hide the text, so that no traceback or log line can show it."""
        return f"NewApiKey(key={self.key!r}, text=…)"


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a key and its client, as authentication needs it.

    `auth_key_id` is the slot of the master under whose auth subkey `tag` (32 bytes) was made.
    """

    public_id: str
    client_id: str
    mode: Mode
    auth_key_id: bytes
    tag: bytes
    expires_at: datetime | None
    is_revoked: bool
    is_client_active: bool
    policy: dict[str, object]

    def __repr__(self) -> str:
        """Name the key without its tag."""
        return f"KeyRecord({self.public_id!r})"


class Principal(msgspec.Struct, frozen=True):
    """Who a request speaks for. `key_id` is the key's public id, `policy` the client's in force."""

    client_id: str
    mode: Mode
    key_id: str
    policy: Policy


def merged_policy(default: Policy, overrides: dict[str, object]) -> Policy:
    """Lay a client's overrides over the default policy.

    Raises ApiError VALIDATION_ERROR, its details `field` and `reason`, for an unknown field or a
    value out of its bounds.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(default) | overrides, Policy)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        details = {"field": "policy" + path.rstrip("`"), "reason": reason}
        raise problem("VALIDATION_ERROR", details=details) from None
