"""Who calls: an API key and a client id become a principal, nearly always from memory.

Known keys are looked up again after 30 s, so a revoked one stops within that time; unknown ones are
remembered as unknown for 10 s. Any number of requests with the same key cause one query. While
PostgreSQL does not answer, known keys go on under what was last known of them (their own expiry
still counts) and unknown ones get SERVICE_UNAVAILABLE.

The text of a key is never kept: the cache is found by the public id and holds a digest of the whole
key under a secret of this process. A wrong secret changes nothing here. Never decide anything on
the mode or the public id before the whole key was compared.
"""

import asyncio
import hashlib
import logging
import math
import secrets
from typing import NamedTuple, TypeVar

import msgspec

from otpsvc.clients import keys
from otpsvc.clients.model import KeyRecord, Principal, merged_policy
from otpsvc.clients.ports import KeySource
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring, equal
from otpsvc.errors import ApiError, problem
from otpsvc.otp.policy import Policy

KNOWN_FOR_S = 30.0
UNKNOWN_FOR_S = 10.0
PROBE_EVERY_S = 1.0
ANSWER_TIMEOUT_S = 2.0
MAX_KNOWN = 20_000
MAX_UNKNOWN = 10_000
MAX_LOOKUPS = 256

_log = logging.getLogger(__name__)

_Value = TypeVar("_Value")


class _Known(msgspec.Struct):
    """A key that exists. `digest` is that of its text, once a request has shown it."""

    record: KeyRecord
    principal: Principal | None
    fresh_until: float
    expires_at: float
    digest: bytes | None


class _Answer(NamedTuple):
    """What a lookup brought; `is_reached` False: PostgreSQL did not answer."""

    is_reached: bool
    known: _Known | None


