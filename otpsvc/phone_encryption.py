"""End-to-end encryption as the SMSGate app reads it: AES-256-CBC under a key made from a passphrase, per field.

The app fixes the scheme and its weaknesses: the salt is the initialisation vector too, and nothing tells a changed
text from a genuine one. It hides number and text from the server in between, no more. Slow by design: call both
functions in a thread.
"""

import base64
import hashlib
import re
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

ROUNDS = 75_000
# Whoever sends a phone a text chooses the rounds; beyond this it would only keep the phone busy.
MOST_ROUNDS = 2_000_000
_BLOCK_BYTES = 16
_SCHEME = "aes-256-cbc/pbkdf2-sha1"
_FIELD = re.compile(rf"\${_SCHEME}\$i=(?P<rounds>[0-9]{{1,9}})\$(?P<salt>[^$]*)\$(?P<sealed>[^$]*)")


class DecryptionError(ValueError):
    """A field that cannot be read: another scheme, broken, or under another passphrase. Says nothing of its content."""


def encrypted(text: str, passphrase: str) -> str:
    """Return one field as the app takes it, under a fresh salt. Takes tens of milliseconds of one core."""
    salt = secrets.token_bytes(_BLOCK_BYTES)
    padder = PKCS7(_BLOCK_BYTES * 8).padder()
    padded = padder.update(text.encode()) + padder.finalize()
    encryptor = _cipher(passphrase, salt, ROUNDS).encryptor()
    sealed = encryptor.update(padded) + encryptor.finalize()
    fields = (_SCHEME, f"i={ROUNDS}", _text(salt), _text(sealed))
    return "".join(f"${field}" for field in fields)


def decrypted(field: str, passphrase: str) -> str:
    """Read one field as the app does; raise DecryptionError. Takes tens of milliseconds of one core.

    The padding alone gives a wrong passphrase away: about one time in 256 the text comes out senseless instead.
    """
    found = _FIELD.fullmatch(field)
    if found is None or not 1 <= int(found["rounds"]) <= MOST_ROUNDS:
        raise DecryptionError("not a field of this scheme")
    try:
        salt = base64.b64decode(found["salt"], validate=True)
        decryptor = _cipher(passphrase, salt, int(found["rounds"])).decryptor()
        padded = decryptor.update(base64.b64decode(found["sealed"], validate=True)) + decryptor.finalize()
        unpadder = PKCS7(_BLOCK_BYTES * 8).unpadder()
        return (unpadder.update(padded) + unpadder.finalize()).decode()
    except ValueError:
        raise DecryptionError("a field that cannot be decrypted") from None


def _cipher(passphrase: str, salt: bytes, rounds: int) -> Cipher[modes.CBC]:
    key = hashlib.pbkdf2_hmac("sha1", passphrase.encode(), salt, rounds, 32)
    return Cipher(algorithms.AES(key), modes.CBC(salt))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
