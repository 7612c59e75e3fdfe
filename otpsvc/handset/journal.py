"""What a phone must not forget: who it is to its server, and which messages it has handed to its radio.

The second is what keeps a code from being sent twice after a restart. Texts and numbers are never kept here, and
nothing in here is ever printed: a token sends and reads in the phone's name.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

import msgspec

from otpsvc.errors import ConfigurationError

_SWEEP_FROM, _MOST_HANDLED = 200, 5000


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Who the phone is to the server at `server`: its id and token, and the login it registers again with."""

    server: str
    id: str
    token: str
    login: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Name the device only."""
        return f"Credentials({self.id})"


class Handled(msgspec.Struct, frozen=True):
    """A message that the radio has had: how far it is, and until when (seconds since 1970) that is worth knowing."""

    id: str
    state: str
    until: float


class Kept(msgspec.Struct, kw_only=True):
    """All that outlives the process."""

    credentials: Credentials | None = None
    handled: dict[str, Handled] = {}

    def note(self, handled: Handled, now: float) -> None:
        """Remember one more, and forget what is no longer worth knowing once that is much."""
        self.handled.pop(handled.id, None)
        self.handled[handled.id] = handled
        if len(self.handled) > _SWEEP_FROM:
            self.handled = {one.id: one for one in self.handled.values() if one.until > now}
        while len(self.handled) > _MOST_HANDLED:
            del self.handled[next(iter(self.handled))]


class Journal(Protocol):
    """Where a phone keeps it. What a call wrote is kept when it returns."""

    @property
    def kept(self) -> Kept:
        """What is kept now; not to be changed."""
        ...

    def identify(self, credentials: Credentials) -> None:
        """Replace who the phone is."""
        ...

    def note(self, handled: Handled, now: float) -> None:
        """Remember how far a message is; `now` is in seconds since 1970."""
        ...


class MemoryJournal:
    """Forgets everything when the process ends."""

    def __init__(self) -> None:
        self.kept = Kept()

    def identify(self, credentials: Credentials) -> None:
        """Replace who the phone is."""
        self.kept.credentials = credentials

    def note(self, handled: Handled, now: float) -> None:
        """Remember how far a message is."""
        self.kept.note(handled, now)


class FileJournal:
    """A file that only its owner can read (0600), replaced in one step: a crash leaves the old one or the new one.

    Use as `with`: meanwhile no other process has it. Two phones with one identity would each take messages, and each
    forget what the other one sent. Every call raises ConfigurationError where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self.kept = Kept()

    def __enter__(self) -> Self:
        lock = self._path.with_name(f"{self._path.name}.lock")
        with _said_in_words(lock):
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.kept = self._read()
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigurationError(f"another process uses {self._path}") from None
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def identify(self, credentials: Credentials) -> None:
        """Replace who the phone is, and write the file."""
        self.kept.credentials = credentials
        self._write()

    def note(self, handled: Handled, now: float) -> None:
        """Remember how far a message is, and write the file."""
        self.kept.note(handled, now)
        self._write()

    def _read(self) -> Kept:
        with _said_in_words(self._path):
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return Kept()
        try:
            return msgspec.json.decode(data, type=Kept)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ConfigurationError(f"{self._path} is not a phone's state; move it away to register anew") from None

    def _write(self) -> None:
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        with _said_in_words(self._path):
            try:
                handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(msgspec.json.encode(self.kept))
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(self._path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def _said_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot use {path}: {error.strerror or 'input/output error'}") from None
