"""How Twilio proves a callback: HMAC-SHA1 over the address it called and the form it sent, in base64.

There is no time in it, so a callback can be repeated for ever; that is harmless because a message's state only moves
forward. Never put a token or a signature into an exception.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from otpsvc.senders.contract import Secret
from otpsvc.senders.proofs import matches

_DEFAULT_PORTS = {"https": 443, "http": 80}


def signature_of(url: str, fields: Mapping[str, str], auth_token: Secret) -> str:
    """Return what Twilio writes into `X-Twilio-Signature` for a call of `url` with these form fields."""
    text = url + "".join(name + fields[name] for name in sorted(fields))
    digest = hmac.new(auth_token.reveal().encode(), text.encode("utf-8", "replace"), hashlib.sha1).digest()
    return base64.b64encode(digest).decode("ascii")


def is_signed(given: str | None, url: str, fields: Mapping[str, str], auth_token: Secret) -> bool:
    """Say whether a signature is right for the URL, with or without the port that its scheme means anyway."""
    return any(matches(given, signature_of(form, fields, auth_token)) for form in _spellings(url))


def _spellings(url: str) -> list[str]:
    """Give the URL as it stands and, where the port is the scheme's own, the other way to write that."""
    try:
        parts = urlsplit(url)
        port, default = parts.port, _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return [url]
    if default is None or not parts.netloc:
        return [url]
    if port is None:
        return [url, url.replace(parts.netloc, f"{parts.netloc.rstrip(':')}:{default}", 1)]
    return [url, url.replace(parts.netloc, parts.netloc.removesuffix(f":{port}"), 1)] if port == default else [url]
