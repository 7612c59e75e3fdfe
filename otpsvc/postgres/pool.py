"""The pool of PostgreSQL connections, and the one place where its failures become ours.

Every call has a time-out: to connect, to get a connection from the pool, and for the statement
itself, on both sides of the wire. What a driver or a server says about a failed connection is never
passed on, because it can hold the address, the user or the password; only the kind of failure is
logged.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg

from otpsvc.errors import ConfigurationError, problem
from otpsvc.postgres import conditions
from otpsvc.postgres.queries import Cardinality, Query

FLOOR_MAJOR_VERSION = 15
CLOSE_TIMEOUT_S = 5.0

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"

_log = logging.getLogger(__name__)

# What means "not now" rather than "this statement is wrong". The standard's classes 08, 28, 3D, 53,
# 55 and 57, a standby that was asked to write, a right that this user lacks or has lost, and what
# loses a race for locks.
_UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # for one, a connection that the server has just ended
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
)

# All that opening a connection can end with, an address that cannot be read included.
START_FAILURES = (
    OSError,
    ValueError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
)


def _drop_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


# The driver's pool logs whole exceptions while it tries to reconnect.
logging.getLogger("asyncpg.pool").addFilter(_drop_traceback)


class Session:
    """Runs named queries one after the other on one connection, as `Database` does on any."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def one(self, query: Query, **parameters: object) -> asyncpg.Record | None:
        """Return the row, or None."""
        return await self._connection.fetchrow(query.sql, *_arguments("one", query, parameters))

    async def many(self, query: Query, **parameters: object) -> list[asyncpg.Record]:
        """Return all rows."""
        return await self._connection.fetch(query.sql, *_arguments("many", query, parameters))

    async def value(self, query: Query, **parameters: object) -> Any:
        """Return the first column of the row, or None."""
        return await self._connection.fetchval(query.sql, *_arguments("value", query, parameters))

    async def execute(self, query: Query, **parameters: object) -> None:
        """Run a statement that answers no rows."""
        await self._connection.execute(query.sql, *_arguments("exec", query, parameters))


