"""Keys and what is made with them: the keyring, keyed indexes, fingerprints and sealed text.

Every master is a named 256-bit secret. Nothing uses a master itself: six subkeys are derived from each (HKDF-SHA-256,
RFC 5869), one per purpose, so that what leaks from one purpose says nothing about another. The first master of the ring
is current; the others are kept for as long as something made under them lives. Every keyed input is length-framed, so
that no two different lists of fields can give the same bytes.

Never log, print or return a key, and never feed user input to a MAC without its frame.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MASTER_BYTES = 32
SLOT_BYTES = 2
CHECK_BYTES = 5
_TAG_BYTES = 16
_NONCE = bytes(12)  # every seal has a key of its own, so the nonce never meets the same key twice


class KeyringError(ValueError):
    """The masters cannot make a keyring; the message names the master, never its bytes."""


class UnsealError(ValueError):
    """Sealed text was changed, or moved to another record."""


class UnknownMasterError(UnsealError):
    """Sealed under a master that this ring does not have: not yet, during a rotation, or not any more."""


def framed(*parts: bytes | str) -> bytes:
    """Join fields so that each one's length is part of the bytes."""
    out = bytearray()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        out += len(data).to_bytes(4, "big")
        out += data
    return bytes(out)


def equal(left: bytes, right: bytes) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left, right)


@dataclass(frozen=True, slots=True)
class Master:
    """One master's name, slot (two bytes that stand for it in ids) and subkeys."""

    name: str
    slot: bytes
    pepper: bytes = field(repr=False)
    index: bytes = field(repr=False)
    seal: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    auth: bytes = field(repr=False)
    check: bytes = field(repr=False)

    @classmethod
    def derive(cls, name: str, secret: bytes) -> "Master":
        """Derive a master's subkeys from its 32 secret bytes; raise KeyringError."""
        if len(secret) != MASTER_BYTES:
            raise KeyringError(f"master {name!r} must have {MASTER_BYTES} bytes, it has {len(secret)}")
        prk = hmac.digest(b"otpsvc keyring v1", secret, "sha256")

        def expand(label: str) -> bytes:
            return hmac.digest(prk, label.encode() + b"\x01", "sha256")

        return cls(
            name=name,
            slot=expand("slot")[:SLOT_BYTES],
            pepper=expand("pepper"),
            index=expand("index"),
            seal=expand("seal"),
            fingerprint=expand("fingerprint"),
            auth=expand("auth"),
            check=expand("check"),
        )

    def peppered(self, *parts: bytes | str) -> bytes:
        """MAC fields under the pepper: the first step of a code's hash (32 bytes)."""
        return hmac.digest(self.pepper, framed(*parts), "sha256")

    def fingerprint_of(self, *parts: bytes | str) -> str:
        """Return a keyed fingerprint of fields that must be recognised but not kept (32 hex digits)."""
        return hmac.digest(self.fingerprint, framed(*parts), "sha256")[:16].hex()

    def auth_tag(self, data: bytes) -> bytes:
        """Return the tag under which an API key is stored (32 bytes)."""
        return hmac.digest(self.auth, framed("api-key", data), "sha256")

    def device_tag(self, data: bytes) -> bytes:
        """Return the tag under which a device's token or an enrolment code is stored (32 bytes)."""
        return hmac.digest(self.auth, framed("device", data), "sha256")

    def seal_key(self, record_id: str, count: int) -> bytes:
        """Derive the key of one sealing of one record (32 bytes)."""
        return hmac.digest(self.seal, framed("seal", record_id, str(count)), "sha256")


class Keyring:
    """The masters of this installation: the first is current, one of them keys the blind indexes."""

    def __init__(self, masters: tuple[Master, ...], index_master: Master) -> None:
        self.masters = masters
        self.current = masters[0]
        self._by_slot = {master.slot: master for master in masters}
        self._index_master = index_master

    @classmethod
    def from_masters(cls, masters: Mapping[str, bytes], *, index_master: str | None = None) -> "Keyring":
        """Make a ring of named 32-byte masters, the first one current; raise KeyringError.

        `index_master` names the master of the blind indexes, which are not rotated with the pepper: by default the
        last one.
        """
        if not masters:
            raise KeyringError("a keyring needs at least one master")
        ring = tuple(Master.derive(name, secret) for name, secret in masters.items())
        if len({master.slot for master in ring}) != len(ring):
            raise KeyringError("two masters share a slot (the same secret twice?): replace the newer one")
        named = {master.name: master for master in ring}
        chosen = index_master if index_master is not None else ring[-1].name
        if chosen not in named:
            raise KeyringError(f"index master {chosen!r} is not in the keyring")
        return cls(ring, named[chosen])

    def indexed_by(self, index_key_id: str) -> "Keyring | None":
        """Return the ring with the index master that has this key id, None if no master of the ring has it."""
        rings = (Keyring(self.masters, master) for master in self.masters)
        return next((ring for ring in rings if ring.index_key_id == index_key_id), None)

    def by_slot(self, slot: bytes) -> Master | None:
        """Return the master that an id's slot names, if the ring still has it."""
        return self._by_slot.get(slot)

    def check_of(self, data: bytes) -> bytes:
        """Return the checksum (5 bytes) by which an API key's text shows that this installation made it.

        It belongs to the index master, so it holds over every rotation. It is no proof of anything else: 40 bits only
        keep invented keys from costing a query.
        """
        return hmac.digest(self._index_master.check, framed("api-key", data), "sha256")[:CHECK_BYTES]

    @property
    def index_master(self) -> Master:
        """The master of the blind indexes."""
        return self._index_master

    @property
    def index_key_id(self) -> str:
        """Name the index key without telling it: recorded at first start, compared at every later one."""
        return hashlib.sha256(framed("index-key-id", self._index_master.index)).hexdigest()[:16]

    def index(self, *parts: bytes | str) -> bytes:
        """Return a blind index (16 bytes) of fields, stable over rotations of the pepper."""
        return hmac.digest(self._index_master.index, framed(*parts), "sha256")[:16]

    def partition(self, e164: str, partitions: int) -> int:
        """Return the partition of a number: by the number only, so that every client's limits on it meet."""
        if partitions == 1:
            return 0
        digest = hmac.digest(self._index_master.index, framed("partition", e164), "sha256")
        return int.from_bytes(digest[:8], "big") % partitions

    def seal(self, plain: bytes, *, record_id: str, count: int, bound_to: tuple[str, ...]) -> bytes:
        """Encrypt (AES-256-GCM) under a key of this record and count, bound to what may not change about it."""
        sealed = AESGCM(self.current.seal_key(record_id, count)).encrypt(_NONCE, plain, framed(*bound_to))
        return self.current.slot + sealed

    def unseal(self, sealed: bytes, *, record_id: str, count: int, bound_to: tuple[str, ...]) -> bytes:
        """Decrypt what `seal` made; raise UnsealError."""
        if len(sealed) < SLOT_BYTES + _TAG_BYTES:
            raise UnsealError("too short to be sealed text")
        master = self.by_slot(sealed[:SLOT_BYTES])
        if master is None:
            raise UnknownMasterError("sealed under a master that is not in the keyring")
        try:
            return AESGCM(master.seal_key(record_id, count)).decrypt(_NONCE, sealed[SLOT_BYTES:], framed(*bound_to))
        except InvalidTag:
            raise UnsealError("sealed text does not belong to this record") from None
