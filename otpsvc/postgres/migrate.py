"""Migrations: numbered plain SQL that only goes forward.

Each file of `sql/migrations` runs once, in a transaction of its own together with the row that
records it, so a failure leaves nothing behind. One advisory lock lets any number of processes start
at the same time. A file that was applied is never edited: its checksum is compared at every run.
Never run SQL here that is not in a migration file.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import asyncpg

from otpsvc.errors import ConfigurationError
from otpsvc.postgres.pool import (
    START_FAILURES,
    Connection,
    Database,
    refuse_old_server,
    start_fault,
)
from otpsvc.postgres.queries import sql_root

ADVISORY_LOCK = 0x6F74_7073_7663  # "otpsvc"
CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 60
TURN_TIMEOUT_S = 120
LOCK_TIMEOUT_S = 5
MIGRATION_TIMEOUT_S = 86_400  # an index over years of history is built in hours

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TRANSACTION_WORD = re.compile(r"(^|;)\s*(begin|commit|rollback|start\s+transaction)\s*;", re.IGNORECASE | re.MULTILINE)

_RECORD_TABLE = """
create table if not exists schema_migrations (
    number integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
)
"""


class Migration(NamedTuple):
    """One file: `name` has no `.sql`, `sha256` is over the text with Unix line ends."""

    number: int
    name: str
    sql: str
    sha256: str


async def migrate(database_url: str, *, directory: Path | None = None) -> list[str]:
    """Apply what is missing and return the names applied, oldest first.

    Raises ConfigurationError when the server cannot be used, when the files are not what was
    applied before, when the database is newer than the files, and when a migration fails; those
    before the failed one stay applied.
    """
    files = read_migrations(directory)
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=ANSWER_TIMEOUT_S,
            server_settings={"application_name": "otpsvc migrate"},
        )
    except START_FAILURES as error:
        raise start_fault(error) from None
    try:
        refuse_old_server(connection.get_server_version().major)
        await _take_turn(connection)
        await connection.execute(_RECORD_TABLE)
        missing = _missing(files, await _applied(connection))
        for migration in missing:
            await _apply(connection, migration)
        return [migration.name for migration in missing]
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
        raise ConfigurationError(f"database.url: the connection was lost ({type(error).__name__})") from None
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"database.url: the server refuses: {error.args[0]}") from None
    finally:
        await _close(connection)


async def pending(database: Database, *, directory: Path | None = None) -> list[str]:
    """Return the names of what this database lacks; raise ConfigurationError as `migrate` does.

    Raises ApiError SERVICE_UNAVAILABLE where the database does not answer.
    """
    files = read_migrations(directory)
    async with database.borrowed_connection("pending migrations") as connection:
        has_record = await connection.fetchval("select to_regclass('schema_migrations') is not null")
        applied = await _applied(connection) if has_record else []
    return [migration.name for migration in _missing(files, applied)]


def read_migrations(directory: Path | None = None) -> list[Migration]:
    """Read the files in order; raise ConfigurationError for a gap, a duplicate, another form."""
    directory = directory or sql_root() / "migrations"
    migrations: list[Migration] = []
    for number, path in enumerate(sorted(directory.glob("*.sql")), start=1):
        form = _FILE_NAME.fullmatch(path.name)
        if form is None:
            raise ConfigurationError(f"migration {path.name}: the name is not NNNN_name.sql")
        if int(form[1]) != number:
            raise ConfigurationError(f"migration {path.name}: number {number:04d} was expected (a gap or a duplicate)")
        sql = path.read_text("utf-8")
        if _TRANSACTION_WORD.search(sql):
            raise ConfigurationError(f"migration {path.name}: it may not begin or end a transaction")
        migrations.append(Migration(number, path.stem, sql, hashlib.sha256(sql.encode()).hexdigest()))
    if not migrations:
        raise ConfigurationError("there are no migration files; is this installation complete?")
    return migrations


async def _close(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    try:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    except START_FAILURES:
        connection.terminate()


async def _take_turn(connection: Connection) -> None:
    # What a role is allowed for a query says nothing of how long an index takes.
    await connection.execute("set statement_timeout = 0")
    await connection.execute(f"set lock_timeout = '{TURN_TIMEOUT_S}s'")
    try:
        await connection.execute(
            "select pg_advisory_lock($1)", ADVISORY_LOCK, timeout=TURN_TIMEOUT_S + ANSWER_TIMEOUT_S
        )
    except asyncpg.LockNotAvailableError:
        raise ConfigurationError(
            f"another migration has been running for {TURN_TIMEOUT_S} s; try again later"
        ) from None
    await connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT_S}s'")


async def _applied(connection: Connection) -> list[asyncpg.Record]:
    return await connection.fetch("select number, name, sha256 from schema_migrations order by number")


def _missing(files: list[Migration], applied: list[asyncpg.Record]) -> list[Migration]:
    for position, row in enumerate(applied, start=1):
        if row["number"] > len(files):
            raise ConfigurationError(
                f"the database is newer than this otpsvc (it has migration {row['name']}): upgrade otpsvc"
            )
        if row["number"] != position:
            raise ConfigurationError(
                f"the database lacks migration {position:04d} but has {row['name']}: restore a backup"
            )
        file = files[position - 1]
        if (file.name, file.sha256) != (row["name"], row["sha256"]):
            raise ConfigurationError(
                f"migration {file.name} is not the one that was applied as {row['name']}: "
                "an applied migration is never changed, add a new one"
            )
    return files[len(applied) :]


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql, timeout=MIGRATION_TIMEOUT_S)
            await connection.execute(
                "insert into schema_migrations (number, name, sha256) values ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.sha256,
            )
    except asyncpg.LockNotAvailableError:
        raise ConfigurationError(
            f"migration {migration.name}: a table was locked for more than {LOCK_TIMEOUT_S} s; "
            "nothing was changed by it, try again"
        ) from None
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"migration {migration.name} failed and was undone: {error.args[0]}") from None
