"""Databases that were not migrated yet, and a pool on a migrated one."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from otpsvc.embedded import RunningStores
from otpsvc.postgres.pool import Database, open_database


@pytest.fixture
async def empty_database_url(stores: RunningStores) -> AsyncIterator[str]:
    """Address of a database with nothing in it."""
    server = await asyncpg.connect(stores.database_url)
    try:
        await server.execute("create database not_migrated template template0")
        yield stores.stores.database("not_migrated")
    finally:
        await server.execute("drop database if exists not_migrated with (force)")
        await server.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on a migrated, empty database."""
    database = await open_database(database_url, max_connections=4)
    yield database
    await database.close()
