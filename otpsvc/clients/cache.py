"""What this process remembers of API keys: the known ones with their records, and ids that nobody has.

With news or with age entries are stale, not gone: whoever asks decides whether a stale one may still serve. The text of
a key is never kept here, only a digest of it under a secret of the process.
"""

import math

import msgspec

from otpsvc.clients.model import KeyRecord, Principal

MAX_KNOWN = 20_000
MAX_UNKNOWN = 10_000


class Known(msgspec.Struct):
    """A key that exists. `digest` is that of its text, once a request has shown it.

    `fresh_until` is on the monotonic clock, `expires_at` in seconds since 1970, infinity where it never expires.
    """

    record: KeyRecord
    principal: Principal | None
    fresh_until: float
    expires_at: float
    digest: bytes | None
    is_retag_tried: bool = False


class KeyCache:
    """Known and unknown keys by public id, the oldest dropped beyond the limits."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.unknown: dict[str, float] = {}
        self._of_client: dict[str, set[str]] = {}

    def is_unknown(self, public_id: str, now: float) -> bool:
        """Say whether it was looked up a moment ago and not there."""
        return now < self.unknown.get(public_id, -math.inf)

    def remember(self, known: Known) -> None:
        """Keep a key that exists, in place of what was known of it."""
        public_id = known.record.public_id
        self.forget(public_id)
        self.known[public_id] = known
        self._of_client.setdefault(known.record.client_id, set()).add(public_id)
        if len(self.known) > MAX_KNOWN:
            self.forget(next(iter(self.known)))

    def remember_unknown(self, public_id: str, until: float) -> None:
        """Keep that nobody has this id; `until` on the monotonic clock."""
        self.forget(public_id)
        self.unknown[public_id] = until
        if len(self.unknown) > MAX_UNKNOWN:
            del self.unknown[next(iter(self.unknown))]

    def forget(self, public_id: str) -> None:
        """Know nothing about an id any more."""
        self.unknown.pop(public_id, None)
        known = self.known.pop(public_id, None)
        if known is None:
            return
        siblings = self._of_client[known.record.client_id]
        siblings.discard(public_id)
        if not siblings:
            del self._of_client[known.record.client_id]

    def make_stale(self, public_id: str) -> None:
        """Have this id looked up before it is answered again."""
        self.unknown.pop(public_id, None)
        if public_id in self.known:
            self.known[public_id].fresh_until = -math.inf

    def make_client_stale(self, client_id: str) -> None:
        """Have all keys of a client looked up again."""
        for public_id in self._of_client.get(client_id, ()):
            self.known[public_id].fresh_until = -math.inf

    def make_all_stale(self) -> None:
        """Have everything looked up again."""
        self.unknown.clear()
        for known in self.known.values():
            known.fresh_until = -math.inf
