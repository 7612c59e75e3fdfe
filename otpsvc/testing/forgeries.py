"""Receipt requests as strangers send them: real ones with the proof taken off, spoilt, or put around garbage.

Where a proof stands is a gateway's own affair, so all places are robbed at once: headers, query, the token at the end
of the path, and fields of the body that are called after what they are.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from otpsvc.senders.contract import ReceiptRequest, Secret

NEVER_A_PROOF = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}
)
_PROOF = re.compile(r"sig|sign|signature|token|hash|hmac|auth|secret|key", re.IGNORECASE)
_RECEIPT_PATH = re.compile(r"(/receipts/[^/]+)/([^/]+)/?\Z")

_BIG = 1_000_000
GARBAGE: Mapping[str, bytes] = {
    "an empty body": b"",
    "random bytes": bytes((i * 167 + 13) % 256 for i in range(997)),
    "a megabyte": b"x" * _BIG,
    "a megabyte of JSON": b'{"a":"' + b"x" * _BIG + b'"}',
    "JSON as deep as it is long": b"[" * 50_000 + b"]" * 50_000,
    "JSON null": b"null",
    "a JSON list": b"[1,null,{},[]]",
    "a JSON number": b"1e999",
    "a number of five thousand digits": b'{"timestamp":' + b"9" * 5000 + b"}",
    "an empty object": b"{}",
    "bytes that are not UTF-8": b'{"status":"\xff\xfe"}',
    "a form of nothing": b"&&==&",
    "a lone surrogate": b'{"status":"\\ud800"}',
}


def unproven(genuine: ReceiptRequest) -> ReceiptRequest:
    """Take every proof off."""
    return _rewritten(genuine, lambda _: None)


def misproven(genuine: ReceiptRequest) -> ReceiptRequest:
    """Change one letter in the middle of every proof."""
    return _rewritten(genuine, spoilt)


def emptied(genuine: ReceiptRequest) -> ReceiptRequest:
    """Leave every proof in its place, and nothing in it."""
    return _rewritten(genuine, lambda _: "")


def illegible(genuine: ReceiptRequest) -> ReceiptRequest:
    """Put letters where no gateway has any: they break comparisons that take plain text for granted."""
    return _rewritten(genuine, lambda _: "\u00e9\u0000")


def with_body(genuine: ReceiptRequest, body: bytes) -> ReceiptRequest:
    """Keep address and headers, put another body under them."""
    return msgspec.structs.replace(genuine, body=body)


def spoilt(text: str) -> str:
    """Change one letter or digit in the middle, so that the length and the look stay."""
    places = [at for at, letter in enumerate(text) if letter.isalnum() and letter.isascii()]
    if not places:
        return text + "1"
    at = places[len(places) // 2]
    return text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :]


def with_other_secrets(settings: msgspec.Struct) -> msgspec.Struct | None:
    """Copy settings with another value for every secret; None if they hold none."""
    secrets = {
        name: Secret(spoilt(value.reveal()))
        for name, value in msgspec.structs.asdict(settings).items()
        if isinstance(value, Secret) and value
    }
    return msgspec.structs.replace(settings, **secrets) if secrets else None


def _rewritten(genuine: ReceiptRequest, change: Callable[[str], str | None]) -> ReceiptRequest:
    headers = {
        name: new
        for name, value in genuine.headers.items()
        if (new := value if name in NEVER_A_PROOF else change(value)) is not None
    }
    parts = urlsplit(genuine.url)
    path = _RECEIPT_PATH.sub(lambda found: found[1] + (f"/{new}" if (new := change(found[2])) else ""), parts.path)
    query = _changed_form(parts.query, change)
    url = urlunsplit(parts._replace(path=path, query=query))
    return ReceiptRequest(method=genuine.method, url=url, headers=headers, body=_changed_body(genuine.body, change))


def _changed_form(text: str, change: Callable[[str], str | None]) -> str:
    return urlencode(_changed(dict(parse_qsl(text, keep_blank_values=True)), change))


def _changed_body(body: bytes, change: Callable[[str], str | None]) -> bytes:
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _changed_form(body.decode("latin-1"), change).encode() if b"=" in body else body
    if not isinstance(tree, dict):
        return body
    replaced = _changed(tree, change)
    return body if replaced == tree else msgspec.json.encode(replaced)


def _changed(fields: Mapping[str, object], change: Callable[[str], str | None]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in fields.items():
        new: object = value
        if isinstance(value, dict):
            new = _changed(value, change)
        elif isinstance(value, str) and _PROOF.search(key):
            new = change(value)
        if new is not None or value is None:
            found[key] = new
    return found
