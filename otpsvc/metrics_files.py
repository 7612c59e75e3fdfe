"""Numbers that the processes of one machine count together: a file for each process, summed by whoever reads.

A process writes its own file only, through a memory map: counting is no system call, needs no lock, and a killed
process loses nothing. Each holds a lock on its file while it lives. Whoever starts or ends next adds what ended
processes left to `ended.json` and removes their files, so the directory does not grow; if nobody lives, all is removed.

The metrics library has a mode for this which we leave alone. It keeps the files of ended processes for good; a scrape
fails on a file that is just being made; a process is known by its pid, which two containers on one volume share; a
full disk kills whoever counts; and the directory is one per process, from an environment variable that must be set
before the library is first imported.

Nothing in here knows what is counted. Not for several threads: all of a process's counting happens on its event loop;
`totals` alone may run in a thread.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
import stat
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.faults import described

FILE_BYTES = 262_144

_LOCK_TIMEOUT_S = 5.0
_LOCK_LOOK_EVERY_S = 0.01
_READS = 10
_SUFFIX = ".numbers"
_MAGIC = b"otpnum01"
_ENTRY = struct.Struct("=dI")
_FIRST_ENTRY = 16  # behind the magic, and a number that takes what has no room
_NO_ROOM = 1

_log = logging.getLogger(__name__)


class _Ended(msgspec.Struct, frozen=True):
    """What ended processes counted, and the names of those files that this was taken from, in case they are there."""

    files: list[str] = []
    totals: dict[str, float] = {}


class SharedNumbers:
    """The numbers of this process, and the sums over all processes. `values[slot(key)]` is the number of a key."""

    def __init__(self, directory: Path) -> None:
        """Join the processes that count in a directory of ours; raises OSError, TimeoutError."""
        self._directory = directory
        self._slots: dict[str, int] = {}
        self._end = _FIRST_ENTRY
        self._own: int | None = None
        self._is_missed_told = False
        # systemd-tmpfiles leaves a directory alone while somebody holds a lock on it.
        self._guard = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with _locked(directory / "lock"):
                self._take_over()
                self._map = self._make_file()
        except BaseException:
            os.close(self._guard)
            raise
        self.values = memoryview(self._map).cast("d")

    def slot(self, key: str) -> int:
        """Give the index of a key's number, which begins at 0.0. What finds no room in the file is not counted."""
        if key in self._slots:
            return self._slots[key]
        name = key.encode()
        end = _end_of(self._end, len(name))
        if end > FILE_BYTES:
            if self._end <= FILE_BYTES:
                _log.error("the file of this process's numbers is full: nothing new is counted from now on")
            slot, self._end = _NO_ROOM, FILE_BYTES + 1
        else:
            # The length comes last: it is what makes the entry one to a reader.
            place = self._end + _ENTRY.size
            self._map[place : place + len(name)] = name
            self._map[self._end : place] = _ENTRY.pack(0.0, len(name))
            slot, self._end = self._end // 8, end
        self._slots[key] = slot
        return slot

    def totals(self) -> dict[str, float]:
        """Give the sum of every key over all processes, ended ones too. Raises OSError.

        Where somebody has removed the directory, it gives what this process counted, with those that came after that.
        """
        if not self._directory.is_dir():
            return self._with_lost(defaultdict(float))
        for _ in range(_READS - 1):
            with contextlib.suppress(FileNotFoundError):  # somebody took it over meanwhile
                ended = self._ended()
                totals = self._read(ended)
                # What was taken over in between is in neither, and a counter that goes back looks like a restart.
                if self._ended() == ended:
                    return totals
        return self._read(self._ended())

    def close(self) -> None:
        """Leave; what was counted stays for the others. Counting afterwards is harmless and goes nowhere."""
        if self._own is None:
            return
        self.values.release()
        self.values = memoryview(bytearray(FILE_BYTES)).cast("d")
        self._map.close()
        self._map = mmap.mmap(-1, FILE_BYTES)
        os.close(self._own)
        os.close(self._guard)
        self._own = None
        # What nobody tidies up now, the next to start does.
        with contextlib.suppress(OSError), _locked(self._directory / "lock"):
            self._take_over()

    def _make_file(self) -> mmap.mmap:
        path = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        own = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Written in full: where a disk has no room for it, that must show now and not while counting.
            with os.fdopen(own, "wb", closefd=False) as file:
                file.write(_MAGIC.ljust(FILE_BYTES, b"\0"))
            made = mmap.mmap(own, FILE_BYTES)
        except BaseException:
            path.unlink()
            os.close(own)
            raise
        self._own = own
        return made

    def _with_lost(self, totals: defaultdict[str, float]) -> dict[str, float]:
        """Add what this process counted where its file is not there any more."""
        if self._own is not None and not os.fstat(self._own).st_nlink:
            if not self._is_missed_told:
                self._is_missed_told = True
                _log.error("the directory of the numbers is gone: until all restart, a scrape does not tell of all")
            _add(totals, self._map[:])
        return totals

    def _read(self, ended: _Ended) -> dict[str, float]:
        # What has ended was read first: a file that is taken over later is then missing, and never counted twice.
        totals = defaultdict(float, ended.totals)
        for path in self._files():
            if path.name not in ended.files:
                _add(totals, path.read_bytes())
        return self._with_lost(totals)

    def _take_over(self) -> None:
        files = self._files()
        left = [path for path in files if not _has_owner(path)]
        if len(left) == len(files):
            (self._directory / "ended.json").unlink(missing_ok=True)
        elif left:
            ended = self._ended()
            totals = defaultdict(float, ended.totals)
            for path in left:
                if path.name not in ended.files:
                    _add(totals, path.read_bytes())
            self._write(_Ended([path.name for path in left], totals))
        for path in left:
            path.unlink(missing_ok=True)

    def _ended(self) -> _Ended:
        try:
            return msgspec.json.decode((self._directory / "ended.json").read_bytes(), type=_Ended)
        except (FileNotFoundError, msgspec.MsgspecError):
            return _Ended()

    def _write(self, ended: _Ended) -> None:
        draft = self._directory / "ended.new"
        draft.write_bytes(msgspec.json.encode(ended))
        draft.replace(self._directory / "ended.json")

    def _files(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.suffix == _SUFFIX]