class Database:
    """Runs named queries; raises SERVICE_UNAVAILABLE where PostgreSQL does not answer in time.

    A query's parameters are given by their names. Each method takes queries of its own cardinality
    only.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._is_failing = False

    async def one(self, query: Query, **parameters: object) -> asyncpg.Record | None:
        """Return the row, or None."""
        async with self.session(query.name) as session:
            return await session.one(query, **parameters)

    async def many(self, query: Query, **parameters: object) -> list[asyncpg.Record]:
        """Return all rows."""
        async with self.session(query.name) as session:
            return await session.many(query, **parameters)

    async def value(self, query: Query, **parameters: object) -> Any:
        """Return the first column of the row, or None."""
        async with self.session(query.name) as session:
            return await session.value(query, **parameters)

    async def execute(self, query: Query, **parameters: object) -> None:
        """Run a statement that answers no rows."""
        async with self.session(query.name) as session:
            await session.execute(query, **parameters)

    @contextlib.asynccontextmanager
    async def session(self, purpose: str) -> AsyncIterator[Session]:
        """Lend one connection to queries that belong together; each is a transaction of its own."""
        async with self.borrowed_connection(purpose) as connection:
            yield Session(connection)

    @contextlib.asynccontextmanager
    async def transaction(self, purpose: str) -> AsyncIterator[Session]:
        """Run queries in one transaction, committed at the end of the block, undone if it raises.

        A commit whose answer is lost raises SERVICE_UNAVAILABLE too: what was written may be there or not.
        """
        async with self.borrowed_connection(purpose) as connection, connection.transaction():
            yield Session(connection)

    @contextlib.asynccontextmanager
    async def borrowed_connection(self, purpose: str) -> AsyncIterator[Connection]:
        """Lend a connection to what is no named query; `purpose` names it in the log, where an outage is one line."""
        try:
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                yield connection
        except _UNREACHABLE as error:
            level = logging.DEBUG if self._is_failing else logging.WARNING
            self._is_failing = True
            _log.log(level, "PostgreSQL did not serve %s: %s", purpose, type(error).__name__)
            raise problem("SERVICE_UNAVAILABLE") from None
        else:
            self._is_failing = False

    async def close(self) -> None:
        """Close all connections, by force after five seconds."""
        try:
            await asyncio.wait_for(self._pool.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()


def _arguments(cardinality: Cardinality, query: Query, parameters: dict[str, object]) -> list[object]:
    if query.cardinality != cardinality:
        raise TypeError(f"query {query.name} answers {query.cardinality}, not {cardinality}")
    return query.arguments(parameters)


async def open_database(
    url: str, *, min_connections: int = 1, max_connections: int = 8, timeout_s: float = 5.0
) -> Database:
    """Check the server and open the pool; raise ConfigurationError with one clear line."""
    ours = _settings(timeout_s)
    server_settings = {"application_name": "otpsvc", "timezone": "UTC", **ours}
    try:
        first = await asyncpg.connect(
            url, timeout=timeout_s, command_timeout=timeout_s, server_settings=server_settings
        )
        try:
            refuse_old_server(first.get_server_version().major)
            found = await conditions.settings_of(first, ours)
        finally:
            await first.close(timeout=CLOSE_TIMEOUT_S)
        right = conditions.put_right(found)
        pool = await asyncpg.create_pool(
            url,
            min_size=min_connections,
            max_size=max_connections,
            timeout=timeout_s,
            command_timeout=timeout_s,
            server_settings=server_settings | right,
        )
        if right:
            # Whether that came through, too: a pooler may drop it.
            found = await _found_again(pool, ours, timeout_s)
    except START_FAILURES as error:
        raise start_fault(error) from None
    conditions.tell(found, ours | right)
    return Database(pool, timeout_s=timeout_s)


async def _found_again(pool: "asyncpg.Pool[asyncpg.Record]", ours: dict[str, str], timeout_s: float) -> dict[str, str]:
    try:
        async with pool.acquire(timeout=timeout_s) as connection:
            return await conditions.settings_of(connection, ours)
    except BaseException:
        pool.terminate()
        raise


def _settings(timeout_s: float) -> dict[str, str]:
    """Return what every connection has to bring, whatever the server's and the role's own settings are."""
    return {
        "statement_timeout": str(int(timeout_s * 1000)),
        # A plan made for any day would open and lock the tables of all days, at every run.
        "plan_cache_mode": "force_custom_plan",
        # Who writes history has to see what was committed since it began: that a number was forgotten, for one.
        "default_transaction_isolation": "read committed",
        # With a statement that fails its values would go into the server's log.
        "log_parameter_max_length_on_error": "0",
    }


def refuse_old_server(major: int) -> None:
    """Raise ConfigurationError for a PostgreSQL below the floor."""
    if major < FLOOR_MAJOR_VERSION:
        raise ConfigurationError(f"database.url: PostgreSQL {FLOOR_MAJOR_VERSION} or later is needed, this is {major}")


def start_fault(error: Exception) -> ConfigurationError:
    """Say why PostgreSQL cannot be used, without repeating any part of its address."""
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            reason = "the server refuses this user or password"
        case asyncpg.InvalidCatalogNameError():
            reason = "the server has no database of this name"
        case asyncpg.TooManyConnectionsError():
            reason = "the server has no connection left"
        case asyncpg.CannotConnectNowError():
            reason = "the server is starting up or shutting down; try again shortly"
        case asyncpg.ProtocolViolationError():
            settings = ", ".join((*_settings(0), conditions.COMMIT))
            reason = f"refused, as by a PgBouncer: it needs ignore_startup_parameters = {settings}"
        case TimeoutError():
            reason = "the server does not answer in time"
        case ConnectionRefusedError() | FileNotFoundError():
            reason = "nothing listens at its address; is PostgreSQL running?"
        case OSError():
            reason = "its address cannot be reached"
        case ValueError() | asyncpg.InterfaceError():
            reason = "the address is not of the form postgresql://user:password@host:port/name"
        case _:
            reason = f"the driver reports {type(error).__name__}"
    return ConfigurationError(f"database.url: {reason}")
