"""API keys as text: how one is made, read, and turned into the tag that is stored.

    zs_live_ + public id: 13 letters (64 random bits) + secret: 52 letters (256 random bits)

The alphabet is that of `ids`: a double click selects the whole key, and no letter is misread. The
secret is strong enough that a fast keyed hash protects it; what guards against guessing is its
length. Never log a key's text, never put it into an exception, and compare tags by
`crypto.equal` only.
"""

import re
from typing import NamedTuple, cast

from otpsvc import ids
from otpsvc.clients.model import Mode
from otpsvc.crypto import Master

KEY_LENGTH = 73
PUBLIC_ID_SLICE = slice(8, 21)

_FORM = re.compile(r"zs_(live|test)_([0-9a-hjkmnp-tv-z]{13})[0-9a-hjkmnp-tv-z]{52}")


class ReadKey(NamedTuple):
    """What a well-formed key says about itself."""

    mode: Mode
    public_id: str


def make_key(mode: Mode) -> str:
    """Make a key's text."""
    return f"zs_{mode}_{ids.random_base32(8)}{ids.random_base32(32)}"


def read_key(text: str) -> ReadKey | None:
    """Read a key's text, or return None if it is not one that this service could have made."""
    form = _FORM.fullmatch(text)
    return ReadKey(cast("Mode", form[1]), form[2]) if form else None


def tag_of(text: str, master: Master) -> bytes:
    """Return the tag (32 bytes) that stands for the whole key: mode, public id and secret."""
    return master.auth_tag(text.encode())
