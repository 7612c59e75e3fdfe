"""How a batch of calls waits until what it wrote is on disk: one wait for all of them (`redis.durable_send`)."""

from dataclasses import dataclass

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from otpsvc.redis.outages import NotKeptError

_BARRIER_LIFE_MS = "60000"


@dataclass(frozen=True)
class Durability:
    """What to wait for: the append-only files of the server itself and of `replicas` others, at most `timeout_s`.

    A server that writes its file to disk once a second keeps everyone waiting for up to that second; a replica tells
    only once a second how far its file is, whatever it does with it. So a few seconds is the least that makes sense.
    """

    replicas: int
    timeout_s: float


class Barrier:
    """The commands that end a durable batch, and the reading of their answers.

    Waiting alone would not do. The server looks at the last write of the connection that waits, and a batch of repeated
    calls writes nothing: they would be told that a code is safe which another connection wrote a moment ago. So the
    batch ends with a write of its own, on the same connection: whatever any of its calls wrote or found lies before it.
    """

    def __init__(self, key: str, durability: Durability, *, timeout_s: float) -> None:
        self._durability = durability
        # The server ends the wait itself; its answer then has as long to arrive as any other.
        self._read_timeout_s = durability.timeout_s + timeout_s
        # A wait of nought would be one without end.
        wait_ms = max(1, int(durability.timeout_s * 1000))
        write = hiredis.pack_command(("SET", key, "", "PX", _BARRIER_LIFE_MS))  # type: ignore[arg-type]  # as below
        wait = hiredis.pack_command(("WAITAOF", 1, durability.replicas, wait_ms))  # type: ignore[arg-type]  # its stub says a tuple of one
        self.packed = (write, wait)

    async def passed(self, connection: AbstractConnection) -> None:
        """Read both answers; raises NotKeptError if too few files hold the batch, or another RedisError."""
        try:
            await connection.read_response(disconnect_on_error=False)
            kept = await connection.read_response(timeout=self._read_timeout_s, disconnect_on_error=False)
        except (ResponseError, BusyLoadingError) as error:
            raise NotKeptError("the batch could not be waited for") from error
        if kept is None:
            raise RedisTimeoutError("the wait for the disk did not end in time")
        local, replicas = kept
        if local < 1 or replicas < self._durability.replicas:
            raise NotKeptError(f"kept by {local} and {replicas} replicas")
