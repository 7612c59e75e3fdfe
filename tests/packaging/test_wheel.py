"""The wheel is whole: built from this checkout, installed where the checkout cannot be seen, used."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE_INSTALLED_COPY = """
from otpsvc.postgres import migrate, queries
from otpsvc.redis import scripts

print(queries.sql_root())
print(len(migrate.read_migrations()))
queries.load("clients")
scripts.load("otp_send")
scripts.load("otp_verify")
"""


def call(*command: str, cwd: Path) -> str:
    """Run a program to its end and return what it printed; fail with what it said."""
    finished = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def sources(folder: Path, pattern: str) -> set[Path]:
    """List the files of a folder, relative to it."""
    found = {path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()}
    assert found
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and our dependencies seen through a path file.

    A path file's directories are searched without reading the path files in them, so an editable
    installation of the checkout stays out of sight.
    """
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False)
    python = str(home / "bin" / "python")
    pip = [sys.executable, "-I", "-m", "pip", "--python", python, "install", "--quiet"]
    call(*pip, "--no-index", "--no-deps", str(wheel), cwd=home)
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("platlib") + "\n")
    return home


def test_it_holds_the_package_the_sql_the_scripts_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("/entry_points.txt"))
        parser = ConfigParser()
        parser.read_string(archive.read(entry_points).decode())
    package = {f"otpsvc/{path}" for path in sources(ROOT / "otpsvc", "*.py")}
    scripts = {f"otpsvc/{path}" for path in sources(ROOT / "otpsvc", "*.lua")}
    scripts |= {f"otpsvc/{path}" for kind in ("*.csv", "*.txt") for path in sources(ROOT / "otpsvc", kind)}
    sql = {f"otpsvc/_sql/{path}" for path in sources(ROOT / "sql", "*.sql")}
    assert package | scripts | sql | {"otpsvc/py.typed"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert parser["console_scripts"]["otpsvc"] == "otpsvc.cli:main"
    assert {"inbox", "terminal"} <= set(parser["otpsvc.senders"])


def test_it_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        assert not [name for name in archive.namelist() if "__pycache__" in name]
    assert {top for top in tops if not top.endswith(".dist-info")} == {"otpsvc"}


def test_the_installed_copy_finds_its_own_sql_and_scripts(installed: Path, tmp_path: Path) -> None:
    python = str(installed / "bin" / "python")
    said = call(python, "-I", "-c", USE_INSTALLED_COPY, cwd=tmp_path)
    sql_root, migrations = said.split()
    assert Path(sql_root).is_relative_to(installed)
    assert int(migrations) == len(sources(ROOT / "sql" / "migrations", "*.sql"))


def test_the_installed_command_shows_its_help(installed: Path, tmp_path: Path) -> None:
    said = call(str(installed / "bin" / "otpsvc"), "--help", cwd=tmp_path)
    for command in ("dev", "serve", "worker", "migrate", "client", "key"):
        assert command in said


def test_its_senders_can_be_loaded_through_their_entry_points(installed: Path, tmp_path: Path) -> None:
    load_all = (
        "from importlib.metadata import entry_points\n"
        "for one in entry_points(group='otpsvc.senders'): one.load(); print(one.name)"
    )
    said = call(str(installed / "bin" / "python"), "-I", "-c", load_all, cwd=tmp_path)
    assert {"inbox", "terminal"} <= set(said.split())
