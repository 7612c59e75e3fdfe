"""Wake-ups between processes: one channel of the store, one connection per process, and a short list per listener.

A call may be lost, and is only ever a reason to look: what there is to do stands in the store. So nothing here is
remembered for a process that is away, and whoever listens is told to look when the connection is back.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from otpsvc.redis.client import RedisClient
from otpsvc.redis.connections import BoundedPool, StoreAddress
from otpsvc.redis.keys import Keys

ENQUEUED = "enqueued"
MOST_WAITING = 100  # words for one listener; of more, the oldest are lost
MOST_LETTERS = 100  # of one word
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_PING_EVERY_S = 5.0

_log = logging.getLogger(__name__)


class _Listener(AsyncIterator[str]):
    """What one stream has not heard yet. The same word twice is said once; without end, until it is closed.

    `group` holds all that listen for the same device. Nobody but they hold it, so it goes with the last of them.
    """

    def __init__(self, group: "WeakSet[_Listener]") -> None:
        self._group = group
        group.add(self)
        self._words: deque[str] = deque(maxlen=MOST_WAITING)
        self._news = asyncio.Event()
        self._is_closed = False

    def tell(self, word: str) -> None:
        if word not in self._words:
            if len(self._words) == MOST_WAITING:
                self._make_room()
            self._words.append(word)
        self._news.set()

    async def __anext__(self) -> str:
        while not self._words and not self._is_closed:
            self._news.clear()
            await self._news.wait()
        if self._is_closed:
            raise StopAsyncIteration
        return self._words.popleft()

    async def aclose(self) -> None:
        """End: whoever waits is let go."""
        self._is_closed = True
        self._group.discard(self)
        self._news.set()

    def _make_room(self) -> None:
        """Drop the oldest that is about a single message: the others are few, and all of them matter."""
        oldest = next((word for word in self._words if " " in word), self._words[0])
        self._words.remove(oldest)


class RedisCalls:
    """Implements `devices.ports.Calls`. Listeners hear nothing unless `run` is under way.

    `url` and `timeout_s` are those of the store. Raises ConfigurationError for an address that is none.
    """

    def __init__(self, client: RedisClient, keys: Keys, *, url: str, timeout_s: float) -> None:
        self._client = client
        self._channel = keys.device_calls
        self._timeout_s = timeout_s
        self._address = StoreAddress(url, timeout_s=timeout_s)
        self._groups: WeakValueDictionary[str, WeakSet[_Listener]] = WeakValueDictionary()
        self._is_away = False

    def listen(self, device_id: str) -> AsyncIterator[str]:
        """Hear from now on what is called to a device (`Calls.listen`).

        One that is dropped, or closed with `aclose`, hears no more.
        """
        return _Listener(self._groups.setdefault(device_id, WeakSet()))

    async def call(self, device_id: str, what: str) -> None:
        """Publish a word to all processes; raises ApiError SERVICE_UNAVAILABLE."""
        await self._client.command("PUBLISH", self._channel, f"{device_id} {what}")

    async def run(self, stop: asyncio.Event) -> None:
        """Hand calls to the listeners of this process until `stop` is set; a lost connection is made anew."""
        working = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            with contextlib.suppress(RedisError, OSError):
                await self._address.close()
        if not working.cancelled():
            working.result()

    async def _work(self) -> None:
        pool = self._address.pool(is_for_waiting=True)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._hear(pool)
            except (RedisError, OSError) as error:
                if not self._is_away:
                    pause_s = _FIRST_PAUSE_S
                    _log.warning("phones are not called: the connection was lost (%s)", type(error).__name__)
                self._is_away = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    async def _hear(self, pool: BoundedPool) -> None:
        """Subscribe over a new connection and hand on what comes, until the connection is lost."""
        connection = await pool.acquire()
        try:
            await connection.send_command("SUBSCRIBE", self._channel, check_health=False)
            while True:
                told = await self._next(connection)
                if told[0] == b"message":
                    self._hand_on(told[2])
                elif told[0] == b"subscribe":
                    self._begin()
        finally:
            await connection.disconnect(nowait=True)
            await pool.release(connection)

    async def _next(self, connection: AbstractConnection) -> Any:
        """Wait for what is told next; a server that says nothing for a while is asked whether it is there."""
        told = await connection.read_response(timeout=_PING_EVERY_S, disconnect_on_error=False)
        if told is None:
            await connection.send_command("PING", check_health=False)
            told = await connection.read_response(timeout=self._timeout_s, disconnect_on_error=False)
        if told is None:
            raise RedisConnectionError("the server does not answer")
        return told

    def _begin(self) -> None:
        if self._is_away:
            _log.warning("phones are called again")
        self._is_away = False
        # Whatever was called before is lost.
        for group in list(self._groups.values()):
            _tell(group, ENQUEUED)

    def _hand_on(self, payload: bytes) -> None:
        device_id, _, word = payload.decode(errors="replace").partition(" ")
        group = self._groups.get(device_id)
        if group is not None and 0 < len(word) <= MOST_LETTERS:
            _tell(group, word)


def _tell(group: "WeakSet[_Listener]", word: str) -> None:
    for listener in list(group):
        listener.tell(word)
