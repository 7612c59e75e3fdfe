"""News of API keys: PostgreSQL tells every process at once when a key or a client was changed.

One connection per process, outside the pool, does nothing but LISTEN; triggers send the notices (migration 0003). A
notice may be lost while that connection is down, so every time it is made anew the reader takes all it knows for stale.
News only makes keys stop or change sooner: without it (PostgreSQL away, or a pooler in transaction mode, which passes
no notices on) everything is still looked up again after 30 s. So nothing here may ever stop the process, hold it up, or
decide about a key.
"""

import asyncio
import contextlib
import logging
import random

import asyncpg

from otpsvc import faults
from otpsvc.clients.ports import KeyNewsReader
from otpsvc.postgres import queries
from otpsvc.postgres.pool import START_FAILURES

CHANNEL = "otpsvc_keys"
CHECK_EVERY_S = 5.0
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
CLOSE_TIMEOUT_S = 1.0

_log = logging.getLogger(__name__)
_queries = queries.load("listen")


class _NewsStopped(Exception):
    """The connection is gone, or is one on which no notice can arrive."""


class KeyNews:
    """Passes the news on to one reader. `timeout_s` bounds the connect and each question."""

    def __init__(
        self, url: str, reader: KeyNewsReader, *, timeout_s: float = 5.0, check_every_s: float = CHECK_EVERY_S
    ) -> None:
        self._url = url
        self._reader = reader
        self._timeout_s = timeout_s
        self._check_every_s = check_every_s
        self._pause_s = FIRST_PAUSE_S
        self._is_out = False

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop` is set, over any number of lost connections. Raises nothing."""
        listening = asyncio.create_task(self._keep_listening(), name="key news")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({listening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            stopping.cancel()
            await asyncio.gather(listening, stopping, return_exceptions=True)

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except (_NewsStopped, *START_FAILURES) as error:
                self._note_outage(str(error) if isinstance(error, _NewsStopped) else type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever it is, it may not take the process with it
                self._note_outage(faults.described(error))
            await asyncio.sleep(random.uniform(0.5, 1.0) * self._pause_s)  # noqa: S311 - spreads load, guards nothing
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(
            self._url,
            timeout=self._timeout_s,
            command_timeout=self._timeout_s,
            server_settings={"application_name": "otpsvc key news"},
        )
        try:
            is_lost = asyncio.Event()
            connection.add_termination_listener(lambda *_: is_lost.set())
            await connection.add_listener(CHANNEL, self._pass_on)
            await self._check(connection)
            self._reader.invalidate_all()
            self._note_return()
            while not await _happened(is_lost, within_s=self._check_every_s):
                await self._check(connection)
                self._pause_s = FIRST_PAUSE_S
            raise _NewsStopped("the connection was lost")
        finally:
            await _close(connection)

    async def _check(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Find out whether the other end is there and still listens for us: a dead line makes no sound."""
        if not await connection.fetchval(_queries.is_listening.sql, CHANNEL):
            raise _NewsStopped("this address passes no notices on; is it a pooler in transaction mode?")

    def _pass_on(self, _connection: object, _pid: int, _channel: str, notice: object) -> None:
        kind, _, subject = str(notice).partition(" ")
        match kind:
            case "key":
                self._reader.invalidate(subject)
            case "client":
                self._reader.invalidate_client(subject)
            case _:
                # Also what a newer version may send.
                self._reader.invalidate_all()

    def _note_outage(self, reason: str) -> None:
        if not self._is_out:
            _log.warning("no news of API keys (%s): until it is back, changes to them are seen within 30 s", reason)
        self._is_out = True

    def _note_return(self) -> None:
        if self._is_out:
            _log.info("news of API keys is back")
        self._is_out = False


async def _happened(event: asyncio.Event, *, within_s: float) -> bool:
    # Not `wait_for`, which may swallow a cancellation that comes in the moment of the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()


async def _close(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    try:
        await connection.close(timeout=CLOSE_TIMEOUT_S)
    except START_FAILURES:
        connection.terminate()
