"""The real stores for every test that asks for one.

Each test process starts its own pair of embedded servers once; a test gets an emptied Valkey
and a database of its own. Imitations of the stores must never take their place here.
"""

import asyncio
import itertools
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from otpsvc.embedded import RunningStores, start_stores
from tests.pages.chromium import missed

MIGRATED = "otpsvc_migrated"
_database_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStores]:
    """One private Valkey and one private PostgreSQL for this test process."""
    with start_stores(tmp_path_factory.mktemp("stores") / ".otpsvc", durable=False) as running:
        yield running


@pytest.fixture
def redis_url(stores: RunningStores) -> str:
    """Address of the Valkey, emptied."""
    with redis.Redis.from_url(stores.redis_url) as client:
        client.flushall()
    return stores.redis_url


@pytest.fixture
def database_url(stores: RunningStores, migrated_template: str) -> Iterator[str]:
    """Address of a migrated, empty database that only this test uses."""
    name = f"test_{next(_database_numbers)}"
    run_sql(stores.database_url, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield stores.stores.database(name)
    run_sql(stores.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_template(stores: RunningStores) -> str:
    """Name of the database that is migrated once and then copied for each test."""
    from otpsvc.postgres.migrate import migrate

    run_sql(stores.database_url, f"CREATE DATABASE {MIGRATED} TEMPLATE template0")
    asyncio.run(migrate(stores.stores.database(MIGRATED)))
    return MIGRATED


def run_sql(url: str, statement: str) -> None:
    """Run one statement outside any transaction, on a connection of its own."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def prepared_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was started and stopped once; to be copied, never used itself."""
    data_dir = tmp_path_factory.mktemp("prepared") / ".otpsvc"
    start_stores(data_dir, durable=False).stop()
    return data_dir


@pytest.fixture
def data_dir(prepared_data_dir: Path, tmp_path: Path) -> Path:
    """A data directory of this test's own, made already but with nothing running on it."""
    return Path(shutil.copytree(prepared_data_dir, tmp_path / ".otpsvc"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say in the last lines of a run if nobody looked at the pages."""
    yield
    line = missed(terminalreporter.stats.get("skipped", []))
    if line is not None:
        terminalreporter.write_line(line, yellow=True, bold=True)
