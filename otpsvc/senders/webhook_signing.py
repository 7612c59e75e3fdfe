"""Signatures of the Standard Webhooks convention, made and checked: three headers over an id, a time and the body.

Several secrets are signed with side by side, and each of them proves a request, so that one can be changed while
messages are on their way. The published library is not used because it keeps its own clock and raises for what
strangers send; the tests hold us to it.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from otpsvc.errors import ConfigurationError
from otpsvc.senders.proofs import is_fresh, matches

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 128
_MOST_SECRETS = 4
_MOST_SIGNATURES = 10


class WebhookSigner:
    """The secrets of one webhook, ready for use."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def from_setting(cls, text: str, *, key: str) -> "WebhookSigner":
        """Read `whsec_…` secrets with space between them; raise ConfigurationError that begins with `key`.

        The form `v1,whsec_…`, which some dashboards show, is understood too.
        """
        words = text.split()
        if not 1 <= len(words) <= _MOST_SECRETS:
            raise ConfigurationError(f"{key} must hold one to {_MOST_SECRETS} secrets with space between them")
        return cls([_key_of(word, key) for word in words])

    def __repr__(self) -> str:
        """Hide the keys."""
        return f"WebhookSigner({len(self._keys)} secrets)"

    def headers(self, message_id: str, now: float, body: bytes) -> dict[str, str]:
        """Return the headers that prove `body`. `now`: seconds since 1970."""
        timestamp = str(int(now))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(self._signatures(message_id, timestamp, body)),
        }

    def is_genuine(self, headers: Mapping[str, str], body: bytes, now: float, tolerance_s: float) -> bool:
        """Say whether one of our secrets signed this body, at a time no further than the tolerance from `now`."""
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        given = headers.get("webhook-signature", "").split()
        if not message_id or not timestamp.isdecimal() or not is_fresh(timestamp, now, tolerance_s):
            return False
        expected = self._signatures(message_id, timestamp, body)
        return any(matches(one, other) for one in given[:_MOST_SIGNATURES] for other in expected)

    def _signatures(self, message_id: str, timestamp: str, body: bytes) -> list[str]:
        signed = f"{message_id}.{timestamp}.".encode("utf-8", "replace") + body
        digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in self._keys)
        return [f"v1,{base64.b64encode(digest).decode('ascii')}" for digest in digests]


def _key_of(word: str, key: str) -> bytes:
    text = word.removeprefix("v1,").removeprefix(_PREFIX)
    try:
        secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{key} must be {_PREFIX} and base64, as a webhook's dashboard shows it") from None
    if not _LEAST_BYTES <= len(secret) <= _MOST_BYTES:
        raise ConfigurationError(f"{key} must hold {_LEAST_BYTES} to {_MOST_BYTES} bytes each, not {len(secret)}")
    return secret
