"""Identifiers: what they look like, what they carry, how they are read back.

An OTP id carries its partition, its pepper slot and its hash profile in front of 96 random bits, so that a guess can be
hashed before anything is read. A message id carries its partition. Neither says anything about the number.

    otp_ + base32( partition:1  slot:2  profile:1  random:12 )
    msg_ + base32( partition:1  random:15 )
    dev_ + base32( random:16 )
    evt_ + base32( milliseconds:6  random:10 )      sorts by time

The alphabet is Crockford's base32 in lower case: no letter that is misread, safe in URLs and in file names. Reading is
strict: one spelling per id, so that a key name made from an accepted id is one that we could have made ourselves.
"""

import secrets
import time
from typing import NamedTuple

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_ID_BYTES = 16
_ID_LETTERS = 26  # 16 bytes are 128 bits; 26 letters hold 130, the two spare ones are zero


class MalformedId(ValueError):
    """The text is not an id that this service could have made."""


class OtpId(NamedTuple):
    """What an OTP id carries."""

    text: str
    partition: int
    slot: bytes
    profile: int


class MessageId(NamedTuple):
    """What a message id carries."""

    text: str
    partition: int


def encode_base32(data: bytes) -> str:
    """Write bytes in Crockford's base32, lower case, most significant bit first, padded with zero bits at the end."""
    letters = -(-len(data) * 8 // 5)
    pairs = -(-letters // 2)
    number = int.from_bytes(data, "big") << (pairs * 10 - len(data) * 8)
    text = "".join([_PAIRS[number >> shift & 1023] for shift in range((pairs - 1) * 10, -1, -10)])
    return text[:letters]


def decode_base32(text: str, n_bytes: int) -> bytes:
    """Read what `encode_base32` wrote; raise MalformedId for any other spelling."""
    spare_bits = len(text) * 5 - n_bytes * 8
    if not 0 <= spare_bits < 5:
        raise MalformedId("wrong length")
    number = 0
    for letter in text:
        value = _VALUES.get(letter)
        if value is None:
            raise MalformedId("wrong letter")
        number = number << 5 | value
    if number & ((1 << spare_bits) - 1):
        raise MalformedId("spare bits are set")
    return (number >> spare_bits).to_bytes(n_bytes, "big")


def random_base32(n_bytes: int) -> str:
    """Return `n_bytes` random bytes as base32: lower-case letters and digits only."""
    return encode_base32(secrets.token_bytes(n_bytes))


def new_otp_id(*, partition: int, slot: bytes, profile: int) -> OtpId:
    """Make an OTP id for a number of this partition, hashed under this pepper slot and profile."""
    data = bytes((partition,)) + slot + bytes((profile,)) + secrets.token_bytes(12)
    return OtpId(f"otp_{encode_base32(data)}", partition, slot, profile)


def parse_otp_id(text: str) -> OtpId:
    """Read an OTP id; raise MalformedId."""
    data = _parse(text, "otp_")
    return OtpId(text, data[0], data[1:3], data[3])


def new_message_id(*, partition: int) -> MessageId:
    """Make a message id in this partition."""
    return MessageId(f"msg_{encode_base32(bytes((partition,)) + secrets.token_bytes(15))}", partition)


def parse_message_id(text: str) -> MessageId:
    """Read a message id; raise MalformedId."""
    return MessageId(text, _parse(text, "msg_")[0])


def new_device_id() -> str:
    """Make the id of a paired phone."""
    return f"dev_{random_base32(_ID_BYTES)}"


def parse_device_id(text: str) -> str:
    """Check that a text is a device id; raise MalformedId."""
    _parse(text, "dev_")
    return text


def new_event_id() -> str:
    """Make an event id that sorts by the millisecond it was made in."""
    return f"evt_{encode_base32(int(time.time() * 1000).to_bytes(6, 'big') + secrets.token_bytes(10))}"


def new_request_id() -> str:
    """Make the id of one HTTP request."""
    return f"req_{random_base32(10)}"


def new_client_id() -> str:
    """Make a client id: `client_` and twelve digits, the form that ZimSend's callers know."""
    return f"client_{secrets.randbelow(9 * 10**11) + 10**11}"


def _parse(text: str, prefix: str) -> bytes:
    if len(text) != len(prefix) + _ID_LETTERS or not text.startswith(prefix):
        raise MalformedId("not of this kind")
    return decode_base32(text[len(prefix) :], _ID_BYTES)
