"""Values of settings: from what was given as text or TOML to typed structs, with every fault told.

A fault is one line: where the value was given, its key, what is allowed there. The value itself is
repeated only if it is a number or a truth value, because any text may be a secret in the wrong
place. Never print what `Secret.reveal` returns.
"""

import difflib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar, get_args, runtime_checkable
from urllib.parse import urlsplit

import msgspec

from otpsvc.crypto import equal

MAX_SECRET_FILE_BYTES = 65_536
# Container engines mount secrets here, readable by all users of the container.
SECRET_MOUNTS = (Path("/run/secrets"), Path("/var/run/secrets"))

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Given(NamedTuple):
    """One value as somebody gave it.

    `origin` is the file's name, the variable's name, or "command line". `is_text` says that it has
    no type of its own. Relative paths start at `directory`. `is_exposed`: others can read the file.
    """

    value: Any
    origin: str
    is_text: bool = False
    directory: Path = Path()
    is_exposed: bool = False

    def __repr__(self) -> str:
        """Say where the value is from, not what it is."""
        return f"Given(origin={self.origin!r})"


class Secret:
    """A text that does not show itself; `reveal` hands it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    @classmethod
    def read_setting(cls, given: Given) -> Self:
        """Take a secret as it was given; raise ValueError."""
        if not isinstance(given.value, str) or not given.value.strip():
            raise ValueError("must be text that is not empty")
        text = given.value.strip()
        if given.is_exposed and not _is_public_address(text):
            raise ValueError(
                "is a secret in a file that every user can read: chmod 600 the file, "
                "or give the secret as a file of its own"
            )
        return cls(text)

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and equal(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        """Hide the text."""
        return "Secret(…)"


@runtime_checkable
class SettingReader(Protocol):
    """A type that reads its own values and may be given as a file (`<key>_file`)."""

    @classmethod
    def read_setting(cls, given: Given) -> Any:
        """Take a value as it was given; raise ValueError with what must be true of it."""
        ...


def read_struct(kind: type[_Struct], given: Mapping[str, Given], *, path: str, faults: list[str]) -> _Struct | None:
    """Read a section; None if it has faults, which are appended as lines."""
    found_before = len(faults)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    known = setting_keys(kind)
    faults += [unknown_key(given[key].origin, f"{path}.", key, known) for key in sorted(given.keys() - set(known))]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        try:
            value = _chosen(name, given, _reader_of(field.type))
            if value is not None:
                values[name] = _read(field.type, value)
        except _FaultError as fault:
            faults.append(f"{fault.origin}: {path}.{fault.key or name} {fault.reason}")
            continue
        if value is None and field.required:
            faults.append(f"{path}.{name} must be given")
    if len(faults) > found_before:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        faults.append(f"{path}: {error}")
        return None


def setting_keys(kind: type[msgspec.Struct]) -> list[str]:
    """Name the keys that a section takes, `…_file` for each secret included."""
    keys: list[str] = []
    for field in msgspec.structs.fields(kind):
        keys.append(field.name)
        if _reader_of(field.type) is not None:
            keys.append(f"{field.name}_file")
    return keys


def unknown_key(origin: str, prefix: str, key: str, known: Iterable[str]) -> str:
    """Make the line for a key that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"; did you mean {prefix}{near[0]}?" if near else ""
    return f"{origin}: there is no setting {prefix}{key}{hint}"


def read_secret_file(given: Given) -> Given:
    """Return a secret file's content, stripped; raise ValueError.

    The file may not be readable by every user, except where container engines mount secrets.
    """
    if not isinstance(given.value, str) or not given.value.strip():
        raise ValueError("must be the path of a file")
    path = given.directory / given.value.strip()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"names {path}, which is not a file")
        _refuse_open_file(path, status.st_mode)
        if status.st_size > MAX_SECRET_FILE_BYTES:
            raise ValueError(f"names {path}, which is too large for a secret")
        text = path.read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"names {path}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"names {path}, which is not UTF-8 text") from None
    if not text:
        raise ValueError(f"names {path}, which is empty")
    return Given(text, given.origin, is_text=True, directory=given.directory)


def expected(kind: Any) -> str:
    """Say in words what a type allows."""
    return _words(msgspec.inspect.type_info(kind))


class _FaultError(Exception):
    def __init__(self, origin: str, reason: str, key: str | None = None) -> None:
        super().__init__(reason)
        self.origin = origin
        self.reason = reason
        self.key = key


def _reader_of(kind: Any) -> type[SettingReader] | None:
    for choice in (kind, *get_args(kind)):
        if isinstance(choice, type) and issubclass(choice, SettingReader):
            return choice
    return None


def _chosen(name: str, given: Mapping[str, Given], reader: type[SettingReader] | None) -> Given | None:
    """Return a key's value, from its file where it was given as one."""
    value = given.get(name)
    file_key = f"{name}_file"
    if reader is None or file_key not in given:
        return value
    if value is not None:
        raise _FaultError(value.origin, f"and {file_key} are both given; keep one")
    try:
        return read_secret_file(given[file_key])
    except ValueError as error:
        raise _FaultError(given[file_key].origin, str(error), file_key) from None


def _read(kind: Any, given: Given) -> Any:
    reader = _reader_of(kind)
    if reader is not None:
        try:
            return reader.read_setting(given)
        except ValueError as error:
            raise _FaultError(given.origin, str(error)) from None
    value = given.value
    if given.is_text and isinstance(value, str):
        value = value.strip()
        if _takes_list(kind):
            value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, kind, strict=not given.is_text)
    except msgspec.ValidationError:
        shown = f", not {given.value}" if isinstance(given.value, bool | int | float) else ""
        raise _FaultError(given.origin, f"must be {expected(kind)}{shown}") from None


def _takes_list(kind: Any) -> bool:
    choices = getattr(msgspec.inspect.type_info(kind), "types", (msgspec.inspect.type_info(kind),))
    return any(isinstance(c, msgspec.inspect.VarTupleType | msgspec.inspect.ListType) for c in choices)


def _words(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.Metadata(extra_json_schema={"description": str(words)}):
            return words
        case msgspec.inspect.Metadata(type=inner):
            return _words(inner)
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case msgspec.inspect.FloatType(ge=low, le=None):
            return f"a number from {low:g} on"
        case msgspec.inspect.FloatType(ge=low, le=high):
            return f"a number from {low:g} to {high:g}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case msgspec.inspect.UnionType(types=types):
            return _words(next(c for c in types if not isinstance(c, msgspec.inspect.NoneType)))
        case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item):
            return f"a list, each {_words(item)}"
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return "text of the form " + pattern.removeprefix("^").removesuffix(r"\Z")
    return "text"


def _refuse_open_file(path: Path, mode: int) -> None:
    if mode & stat.S_IWOTH:
        raise ValueError(f"names {path}, which every user can change: chmod 600 it")
    is_mounted = any(path.is_relative_to(mount) for mount in SECRET_MOUNTS)
    if mode & stat.S_IROTH and not is_mounted:
        raise ValueError(f"names {path}, which every user can read: chmod 600 it")


def _is_public_address(text: str) -> bool:
    """Say whether this is a URL without a password, which is no secret."""
    try:
        parts = urlsplit(text)
        return bool(parts.scheme and "://" in text) and not parts.password and not parts.query
    except ValueError:
        return False
