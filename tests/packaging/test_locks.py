"""The lock files: complete, hashed, alike where they overlap, and free of any one machine's traces."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("dev", "run", "runtime", "build", "lock")
PIN = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; (.+?))? \\$")


def text(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text()


def pins(lock: str) -> dict[str, str]:
    """Read a lock: what is pinned to which version."""
    found = [PIN.match(line) for line in text(lock).splitlines()]
    return {match[1]: match[2] for match in found if match}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("lock", LOCKS)
def test_each_line_is_a_pin_with_hashes_and_nothing_else(lock: str) -> None:
    first, *lines = text(lock).splitlines()
    assert re.match(r"# \d+ packages?, about \d+ MB to download\. Made by `make lock`\.$", first)
    expects_hash = False
    for line in lines:
        is_hash = re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line) is not None
        is_origin = re.match(r"    # +(via|via .+|  \S.*)$|    #   \S+", line) is not None
        is_pin = PIN.match(line) is not None
        assert is_hash or is_origin or is_pin, line
        assert is_hash or not expects_hash, line
        expects_hash = line.endswith("\\")


@pytest.mark.parametrize("lock", LOCKS)
def test_no_address_and_no_path_of_the_machine_that_made_it(lock: str) -> None:
    assert not re.search(r"://|--index|--find-links|--extra|^-|file:|(^|\s)/", text(lock), re.MULTILINE)


@pytest.mark.parametrize(("small", "large"), [("run", "dev"), ("runtime", "run"), ("build", "run"), ("build", "dev")])
def test_what_runs_is_what_the_tests_see(small: str, large: str) -> None:
    assert pins(small)
    assert pins(small).items() <= pins(large).items()


def test_the_image_carries_no_embedded_store(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]["embedded"]
    embedded = {canonicalize_name(Requirement(line).name) for line in extras}
    assert not embedded & pins("runtime").keys()
    assert embedded <= pins("run").keys()


def test_the_locks_answer_what_the_project_asks_for(project: dict[str, Any]) -> None:
    groups = project["dependency-groups"]
    asked = {
        "runtime": project["project"]["dependencies"],
        "run": project["project"]["optional-dependencies"]["embedded"] + groups["build"],
        "build": groups["build"],
        "lock": groups["lock"],
        "dev": [line for group in groups["dev"] for line in groups[group["include-group"]]],
    }
    for lock, lines in asked.items():
        held = pins(lock)
        for line in lines:
            requirement = Requirement(line)
            version = held.get(canonicalize_name(requirement.name))
            assert version, f"{line} is not in requirements/{lock}.txt: run `make lock`"
            assert requirement.specifier.contains(version), f"{line}: run `make lock`"
