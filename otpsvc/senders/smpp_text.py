"""How a text becomes the octets of an SMS: the GSM alphabet where it suffices, UCS-2 where not, cut into parts.

What it returns holds the code. It never changes a letter: a text that cannot be carried whole is not carried.
"""

from typing import NamedTuple

GSM7 = 0x00
UCS2 = 0x08

# 3GPP TS 23.038 section 6.2.1: the place of a letter is its value. The escape itself is no letter.
_ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESCAPE = 0x1B
_EXTENSION = "\f\x0a^\x14{\x28}\x29\\\x2f[\x3c~\x3d]\x3e|\x40€\x65"
_GSM7_OCTETS = {letter: bytes((value,)) for value, letter in enumerate(_ALPHABET) if value != _ESCAPE} | {
    letter: bytes((_ESCAPE, ord(value))) for letter, value in zip(_EXTENSION[::2], _EXTENSION[1::2], strict=True)
}

# Octets in one message, and in one of several. SMPP carries a letter of seven bits in eight, so these of GSM7 are
# letters, and the operator packs them.
_ROOM = {GSM7: (160, 153), UCS2: (140, 134)}
_MOST_PARTS = 255


class Encoded(NamedTuple):
    """A text in octets: whole, and in the parts that phones put together again."""

    data_coding: int
    parts: tuple[bytes, ...]

    @property
    def whole(self) -> bytes:
        """All of it in one piece."""
        return b"".join(self.parts)

    def __repr__(self) -> str:
        """Hide the text."""
        return f"Encoded(parts={len(self.parts)})"


def encoded(text: str) -> Encoded:
    """Encode a text; raises ValueError for one that no SMS can carry: half a surrogate pair, more than 255 parts.

    No letter is cut in two, so a long text may take a part more than plain division says.
    """
    is_gsm7 = _GSM7_OCTETS.keys() >= set(text)
    data_coding = GSM7 if is_gsm7 else UCS2
    letters = [_GSM7_OCTETS[letter] if is_gsm7 else letter.encode("utf-16-be") for letter in text]
    alone, together = _ROOM[data_coding]
    if sum(map(len, letters)) <= alone:
        return Encoded(data_coding, (b"".join(letters),))
    parts = [bytearray()]
    for letter in letters:
        if len(parts[-1]) + len(letter) > together:
            parts.append(bytearray())
        parts[-1] += letter
    if len(parts) > _MOST_PARTS:
        raise ValueError("too long")
    return Encoded(data_coding, tuple(map(bytes, parts)))


def with_headers(parts: tuple[bytes, ...], reference: int) -> list[bytes]:
    """Put before each part the header by which a phone puts them together (3GPP TS 23.040 section 9.2.3.24.1)."""
    count = len(parts)
    return [bytes((5, 0, 3, reference % 256, count, place)) + part for place, part in enumerate(parts, start=1)]
