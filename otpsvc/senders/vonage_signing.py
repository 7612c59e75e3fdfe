"""How Vonage proves who speaks: the `sig` of SMS calls and receipts, an application's token, a webhook's token.

Only proofs are made and checked here; what a request says is read elsewhere, after its proof. Never put a secret, a
token or a signature into an exception.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Literal

import jwt

from otpsvc.clock import Clock
from otpsvc.senders.contract import ReceiptRequest, Secret
from otpsvc.senders.proofs import bearer_of, is_fresh, jwt_claims, matches

SignatureMethod = Literal["md5hash", "md5", "sha1", "sha256", "sha512"]

TOKEN_LIFE_S = 900
_RENEW_BEFORE_S = 60


def signature_of(fields: Mapping[str, str], secret: Secret, method: SignatureMethod) -> str:
    """Return the `sig` of a call's or receipt's fields, without `sig` itself, as small hexadecimal digits.

    `md5hash` is their oldest way, a plain digest with the secret at the end; the others are HMACs.
    """
    text = "".join(f"&{name}={_tamed(fields[name])}" for name in sorted(fields) if name != "sig").encode(
        "utf-8", "replace"
    )
    key = secret.reveal().encode()
    if method == "md5hash":
        return hashlib.md5(text + key, usedforsecurity=False).hexdigest()
    return hmac.new(key, text, method).hexdigest()


def is_signed(
    fields: Mapping[str, str], secret: Secret, method: SignatureMethod, now: float, tolerance_s: float
) -> bool:
    """Say whether a receipt's `sig` is right and its `timestamp` of this time."""
    # Values are tamed before they are signed, names are not: with these in a name, fields could be hidden inside it.
    if any("&" in name or "=" in name for name in fields):
        return False
    expected = signature_of(fields, secret, method)
    is_right = matches(fields.get("sig", "").lower(), expected)
    return is_right and is_fresh(fields.get("timestamp"), now, tolerance_s)


def is_webhook_signed(request: ReceiptRequest, secret: Secret, api_key: str, *, now: float, tolerance_s: float) -> bool:
    """Say whether a webhook's token is of this account and time, and made for exactly this body."""
    token = bearer_of(request.headers.get("authorization"))
    claims = jwt_claims(token, secret.reveal(), now, leeway_s=tolerance_s, max_age_s=tolerance_s)
    if claims is None or claims.get("api_key") != api_key:
        return False
    told = claims.get("payload_hash")
    return isinstance(told, str) and matches(told.lower(), hashlib.sha256(request.body).hexdigest())


class ApplicationToken:
    """An application's RS256 token, made once and used until shortly before it ends.

    Raises ValueError at once for a key that cannot sign.
    """

    def __init__(self, application_id: str, private_key: Secret, clock: Clock) -> None:
        self._application_id = application_id
        self._clock = clock
        # Settings from the environment often hold the line ends of a PEM file as backslash and n.
        self._key = private_key.reveal().replace("\\n", "\n").encode()
        self._token: str | None = None
        self._made_at = 0.0
        try:
            self.current()
        except Exception:  # noqa: BLE001 - libraries raise many kinds for a bad key, and their words may repeat it
            raise ValueError("must be an RSA private key as PEM text, without a password") from None

    def __repr__(self) -> str:
        """Name the application, hide its key."""
        return f"ApplicationToken({self._application_id})"

    def current(self) -> str:
        """Return a token that is good for at least another minute by our clock."""
        now = self._clock.time()
        # A clock that was set back leaves a token of the future, which they refuse.
        if self._token is None or not self._made_at <= now < self._made_at + TOKEN_LIFE_S - _RENEW_BEFORE_S:
            self._token = self._make(int(now))
            self._made_at = now
        return self._token

    def forget(self) -> None:
        """Make a new token next time: this one was refused."""
        self._token = None

    def _make(self, now: int) -> str:
        claims = {
            "application_id": self._application_id,
            "iat": now,
            "exp": now + TOKEN_LIFE_S,
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, self._key, algorithm="RS256")


def _tamed(value: str) -> str:
    return value.replace("&", "_").replace("=", "_")
