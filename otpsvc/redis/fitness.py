"""Whether a server can keep the rules: looked at once at start. What would do wrong later is refused in one line."""

import logging
from typing import Any

from redis.asyncio.client import Redis
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from otpsvc.errors import ConfigurationError
from otpsvc.redis.durability import Durability

log = logging.getLogger(__name__)

_MINIMUM = {"redis": (7, 0), "valkey": (7, 2)}
_ASK_WHO_IS_PRIMARY = "return redis.pcall('INFO', 'replication')"


async def check_fitness(
    server: Redis, *, needs_append_only: bool, is_fenced: bool, durability: Durability | None
) -> None:
    """Raise ConfigurationError for a server that cannot keep the rules, the library's RedisError if it is away."""
    # A managed server may forbid CONFIG: then its INFO alone must say that it does not evict.
    info = await server.info()
    product = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{product}_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM[product]:
        least = ".".join(map(str, _MINIMUM[product]))
        raise ConfigurationError(f"redis.url: {product} {version} is too old, {least} is the oldest that works")
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled"):
        raise ConfigurationError("redis.url: Redis Cluster is not supported yet; use a single node")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        raise ConfigurationError(
            f"redis.url: maxmemory-policy is {policy}, which would forget attempts and limits; set noeviction"
        )
    if needs_append_only and not info.get("aof_enabled"):
        raise ConfigurationError(
            "redis.url: the append-only file is off, so that a restart would hand back attempts and used codes: "
            'set appendonly yes, or redis.persistence = "unchecked" if the server keeps its writes otherwise'
        )
    replicas = info.get("connected_slaves", 0)
    if replicas and not is_fenced:
        log.warning("the store has %s replicas: a promotion can hand back attempts (SECURITY.md)", replicas)
    if is_fenced:
        await _check_fence(server)
    if durability is not None:
        await _check_durability(server, info, durability)
        if replicas < durability.replicas:
            log.warning("the store has %s replicas: no code goes out until %s do", replicas, durability.replicas)


async def _check_fence(server: Redis) -> None:
    try:
        told: Any = await server.eval(_ASK_WHO_IS_PRIMARY, 0)
    except (RedisConnectionError, BusyLoadingError):
        raise
    except ResponseError as error:
        raise ConfigurationError(
            "redis.fence: a script may not run INFO, which tells one primary from another: "
            'allow it to our user, or set redis.fence = "off" where no replica can be promoted'
        ) from error
    if b"master_replid:" not in told:
        raise ConfigurationError(
            'redis.fence: the server gives its primary no id (master_replid): set redis.fence = "off"'
        )


async def _check_durability(server: Redis, info: dict[str, Any], durability: Durability) -> None:
    if not info.get("aof_enabled"):
        raise ConfigurationError("redis.durable_send: the append-only file is off, set appendonly yes")
    try:
        await server.waitaof(1, durability.replicas, 1)
    except (RedisConnectionError, BusyLoadingError):
        raise
    except ResponseError as error:
        raise ConfigurationError(
            "redis.durable_send: the server has no WAITAOF, which came with Redis 7.2, or our user may not run it"
        ) from error
