"""Proofs that a receipt is the gateway's own: what senders share for signatures, tokens, times and paths.

Every comparison here takes the same time whatever it compares, and nothing here raises for what a stranger sent. A
missing secret never matches a missing proof.
"""

import hashlib
import hmac
import math
import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm

DEFAULT_TOLERANCE_S: Final = 900.0  # a receipt is harmless when it comes again, and a clock may be ten minutes off
_MAX_TOKEN_CHARS = 8192
_ADDRESS = re.compile(r"/receipts/[^/]+/([^/]+)/?\Z")


class _AnyLength(HMACAlgorithm):
    """HS256 that leaves the length of a key to the gateway that chose it, instead of a warning at every receipt."""

    def check_key_length(self, key: bytes) -> str | None:  # noqa: ARG002 - the library's signature
        return None


_tokens = jwt.PyJWS(algorithms=[])
_tokens.register_algorithm("HS256", _AnyLength(HMACAlgorithm.SHA256))


def hmac_sha256_hex(secret: str | bytes, data: bytes) -> str:
    """Return the HMAC-SHA-256 of `data` as 64 small hexadecimal digits."""
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def matches(given: str | None, expected: str | None) -> bool:
    """Compare a proof with the one it should be; never true for a missing or empty one."""
    # Lone surrogates can come out of a decoded request, and a comparison must not break at them.
    left, right = (given or "").encode("utf-8", "replace"), (expected or "").encode("utf-8", "replace")
    return hmac.compare_digest(left, right) and bool(left)


def is_fresh(timestamp: float | str | None, now: float, tolerance_s: float = DEFAULT_TOLERANCE_S) -> bool:
    """Say whether a time in seconds since 1970, also as text, lies no further than the tolerance from `now`."""
    try:
        seconds = float(timestamp) if timestamp is not None else math.nan
    except (ValueError, TypeError, OverflowError):
        return False
    return abs(seconds - now) <= tolerance_s


def path_token(url: str) -> str | None:
    """Return the unguessable last part of `…/receipts/<sender>/<token>`; None if there is none."""
    try:
        found = _ADDRESS.search(urlsplit(url).path)
    except ValueError:
        return None
    return unquote(found[1]) if found else None


def jwt_claims(
    token: str | None,
    secret: str,
    now: float,
    *,
    leeway_s: float = 60.0,
    max_age_s: float | None = None,
    audience: str | None = None,
    issuer: str | None = None,
) -> dict[str, Any] | None:
    """Return the claims of a JWT signed with HS256 under `secret`; None if it is not, or not of this time.

    `exp`, `nbf` and `iat` are held to `now` (seconds since 1970) with `leeway_s`, where they are given. `max_age_s`
    makes `iat` a must and bounds its age. `audience` and `issuer` must be the token's where they are asked for.
    """
    if not token or not secret or len(token) > _MAX_TOKEN_CHARS:
        return None
    try:
        claims = msgspec.json.decode(_tokens.decode(token, secret, algorithms=["HS256"]))
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    is_timely = _is_timely(claims, now, leeway_s, max_age_s)
    audiences = claims.get("aud")
    is_for_us = audience is None or audience in (audiences if isinstance(audiences, list) else [audiences])
    return claims if is_timely and is_for_us and (issuer is None or claims.get("iss") == issuer) else None


def bearer_of(authorization: str | None) -> str | None:
    """Return the token of an `Authorization: Bearer …` header."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _is_timely(claims: dict[str, Any], now: float, leeway_s: float, max_age_s: float | None) -> bool:
    bounds = {
        "exp": (now - leeway_s, math.inf),
        "nbf": (-math.inf, now + leeway_s),
        "iat": (-math.inf if max_age_s is None else now - max_age_s, now + leeway_s),
    }
    for name, (earliest, latest) in bounds.items():
        moment = claims.get(name)
        if moment is None:
            if name == "iat" and max_age_s is not None:
                return False
        elif isinstance(moment, bool) or not isinstance(moment, int | float) or not earliest <= moment <= latest:
            return False
    return True
