"""The connection to Redis or Valkey: time-outs, running scripts, one translation of errors.

Every script decides under an operation's own id, so that running it again after a lost connection is harmless: the
second run finds the first one's work and gives its answer. That is why, and the only reason why, this client retries.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis_asyncio
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from otpsvc.errors import ApiError, ConfigurationError, problem
from otpsvc.redis.batches import Batches, Value
from otpsvc.redis.scripts import Script, load

log = logging.getLogger(__name__)

_MINIMUM = {"redis": (7, 0), "valkey": (7, 2)}
# With these the server says that it ran nothing: the same call may go again (ARCHITECTURE, Redis). The library has a
# class for some and cuts the word off their text; the others come with their word in front.
_NOTHING_RAN = (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
_NOTHING_RAN_WORDS = ("BUSY ", "MISCONF ", "NOREPLICAS ", "UNKILLABLE ", "OOM ", "READONLY ")
_RETRY_WITHIN_S = 0.2
_RETRY_PAUSE_S = 0.02


class RedisClient:
    """A few connections to one server and the scripts run over them.

    `max_connections` is how many batches may be under way; `timeout_s` bounds connecting, sending and each reply.
    """

    def __init__(self, url: str, *, timeout_s: float, max_connections: int) -> None:
        options: dict[str, Any] = {"protocol": 2, "socket_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
        if not url.startswith("unix:"):
            options["socket_connect_timeout"] = timeout_s
            options["socket_keepalive"] = True
        self._timeout_s = timeout_s
        self._pool = ConnectionPool.from_url(url, **options)
        self._batches = Batches(self._pool, lanes=max_connections, timeout_s=timeout_s)
        self._redis = redis_asyncio.Redis(connection_pool=self._pool)
        # A blocking pop waits for longer than any answer may take, so it has connections without a read time-out.
        self._waiting_pool = ConnectionPool.from_url(url, **options | {"socket_timeout": None})
        self._waiting = redis_asyncio.Redis(connection_pool=self._waiting_pool)

    async def close(self) -> None:
        """Let the commands under way end, then close every connection."""
        await self._batches.close()
        for client, pool in ((self._redis, self._pool), (self._waiting, self._waiting_pool)):
            await client.aclose()
            await pool.disconnect()

    async def check_server(self, *, needs_append_only: bool = True) -> None:
        """Refuse a server that cannot keep the rules; raises ConfigurationError, or ApiError if it is out of reach.

        `needs_append_only` wants the append-only file: without it a restart hands back attempts and used codes.
        """
        try:
            info = await self._redis.info()
            # A managed server may forbid CONFIG: then its INFO alone must say that it does not evict.
            policy = info.get("maxmemory_policy", "noeviction")
        except RedisError as error:
            # While it connects, the library reports a wrong password as a lost connection.
            refusals = (AuthenticationError, ResponseError)
            if isinstance(error, refusals) or isinstance(error.__cause__, refusals):
                raise ConfigurationError(f"redis.url: the server refuses us: {error}") from error
            raise _unavailable(error) from error
        product = "valkey" if "valkey_version" in info else "redis"
        version = str(info.get(f"{product}_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM[product]:
            least = ".".join(map(str, _MINIMUM[product]))
            raise ConfigurationError(f"redis.url: {product} {version} is too old, {least} is the oldest that works")
        if info.get("redis_mode") == "cluster" or info.get("cluster_enabled"):
            raise ConfigurationError("redis.url: Redis Cluster is not supported yet; use a single node")
        if policy != "noeviction":
            raise ConfigurationError(
                f"redis.url: maxmemory-policy is {policy}, which would forget attempts and limits; set noeviction"
            )
        if needs_append_only and not info.get("aof_enabled"):
            raise ConfigurationError(
                "redis.url: the append-only file is off, so that a restart would hand back attempts and used codes: "
                'set appendonly yes, or redis.persistence = "unchecked" if the server keeps its writes otherwise'
            )
        if replicas := info.get("connected_slaves"):
            log.warning("the store has %s replicas: a promotion can hand back attempts (SECURITY.md)", replicas)

    async def ping(self) -> None:
        """Return if the server answers; raises ApiError SERVICE_UNAVAILABLE."""
        try:
            await self._batches.execute("PING")
        except RedisError as error:
            raise _unavailable(error) from error

    async def pop_token(self, name: str, timeout_s: float) -> bool:
        """Wait on a list for up to `timeout_s`; say whether a token came. Raises ApiError SERVICE_UNAVAILABLE."""
        try:
            async with asyncio.timeout(timeout_s + self._timeout_s):
                popped = await self._waiting.blpop([name], timeout=max(timeout_s, 0.001))
        except (RedisError, TimeoutError) as error:
            raise _unavailable(error) from error
        return popped is not None

    async def run(
        self, name: str, keys: Mapping[str, str], args: Mapping[str, Value], *, is_repeatable: bool = True
    ) -> tuple[str, list[Any]]:
        """Run a script by name with its KEYS and ARGV by name; give its status and the values behind it.

        `is_repeatable` False leaves a lost connection to the caller, who has to know that the answer was lost.

        Raises ApiError SERVICE_UNAVAILABLE when the store cannot decide, KeyError for an input that is not given.
        """
        script = load(name)
        if len(keys) != len(script.keys) or len(args) != len(script.args):
            raise KeyError(f"{name} takes {script.keys} and {script.args}")
        inputs = [*(keys[key] for key in script.keys), *(args[arg] for arg in script.args)]
        deadline = asyncio.get_running_loop().time() + _RETRY_WITHIN_S
        is_second_try = False
        while True:
            try:
                reply = await self._evaluate(script, inputs)
            except ResponseError as error:
                # Nothing ran: not at all on these answers, and on a broken contract nobody retries.
                if not isinstance(error, _NOTHING_RAN) and not str(error).startswith(_NOTHING_RAN_WORDS):
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise _unavailable(error) from error
                await asyncio.sleep(_RETRY_PAUSE_S)
            except RedisTimeoutError as error:
                raise _unavailable(error) from error
            except RedisConnectionError as error:
                if is_second_try or not is_repeatable:
                    raise _unavailable(error) from error
                is_second_try = True
            else:
                return reply[0].decode(), reply[1:]

    async def _evaluate(self, script: Script, inputs: list[Value]) -> list[Any]:
        try:
            reply = await self._batches.execute("EVALSHA", script.sha, len(script.keys), *inputs)
        except NoScriptError:
            reply = await self._batches.execute("EVAL", script.text, len(script.keys), *inputs)
        return list(reply)


def _unavailable(error: Exception) -> ApiError:
    # The text of a client error can hold what was sent; its kind is enough.
    log.warning("the store did not answer: %s", type(error).__name__)
    return problem("SERVICE_UNAVAILABLE")
