"""Codes: how they are made and how they are hashed. No other file of the service handles both a code and its hash.

A hash is HMAC-SHA-256 under the pepper over the owner, the OTP's id and the code, then a stretch. What protects six
digits (20 bits) is the pepper outside the store, the short life and the three attempts; the stretch is a second line
for the day on which the pepper leaks as well (docs/security.md shows the arithmetic).
"""

import asyncio
import hashlib
import os
import secrets
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from argon2.low_level import Type, hash_secret_raw

from otpsvc.crypto import Keyring, Master, framed
from otpsvc.errors import problem
from otpsvc.ids import OtpId

_QUEUED_HASHES_PER_WORKER = 64
_MAX_GUESS_LETTERS = 64  # ten digits with room for whatever a person puts between them


@dataclass(frozen=True, slots=True)
class HashProfile:
    """How far a code's MAC is stretched. `number` stands in OTP ids and never changes its meaning."""

    number: int
    name: str
    memory_kib: int = 0
    passes: int = 0
    is_inline: bool = True


# Inline up to about 0.1 ms a hash: above that a thread is cheaper than a blocked event loop (benchmarks/README.md).
PROFILES = (
    HashProfile(0, "hmac-sha256"),
    HashProfile(1, "argon2id-64k", memory_kib=64, passes=1),
    HashProfile(2, "argon2id-1m", memory_kib=1024, passes=1, is_inline=False),
    HashProfile(3, "argon2id-19m", memory_kib=19 * 1024, passes=2, is_inline=False),
)
DEFAULT_PROFILE = "argon2id-64k"
_BY_NAME = {profile.name: profile for profile in PROFILES}


def new_code(length: int) -> str:
    """Make a uniformly random code of `length` digits, leading zeros kept (NIST SP 800-63B-4, 3.1.3.2)."""
    return f"{secrets.randbelow(10**length):0{length}d}"


def normalise_guess(text: str) -> str | None:
    """Return a guess as ASCII digits, or None if it cannot be one.

    People copy codes with spaces and hyphens, and type them in their own script's digits.
    """
    if len(text) > _MAX_GUESS_LETTERS:
        return None
    digits = []
    for letter in text:
        if letter in "-\u2010\u2011\u2012\u2013" or letter.isspace():
            continue
        value = unicodedata.decimal(letter, None)
        if value is None:
            return None
        digits.append(str(value))
    return "".join(digits) or None


class CodeHasher:
    """Hashes codes, the cheap profiles inline and the dear ones in a bounded pool of threads."""

    def __init__(self, keyring: Keyring, profile: str = DEFAULT_PROFILE, accepted: Iterable[str] = ()) -> None:
        self._keyring = keyring
        self.profile = _BY_NAME[profile]
        # Whoever sends an id chooses the profile in it. Only those that OTPs are made under may cost what they cost.
        self._accepted = {_BY_NAME[name].number: _BY_NAME[name] for name in (profile, *accepted)}
        self._pool: ThreadPoolExecutor | None = None
        self._workers = os.cpu_count() or 1
        self._queued = 0

    def close(self) -> None:
        """End the threads, if any were started."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def knows(self, otp_id: OtpId) -> bool:
        """Say whether the id's pepper slot and profile can still be hashed under."""
        return self._keyring.by_slot(otp_id.slot) is not None and otp_id.profile in self._accepted

    async def hash(self, otp_id: OtpId, *, client_id: str, mode: str, code: str) -> str:
        """Hash a code as its OTP's id says, under the current pepper and profile where the id's are unknown.

        Raises ApiError SERVICE_UNAVAILABLE when more hashes wait than the pool may hold.
        """
        master = self._keyring.by_slot(otp_id.slot) or self._keyring.current
        profile = self._accepted.get(otp_id.profile, self.profile)
        if profile.is_inline:
            return _digest(master, profile, otp_id.text, client_id, mode, code)
        if self._queued >= self._workers * _QUEUED_HASHES_PER_WORKER:
            raise problem("SERVICE_UNAVAILABLE", reason="hashing_busy")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="code-hash")
        self._queued += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, _digest, master, profile, otp_id.text, client_id, mode, code
            )
        finally:
            self._queued -= 1


def _digest(master: Master, profile: HashProfile, otp_id: str, client_id: str, mode: str, code: str) -> str:
    digest = master.peppered("code", client_id, mode, otp_id, code)
    if profile.memory_kib:
        salt = hashlib.sha256(framed("salt", otp_id)).digest()[:16]
        digest = hash_secret_raw(digest, salt, profile.passes, profile.memory_kib, 1, 32, Type.ID)
    return digest.hex()
