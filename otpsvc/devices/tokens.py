"""Device tokens and enrolment codes as text: how one is made, read, and turned into the tag that is stored.

    dt_ + the device's id: 26 letters + secret: 26 letters (128 random bits) + check: 8 letters

The check is keyed, as that of API keys: a token that this installation never made is refused by its text alone and
costs no query. It guards nothing else; the secret does. An enrolment code is six digits and guards little by itself:
what guards it is how rarely it may be tried, and how short it lives.

Never log a token or a code, never put one into an exception, and compare tags and checks by `crypto.equal` only.
"""

import re
import secrets
from typing import NamedTuple

from otpsvc import ids
from otpsvc.crypto import Keyring, Master, equal

TOKEN_LENGTH = 63
CODE_DIGITS = 6

_CHECK_START = 55
_TOKEN = re.compile(r"dt_([0-9a-hjkmnp-tv-z]{26})[0-9a-hjkmnp-tv-z]{34}")
_CODE = re.compile(rf"[0-9]{{{CODE_DIGITS}}}")


class NewToken(NamedTuple):
    """A token just made: its text, which is shown once, and what is stored of it."""

    text: str
    tag: bytes
    auth_key_id: bytes

    def __repr__(self) -> str:
        """Hide the text, so that no traceback or log line can show it."""
        return "NewToken(…)"


def new_token(device_id: str, keyring: Keyring) -> NewToken:
    """Make a token of a device under the current master."""
    text = f"dt_{device_id.removeprefix('dev_')}{ids.random_base32(16)}"
    text += _check_of(text, keyring)
    master = keyring.current
    return NewToken(text, tag_of(text, master), master.slot)


def read_token(text: str, keyring: Keyring) -> str | None:
    """Return the id of the device that a token names, or None if it is no token that we could have made."""
    form = _TOKEN.fullmatch(text)
    if form is None or not equal(text[_CHECK_START:].encode(), _check_of(text[:_CHECK_START], keyring).encode()):
        return None
    return f"dev_{form[1]}"


def tag_of(text: str, master: Master) -> bytes:
    """Return the tag (32 bytes) that stands for the whole token."""
    return master.device_tag(text.encode())


def new_code() -> str:
    """Make an enrolment code: six random digits."""
    return f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}d}"


def code_tag(code: str, keyring: Keyring) -> bytes | None:
    """Return the tag (32 bytes) under which a code is found, the same over every rotation; None if it is none."""
    if not _CODE.fullmatch(code):
        return None
    return keyring.index_master.device_tag(b"code " + code.encode())


def _check_of(text: str, keyring: Keyring) -> str:
    return ids.encode_base32(keyring.check_of(text.encode()))