def open_numbers(base: Path | None, name: str) -> SharedNumbers:
    """Count together with all processes of this user that give the same name.

    They meet in a private directory below `base` (None: that for temporary files). Raises ConfigurationError if there
    is none to be had, or if somebody else has put something in its place.
    """
    directory = (base or Path(tempfile.gettempdir())) / f"{name}-metrics-{os.geteuid()}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigurationError(
                f"metrics.directory: {directory} must be a directory that only this user can enter"
            )
        return SharedNumbers(directory)
    except OSError as error:
        reason = error.strerror or described(error)
        raise ConfigurationError(f"metrics.directory: cannot keep numbers in {directory}: {reason}") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    give_up_at = time.monotonic() + _LOCK_TIMEOUT_S
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise TimeoutError(0, "another process holds its lock") from None
                time.sleep(_LOCK_LOOK_EVERY_S)
        yield
    finally:
        os.close(handle)


def _has_owner(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _add(totals: dict[str, float], data: bytes) -> None:
    place = _FIRST_ENTRY
    while data.startswith(_MAGIC) and place + _ENTRY.size <= len(data):
        value, length = _ENTRY.unpack_from(data, place)
        if not length:
            return
        begin = place + _ENTRY.size
        totals[data[begin : begin + length].decode()] += value
        place = _end_of(place, length)


def _end_of(place: int, length: int) -> int:
    return place + (_ENTRY.size + length + 7) // 8 * 8