class Authenticator:
    """Turns a request's two headers into a principal. One per process; `close` ends its tasks."""

    def __init__(
        self,
        source: KeySource,
        keyring: Keyring,
        default_policy: Policy,
        clock: Clock,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._source = source
        self._keyring = keyring
        self._default_policy = default_policy
        self._clock = clock
        self._answer_timeout_s = answer_timeout_s
        self._digest_key = secrets.token_bytes(32)
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[_Answer]] = {}
        self._is_unreachable = False
        self._next_probe_at = -math.inf

    def authenticate_cached(self, api_key: str | None, client_id: str | None) -> Principal | None:
        """Answer from memory, or None where `authenticate` has to look closer. Never raises."""
        if not api_key or len(api_key) != keys.KEY_LENGTH or not api_key.isascii():
            return None
        known = self._known.get(api_key[keys.PUBLIC_ID_SLICE])
        if (
            known is None
            or known.principal is None
            or known.digest is None
            or known.record.client_id != client_id
            or known.record.is_revoked
            or self._clock.monotonic() >= known.fresh_until
            or self._clock.time() >= known.expires_at
            or not equal(known.digest, self._digest(api_key))
        ):
            return None
        return known.principal

    async def authenticate(self, api_key: str | None, client_id: str | None) -> Principal:
        """Return who calls.

        Raises ApiError MISSING_AUTH_HEADERS; INVALID_API_KEY for a malformed, unknown, wrong,
        revoked or expired key; INVALID_CLIENT_ID for another client than the key's, or a suspended
        one; SERVICE_UNAVAILABLE where that cannot be told now.
        """
        if not api_key or not client_id:
            raise problem("MISSING_AUTH_HEADERS")
        read = keys.read_key(api_key)
        known = await self._find(read.public_id) if read else None
        if known is None or not self._is_key_of(known, api_key):
            raise problem("INVALID_API_KEY")
        if known.record.is_revoked or self._clock.time() >= known.expires_at:
            raise problem("INVALID_API_KEY")
        if known.record.client_id != client_id or not known.record.is_client_active:
            raise problem("INVALID_CLIENT_ID")
        if known.principal is None:
            raise problem("INTERNAL_ERROR")
        return known.principal

    async def close(self) -> None:
        """End the lookups under way."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _find(self, public_id: str) -> _Known | None:
        known = self._known.get(public_id)
        now = self._clock.monotonic()
        if known is not None:
            if now < known.fresh_until:
                return known
            if self._is_unreachable:
                self._probe(public_id, now)
                return known
        elif now < self._unknown.get(public_id, -math.inf):
            return None
        elif not self._may_ask(public_id, now):
            raise problem("SERVICE_UNAVAILABLE")
        answer = await self._answer(public_id)
        if answer.is_reached:
            return answer.known
        if known is None:
            raise problem("SERVICE_UNAVAILABLE")
        return known

    def _may_ask(self, public_id: str, now: float) -> bool:
        """Say whether a key never seen before may cost a query now.

        The bound keeps a flood of invented keys from queueing before the refresh of known ones.
        """
        if self._is_unreachable and now < self._next_probe_at:
            return False
        return public_id in self._lookups or len(self._lookups) < MAX_LOOKUPS

    def _probe(self, public_id: str, now: float) -> None:
        """Ask again in the background, so that nobody waits for a PostgreSQL that is away."""
        if now >= self._next_probe_at:
            self._next_probe_at = now + PROBE_EVERY_S
            self._lookup(public_id)

    async def _answer(self, public_id: str) -> _Answer:
        lookup = self._lookup(public_id)
        # Not wait_for: a caller that goes away must not take the others' answer with it.
        done, _ = await asyncio.wait({lookup}, timeout=self._answer_timeout_s)
        if done:
            return lookup.result()
        self._note_unreachable()
        return _Answer(is_reached=False, known=None)

    def _lookup(self, public_id: str) -> asyncio.Task[_Answer]:
        """Join the lookup of this key that is under way, or start one."""
        lookup = self._lookups.get(public_id)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(public_id), name="api key lookup")
            self._lookups[public_id] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(public_id))
        return lookup

    async def _look_up(self, public_id: str) -> _Answer:
        # Ages count from before the question: a revocation that crosses the answer is not missed.
        asked_at = self._clock.monotonic()
        try:
            record = await self._source.find_key(public_id)
        except ApiError:
            self._note_unreachable()
            return _Answer(is_reached=False, known=None)
        self._is_unreachable = False
        if record is None:
            self._known.pop(public_id, None)
            _keep(self._unknown, public_id, asked_at + UNKNOWN_FOR_S, limit=MAX_UNKNOWN)
            return _Answer(is_reached=True, known=None)
        known = self._known_from(record, asked_at)
        self._unknown.pop(public_id, None)
        _keep(self._known, public_id, known, limit=MAX_KNOWN)
        return _Answer(is_reached=True, known=known)

    def _known_from(self, record: KeyRecord, asked_at: float) -> _Known:
        before = self._known.get(record.public_id)
        is_same_key = before is not None and equal(before.record.tag, record.tag)
        return _Known(
            record=record,
            principal=self._principal(record),
            fresh_until=asked_at + KNOWN_FOR_S,
            expires_at=record.expires_at.timestamp() if record.expires_at else math.inf,
            digest=before.digest if before is not None and is_same_key else None,
        )

    def _principal(self, record: KeyRecord) -> Principal | None:
        if not record.is_client_active:
            return None
        try:
            policy = merged_policy(self._default_policy, record.policy)
        except ApiError as fault:
            _log.warning("the stored policy of %s is invalid: %s", record.client_id, fault.details)
            return None
        return Principal(record.client_id, record.mode, record.public_id, policy)

    def _is_key_of(self, known: _Known, api_key: str) -> bool:
        digest = self._digest(api_key)
        if known.digest is not None:
            return equal(known.digest, digest)
        master = self._keyring.by_slot(known.record.auth_key_id)
        if master is None:
            _log.warning(
                "API key %s was made under a master that is not in the keyring",
                known.record.public_id,
            )
            return False
        if not equal(keys.tag_of(api_key, master), known.record.tag):
            return False
        known.digest = digest
        return True

    def _digest(self, api_key: str) -> bytes:
        return hashlib.blake2b(api_key.encode(), key=self._digest_key, digest_size=32).digest()

    def _note_unreachable(self) -> None:
        self._is_unreachable = True
        self._next_probe_at = self._clock.monotonic() + PROBE_EVERY_S


def _keep(cache: dict[str, _Value], key: str, value: _Value, *, limit: int) -> None:
    """Put the newest last and drop the oldest beyond the limit."""
    cache.pop(key, None)
    cache[key] = value
    if len(cache) > limit:
        del cache[next(iter(cache))]
