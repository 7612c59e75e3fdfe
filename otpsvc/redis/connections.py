"""The way to the store: from `redis.url` to pools of connections on which no wait is without an end."""

import asyncio
from typing import Any

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from otpsvc.errors import ConfigurationError
from otpsvc.redis.outages import is_from_replica
from otpsvc.redis.sentinel import (
    SCHEMES,
    PrimaryConnection,
    PrimaryTlsConnection,
    Sentinels,
    parse_sentinel_url,
)

MAX_CONNECTIONS = 1024  # of one pool; what limits them is the number of lanes, and of partitions that are waited on


class BoundedPool(ConnectionPool):
    """Connections that are made within `timeout_s`, name lookup, greeting and all."""

    def __init__(self, *, timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._timeout_s = timeout_s

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect if need be; raises the library's RedisError."""
        if await self._is_usable(connection):
            return
        is_ready = False
        await connection.disconnect(nowait=True)
        try:
            async with asyncio.timeout(self._timeout_s):
                await super().ensure_connection(connection)
            is_ready = True
        except TimeoutError:
            raise RedisTimeoutError("not connected in time") from None
        finally:
            if not is_ready:
                # Half a greeting must not pass for a connection the next time.
                await connection.disconnect(nowait=True)

    async def acquire(self) -> AbstractConnection:
        """Take a connection that is ready; it must be given to `release`. Raises the library's RedisError."""
        connection: AbstractConnection = await self.get_connection()  # type: ignore[no-untyped-call]  # the library's
        return connection

    async def execute(self, *command: str | bytes | int) -> Any:
        """Run one command on a connection of its own; raises the library's RedisError."""
        connection = await self.acquire()
        is_in_step = False
        try:
            packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says a tuple of one
            await connection.send_packed_command(packed, check_health=False)
            reply = await connection.read_response(disconnect_on_error=False)
        except (ResponseError, BusyLoadingError) as error:
            is_in_step = not is_from_replica(error)
            raise
        else:
            is_in_step = True
            return reply
        finally:
            # A reply that nobody waits for any more must not be read by the next; a replica must not be kept.
            if not is_in_step:
                await connection.disconnect(nowait=True)
            await self.release(connection)

    async def _is_usable(self, connection: AbstractConnection) -> bool:
        """Say whether it is open, with nothing left to read, and not to a server that was the primary before.

        That one may be mute without being gone: whoever used it would wait in vain.
        """
        if not connection.is_connected or (isinstance(connection, PrimaryConnection) and not connection.is_to_latest):
            return False
        try:
            return not await connection.can_read()
        except RedisError:
            return False


class StoreAddress:
    """One `redis.url`, from which pools are made. They know together where the primary is."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Read the address; raises ConfigurationError."""
        self._timeout_s = timeout_s
        self._sentinels: Sentinels | None = None
        ours: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
        }
        if url.partition(":")[0] in SCHEMES:
            parsed = parse_sentinel_url(url)
            self._sentinels = Sentinels(parsed, timeout_s=timeout_s, options=ours)
            is_tls = parsed.options.get("connection_class") is SSLConnection
            self._options = parsed.options | {
                "connection_class": PrimaryTlsConnection if is_tls else PrimaryConnection,
                "sentinels": self._sentinels,
            }
        else:
            try:
                self._options = dict(parse_url(url))
            except ValueError:
                # The library's words can hold a part of the address, and that can be the password.
                raise ConfigurationError("redis.url: this is no address of the form redis://host:6379/0") from None
        self._options |= ours | {"max_connections": MAX_CONNECTIONS}
        if self._options.get("connection_class") is not UnixDomainSocketConnection:
            self._options["socket_keepalive"] = True
        self._refuse_unknown_options()

    def pool(self, *, is_for_waiting: bool = False) -> BoundedPool:
        """Make a pool; `is_for_waiting` sets no bound to reading, because a blocking command has its own."""
        options = self._options | ({"socket_timeout": None} if is_for_waiting else {})
        return BoundedPool(timeout_s=self._timeout_s, **options)

    async def close(self) -> None:
        """End the connections to the sentinels, if there are any."""
        if self._sentinels is not None:
            await self._sentinels.close()

    def _refuse_unknown_options(self) -> None:
        try:
            self.pool().make_connection()  # type: ignore[no-untyped-call]  # the library's
        except (TypeError, ValueError, RedisError):
            raise ConfigurationError("redis.url: an option behind its ? is not known, or has no good value") from None
