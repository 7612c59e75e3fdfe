"""The search itself: which secrets stand in some bytes, plainly or thinly disguised.

Digits are looked for by their runs, so that the time does not grow with the number of secrets. A code of six digits
meets its like by chance (a microsecond, a length), so those count only as a word of their own, in text.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

import phonenumbers

SURE_LENGTH = 10  # a code of so many digits stands nowhere by chance
_RUN = re.compile(rb"\d{10,}")
_WORD = re.compile(rb"\b\d{4,9}\b")
_FRACTION = re.compile(rb"\d[.,]\Z")
_BETWEEN = re.compile(rb"(?<=\d)[ \-()/]{1,3}(?=\d)")
_HEX_DIGITS = re.compile(rb"(?:3[0-9]){4,}")
# Three digits in base64 are four letters of few kinds; a run that begins or ends within such a four has it beside it.
_BASE64_DIGITS = re.compile(rb"(?:[MNO][DTjz][AEIMQUYcgk][w-z0-5]){2,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{1,4}")
_DIGEST = re.compile(rb"\b[0-9a-f]{32,128}\b")


class Needles:
    """What must stand nowhere: codes and guesses, numbers (E.164), words such as API keys, and credentials.

    Credentials are what a person or a phone shows to be let in: tokens, passwords, passphrases. They travel in headers
    and columns that dress them up, and are too long to stand anywhere by chance.
    """

    def __init__(
        self,
        *,
        codes: Iterable[str] = (),
        numbers: Iterable[str] = (),
        words: Iterable[str | bytes] = (),
        credentials: Iterable[str] = (),
    ) -> None:
        codes, numbers, credentials = set(codes), set(numbers), set(credentials)
        long_codes = {code for code in codes if len(code) >= SURE_LENGTH}
        self._runs = {code.encode(): f"code {code}" for code in long_codes}
        self._short = {code.encode(): f"code {code}" for code in codes - long_codes}
        for number in numbers:
            self._runs |= {form.encode(): f"number {number}" for form in _forms(number)}
        self._lengths = sorted({len(run) for run in self._runs})
        self._digests = {
            digest(secret.encode()).hexdigest().encode(): f"bare digest of {secret}"
            for secret in codes | numbers | credentials
            for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256)
        }
        self._long = {secret.encode(): f"credential {secret}" for secret in credentials}
        self._words = {word if isinstance(word, bytes) else word.encode(): f"word {word!r}" for word in words}
        self._words |= {dress: f"credential {secret}" for secret in credentials for dress in _dresses(secret)}

    def found_in(self, data: bytes, *, is_binary: bool = False) -> Iterator[tuple[str, bytes]]:
        """Give each secret that stands in the data, and what stands around it; `is_binary` looks for long ones only."""
        yield from self._digits(data)
        yield from _texts(self._long, data)
        if is_binary:
            return
        yield from self._digits(_BETWEEN.sub(b"", data))
        yield from self._digits(data.replace(b"\0", b""))
        for hidden in _BASE64_DIGITS.finditer(data):
            yield from self._digits(_decoded(data, hidden.start(), hidden.end()))
        yield from self._hex_digits(data)
        yield from self._short_codes(data)
        for digest in _DIGEST.finditer(data):
            if name := self._digests.get(digest[0]):
                yield name, _around(data, digest.start())
        yield from _texts(self._words, data)

    def _short_codes(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        for word in _WORD.finditer(data):
            name = self._short.get(word[0])
            if name and not _FRACTION.match(data, max(0, word.start() - 2), word.start()):
                yield name, _around(data, word.start())

    def _hex_digits(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        for hidden in _HEX_DIGITS.finditer(data):
            digits = bytes.fromhex(hidden[0].decode())
            yield from self._digits(digits)
            if name := self._short.get(digits):
                yield name, _around(data, hidden.start())

    def _digits(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        for run in _RUN.finditer(data):
            digits = run[0]
            for length in self._lengths:
                for start in range(len(digits) - length + 1):
                    if name := self._runs.get(digits[start : start + length]):
                        yield name, _around(data, run.start() + start)


def _forms(number: str) -> set[str]:
    """The ways in which a number names a person: international without its plus, and national."""
    national = phonenumbers.national_significant_number(phonenumbers.parse(number))
    forms = {number[1:], f"0{national}", national}
    return {form for form in forms if len(form) >= SURE_LENGTH}


def _texts(texts: dict[bytes, str], data: bytes) -> Iterator[tuple[str, bytes]]:
    for text, name in texts.items():
        if (at := data.find(text)) >= 0:
            yield name, _around(data, at)


def _dresses(secret: str) -> set[bytes]:
    """A credential as bytes are printed, as a URL has it, and as it stands in base64 wherever it began there."""
    data = secret.encode()
    dresses = {data.hex().encode(), quote(secret).encode(), quote_plus(secret).encode()} - {data}
    for before in range(3):
        # Letters at both ends depend on what stands beside it, so those are left out.
        first = (before * 8 + 5) // 6
        dresses.add(base64.b64encode(b"\0" * before + data)[first : (before + len(data)) * 8 // 6])
    return dresses


def _decoded(data: bytes, start: int, end: int) -> bytes:
    """Decode a run of base64 with the four letters on both sides, as far as these are base64 at all."""
    after = _BASE64.match(data, end, end + 4)
    piece = data[start : after.end() if after else end]
    if _BASE64.fullmatch(data, max(0, start - 4), start):
        piece = data[max(0, start - 4) : start] + piece
    piece = piece[: len(piece) - (len(piece) % 4 == 1)]
    return base64.b64decode(piece + b"=" * (-len(piece) % 4))


def _around(data: bytes, at: int) -> bytes:
    return data[max(0, at - 80) : at + 80]
