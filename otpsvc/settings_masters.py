"""The masters of the keyring as settings: named 256-bit secrets in order, the first one current.

As text they are `name:secret`, separated by commas or on lines of their own; a line that begins with # is a comment.
`keyring_file` keeps the dates of a rotation in such comments; nothing here may depend on them.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Self

from otpsvc.crypto import MASTER_BYTES
from otpsvc.settings_values import Given, Secret, read_secret_file

MASTER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
MASTER_NAME_WORDS = "1 to 32 lower-case letters, digits, hyphens"

_HEX = re.compile(r"[0-9a-fA-F]{64}")


class Masters(Mapping[str, bytes]):
    """Master secrets by name, in the order of rotation. Shows its names only."""

    def __init__(self, masters: Mapping[str, bytes] | None = None) -> None:
        self._masters = dict(masters or {})

    @classmethod
    def read_setting(cls, given: Given) -> Self:
        """Take a table of names, or text `name:secret,name:secret`; raise ValueError.

        In a table each secret may be a file: `<name>_file`.
        """
        match given.value:
            case str(text):
                entries: Mapping[str, object] = _split(text)
            case Mapping() as table:
                entries = table
            case _:
                raise ValueError("must be a table, or text name:secret,name:secret")
        masters: dict[str, bytes] = {}
        for key, value in entries.items():
            name, entry = str(key), given._replace(value=value)
            if name.endswith("_file"):
                name = name.removesuffix("_file")
                entry = _from_file(key, entry)
            if not MASTER_NAME.fullmatch(name):
                raise ValueError(f"has a name that is not {MASTER_NAME_WORDS}")
            if name in masters:
                raise ValueError(f"has two masters named {name}")
            masters[name] = _decoded(name, entry)
        if not masters:
            raise ValueError("must name at least one master")
        return cls(masters)

    def __getitem__(self, name: str) -> bytes:
        return self._masters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masters)

    def __len__(self) -> int:
        return len(self._masters)

    def __repr__(self) -> str:
        """Name the masters, hide the secrets."""
        return f"Masters({', '.join(self)})"


def entries_in(line: str) -> list[str]:
    """Return the entries (`name:secret`) of one line of text, none for a comment."""
    if line.lstrip().startswith("#"):
        return []
    return [part.strip() for part in line.split(",") if part.strip()]


def _split(text: str) -> dict[str, str]:
    masters: dict[str, str] = {}
    for entry in [entry for line in text.split("\n") for entry in entries_in(line)]:
        name, colon, secret = entry.partition(":")
        if not colon:
            raise ValueError("must be name:secret, more of them after commas")
        if name in masters:
            raise ValueError("has two masters of one name")
        masters[name] = secret
    return masters


def _from_file(key: str, given: Given) -> Given:
    try:
        return read_secret_file(given)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _decoded(name: str, given: Given) -> bytes:
    try:
        text = Secret.read_setting(given).reveal()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    text = text.replace("-", "+").replace("_", "/")
    try:
        secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != MASTER_BYTES:
        raise ValueError(f"{name}: must be {MASTER_BYTES} bytes as 64 hex digits or as base64")
    return secret
