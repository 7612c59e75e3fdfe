"""API keys as text: how one is made, read, and turned into the tag that is stored.

    zs_live_ + public id: 13 letters (64 random bits) + secret: 52 letters (256 random bits) + check: 8 letters

The alphabet is that of `ids`: a double click selects the whole key, and no letter is misread. The
check is a keyed checksum of all before it. Nobody without the keyring can make one that fits, so an
invented or mistyped key is refused by its text alone and never costs a query. It guards nothing
else: the secret does, and it is strong enough that a fast keyed hash protects it.

Never log a key's text, never put it into an exception, and compare tags and checks by
`crypto.equal` only.
"""

import re
from typing import NamedTuple, cast

from otpsvc import ids
from otpsvc.clients.model import Mode
from otpsvc.crypto import Keyring, Master, equal

KEY_LENGTH = 81
PUBLIC_ID_SLICE = slice(8, 21)

_CHECK_START = 73
_FORM = re.compile(r"zs_(live|test)_([0-9a-hjkmnp-tv-z]{13})[0-9a-hjkmnp-tv-z]{60}")


class ReadKey(NamedTuple):
    """What a well-formed key says about itself."""

    mode: Mode
    public_id: str


def make_key(mode: Mode, keyring: Keyring) -> str:
    """Make a key's text."""
    text = f"zs_{mode}_{ids.random_base32(8)}{ids.random_base32(32)}"
    return text + _check_of(text, keyring)


def read_key(text: str, keyring: Keyring) -> ReadKey | None:
    """Read a key's text, or return None if it is not one that this installation could have made."""
    form = _FORM.fullmatch(text)
    if form is None or not equal(text[_CHECK_START:].encode(), _check_of(text[:_CHECK_START], keyring).encode()):
        return None
    return ReadKey(cast("Mode", form[1]), form[2])


def tag_of(text: str, master: Master) -> bytes:
    """Return the tag (32 bytes) that stands for the whole key: mode, public id and secret."""
    return master.auth_tag(text.encode())


def _check_of(text: str, keyring: Keyring) -> str:
    return ids.encode_base32(keyring.check_of(text.encode()))
