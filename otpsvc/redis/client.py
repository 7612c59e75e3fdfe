"""The store as a client sees it: scripts and commands, tried again where that is safe, one translation of errors.

Every script decides under an operation's own id, so that running it again after a lost connection is harmless: the
second run finds the first one's work and gives its answer. That is why, and the only reason why, this client retries.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from redis.asyncio.client import Redis
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from otpsvc.errors import ApiError, ConfigurationError, problem
from otpsvc.redis.batches import Batches, Value
from otpsvc.redis.connections import StoreAddress
from otpsvc.redis.durability import Barrier, Durability
from otpsvc.redis.fitness import check_fitness
from otpsvc.redis.outages import Outages, kind_of, refusal_word
from otpsvc.redis.scripts import Script, load
from otpsvc.redis.sentinel import is_refusal

_RETRY_WITHIN_S = 0.2
_RETRY_PAUSE_S = 0.02
_Reply = TypeVar("_Reply")


class RedisClient:
    """A few connections to one primary and the scripts run over them.

    `max_connections` is how many batches may be under way; `timeout_s` bounds connecting, sending and each reply.
    `durable` makes the calls that ask for it wait for the disk, on lanes of their own; `barrier_key` is a name that
    these may write to. `on_outage` gets one word for each call that the store failed: `refused`, `timeout`, `not_kept`
    or `lost`.

    Raises ConfigurationError for an address that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        max_connections: int,
        durable: Durability | None = None,
        barrier_key: str = "",
        on_outage: Callable[[str], None] | None = None,
    ) -> None:
        if durable is not None and not barrier_key:
            raise ValueError("durable calls need a barrier_key")
        self._timeout_s = timeout_s
        self._barrier_key = barrier_key
        self._durability = durable
        self._address = StoreAddress(url, timeout_s=timeout_s)
        self._pool = self._address.pool()
        # A blocking command waits for longer than any answer may take.
        self._waiting_pool = self._address.pool(is_for_waiting=True)
        self._redis = Redis(connection_pool=self._pool)
        self._batches = Batches(self._pool, lanes=max_connections, timeout_s=timeout_s)
        self._durable_batches = self._batches
        if durable is not None:
            self._durable_batches = Batches(
                self._pool,
                lanes=max_connections,
                timeout_s=timeout_s + durable.timeout_s,
                barrier=Barrier(barrier_key, durable, timeout_s=timeout_s),
            )
        self._outages = Outages(on_outage)

    async def close(self) -> None:
        """Let the commands under way end, then close every connection."""
        await self._batches.close()
        await self._durable_batches.close()
        for pool in (self._pool, self._waiting_pool, self._address):
            # One that does not close in time is closed all the same.
            with contextlib.suppress(RedisError, OSError):
                await (pool.close() if isinstance(pool, StoreAddress) else pool.disconnect())

    async def check_server(self, *, needs_append_only: bool = True, is_fenced: bool = False) -> None:
        """Refuse a server that cannot keep the rules; raises ConfigurationError, or ApiError if it is out of reach.

        `needs_append_only` wants the append-only file: without it a restart hands back attempts and used codes.
        `is_fenced` wants scripts to see which primary they run on.
        """
        try:
            await check_fitness(
                self._redis, needs_append_only=needs_append_only, is_fenced=is_fenced, durability=self._durability
            )
        except RedisError as error:
            cause: BaseException | None = error
            while cause is not None:
                if is_refusal(cause) and not refusal_word(cause):
                    raise ConfigurationError(f"redis.url: the server refuses us: {cause}") from error
                cause = cause.__cause__
            # Whoever starts says it himself, in one line.
            raise problem("SERVICE_UNAVAILABLE", reason=f"store_{kind_of(error)}") from error

    async def ping(self) -> None:
        """Return if the server answers and takes writes; raises ApiError SERVICE_UNAVAILABLE.

        A replica, a full server and one that cannot keep what it is told answer a PING as well as any.
        """
        # Refused wherever a write is. Of nothing it makes no key, and nothing goes to a file or a replica.
        await self.command("SETRANGE", self._barrier_key, 0, "")

    async def pop_token(self, name: str, timeout_s: float) -> bool:
        """Wait on a list for up to `timeout_s`; say whether a token came. Raises ApiError SERVICE_UNAVAILABLE."""
        wait_s = max(timeout_s, 0.001)  # nought would be for ever
        return await self.waiting_command("BLPOP", name, f"{wait_s:.3f}", timeout_s=wait_s) is not None

    async def command(self, *parts: Value, is_repeatable: bool = True) -> Any:
        """Run one command that does not block; give its reply as it comes, texts as bytes.

        Is tried again as a script is. Raises ApiError SERVICE_UNAVAILABLE, the library's ResponseError for a command
        that the server does not take.
        """
        return await self._decided(lambda: self._batches.execute(*parts), is_repeatable=is_repeatable)

    async def waiting_command(self, *parts: Value, timeout_s: float) -> Any:
        """Run one command that blocks for up to `timeout_s` by its own words, on a connection of its own.

        It is not tried again once its answer is lost: what it took from a list or a stream is gone with it. Raises as
        `command` does.
        """

        async def wait() -> Any:
            try:
                async with asyncio.timeout(timeout_s + self._timeout_s):
                    return await self._waiting_pool.execute(*parts)
            except TimeoutError:
                raise RedisTimeoutError("the wait did not end in time") from None

        return await self._decided(wait, is_repeatable=False)

    async def run(
        self,
        name: str,
        keys: Mapping[str, str],
        args: Mapping[str, Value],
        *,
        is_repeatable: bool = True,
        is_durable: bool = False,
    ) -> tuple[str, list[Any]]:
        """Run a script by name with its KEYS and ARGV by name; give its status and the values behind it.

        `is_repeatable` False leaves a lost connection to the caller, who has to know that the answer was lost.
        `is_durable` answers only when what the script wrote or found is kept, if this client was made to wait for that;
        a call that is refused because it is not kept may have been done.

        Raises ApiError SERVICE_UNAVAILABLE when the store cannot decide, KeyError for an input that is not given.
        """
        script = load(name)
        if len(keys) != len(script.keys) or len(args) != len(script.args):
            raise KeyError(f"{name} takes {script.keys} and {script.args}")
        inputs = [*(keys[key] for key in script.keys), *(args[arg] for arg in script.args)]
        batches = self._durable_batches if is_durable else self._batches
        reply = await self._decided(lambda: _evaluate(batches, script, inputs), is_repeatable=is_repeatable)
        return reply[0].decode(), reply[1:]

    async def _decided(self, call: Callable[[], Awaitable[_Reply]], *, is_repeatable: bool) -> _Reply:
        """Make a call until the store decides it, as long and as often as that is safe."""
        deadline = asyncio.get_running_loop().time() + _RETRY_WITHIN_S
        is_second_try = False
        while True:
            try:
                reply = await call()
            except (ResponseError, BusyLoadingError) as error:
                # On a broken contract nobody retries.
                if refusal_word(error) is None:
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise self._unavailable(error) from error
                await asyncio.sleep(_RETRY_PAUSE_S)
            except RedisConnectionError as error:
                if is_second_try or not is_repeatable:
                    raise self._unavailable(error) from error
                is_second_try = True
            except (RedisError, OSError) as error:
                raise self._unavailable(error) from error
            else:
                self._outages.succeeded()
                return reply

    def _unavailable(self, error: Exception) -> ApiError:
        kind = self._outages.failed(error)
        return problem("SERVICE_UNAVAILABLE", reason=f"store_{kind}")


async def _evaluate(batches: Batches, script: Script, inputs: list[Value]) -> list[Any]:
    try:
        reply = await batches.execute("EVALSHA", script.sha, len(script.keys), *inputs)
    except NoScriptError:
        reply = await batches.execute("EVAL", script.text, len(script.keys), *inputs)
    return list(reply)
