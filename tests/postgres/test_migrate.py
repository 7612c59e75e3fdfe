"""Migrations: applied once, in order, wholly or not at all, and never changed afterwards."""

import asyncio
import shutil
import sys
from pathlib import Path

import asyncpg
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.postgres import migrate as migrate_module
from otpsvc.postgres.migrate import ADVISORY_LOCK, migrate, pending, read_migrations
from otpsvc.postgres.pool import Connection, open_database, refuse_old_server
from otpsvc.postgres.queries import sql_root
from tests.clients.cable import Cable, address_over, server_socket


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two migrations of our own."""
    (tmp_path / "0001_one.sql").write_text("create table one (id integer);\n")
    (tmp_path / "0002_two.sql").write_text("create table two (id integer);\ninsert into two values (2);\n")
    return tmp_path


async def tables_of(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows}


async def pending_of(url: str, directory: Path) -> list[str]:
    database = await open_database(url)
    try:
        return await pending(database, directory=directory)
    finally:
        await database.close()


async def refused(url: str, directory: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await migrate(url, directory=directory)
    return str(caught.value)


async def test_the_shipped_migrations_apply_once(empty_database_url: str) -> None:
    names = [migration.name for migration in read_migrations()]
    assert await pending_of(empty_database_url, sql_root() / "migrations") == names
    assert await migrate(empty_database_url) == names
    assert await migrate(empty_database_url) == []
    assert await pending_of(empty_database_url, sql_root() / "migrations") == []
    assert {"installation", "clients", "api_keys"} <= await tables_of(empty_database_url)


async def test_later_migrations_follow_earlier_ones(empty_database_url: str, directory: Path) -> None:
    assert await migrate(empty_database_url, directory=directory) == ["0001_one", "0002_two"]
    (directory / "0003_three.sql").write_text("create table three (id integer)")
    assert await pending_of(empty_database_url, directory) == ["0003_three"]
    assert await migrate(empty_database_url, directory=directory) == ["0003_three"]


async def test_windows_line_ends_are_the_same_migration(empty_database_url: str, directory: Path) -> None:
    await migrate(empty_database_url, directory=directory)
    file = directory / "0001_one.sql"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert await migrate(empty_database_url, directory=directory) == []


async def test_a_changed_migration_is_refused(empty_database_url: str, directory: Path) -> None:
    await migrate(empty_database_url, directory=directory)
    (directory / "0001_one.sql").write_text("create table one (id bigint);\n")
    assert "0001_one is not the one that was applied" in await refused(empty_database_url, directory)
    with pytest.raises(ConfigurationError):
        await pending_of(empty_database_url, directory)


async def test_a_renamed_migration_is_refused(empty_database_url: str, directory: Path) -> None:
    await migrate(empty_database_url, directory=directory)
    (directory / "0001_one.sql").rename(directory / "0001_uno.sql")
    assert "0001_uno is not the one that was applied as 0001_one" in await refused(empty_database_url, directory)


async def test_a_database_newer_than_the_code_is_refused(empty_database_url: str, directory: Path) -> None:
    await migrate(empty_database_url, directory=directory)
    (directory / "0002_two.sql").unlink()
    assert "newer than this otpsvc (it has migration 0002_two)" in await refused(empty_database_url, directory)


async def test_a_hole_in_what_was_applied_is_refused(empty_database_url: str, directory: Path) -> None:
    await migrate(empty_database_url, directory=directory)
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("delete from schema_migrations where number = 1")
    await connection.close()
    assert "lacks migration 0001 but has 0002_two" in await refused(empty_database_url, directory)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("0004_gap.sql", "select 1", "number 0003 was expected"),
        ("0002_again.sql", "select 1", "number 0003 was expected"),
        ("3_short.sql", "select 1", "not NNNN_name.sql"),
        ("0003_own.sql", "create table x (id integer);\ncommit;\n", "may not begin or end a transaction"),
        ("0003_own.sql", "select 1; COMMIT ;", "may not begin or end a transaction"),
    ],
)
def test_bad_sets_of_files_are_refused(directory: Path, name: str, text: str, words: str) -> None:
    (directory / name).write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        read_migrations(directory)


def test_an_installation_without_migrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="complete"):
        read_migrations(tmp_path)


async def test_a_failure_undoes_its_migration_and_keeps_those_before(empty_database_url: str, directory: Path) -> None:
    (directory / "0003_bad.sql").write_text("create table three (id integer);\nselect 1 / 0;\n")
    (directory / "0004_after.sql").write_text("create table four (id integer);\n")
    line = await refused(empty_database_url, directory)
    assert line == "migration 0003_bad failed and was undone: division by zero"
    assert await tables_of(empty_database_url) == {"schema_migrations", "one", "two"}
    assert await pending_of(empty_database_url, directory) == ["0003_bad", "0004_after"]
    (directory / "0003_bad.sql").write_text("create table three (id integer);\n")
    assert await migrate(empty_database_url, directory=directory) == ["0003_bad", "0004_after"]


async def test_a_migration_that_cannot_be_recorded_is_undone(empty_database_url: str, directory: Path) -> None:
    await migrate(empty_database_url, directory=directory)
    (directory / "0003_bad.sql").write_text(
        "create table three (id integer);\nalter table schema_migrations rename number to digits;\n"
    )
    assert "0003_bad failed and was undone" in await refused(empty_database_url, directory)
    assert await tables_of(empty_database_url) == {"schema_migrations", "one", "two"}
    assert await pending_of(empty_database_url, directory) == ["0003_bad"]


async def test_many_processes_migrate_at_once(empty_database_url: str, directory: Path) -> None:
    (directory / "0002_two.sql").write_text("create table two (id integer);\nselect pg_sleep(0.3);\n")
    program = (
        "import asyncio, pathlib, sys\n"
        "from otpsvc.postgres.migrate import migrate\n"
        "print(len(asyncio.run(migrate(sys.argv[1], directory=pathlib.Path(sys.argv[2])))))\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, empty_database_url, str(directory)),
            cwd=Path(migrate_module.__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    answers = [(await process.communicate())[0].strip() for process in processes]
    assert sorted(answers) == [b"0", b"0", b"2"]
    assert await tables_of(empty_database_url) == {"schema_migrations", "one", "two"}


async def test_waiting_for_another_migration_ends(
    empty_database_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "TURN_TIMEOUT_S", 0.1)
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("select pg_advisory_lock($1)", ADVISORY_LOCK)
    assert "another migration has been running" in await refused(empty_database_url, directory)
    await connection.close()
    assert await migrate(empty_database_url, directory=directory) == ["0001_one", "0002_two"]


async def test_what_a_role_is_allowed_for_a_query_does_not_end_a_migration(
    empty_database_url: str, directory: Path
) -> None:
    """Hosted servers come with such a bound; an index over a year of history takes longer."""
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("alter database not_migrated set statement_timeout = '50ms'")
    await connection.close()
    (directory / "0003_slow.sql").write_text("select pg_sleep(0.2);\n")
    assert await migrate(empty_database_url, directory=directory) == ["0001_one", "0002_two", "0003_slow"]


async def test_a_server_that_falls_silent_holds_no_migration_up(
    empty_database_url: str, directory: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cable = Cable(server_socket(empty_database_url), tmp_path_factory.mktemp("c"))
    await cable.plug_in()
    take_turn = migrate_module._take_turn

    async def silent(connection: Connection) -> None:
        cable.hang()
        await take_turn(connection)

    monkeypatch.setattr(migrate_module, "_take_turn", silent)
    monkeypatch.setattr(migrate_module, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(migrate_module, "CONNECT_TIMEOUT_S", 1)
    try:
        async with asyncio.timeout(20):
            line = await refused(address_over(cable, empty_database_url), directory)
    finally:
        await cable.cut()
    assert line == "database.url: the connection was lost (TimeoutError)"


async def test_a_locked_table_ends_the_migration(
    empty_database_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty_database_url, directory=directory)
    monkeypatch.setattr(migrate_module, "LOCK_TIMEOUT_S", 0.1)
    (directory / "0003_alter.sql").write_text("alter table one add column name text")
    connection = await asyncpg.connect(empty_database_url)
    async with connection.transaction():
        await connection.execute("lock table one in access share mode")
        assert "a table was locked" in await refused(empty_database_url, directory)
    await connection.close()
    assert await migrate(empty_database_url, directory=directory) == ["0003_alter"]


def test_an_old_server_is_refused() -> None:
    refuse_old_server(15)
    with pytest.raises(ConfigurationError, match="PostgreSQL 15 or later is needed, this is 14"):
        refuse_old_server(14)


async def test_a_server_that_cannot_be_reached(directory: Path) -> None:
    line = await refused("postgresql://postgres:hush@127.0.0.1:1/x", directory)
    assert line == "database.url: nothing listens at its address; is PostgreSQL running?"


def test_an_installed_copy_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "otpsvc"
    (package / "postgres").mkdir(parents=True)
    monkeypatch.setattr("otpsvc.postgres.queries.__file__", str(package / "postgres" / "queries.py"))
    assert sql_root() == tmp_path / "sql"
    shutil.copytree(Path(migrate_module.__file__).parents[2] / "sql", package / "_sql")
    assert sql_root() == package / "_sql"
    assert read_migrations()[0].number == 1
