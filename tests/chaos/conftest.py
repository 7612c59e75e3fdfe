"""Stores that the fault tests may stop and kill, a stand on them, and the long forms kept out of the ordinary suite."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from otpsvc.postgres.migrate import migrate
from tests.chaos.stand import MakeStand, Stand, open_stand
from tests.chaos.stores import ROLE, Pair, restartable_stores
from tests.conftest import run_sql

_TEMPLATE = "chaos_migrated"
_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless the command line names their marker."""
    if "chaos" in (config.option.markexpr or ""):
        return
    long = [item for item in items if item.get_closest_marker("chaos")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A Valkey and a PostgreSQL of the fault tests' own."""
    with restartable_stores(tmp_path_factory.mktemp("chaos") / ".otpsvc") as running:
        # The service owns its tables and is nobody special beyond that, as in production.
        run_sql(running.database_url(), f"CREATE ROLE {ROLE} LOGIN")
        run_sql(running.database_url(), f"CREATE DATABASE {_TEMPLATE} OWNER {ROLE} TEMPLATE template0")
        asyncio.run(migrate(running.database_url(_TEMPLATE, role=ROLE)))
        yield running


@pytest.fixture
def make_stand(pair: Pair, tmp_path: Path) -> Iterator[MakeStand]:
    """Make the test's stand: `async with make_stand(OTPSVC_…="…") as stand`."""
    with redis.Redis.from_url(pair.redis_url) as client:
        client.flushall()
    name = f"chaos_{next(_numbers)}"
    run_sql(pair.database_url(), f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {_TEMPLATE}")

    @asynccontextmanager
    async def make(**variables: str) -> AsyncIterator[Stand]:
        async with open_stand(pair, pair.database_url(name, role=ROLE), tmp_path / "stand", variables) as stand:
            yield stand

    yield make
    run_sql(pair.database_url(), f"DROP DATABASE {name} WITH (FORCE)")
