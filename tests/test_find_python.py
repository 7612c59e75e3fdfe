"""Which Python is chosen: tiny shell scripts stand in for the interpreters that a machine may have."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import find_python
from find_python import CannotGoOnError, Python, all_pythons, judge, named_python, newest_python

ROOT = Path(__file__).resolve().parent.parent
SOUND: dict[str, Any] = {
    "version": [3, 13, 1],
    "implementation": "CPython",
    "path": "/somewhere/python3.13",
    "bits": 64,
    "has_gil": True,
    "platform": "linux",
    "machine": "x86_64",
    "glibc": "glibc 2.36",
    "makes_venv": True,
}


def script(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def stand_in(path: Path, **facts: object) -> Path:
    """Make a program that answers the probe as a Python with these facts would."""
    answer = json.dumps({**SOUND, "path": str(path), **facts})
    return script(path, f"echo '{answer}'")


def test_the_newest_supported_one_wins_wherever_it_is(tmp_path: Path) -> None:
    stand_in(tmp_path / "one" / "python3", version=[3, 11, 2])
    stand_in(tmp_path / "two" / "python3.13", version=[3, 13, 0])
    stand_in(tmp_path / "two" / "python3.12", version=[3, 12, 9])
    stand_in(tmp_path / "two" / "python3.15", version=[3, 15, 0])
    chosen = newest_python(f"{tmp_path}/one:{tmp_path}/two:{tmp_path}/missing")
    assert chosen.command == str(tmp_path / "two" / "python3.13")


def test_of_two_with_one_version_the_first_on_path_wins(tmp_path: Path) -> None:
    stand_in(tmp_path / "one" / "python3")
    stand_in(tmp_path / "two" / "python3.13")
    assert newest_python(f"{tmp_path}/one:{tmp_path}/two").command == str(tmp_path / "one" / "python3")


def test_shims_that_fail_do_not_count_but_what_lies_beside_them_does(tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    for name in ("python3", "python3.13", "python"):
        script(shims / name, f'echo "{name}: command not found" >&2; exit 127')
    real = stand_in(tmp_path / "versions" / "3.12.4" / "bin" / "python", version=[3, 12, 4])
    assert newest_python(str(shims)).command == str(real)


def test_a_shim_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_python, "PROBE_TIMEOUT_S", 0.2)
    script(tmp_path / "python3", "exec sleep 60")
    assert [python.reason for python in all_pythons(str(tmp_path))] == ["does not answer"]


def test_one_program_under_many_names_is_asked_for_once_each_and_listed_once(tmp_path: Path) -> None:
    real = stand_in(tmp_path / "python3.13")
    (tmp_path / "python3").symlink_to(real)
    (tmp_path / "python").symlink_to(real)
    assert len(all_pythons(f"{tmp_path}:{tmp_path}")) == 1


def test_this_very_python_passes_its_own_probe() -> None:
    python = find_python.probe(sys.executable)
    assert (python.verdict, python.version) == (find_python.USABLE, sys.version_info[:3])
    assert Path(python.path).resolve() == Path(sys.executable).resolve()


@pytest.mark.parametrize(
    ("facts", "verdict", "reason"),
    [
        ({}, find_python.USABLE, ""),
        ({"version": [3, 11, 0]}, find_python.USABLE, ""),
        ({"version": [3, 14, 9]}, find_python.USABLE, ""),
        ({"platform": "darwin", "machine": "arm64", "glibc": ""}, find_python.USABLE, ""),
        ({"platform": "linux2", "version": [2, 7, 18]}, find_python.WRONG_PYTHON, "too old"),
        ({"version": [3, 10, 13]}, find_python.WRONG_PYTHON, "too old"),
        ({"version": [3, 15, 0]}, find_python.WRONG_PYTHON, "too new"),
        ({"implementation": "PyPy"}, find_python.WRONG_PYTHON, "PyPy"),
        ({"has_gil": False}, find_python.WRONG_PYTHON, "free-threaded"),
        ({"bits": 32}, find_python.WRONG_PLATFORM, "32-bit"),
        ({"machine": "riscv64"}, find_python.WRONG_PLATFORM, "linux on riscv64"),
        ({"platform": "darwin"}, find_python.WRONG_PLATFORM, "darwin on x86_64"),
        ({"glibc": ""}, find_python.WRONG_PLATFORM, "other than glibc"),
        ({"glibc": "glibc 2.17"}, find_python.WRONG_PLATFORM, "glibc 2.17"),
        ({"makes_venv": False}, find_python.NO_VENV, "apt install python3.13-venv"),
    ],
)
def test_judgement(facts: dict[str, object], verdict: int, reason: str) -> None:
    found, why = judge({**SOUND, **facts})
    assert found == verdict
    assert reason in why
    assert bool(why) == bool(verdict)


def test_the_nearest_miss_makes_the_headline_and_every_try_is_listed(tmp_path: Path) -> None:
    stand_in(tmp_path / "python3.11", version=[3, 11, 2], makes_venv=False)
    stand_in(tmp_path / "python3", version=[3, 9, 2])
    script(tmp_path / "python", "echo broken; exit 3")
    with pytest.raises(CannotGoOnError) as caught:
        newest_python(str(tmp_path))
    headline, *tries = str(caught.value).splitlines()
    assert "Python 3.11.2" in headline
    assert "sudo apt install python3.11-venv" in headline
    assert len(tries) == 3
    assert "Python 3.9.2 is too old" in str(caught.value)
    assert "does not run (broken)" in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "headline"),
    [
        ({"glibc": ""}, "unsupported platform: "),
        ({"version": [3, 8, 1]}, "no CPython 3.11 to 3.14 on PATH: install one"),
    ],
)
def test_other_headlines(tmp_path: Path, facts: dict[str, object], headline: str) -> None:
    stand_in(tmp_path / "python3", **facts)
    with pytest.raises(CannotGoOnError, match=headline):
        newest_python(str(tmp_path))


def test_nothing_on_path_at_all(tmp_path: Path) -> None:
    with pytest.raises(CannotGoOnError, match="install one, or name one with PYTHON="):
        newest_python(str(tmp_path))


def test_a_named_python_is_taken_or_refused_never_replaced(tmp_path: Path) -> None:
    assert isinstance(named_python(str(stand_in(tmp_path / "mine"))), Python)
    old = stand_in(tmp_path / "old", version=[3, 10, 1])
    with pytest.raises(CannotGoOnError, match=r"PYTHON=.*old: Python 3\.10\.1 is too old"):
        named_python(str(old))
    with pytest.raises(CannotGoOnError, match="does not run"):
        named_python("python-that-is-not-there")


@pytest.mark.parametrize("name", ["bootstrap.py", "find_python.py"])
def test_an_old_python_can_read_it_and_finds_all_it_imports(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(), feature_version=(3, 6))
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - {"find_python"} <= sys.stdlib_module_names
    assert "__future__" not in imported


def test_windows_gets_one_clear_line() -> None:
    windows = "import sys, runpy; sys.modules['fcntl'] = None; runpy.run_path('bootstrap.py')"
    finished = subprocess.run([sys.executable, "-c", windows], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        "error: otpsvc runs on Linux and macOS only; on Windows, run it inside WSL 2"
    ]
