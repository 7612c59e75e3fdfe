"""What this process remembers of API keys: the known ones with their records, and ids that nobody has.

With news or with age entries are stale, not gone: whoever asks decides whether a stale one may still serve. One that
there was news of is recalled besides, until a new record takes its place: never take that mark off in any other way.
The text of a key is never kept here, only a digest of it under a secret of the process.
"""

import math

import msgspec

from otpsvc.clients.model import KeyRecord, Principal

MAX_KNOWN = 20_000
MAX_UNKNOWN = 10_000


class Known(msgspec.Struct):
    """A key that exists. `digest` is that of its text, once a request has shown it.

    `fresh_until` is on the monotonic clock, `expires_at` in seconds since 1970, infinity where it never expires.
    `is_lost_told`: the log has it that the key's master is not in the keyring. `is_recalled`: the store said that this
    key or its client was changed after this was read.
    """

    record: KeyRecord
    principal: Principal | None
    fresh_until: float
    expires_at: float
    digest: bytes | None
    is_retag_tried: bool = False
    is_lost_told: bool = False
    is_recalled: bool = False


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

    def recall(self, public_id: str) -> None:
        """Take what is known of this id for wrong."""
        self.unknown.pop(public_id, None)
        if public_id in self.known:
            _recall(self.known[public_id])

    def recall_client(self, client_id: str) -> None:
        """Take what is known of all keys of a client for wrong."""
        for public_id in self._of_client.get(client_id, ()):
            _recall(self.known[public_id])

    def make_all_stale(self) -> None:
        """Have everything looked up again."""
        self.unknown.clear()
        for known in self.known.values():
            known.fresh_until = -math.inf


def _recall(known: Known) -> None:
    known.fresh_until = -math.inf
    known.is_recalled = True
