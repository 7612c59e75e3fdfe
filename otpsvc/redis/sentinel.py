"""Finding the primary where Sentinel decides which server that is.

Nothing here listens for failovers. Every connection asks for the primary when it connects, and refuses a server that
is none; one that is told `READONLY` is dropped by its user. So whatever broke a connection, the next one is right.
"""

import asyncio
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.asyncio.client import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from otpsvc.errors import ConfigurationError

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_DEFAULT_PORT = 26379
_FRESH_S = 0.1  # connections that are made together ask once


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class SentinelUrl(NamedTuple):
    """An address of the form `redis+sentinel://[user:password@]host:port,host:port/<primary's name>?option=value`.

    `options` are the library's for the store, `sentinel_options` those for the sentinels themselves.
    """

    sentinels: tuple[Address, ...]
    name: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Read an address; raises ConfigurationError, which says nothing of what stands in it: that can be a password."""
    try:
        parts = urlsplit(url)
        login, at, hosts = parts.netloc.rpartition("@")
        sentinels = tuple(_address(host) for host in hosts.split(","))
        options: dict[str, Any] = dict(parse_url(f"{SCHEMES[parts.scheme]}://{login}{at}store/?{parts.query}"))
    except (ValueError, KeyError):
        sentinels, options, parts = (), {}, urlsplit("")
    name = unquote(parts.path.strip("/"))
    if not sentinels or not name or "/" in name:
        raise ConfigurationError(
            "redis.url: with Sentinel it has the form redis+sentinel://host:26379,host:26379/<name of the primary>?db=0"
        )
    own = {key: value for key, value in options.items() if key.startswith("ssl_") or key == "connection_class"}
    for key in ("username", "password"):
        if given := options.pop(f"sentinel_{key}", None):
            own[key] = given
    return SentinelUrl(sentinels, name, options, own)


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("no host")
    return Address(parts.hostname, parts.port or _DEFAULT_PORT)


class Sentinels:
    """All sentinels of one primary, and where it was when they were last asked (None before)."""

    def __init__(self, url: SentinelUrl, *, timeout_s: float, options: dict[str, Any]) -> None:
        self._name = url.name
        # Half, so that a sentinel whose machine is gone leaves time to go where the others say.
        self._timeout_s = timeout_s / 2
        self._sentinels = [
            Redis(connection_pool=ConnectionPool(host=host, port=port, **options | url.sentinel_options))
            for host, port in url.sentinels
        ]
        self._lock = asyncio.Lock()
        self._asked_at = 0.0
        self.latest: Address | None = None

    async def primary(self) -> Address:
        """Ask where the primary is; raises the library's ConnectionError if no sentinel knows a living one."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self.latest is None or loop.time() > self._asked_at + _FRESH_S:
                self.latest = await self._search()
                self._asked_at = loop.time()
            return self.latest

    async def close(self) -> None:
        """End the connections to the sentinels."""
        closing = (sentinel.connection_pool.disconnect() for sentinel in self._sentinels)
        await asyncio.gather(*closing, return_exceptions=True)

    async def _search(self) -> Address:
        """Take the newest of what a majority knows: one sentinel that was cut off may still name the primary before.

        Who says nothing is no part of the majority. With fewer that know, all of them are heard first.
        """
        asking = [asyncio.create_task(self._ask(sentinel)) for sentinel in self._sentinels]
        known: list[tuple[int, Address]] = []
        refusals: list[RedisError] = []
        try:
            for asked in asyncio.as_completed(asking):
                answer = await asked
                if isinstance(answer, RedisError):
                    refusals.append(answer)
                else:
                    known.append(answer)
                if len(known) > len(asking) / 2:
                    break
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if known:
            return max(known)[1]
        # A refusal tells more than a sentinel that is not there.
        cause = next((refusal for refusal in refusals if is_refusal(refusal)), refusals[0])
        raise RedisConnectionError("no sentinel knows where the primary is") from cause

    async def _ask(self, sentinel: Redis) -> tuple[int, Address] | RedisError:
        """Give the primary and since which failover it is that; or why that is not known."""
        try:
            async with asyncio.timeout(self._timeout_s):
                state: Any = await sentinel.sentinel_master(self._name, return_responses=True)
        except RedisError as error:
            return error
        except (OSError, TimeoutError) as error:
            return RedisConnectionError(type(error).__name__)
        # That it is down for this sentinel alone (s_down) can be the sentinel's own bad moment: connecting will show.
        if not state["is_master"] or state["is_odown"]:
            return RedisConnectionError("the primary is down")
        return int(state["config-epoch"]), Address(state["ip"], int(state["port"]))


def is_refusal(error: BaseException | None) -> bool:
    """Say whether a server refused us, or what we asked for: then waiting is no cure."""
    # While it connects, the library reports a wrong password as a lost connection.
    return isinstance(error, (AuthenticationError, ResponseError))


class PrimaryConnection(Connection):
    """A connection to whichever server is the primary when it connects."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    @property
    def is_to_latest(self) -> bool:
        """Whether it leads to the server that was the primary when the sentinels were last asked."""
        return (self.host, self.port) == self._sentinels.latest

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.primary()
        await super()._connect()  # type: ignore[no-untyped-call]  # the library's

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Greet the server, and refuse it if it is a replica: the sentinels can be a moment behind."""
        await super().on_connect_check_health(check_health)
        try:
            await self.send_command("HELLO", 2, check_health=False)
            said = await self.read_response()
        except ResponseError:
            return  # who may not ask is still refused by READONLY
        if dict(zip(said[::2], said[1::2], strict=True)).get(b"role", b"master") != b"master":
            raise RedisConnectionError("the server is not the primary any more")


class PrimaryTlsConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""
