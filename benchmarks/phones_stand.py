"""The stand for phones: stores of its own, clients, paired phones, and the service's own commands as processes.

Phones are paired straight in the records, because a hundred passwords take longer to hash than all the rest. Everything
is made new in a temporary directory; every process is ended by its id, whatever happens in between.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from benchmarks.stand import StandError
from otpsvc import ids
from otpsvc.app import House, client_service, open_house
from otpsvc.app_stores import open_database_of, settled_keyring
from otpsvc.devices import tokens
from otpsvc.devices.model import Registration, Sim, Tenant
from otpsvc.devices.policy import Budget
from otpsvc.embedded import RunningStores, start_stores
from otpsvc.postgres.devices import PostgresDevices
from otpsvc.postgres.migrate import migrate
from otpsvc.settings import Settings, load

HOST = "127.0.0.1"
MOST_PER_CLIENT = 200
_ROOT = Path(__file__).resolve().parent.parent
_START_S, _END_S, _LINE_S = 30.0, 15.0, 60.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_AT_ONCE = 8
_MOST_SAID = 8_000_000
_ROOMY = Budget(messages_per_window=10_000, window_s=60, recipients_per_day=100_000)


class PairedPhone(NamedTuple):
    """A phone that has registered: what its client must know."""

    id: str
    token: str


class Caller(NamedTuple):
    """A client of the service with a live key."""

    client_id: str
    api_key: str

    @property
    def headers(self) -> dict[str, str]:
        """What each of its calls shows."""
        return {"X-API-Key": self.api_key, "X-Client-ID": self.client_id}


class Program:
    """A Python process of ours; use as `with`. What it says goes to a file, so that no pipe ever fills."""

    def __init__(self, *arguments: str, variables: Mapping[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OTPSVC_") and name != "PORT"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._read_to = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=kept | {"PYTHONPATH": str(_ROOT), "OTPSVC_PARENT_PID": str(os.getpid())} | dict(variables),
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )

    @property
    def cpu_s(self) -> float:
        """What it has spent so far."""
        return cpu_s(self._process.pid)

    @property
    def resident_kb(self) -> int:
        """How much of its memory is in use."""
        status = (Path("/proc") / str(self._process.pid) / "status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def tell(self, fact: object) -> None:
        """Give it one line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(fact) + b"\n")
        self._process.stdin.flush()

    def heard(self, words: str, timeout_s: float = _LINE_S) -> str:
        """Wait for the next line with these words and return it; raises StandError."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            said = os.pread(self._said.fileno(), _MOST_SAID, self._read_to)
            for line in said.splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self._read_to += len(line)
                    if words.encode() in line:
                        return line.decode()
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                last = os.pread(self._said.fileno(), _MOST_SAID, 0)[-2000:].decode(errors="replace")
                raise StandError(f"a process never said {words!r}, but: {last}")
            time.sleep(0.01)

    def end(self) -> None:
        """End it in any case."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class PhoneStand:
    """Stores, settings, and ways to make clients, phones and processes."""

    def __init__(self, stores: RunningStores, given: Mapping[str, str], settings: Settings) -> None:
        self.stores = stores
        self.settings = settings
        self._given = dict(given)

    def program(self, *arguments: str, **variables: str) -> Program:
        """Start `python -m …` with the stand's settings; use as `with`."""
        return Program(*arguments, variables=self._given | variables)

    def served(self, port: int) -> Program:
        """Start `otpsvc serve` and wait until it listens; use as `with`."""
        program = self.program("otpsvc", "serve", "--port", str(port))
        try:
            program.heard("otpsvc serves on", _START_S)
        except BaseException:
            program.end()
            raise
        return program

    @contextlib.asynccontextmanager
    async def house(self) -> AsyncIterator[House]:
        """Open the service's own parts in this process."""
        async with open_house(self.settings) as house:
            yield house

    async def caller(self) -> Caller:
        """Make a client without a cooldown, and a key."""
        async with open_database_of(self.settings) as database:
            clients = await client_service(self.settings, database)
            client = await clients.create_client("bench", {"cooldown_s": 0})
            return Caller(client.id, (await clients.create_key(client.id, mode="live")).text)

    async def phones(self, client_id: str, count: int) -> list[PairedPhone]:
        """Pair phones of one client, active and with a wide budget."""
        async with open_database_of(self.settings) as database:
            keyring = await settled_keyring(self.settings, database)
            records = PostgresDevices(database)

            async def pair(name: str) -> PairedPhone:
                until = datetime.now(UTC) + timedelta(hours=1)
                login, device_id = f"phone-{secrets.token_hex(8)}", ids.new_device_id()
                tenant, token = Tenant(client_id, "live"), tokens.new_token(device_id, keyring)
                await records.insert_pairing(
                    login=login,
                    tenant=tenant,
                    password_hash="bench",  # noqa: S106 - nobody ever registers with it
                    code_tag=secrets.token_bytes(32),
                    code_expires_at=until,
                    expires_at=until,
                    is_confirmed_by_itself=True,
                )
                account = await records.account(login)
                registration = Registration(name=name, sims=(Sim(slot=0, number=1),))
                device = account and await records.register(
                    account,
                    device_id,
                    registration,
                    token_tag=token.tag,
                    auth_key_id=token.auth_key_id,
                    most_per_client=MOST_PER_CLIENT,
                    password_hash=None,
                )
                if device is None:
                    raise StandError("a phone could not be paired")
                await records.set_budget(tenant, device_id, _ROOMY)
                return PairedPhone(device_id, token.text)

            found: list[PairedPhone] = []
            for start in range(0, count, _AT_ONCE):
                names = [f"phone {number}" for number in range(start, min(start + _AT_ONCE, count))]
                found += await asyncio.gather(*(pair(name) for name in names))
            return found


@contextlib.contextmanager
def open_phone_stand() -> Iterator[PhoneStand]:
    """Set stores and settings up, and end all of it; raises StandError, EmbeddedError, ConfigurationError."""
    with tempfile.TemporaryDirectory(prefix="otpsvc-bench-") as folder:
        config = Path(folder) / "otpsvc.toml"
        config.touch()
        (Path(folder) / "metrics").mkdir()
        with start_stores(Path(folder) / "data") as stores:
            given = {
                "OTPSVC_CONFIG": str(config),
                "OTPSVC_REDIS_URL": stores.redis_url,
                "OTPSVC_DATABASE_URL": stores.database_url,
                "OTPSVC_KEYS_MASTERS": f"bench:{secrets.token_hex(32)}",
                "OTPSVC_METRICS_DIRECTORY": str(Path(folder) / "metrics"),
                "OTPSVC_DELIVERY_SENDERS": "phones",
                "OTPSVC_LOG_FORMAT": "text",
            }
            settings = load(config, given)
            asyncio.run(migrate(settings.database.url.reveal()))
            yield PhoneStand(stores, given, settings)


def cpu_s(pid: int) -> float:
    """Give the CPU time of a process, its ended children included, in seconds; 0 where it is gone."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) * _TICK_S


def cpu_with_children_s(pid: int) -> float:
    """Give the CPU time of a process and of those that it started and that still run."""
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                children += [int(entry.name)] if int(_stat(int(entry.name))[1]) == pid else []
    return cpu_s(pid) + sum(cpu_s(child) for child in children)


def free_port() -> int:
    """Give a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: Any = probe.getsockname()[1]
        return int(port)


def _stat(pid: int) -> list[str]:
    """Give what the kernel says of a process from its state on (proc(5), field 3)."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()
