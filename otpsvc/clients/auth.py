"""Who calls: an API key and a client id become a principal, nearly always from memory.

What a key's text cannot prove is refused before anything is asked: an invented key costs no query.
Known keys are looked up again after 30 s, and at once after news of them (`invalidate`), so that a
revoked one stops within a second; ids that nobody has are remembered for 10 s. Any number of
requests with the same key cause one query. While PostgreSQL does not answer, known keys go on under
what was last known of them (their own expiry still counts) and unknown ones get SERVICE_UNAVAILABLE.
So does a key of which there was news, until a look-up has shown what the news was.

While PostgreSQL is slow, a request waits 0.25 s for the refresh of its key; then, up to 10 s after
the 30, it goes on under what was known, and the look-up goes on in the background. So where no news
comes (a pooler), a revoked key stops 30 s later if PostgreSQL answers at once, and when that look-up
ends, begun within 40 s, if it is slow.

The text of a key is never kept: the cache is found by the public id and holds a digest of the whole
key under a secret of this process. A wrong secret changes nothing here. Never decide anything on
the mode or the public id before the whole key was compared.
"""

import asyncio
import functools
import hashlib
import logging
import math
import secrets
from collections.abc import Callable
from typing import NamedTuple

from otpsvc.clients import keys
from otpsvc.clients.cache import KeyCache, Known
from otpsvc.clients.model import KeyRecord, Principal, merged_policy
from otpsvc.clients.ports import KeySource
from otpsvc.clients.retag import Retagger
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring, equal
from otpsvc.errors import ApiError, problem
from otpsvc.otp.policy import Policy

KNOWN_FOR_S = 30.0
UNKNOWN_FOR_S = 10.0
PROBE_EVERY_S = 1.0
ANSWER_TIMEOUT_S = 2.0
REFRESH_WAIT_S = 0.25
LATE_FOR_S = 10.0
MAX_LOOKUPS = 256
MAX_QUESTIONS = 3

_log = logging.getLogger(__name__)


class _Answer(NamedTuple):
    """What a lookup brought; `is_reached` False: PostgreSQL did not answer."""

    is_reached: bool
    known: Known | None


