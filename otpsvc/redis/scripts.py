"""Lua scripts: read from files, checked against their own contract, run by their SHA.

Every file opens with a block comment that names its KEYS, its ARGV, what it returns and which events it writes. That
block is read by this loader: a script sees its inputs as `key.<name>` and `arg.<name>`, and a caller gives them by the
same names, so that neither side ever counts positions. A line `-- include <name>` is replaced by a small shared
function from `lua/include/`, each at most once.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)
_CONTRACT = re.compile(r"\A--\[\[\n(\w+): .*?\]\]\n", re.DOTALL)
_SECTION = re.compile(
    r"^(KEYS|ARGV|Returns|Events)$(.*?)(?=^(?:KEYS|ARGV|Returns|Events)$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_NAME = re.compile(r"^  ([a-z_.]+)(?:  +\S.*)?$", re.MULTILINE)


class ScriptError(Exception):
    """A script file breaks its own contract: wrong name, missing section, unknown or circular include."""


@dataclass(frozen=True)
class Script:
    """One script: its text with includes in place, the SHA that the server knows it by, and its contract."""

    name: str
    text: str
    sha: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    returns: tuple[str, ...]
    events: tuple[str, ...]


@cache
def load(name: str) -> Script:
    """Load `lua/<name>.lua` from the package; raises ScriptError."""
    return load_from(files("otpsvc.redis") / "lua", name)


def load_from(folder: Traversable, name: str) -> Script:
    """Load a script from a folder of scripts; raises ScriptError."""
    file = folder / f"{name}.lua"
    if not file.is_file():
        raise ScriptError(f"{name}.lua does not exist")
    source = file.read_text("utf-8")
    head = _CONTRACT.match(source)
    if head is None or head[1] != name:
        raise ScriptError(f"{name}.lua must open with a contract block that begins with its name")
    sections = {title: tuple(_NAME.findall(body)) for title, body in _SECTION.findall(head[0])}
    missing = {"KEYS", "ARGV", "Returns", "Events"} - sections.keys()
    if missing:
        raise ScriptError(f"{name}.lua: the contract lacks {', '.join(sorted(missing))}")
    body = _expand(folder, source[head.end() :], seen=set(), path=(name,))
    text = _inputs("key", "KEYS", sections["KEYS"]) + _inputs("arg", "ARGV", sections["ARGV"]) + body
    return Script(
        name=name,
        text=text,
        sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
        keys=sections["KEYS"],
        args=sections["ARGV"],
        returns=sections["Returns"],
        events=sections["Events"],
    )


def _inputs(table: str, source: str, names: tuple[str, ...]) -> str:
    if len(set(names)) != len(names):
        raise ScriptError(f"a name stands twice among {source}: {names}")
    fields = ", ".join(f"{name} = {source}[{place}]" for place, name in enumerate(names, start=1))
    return f"local {table} = {{{fields}}}\n"


def _expand(folder: Traversable, source: str, *, seen: set[str], path: tuple[str, ...]) -> str:
    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        if name in path:
            raise ScriptError(f"circular include: {' -> '.join((*path, name))}")
        if name in seen:
            return ""
        seen.add(name)
        file = folder / "include" / f"{name}.lua"
        if not file.is_file():
            raise ScriptError(f"{path[-1]} includes {name}, which does not exist")
        return _expand(folder, file.read_text("utf-8"), seen=seen, path=(*path, name))

    return _INCLUDE.sub(replacement, source)
