"""The wiring of what everything else stands on: PostgreSQL, Redis and the keyring, each checked before it is used."""

import contextlib
from collections.abc import AsyncIterator

from otpsvc.crypto import Keyring, KeyringError
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.postgres.masters import PostgresMasters
from otpsvc.postgres.migrate import pending
from otpsvc.postgres.pool import Database, open_database
from otpsvc.redis.client import RedisClient
from otpsvc.redis.durability import Durability
from otpsvc.settings import RedisSettings, Settings

DURABLE_TIMEOUT_S = 5.0  # files are written once a second, and replicas tell once a second


@contextlib.asynccontextmanager
async def open_database_of(settings: Settings) -> AsyncIterator[Database]:
    """Open PostgreSQL alone, for the commands that need nothing else; raises ConfigurationError."""
    database = await open_database(
        settings.database.url.reveal(),
        min_connections=settings.database.min_connections,
        max_connections=settings.database.max_connections,
        timeout_s=settings.database.timeout_s,
    )
    try:
        yield database
    finally:
        await database.close()


async def refuse_old_database(database: Database) -> None:
    """Raise ConfigurationError if the database lacks a migration."""
    waiting = await pending(database)
    if waiting:
        raise ConfigurationError(f"the database lacks {', '.join(waiting)}: run `otpsvc migrate`")


async def settled_keyring(settings: Settings, database: Database) -> Keyring:
    """Make the keyring with the index master that the installation began with, wherever a rotation has put it.

    Raises ConfigurationError.
    """
    is_index_named = settings.keys.index_master is not None
    return await PostgresMasters(database).settle(keyring_of(settings), is_index_named=is_index_named)


def keyring_of(settings: Settings) -> Keyring:
    """Make the keyring; raises ConfigurationError."""
    try:
        return Keyring.from_masters(settings.keys.masters, index_master=settings.keys.index_master)
    except KeyringError as error:
        raise ConfigurationError(f"keys.masters: {error}") from None


async def open_redis(settings: RedisSettings, barrier_key: str, stack: contextlib.AsyncExitStack) -> RedisClient:
    """Connect Redis and check that it fits; `stack` closes it. Raises ConfigurationError."""
    durable = Durability(settings.durable_replicas, DURABLE_TIMEOUT_S) if settings.durable_send else None
    redis = RedisClient(
        settings.url.reveal(),
        timeout_s=settings.timeout_s,
        max_connections=settings.max_connections,
        durable=durable,
        barrier_key=barrier_key,
    )
    stack.push_async_callback(redis.close)
    try:
        await redis.check_server(needs_append_only=settings.persistence == "append_only", is_fenced=settings.is_fenced)
    except ApiError:
        raise ConfigurationError("redis.url: the server does not answer") from None
    return redis