class Authenticator:
    """Turns a request's two headers into a principal. One per process; `close` ends its tasks.

    The three `invalidate` methods are for news from the store (`KeyNewsReader`). They may be called
    at any time, say nothing about keys that are not known, and never raise.
    """

    def __init__(
        self,
        source: KeySource,
        keyring: Keyring,
        default_policy: Policy,
        clock: Clock,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        refresh_wait_s: float = REFRESH_WAIT_S,
        on_lookup: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        self._source = source
        self._on_lookup = on_lookup
        self._keyring = keyring
        self._default_policy = default_policy
        self._clock = clock
        self._answer_timeout_s = answer_timeout_s
        self._refresh_wait_s = refresh_wait_s
        self._digest_key = secrets.token_bytes(32)
        self._cache = KeyCache()
        self._lookups: dict[str, asyncio.Task[_Answer]] = {}
        self._overtaken: set[str] = set()
        self._slow: set[asyncio.Task[_Answer]] = set()
        self._retagger = Retagger(source, keyring)
        self._is_unreachable = False
        self._next_probe_at = -math.inf

    def authenticate_cached(self, api_key: str | None, client_id: str | None) -> Principal | None:
        """Answer from memory, or None where `authenticate` has to look closer. Never raises."""
        if not api_key or len(api_key) != keys.KEY_LENGTH or not api_key.isascii():
            return None
        known = self._cache.known.get(api_key[keys.PUBLIC_ID_SLICE])
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
        read = keys.read_key(api_key, self._keyring)
        if read is None:
            raise problem("INVALID_API_KEY")
        known = await self._find(read.public_id)
        if known is None:
            raise problem("INVALID_API_KEY", reason="key_unknown")
        if not self._is_key_of(known, api_key):
            raise problem("INVALID_API_KEY", reason="key_wrong")
        if known.record.is_revoked:
            raise problem("INVALID_API_KEY", reason="key_revoked")
        if self._clock.time() >= known.expires_at:
            raise problem("INVALID_API_KEY", reason="key_expired")
        if known.record.client_id != client_id:
            raise problem("INVALID_CLIENT_ID")
        if not known.record.is_client_active:
            raise problem("INVALID_CLIENT_ID", reason="client_suspended")
        if known.principal is None:
            raise problem("INTERNAL_ERROR", reason="client_policy")
        if not self._is_unreachable:
            self._retagger.offer(known, api_key)
        return known.principal

    def invalidate(self, public_id: str) -> None:
        """Answer a key no more before it was looked up: it was made, changed, revoked or deleted."""
        self._cache.recall(public_id)
        if public_id in self._lookups:
            self._overtaken.add(public_id)
        self._is_unreachable = False

    def invalidate_client(self, client_id: str) -> None:
        """Answer no key of a client before it was looked up: it was suspended or resumed, or has another policy."""
        self._cache.recall_client(client_id)
        # Whose key a lookup will bring is not known before it does.
        self._overtaken.update(self._lookups)
        self._is_unreachable = False

    def invalidate_all(self) -> None:
        """Look everything up again: some news may have been missed.

        That is no news of any key: while PostgreSQL does not answer they go on.
        """
        self._cache.make_all_stale()
        self._overtaken.update(self._lookups)
        self._is_unreachable = False

    async def close(self) -> None:
        """End the lookups under way."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        await self._retagger.close()

    async def _find(self, public_id: str) -> Known | None:
        known = self._cache.known.get(public_id)
        now = self._clock.monotonic()
        if known is None:
            if self._cache.is_unknown(public_id, now):
                return None
            # The bound keeps a flood of keys that are no longer in the store from queueing before the
            # refresh of known ones.
            has_room = public_id in self._lookups or len(self._lookups) < MAX_LOOKUPS
            self._refuse_unless_askable(now, has_room=has_room)
        elif now < known.fresh_until:
            return known
        elif known.is_recalled:
            self._refuse_unless_askable(now, has_room=True)
        elif self._is_unreachable:
            self._probe(public_id, now)
            return known
        lookup = self._lookup(public_id)
        if known is not None and now < known.fresh_until + LATE_FOR_S:
            await self._wait_a_moment(lookup)
            if not lookup.done() and (late := self._still_known(public_id)):
                return late
        answer = await self._answer(lookup)
        if answer.is_reached:
            return answer.known
        # Asked of the cache again: there may have been news while this waited.
        if (kept := self._still_known(public_id)) is None:
            raise problem("SERVICE_UNAVAILABLE", reason="keys_unreachable")
        return kept

    def _still_known(self, public_id: str) -> Known | None:
        """Return what may serve without an answer of PostgreSQL: nothing that there was news of."""
        known = self._cache.known.get(public_id)
        return None if known is None or known.is_recalled else known

    def _refuse_unless_askable(self, now: float, *, has_room: bool) -> None:
        """Raise SERVICE_UNAVAILABLE where a key that only PostgreSQL can tell about may not cost a query now."""
        is_away = self._is_unreachable and now < self._next_probe_at
        if not has_room or is_away:
            self._on_lookup("refused")
            raise problem("SERVICE_UNAVAILABLE", reason="keys_unreachable" if is_away else "keys_busy")

    async def _wait_a_moment(self, lookup: asyncio.Task[_Answer]) -> None:
        """Give a refresh the time that a PostgreSQL takes that is well; after that nobody waits for it any more."""
        if lookup not in self._slow:
            await asyncio.wait({lookup}, timeout=self._refresh_wait_s)
            if not lookup.done():
                self._slow.add(lookup)

    def _probe(self, public_id: str, now: float) -> None:
        """Ask again in the background, so that nobody waits for a PostgreSQL that is away."""
        if now >= self._next_probe_at:
            self._next_probe_at = now + PROBE_EVERY_S
            self._lookup(public_id)

    async def _answer(self, lookup: asyncio.Task[_Answer]) -> _Answer:
        # Not wait_for: a caller that goes away must not take the others' answer with it.
        done, _ = await asyncio.wait({lookup}, timeout=self._answer_timeout_s)
        if done:
            return lookup.result()
        self._note_unreachable()
        return _Answer(is_reached=False, known=None)

    def _lookup(self, public_id: str) -> asyncio.Task[_Answer]:
        """Join the lookup of this key that is under way, or start one.

        One that has its answer is not joined, though its end is noted a turn of the loop later: news
        may have come in between.
        """
        lookup = self._lookups.get(public_id)
        if lookup is None or lookup.done():
            lookup = asyncio.create_task(self._look_up(public_id), name="api key lookup")
            self._lookups[public_id] = lookup
            lookup.add_done_callback(functools.partial(self._end_lookup, public_id))
        return lookup

    def _end_lookup(self, public_id: str, lookup: asyncio.Task[_Answer]) -> None:
        self._slow.discard(lookup)
        if self._lookups.get(public_id) is lookup:
            del self._lookups[public_id]
            self._overtaken.discard(public_id)

    async def _look_up(self, public_id: str) -> _Answer:
        try:
            record, asked_at = await self._ask(public_id)
        except ApiError:
            self._on_lookup("unreachable")
            self._note_unreachable()
            return _Answer(is_reached=False, known=None)
        self._is_unreachable = False
        self._on_lookup("known" if record is not None else "unknown")
        if record is None:
            self._cache.remember_unknown(public_id, asked_at + UNKNOWN_FOR_S)
            return _Answer(is_reached=True, known=None)
        known = self._known_from(record, asked_at + KNOWN_FOR_S)
        self._cache.remember(known)
        return _Answer(is_reached=True, known=known)

    async def _ask(self, public_id: str) -> tuple[KeyRecord | None, float]:
        """Return what is stored, and when it was asked for: nothing is known to have changed since.

        News that comes while the question is under way may be about what the answer does not show
        yet, so it is asked again. News without end gives the last answer, and minus infinity: whoever
        waits for it has it, nobody after, and it takes the mark of the news off nothing.
        """
        questions_left = MAX_QUESTIONS
        while True:
            self._overtaken.discard(public_id)
            asked_at = self._clock.monotonic()
            record = await self._source.find_key(public_id)
            if public_id not in self._overtaken:
                return record, asked_at
            questions_left -= 1
            if not questions_left:
                return record, -math.inf

    def _known_from(self, record: KeyRecord, fresh_until: float) -> Known:
        before = self._cache.known.get(record.public_id)
        is_same_key = before is not None and equal(before.record.tag, record.tag)
        return Known(
            record=record,
            principal=self._principal(record),
            fresh_until=fresh_until,
            expires_at=record.expires_at.timestamp() if record.expires_at else math.inf,
            digest=before.digest if before is not None and is_same_key else None,
            is_recalled=fresh_until == -math.inf,
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

    def _is_key_of(self, known: Known, api_key: str) -> bool:
        digest = self._digest(api_key)
        if known.digest is not None:
            return equal(known.digest, digest)
        master = self._keyring.by_slot(known.record.auth_key_id)
        if master is None:
            if not known.is_lost_told:
                known.is_lost_told = True
                _log.warning("API key %s was made under a master that is not in the keyring", known.record.public_id)
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
