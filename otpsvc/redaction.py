"""What a log line may not show, taken out of it: keys, passwords, numbers, and whatever stands under a telling name.

This is the second line. The first is that nothing of the kind is logged: no call may be given a code, a text or a
number, because six digits alone look like a port or a duration and are let through here. Everything in this file has
to end in time linear to its input, and may show too little, never too much.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

from otpsvc import phone
from otpsvc.errors import ApiError
from otpsvc.faults import described, hidden

REDACTED: Final = "[redacted]"
LONGEST_TEXT: Final = 4096
_MOST_LOOKED_AT = 16_384
_MOST_ITEMS = 50
_DEEPEST = 6
_LARGE = 10**10

# The last word of a name decides: `new_code`, `X-API-Key` and `phoneNumbers` are all telling, `code_length` is not.
_TELLING = frozenset({
    "apikey", "authorization", "bearer", "body", "code", "content", "cookie", "credential", "guess", "jwt", "key",
    "master", "message", "metadata", "msg", "msisdn", "number", "otp", "passcode", "passphrase", "passwd", "password",
    "pepper", "phone", "pin", "pwd", "recipient", "secret", "session", "sig", "signature", "sms", "template", "text",
    "to", "token",
})  # fmt: skip
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")

_NAMES = "|".join(sorted(_TELLING, key=len, reverse=True))
_API_KEY = re.compile(r"(zs_(?:live|test)_[0-9a-z]{0,13})[^\s\"'<>,;)}\]]*", re.IGNORECASE)
_DEVICE_TOKEN = re.compile(r"(\bdt_[0-9a-z]{0,26})[^\s\"'<>,;)}\]]*", re.IGNORECASE)
_URL_USER = re.compile(r"([a-z][a-z0-9+.-]{0,30}://)[^\s\"'<>]{1,1024}@", re.IGNORECASE)
# What a dict, a struct or JSON looks like once it has become text; where a list or a dict begins, nobody knows its end.
_NAMED_TEXT = re.compile(
    rf"((?:\b|_|(?-i:(?<=[a-z])(?=[A-Z])))(?:{_NAMES})s?[\"']?\s{{0,4}}[:=]\s{{0,4}}b?)"
    r"(?:\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[\[{(].*|\d[\d.]*)",
    re.IGNORECASE | re.DOTALL,
)
_NAMED_WORD = re.compile(
    r"((?:\b|_)(?:passw(?:or)?d|passphrase|passcode|pwd|secret|token|(?:api|access|private)[_-]?key|(?<=[?&])key|sig"
    r"|signature|jwt|cookie|authorization)s?[\"']?\s{0,4}[:=]\s{0,4})(?:(?:basic|bearer|digest)\s+)?[^\s\"',;]+",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"(\b(?:basic|bearer)\s{1,4})[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
# The languages of our own texts, which put the code first.
_CODE_WORD = r"(?:code|codice|guess|pin|\u043a\u043e\u0434)s?\b"
_NAMED_DIGITS = re.compile(rf"(\b{_CODE_WORD}[^\d\n]{{0,16}})\d(?:[ -]?\d){{3,}}", re.IGNORECASE)
_DIGITS_NAMED = re.compile(rf"(?<![\w.])\d(?:[ -]?\d){{3,9}}(?=[^\w\n][^\d\n]{{0,40}}\b{_CODE_WORD})", re.IGNORECASE)
_GAP = r"(?:[\s().\-/\u00ad\u2010-\u2015\u2212\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]|%20|%2[dD]){0,3}"
_NUMBER = re.compile(
    rf"(?:[+\uff0b]|%2[bB]|\\u002[bB]|&#43;){_GAP}\d(?:{_GAP}\d){{6,}}"
    r"|(?<![\w.])00[1-9]\d{6,}(?!\w)"
    r"|(?<![\w.])\d{11,15}(?!\w|\.\d)"
)


def redacted(value: object) -> Any:
    """Give a value as it may be logged: made of str, int, float, bool, None, dict and list only.

    Looks at 16 Ki letters and items in all, so that no log call holds up the process; what lies beyond is not shown.
    Raises whatever the `str()` of a stranger's object raises.
    """
    return _Look().at(value, _DEEPEST)


def is_telling(name: str) -> bool:
    """Say whether the value under this name is never shown."""
    words = [word for word in _WORD_BREAK.split(name) if word]
    last = words[-1].lower() if words else ""
    return last in _TELLING or last.removesuffix("s") in _TELLING


def scrubbed(text: str) -> str:
    """Give a text without API keys (their public id stays), passwords, and numbers, which are masked.

    Nor does it show what the task at hand must hide (`faults.hidden`).
    """
    text = text[:LONGEST_TEXT]
    for secret in hidden.get():
        text = text.replace(secret, REDACTED)
    text = _API_KEY.sub(rf"\1{REDACTED}", text)
    text = _DEVICE_TOKEN.sub(rf"\1{REDACTED}", text)
    text = _URL_USER.sub(rf"\1{REDACTED}@", text)
    text = _NAMED_TEXT.sub(rf"\1{REDACTED}", text)
    text = _NAMED_WORD.sub(rf"\1{REDACTED}", text)
    text = _CREDENTIALS.sub(rf"\1{REDACTED}", text)
    text = _NAMED_DIGITS.sub(rf"\1{REDACTED}", text)
    text = _DIGITS_NAMED.sub(REDACTED, text)
    return _NUMBER.sub(_masked, text)


class _Look:
    def __init__(self) -> None:
        self._left = _MOST_LOOKED_AT

    def at(self, value: object, depth: int) -> Any:
        self._left -= 1
        if value is None or isinstance(value, bool | int | float):
            # A number may come as one; and JSON has neither infinities nor anything that is no number.
            return value if value is None or -_LARGE < value < _LARGE else self._text(str(value))
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, BaseException):
            # Its words may repeat a text; those of the catalogue are a name.
            return value.code if isinstance(value, ApiError) else described(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"{len(value)} bytes"
        if not isinstance(value, Mapping | AbstractSet | list | tuple):
            return self._text(str(value))
        if depth == 0 or self._left <= 0:
            return REDACTED
        if isinstance(value, Mapping):
            return dict(self._pair(name, below, depth - 1) for name, below in islice(value.items(), _MOST_ITEMS))
        return [self.at(below, depth - 1) for below in islice(value, _MOST_ITEMS)]

    def _pair(self, name: object, value: object, depth: int) -> tuple[str, Any]:
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        return self._text(text), REDACTED if is_telling(text[:LONGEST_TEXT]) else self.at(value, depth)

    def _text(self, text: str) -> str:
        self._left -= min(len(text), LONGEST_TEXT)
        return scrubbed(text) if self._left > 0 else REDACTED


def _masked(found: re.Match[str]) -> str:
    digits = re.sub(r"%2[0bBdD]|\\u002[bB]|&#43;|\D", "", found[0])
    return phone.mask(f"+{digits.removeprefix('00')}")
