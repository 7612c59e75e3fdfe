"""The search for a Python that really works: used by `bootstrap.py`, which may run under any 3.6+.

Every candidate is started and asked, because a name on PATH proves nothing: version managers leave
shims that only print an error, and distributions ship a Python that cannot make an environment.

Never in this file: anything outside the standard library, syntax newer than Python 3.6 (hence the
quoted annotations), or a belief about a Python that was not run.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

OLDEST = (3, 11)
NEWEST = (3, 14)  # the last CPython for which every locked package has a wheel
OLDEST_GLIBC = (2, 28)  # the C library that the locked Linux wheels are built for
MACHINES = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
PROBE_TIMEOUT_S = 15.0
SUPPORTED = "Linux on x86_64 or aarch64 with glibc 2.28 or newer, or macOS on Apple silicon"

# Runs inside each candidate, so it must be readable by any Python, even 2.7.
PROBE = """
import json, os, platform, struct, sys, sysconfig
try:
    glibc = os.confstr('CS_GNU_LIBC_VERSION') or ''
except (AttributeError, OSError, ValueError):
    glibc = ''
try:
    import ensurepip, venv
    makes_venv = True
except ImportError:
    makes_venv = False
print(json.dumps({
    'version': list(sys.version_info[:3]), 'implementation': platform.python_implementation(),
    'path': getattr(sys, '_base_executable', None) or sys.executable,
    'bits': 8 * struct.calcsize('P'), 'has_gil': not sysconfig.get_config_var('Py_GIL_DISABLED'),
    'platform': sys.platform, 'machine': platform.machine(), 'glibc': glibc,
    'makes_venv': makes_venv,
}))
"""

# How near a Python is to being usable; of many misses the nearest is the one worth telling.
USABLE, NO_VENV, WRONG_PLATFORM, WRONG_PYTHON, BROKEN = range(5)


class CannotGoOnError(Exception):
    """Its text is what a person reads: one clear line, then details if there are any."""


class Python(NamedTuple):
    """One interpreter that was tried: `path` is the real program behind shims and environments."""

    command: str
    path: str
    version: "tuple[int, ...]"
    verdict: int
    reason: str

    @property
    def label(self) -> str:
        """Name it as a person would."""
        return "Python " + (".".join(str(part) for part in self.version) or "(version unknown)")


def judge(facts: "dict[str, Any]") -> "tuple[int, str]":
    """Say how usable a Python with these facts (what PROBE prints) is, and why not wholly."""
    version = tuple(facts["version"])
    place = (facts["platform"].rstrip("0123456789"), facts["machine"])
    glibc = tuple(int(part) for part in re.findall(r"\d+", facts["glibc"])[:2])
    found = (USABLE, "")
    if facts["implementation"] != "CPython":
        found = (WRONG_PYTHON, "is {}, not CPython".format(facts["implementation"]))
    elif version < OLDEST:
        found = (WRONG_PYTHON, "is too old")
    elif version[:2] > NEWEST:
        found = (WRONG_PYTHON, "is too new for the packages in requirements/")
    elif not facts["has_gil"]:
        found = (WRONG_PYTHON, "is a free-threaded build, for which packages are missing")
    elif facts["bits"] != 64:
        found = (WRONG_PLATFORM, "is a {}-bit program".format(facts["bits"]))
    elif place not in MACHINES:
        found = (WRONG_PLATFORM, "is for {} on {}".format(*place))
    elif place[0] == "linux" and glibc < OLDEST_GLIBC:
        found = (WRONG_PLATFORM, "uses {}".format(facts["glibc"] or "a C library other than glibc"))
    elif not facts["makes_venv"]:
        package = "python{}.{}-venv".format(*version)
        found = (NO_VENV, f"has no venv module (Debian, Ubuntu: sudo apt install {package})")
    return found


def probe(command: str) -> Python:
    """Run a candidate and see. A shim that fails, hangs or prints nonsense is simply broken."""
    lines = ["no output"]
    try:
        finished = subprocess.run(
            [command, "-E", "-s", "-c", PROBE],  # not -I, which Python 2 does not know
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        lines = finished.stdout.decode(errors="replace").strip().splitlines() or lines
        facts = json.loads(lines[-1])
        verdict, reason = judge(facts)
        return Python(command, facts["path"], tuple(facts["version"]), verdict, reason)
    except subprocess.TimeoutExpired:
        return Python(command, command, (), BROKEN, "does not answer")
    except OSError as problem:
        return Python(command, command, (), BROKEN, f"does not run ({problem.strerror})")
    except (ValueError, LookupError, TypeError):
        return Python(command, command, (), BROKEN, f"does not run ({lines[0].strip()[:80]})")


def candidates(search_path: str) -> "Iterator[str]":
    """List what might be a Python: on PATH, and in the version directories beside shims."""
    names = [f"python3.{minor}" for minor in range(NEWEST[1] + 2, OLDEST[1] - 1, -1)]
    names += ["python3", "python"]
    for entry in filter(None, search_path.split(os.pathsep)):
        directory = Path(entry)
        yield from (str(directory / name) for name in names)
        if directory.name == "shims":
            for versions in ("versions/*/bin/python", "installs/python/*/bin/python"):
                yield from (str(found) for found in sorted(directory.parent.glob(versions)))


def all_pythons(search_path: str) -> "list[Python]":
    """Try every candidate; the usable and newest come first, each program once."""
    tried: dict[str, Python] = {}
    seen = set()
    for command in candidates(search_path):
        # By name too: shims are often links to one program that looks at how it was called.
        program = (os.path.realpath(command), Path(command).name)
        if os.access(command, os.X_OK) and program not in seen:
            seen.add(program)
            python = probe(command)
            tried.setdefault(os.path.realpath(python.path), python)
    return sorted(tried.values(), key=lambda python: (python.verdict, [-part for part in python.version]))


def newest_python(search_path: str) -> Python:
    """Choose the newest usable Python, or raise what stands in the way of the nearest one."""
    found = all_pythons(search_path)
    if found and found[0].verdict == USABLE:
        return found[0]
    wanted = "CPython {}.{} to {}.{}".format(*(OLDEST + NEWEST))
    headline = f"no {wanted} on PATH: install one, or name one with PYTHON=/path/to/python3"
    if found and found[0].verdict == NO_VENV:
        headline = f"{found[0].label} ({found[0].command}) {found[0].reason}"
    elif found and found[0].verdict == WRONG_PLATFORM:
        headline = f"unsupported platform: {found[0].command} {found[0].reason}; needed: {SUPPORTED}"
    tried = [f"\n  tried {python.command}: {python.label} {python.reason}" for python in found]
    raise CannotGoOnError(headline + "".join(tried))


def named_python(name: str) -> Python:
    """Take the Python that a person named, or raise why it will not do."""
    python = probe(shutil.which(name) or name)
    if python.verdict != USABLE:
        raise CannotGoOnError(f"PYTHON={name}: {python.label} {python.reason}")
    return python
