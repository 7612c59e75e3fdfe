"""The keyring file (`keys.masters_file`): made, read and rewritten by `otpsvc keys`.

A keyring that is lost or half written locks everybody out, so a file is replaced in one step: a crash leaves the old
one or the new one. What people wrote into it stays: comments, their places, the order. The one thing added is a comment
for each master that was once first, `# 2026a: first until 2026-10-17T12:00:00Z`: nothing else knows when it may go.

Never print an entry, and never write a keyring that the service could not read: each new text is read back first.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from otpsvc.crypto import MASTER_BYTES, Keyring, KeyringError
from otpsvc.errors import ConfigurationError
from otpsvc.settings import SECTIONS
from otpsvc.settings_masters import MASTER_NAME, MASTER_NAME_WORDS, Masters, entries_in
from otpsvc.settings_source import Source, settings_path
from otpsvc.settings_values import Given, setting_keys

_HEADER = """\
# The keyring of otpsvc: name:secret, one a line, the first one current. `otpsvc keys rotate` turns it.
# Whoever has this file and the stores can read every number and test codes against their hashes. Keep a copy safe:
# without it every limit begins again at zero, and every API key is void.
"""
_INDEX = "index"
_INDEX_NOTE = "# It names the keys of every limit, so it stays for good; the masters above it come and go."
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_FIRST_UNTIL = re.compile(rf"#\s*({MASTER_NAME.pattern}): first until (\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\s*")
_MADE_ELSEWHERE = {errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ELOOP}
_ADD_TRIES = 16


@dataclass(frozen=True)
class _Entry:
    """One master: its `name:secret` as it was written, and the lines above it."""

    name: str
    text: str = field(repr=False)
    notes: tuple[str, ...] = ()


def _new_entry(name: str, *notes: str) -> _Entry:
    return _Entry(name, f"{name}:{secrets.token_hex(MASTER_BYTES)}", notes)


@dataclass(frozen=True)
class KeyringText:
    """The content of a keyring file. `first_until` says of masters that were first when they stopped being so."""

    header: tuple[str, ...]
    entries: tuple[_Entry, ...]
    footer: tuple[str, ...]
    first_until: Mapping[str, datetime]

    @classmethod
    def read(cls, text: str) -> "KeyringText":
        """Take a text that the settings accept. The lines above an entry are its own; above a blank one, the file's."""
        header: tuple[str, ...] = ()
        entries: list[_Entry] = []
        notes: list[str] = []
        first_until: dict[str, datetime] = {}
        for line in text.splitlines():
            if (mark := _FIRST_UNTIL.fullmatch(line.strip())) and (at := _time_in(mark[2])):
                first_until[mark[1]] = at
                continue
            found = entries_in(line)
            if not found:
                notes.append(line.rstrip())
                continue
            if not entries and "" in notes:
                after_blank = len(notes) - notes[::-1].index("")
                header, notes = tuple(notes[:after_blank]), notes[after_blank:]
            for one in found:
                entries.append(_Entry(one.partition(":")[0].removesuffix("_file"), one, tuple(notes)))
                notes = []
        return cls(header, tuple(entries), tuple(notes), first_until)

    def write(self) -> str:
        """Return the text, an entry a line."""
        lines = list(self.header)
        for entry in self.entries:
            lines += entry.notes
            if at := self.first_until.get(entry.name):
                lines.append(f"# {entry.name}: first until {at:{_TIME}}")
            lines.append(entry.text)
        return "\n".join([*lines, *self.footer]) + "\n"

    def added(self, name: str) -> "KeyringText":
        """Return the text with a new random master in the second place."""
        return replace(self, entries=(*self.entries[:1], _new_entry(name), *self.entries[1:]))

    def promoted(self, name: str, at: datetime) -> "KeyringText":
        """Return the text with this master first; `at` is when the one before it stopped being so."""
        chosen = next(entry for entry in self.entries if entry.name == name)
        others = tuple(entry for entry in self.entries if entry is not chosen)
        first_until = {known: time for known, time in self.first_until.items() if known != name}
        first_until[self.entries[0].name] = at
        return replace(self, entries=(chosen, *others), first_until=first_until)

    def removed(self, name: str) -> "KeyringText":
        """Return the text without this master and what was said above it."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name != name))


class KeyringFile:
    """The file of this installation's settings. Every method raises ConfigurationError with one clear line."""

    def __init__(self, path: Path, *, directory: Path = Path()) -> None:
        self.path = path
        self._directory = directory

    @classmethod
    def of_settings(cls, config: Path | None, environ: Mapping[str, str]) -> "KeyringFile | None":
        """Find the file that `settings.load` reads the masters from; None where they come another way."""
        source = Source({name: setting_keys(kind) for name, kind in SECTIONS.items()})
        file = settings_path(config, environ)
        if file is not None:
            source.read_file(file)
        source.read_environment(environ)
        given = source.sections["keys"].get("masters_file")
        return cls(given.directory / str(given.value).strip(), directory=given.directory) if given else None

    def first_until(self) -> Mapping[str, datetime]:
        """Return when the masters that were once first stopped being so, as far as it was written down."""
        try:
            return KeyringText.read(self.path.read_text("utf-8")).first_until
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be read: {error.strerror}") from None

    def add(self, name: str | None, *, now: datetime) -> str:
        """Put a new random master second; return its name, by default the year and the next free letter."""
        chosen = ""

        def with_new(old: KeyringText) -> KeyringText:
            nonlocal chosen
            chosen = name or free_name({entry.name for entry in old.entries}, now)
            _check_name(chosen)
            if any(entry.name == chosen for entry in old.entries):
                raise ConfigurationError(f"{self.path}: there is a master {chosen} already")
            for _ in range(_ADD_TRIES):
                new = old.added(chosen)
                # Of two masters with one slot nobody could tell which one an id means.
                with contextlib.suppress(KeyringError):
                    self._read_back(new.write())
                    return new
            raise ConfigurationError(f"{self.path}: no master fits into this keyring; remove those no longer needed")

        self._rewrite(with_new)
        return chosen

    def promote(self, name: str, *, now: datetime) -> str:
        """Put a master first; return the name of the one that was."""
        before = ""

        def with_first(old: KeyringText) -> KeyringText:
            nonlocal before
            self._find(old, name)
            before = old.entries[0].name
            if before == name:
                raise ConfigurationError(f"{self.path}: {name} is the first master already")
            return old.promoted(name, now)

        self._rewrite(with_first)
        return before

    def remove(self, name: str) -> None:
        """Take a master out. That nothing needs it any more is the caller's to know; the first one never goes."""

        def without(old: KeyringText) -> KeyringText:
            self._find(old, name)
            if old.entries[0].name == name:
                raise ConfigurationError(f"{self.path}: {name} is the first master; promote another one before")
            return old.removed(name)

        self._rewrite(without)

    def create(self, name: str | None, *, now: datetime) -> None:
        """Write a first keyring: a master to begin with, and the index master. An existing file is never touched.

        They are two from the start, because an index master can never be removed, and the first one should be.
        """
        chosen = name or free_name(set(), now)
        _check_name(chosen)
        if chosen == _INDEX:
            raise ConfigurationError(f"{_INDEX} is the name of the index master; give the first master another one")
        entries = (_new_entry(chosen), _new_entry(_INDEX, _INDEX_NOTE))
        text = KeyringText((*_HEADER.splitlines(), ""), entries, (), {}).write()
        with self._said_in_words():
            draft = self._draft(text, None)
            try:
                # Unlike a rename, a link never replaces what is there.
                self.path.hardlink_to(draft)
            except FileExistsError:
                raise ConfigurationError(f"{self.path}: exists already") from None
            finally:
                draft.unlink()
            _sync_directory(self.path.parent)

    def _find(self, text: KeyringText, name: str) -> None:
        if all(entry.name != name for entry in text.entries):
            raise ConfigurationError(f"{self.path}: there is no master {name}")

    def _rewrite(self, change: Callable[[KeyringText], KeyringText]) -> None:
        with self._said_in_words(), self._opened() as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(f"{self.path}: is being changed by another command") from None
            status = os.fstat(descriptor)
            if not os.path.samestat(status, self.path.lstat()):
                raise ConfigurationError(f"{self.path}: was changed by another command; look again")
            if status.st_nlink > 1:
                raise ConfigurationError(f"{self.path}: has another name (a hard link) that would keep the old keyring")
            try:
                before = _content(descriptor)
                self._read_back(before)
                text = change(KeyringText.read(before)).write()
                self._read_back(text)
            except ValueError as error:
                raise ConfigurationError(f"{self.path}: the keyring could not be used: {error}") from None
            draft = self._draft(text, status)
            draft.replace(self.path)
            _sync_directory(self.path.parent)

    def _read_back(self, text: str) -> None:
        given = Given(text, str(self.path), is_text=True, directory=self._directory)
        Keyring.from_masters(Masters.read_setting(given))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with self._said_in_words():
            if self.path.is_symlink():
                raise ConfigurationError(
                    f"{self.path}: is a symbolic link, as in a mounted secret; change the keyring where it comes from"
                )
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _draft(self, text: str, like: os.stat_result | None) -> Path:
        """Write the new content beside the file: on the disk, with the old one's owner and mode, else for us alone."""
        draft = self.path.with_name(f".{self.path.name}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if like is not None:
                    if (like.st_uid, like.st_gid) != (os.fstat(descriptor).st_uid, os.fstat(descriptor).st_gid):
                        os.fchown(descriptor, like.st_uid, like.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
                file.write(text)
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            draft.unlink()
            raise
        return draft

    @contextlib.contextmanager
    def _said_in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = ": a mounted secret is changed where it comes from" if error.errno in _MADE_ELSEWHERE else ""
            raise ConfigurationError(f"{self.path}: cannot be written: {error.strerror}{hint}") from None


def free_name(taken: set[str], now: datetime) -> str:
    """Return the year and the next free letter: 2026a, 2026b; raises ConfigurationError after z."""
    for letter in string.ascii_lowercase:
        if f"{now.year}{letter}" not in taken:
            return f"{now.year}{letter}"
    raise ConfigurationError(f"no name is left for {now.year}; give one")


def _check_name(name: str) -> None:
    if not MASTER_NAME.fullmatch(name):
        raise ConfigurationError(f"the name of a master must be {MASTER_NAME_WORDS}")


def _content(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), encoding="utf-8") as file:
        file.seek(0)
        return file.read()


def _time_in(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
