"""The stand on which everything is measured: stores of its own, a client with a key, the server in its own process.

Everything is made new in a temporary directory and gone at the end, whatever happens in between. Never point this at
stores that somebody uses: it empties them.
"""

import asyncio
import contextlib
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import redis

from otpsvc.app import client_service
from otpsvc.app_stores import keyring_of, open_database_of
from otpsvc.clients.model import Mode
from otpsvc.embedded import start_stores
from otpsvc.messages.model import Content
from otpsvc.otp.service import CHANNEL
from otpsvc.postgres.migrate import migrate
from otpsvc.redis.keys import Keys
from otpsvc.settings import Settings, load

_ROOT = Path(__file__).resolve().parent.parent
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_MODE: Mode = "live"
_AT_ONCE = 500
# A round leaves its messages queued, as no worker runs here: room for the fastest machine's longest round.
_QUEUE_LIMIT = 1_000_000


class StandError(Exception):
    """The stand could not be set up."""


class _Sent(msgspec.Struct):
    """What is needed of the answer to a send."""

    otp_id: str
    message_id: str


class Stand:
    """What a measurement needs: the server's port, the caller's headers, and both processes' clocks."""

    def __init__(self, port: int, settings: Settings, store: redis.Redis, client_id: str, api_key: str) -> None:
        self.port = port
        self.headers = f"Host: bench\r\nX-API-Key: {api_key}\r\nX-Client-ID: {client_id}\r\n"
        self._client_id = client_id
        self._store = store
        self._keyring = keyring_of(settings)
        (self._partition,) = Keys(settings.redis.prefix, settings.redis.partitions).partitions

    def empty_store(self) -> None:
        """Take every round back to the same start."""
        self._store.flushdb()

    def store_info(self) -> dict[str, float]:
        """Give the store's own clock and counters: `cpu_s`, and `reads`, the times it read from a connection."""
        info = self._store.info("everything")
        return {
            "cpu_s": info["used_cpu_user"] + info["used_cpu_sys"],
            "reads": info["total_reads_processed"],
        }

    def store_version(self) -> str:
        """Name the store."""
        return f"Valkey {self._store.info('server')['valkey_version']}"

    def codes_of(self, answers: Sequence[bytes]) -> list[tuple[str, str]]:
        """Give (OTP id, code) for each answer to a send, by opening the queued messages as a worker would.

        The server's answers hold no code and nothing in it was changed: whoever has the keyring and the store can
        read what waits for delivery.
        """
        found: list[tuple[str, str]] = []
        for start in range(0, len(answers), _AT_ONCE):
            sent = [msgspec.json.decode(answer, type=_Sent) for answer in answers[start : start + _AT_ONCE]]
            sealed_texts = self._store.mget([self._partition.sealed_base + one.message_id for one in sent])
            for one, sealed in zip(sent, sealed_texts, strict=True):
                if not isinstance(sealed, bytes):
                    raise StandError("a message that was accepted is not queued")
                plain = self._keyring.unseal(
                    sealed,
                    record_id=one.message_id,
                    count=0,
                    bound_to=(self._client_id, _MODE, one.message_id, CHANNEL),
                )
                code = re.match(r"\d+", msgspec.msgpack.decode(plain, type=Content).text)
                if code is None:
                    raise StandError("a default text does not begin with its code")
                found.append((one.otp_id, code[0]))
        return found


@contextlib.contextmanager
def open_stand() -> Iterator[Stand]:
    """Set everything up, and end all of it; raises StandError, EmbeddedError, ConfigurationError."""
    with tempfile.TemporaryDirectory(prefix="otpsvc-bench-") as folder, contextlib.ExitStack() as stack:
        stores = stack.enter_context(start_stores(Path(folder) / "data"))
        config = Path(folder) / "otpsvc.toml"
        config.touch()
        given = {
            "OTPSVC_CONFIG": str(config),
            "OTPSVC_REDIS_URL": stores.redis_url,
            "OTPSVC_DATABASE_URL": stores.database_url,
            "OTPSVC_KEYS_MASTERS": f"bench:{secrets.token_hex(32)}",
            "OTPSVC_LIMITS_QUEUE_LIMIT": str(_QUEUE_LIMIT),
        }
        settings = load(config, given)
        client_id, api_key = asyncio.run(_new_client(settings))
        port = stack.enter_context(_running_server(given))
        store = stack.enter_context(contextlib.closing(redis.Redis.from_url(stores.redis_url)))
        yield Stand(port, settings, store, client_id, api_key)


async def _new_client(settings: Settings) -> tuple[str, str]:
    await migrate(settings.database.url.reveal())
    async with open_database_of(settings) as database:
        clients = await client_service(settings, database)
        client = await clients.create_client("bench")
        return client.id, (await clients.create_key(client.id, mode=_MODE)).text


@contextlib.contextmanager
def _running_server(given: dict[str, str]) -> Iterator[int]:
    """Run the server under test; give its port."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTPSVC_")}
    environ |= {"PYTHONPATH": str(_ROOT), "OTPSVC_PARENT_PID": str(os.getpid()), **given}
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.server"], env=environ, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        ready, _, _ = select.select([server.stdout], [], [], _START_TIMEOUT_S)
        line = server.stdout.readline().strip() if ready else b""
        if not line.isdigit():
            raise StandError("the server under test did not start")
        yield int(line)
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdout is not None:
        server.stdout.close()
