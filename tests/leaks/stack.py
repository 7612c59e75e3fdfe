"""The service as it runs for real, made to talk as much as it can: debug logs, crash dumps, servers that log all.

The ledger and the secrets' own files lie in a folder of their own, `private`, which no search looks into.
"""

import asyncio
import itertools
import json
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from otpsvc.app import client_service
from otpsvc.app_stores import open_database_of
from otpsvc.clients.model import Mode
from otpsvc.embedded import RunningStores, start_stores
from otpsvc.settings import load
from tests.conftest import run_sql
from tests.leaks import gateways as outside
from tests.leaks import phones as own
from tests.leaks.dues import without_dues
from tests.programs import PATIENCE_S, Program, environment, free_port, wait_until

MASTER = "6e1d" * 16
_MODULE = "otpsvc_careless_sender"
_CODE = re.compile(r"\d{6,10}")
# Whatever PostgreSQL could write into its log, it shall write.
_TALKATIVE = {
    "log_statement": "'all'",
    "log_min_duration_statement": "0",
    "log_min_error_statement": "'error'",
    "log_error_verbosity": "'verbose'",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
}


class Shop(NamedTuple):
    """A client: its id and an API key."""

    client_id: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key, "X-Client-ID": self.client_id}


class Answer(NamedTuple):
    """An HTTP answer as it came over the line."""

    call: str
    data: bytes


class Stack:
    """Stores, servers, worker and the ledger of the careless sender."""

    def __init__(
        self, home: Path, private: Path, stores: RunningStores, gateways: outside.Gateways, park: own.Park
    ) -> None:
        self.home, self.private, self.stores, self.gateways, self.park = home, private, stores, gateways, park
        self.answers: list[Answer] = []
        self.keys: list[str] = []
        self._programs: dict[str, Program] = {}
        self._counter = itertools.count(1)
        self._entries: list[dict[str, str]] = []
        self._texts: dict[str, str] = {}
        self._read_to = 0
        self._lock = threading.Lock()
        (private / "masters").touch(mode=0o600)
        (private / "masters").write_text(f"one:{MASTER}")
        self.ledger = private / "ledger.jsonl"
        self._write_settings()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "OTPSVC_CONFIG": str(private / "otpsvc.toml"),
            "OTPSVC_REDIS_URL": stores.redis_url,
            "OTPSVC_DATABASE_URL": stores.database_url,
            "OTPSVC_KEYS_MASTERS_FILE": str(private / "masters"),
            "OTPSVC_HTTP_PORT": str(self.port),
            "OTPSVC_LOG_LEVEL": "debug",
            "OTPSVC_METRICS_DIRECTORY": str(home / "metrics"),
            "PYTHONPATH": str(_install(private)),
            "PYTHONFAULTHANDLER": "1",
            # Below what is searched, with what a crash leaves.
            "TMPDIR": str(self._made(home / "temporary-0")),
        }

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir()
        return folder

    def _write_settings(self) -> None:
        careless = f'type = "careless"\nledger = {json.dumps(str(self.ledger))}\n'
        routes = outside.ROUTES | own.ROUTES
        path = self.private / "otpsvc.toml"
        path.touch(mode=0o600)
        path.write_text(
            "[delivery]\nlease_s = 5\nstep_timeout_s = 1\n"
            f"[senders.first]\nbreaker_failures = 1000\n{careless}[senders.second]\nbreaker_failures = 1000\n{careless}"
            f"{own.SETTINGS}{self.gateways.tables()}"
            '[routes.sms]\nreceipt_timeout_s = 2\n"*" = ["first", "second"]\n'
            + "".join(f"{json.dumps(prefix)} = {json.dumps(names)}\n" for prefix, names in routes.items())
        )

    def start(self, name: str) -> Program:
        """Start `serve` or `worker`, and wait until it is at work."""
        program = Program(name, directory=self._folder(name), variables=self.variables)
        self._programs[name] = program
        program.wait_to_say("otpsvc worker delivers" if name == "worker" else "otpsvc serves on")
        return program

    def _folder(self, name: str) -> Path:
        return self.home / f"{name}-{next(self._counter)}"

    def end(self, name: str, number: int) -> Program:
        """Send it a signal that it does not survive."""
        program = self._programs.pop(name)
        program.end(number)
        return program

    def may_dump_core(self, name: str) -> bool:
        """Say whether a crash of this process would write its memory to the disk."""
        limits = Path(f"/proc/{self._programs[name].process.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        return line.split()[4] != "0"

    def stop(self) -> None:
        """End all that runs."""
        for program in self._programs.values():
            program.kill()

    def command(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of ours to its end; what it says is kept beside what the others said."""
        directory = self._folder("command")
        directory.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "otpsvc", *arguments],
            cwd=directory,
            env=environment(self.variables),
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        (directory / "said.txt").write_text(done.stdout + done.stderr)
        return done

    def shop(self, mode: Mode = "live", **policy: object) -> Shop:
        """Make a client with a key; without a cooldown, if `policy` does not say otherwise."""

        async def make() -> Shop:
            settings = load(None, self.variables)
            async with open_database_of(settings) as database:
                clients = await client_service(settings, database)
                client = await clients.create_client("shop", {"cooldown_s": 0, "code_length": 10, **policy})
                key = await clients.create_key(client.id, mode)
                return Shop(client.id, key.text)

        shop = asyncio.run(make())
        self.keys.append(shop.key)
        return shop

    def browser(self, shop: Shop | None = None, *, address: str = "") -> httpx.Client:
        """A caller whose every answer is kept, but for what it asked for; `address` is where it calls from."""

        def keep(response: httpx.Response) -> None:
            response.read()
            head = b"\n".join(name + b": " + value for name, value in response.headers.raw)
            call = f"{response.request.method} {response.request.url.path} {response.status_code}"
            self.keep(call, head + b"\n\n" + without_dues(call, response.content))

        return httpx.Client(
            base_url=self.url,
            headers=shop.headers if shop else {},
            timeout=PATIENCE_S,
            transport=httpx.HTTPTransport(local_address=address) if address else None,
            event_hooks={"response": [keep]},
        )

    def keep(self, call: str, data: bytes) -> None:
        """Keep what came over the line, to be searched."""
        with self._lock:
            self.answers.append(Answer(call, data))

    def entries(self) -> list[dict[str, str]]:
        """Everything that the careless sender was given."""
        with self._lock:
            if self.ledger.exists():
                with self.ledger.open("rb") as file:
                    file.seek(self._read_to)
                    whole, newline, _ = file.read().rpartition(b"\n")
                self._read_to += len(whole) + len(newline)
                for line in whole.splitlines():
                    entry = json.loads(line)
                    self._entries.append(entry)
                    self._texts[entry["message_id"]] = entry["text"]
            return list(self._entries)

    def code_of(self, message_id: str) -> str:
        """Wait for a message, and give the code in it."""

        def is_delivered() -> bool:
            self.entries()
            return message_id in self._texts

        wait_until(is_delivered, f"the delivery of {message_id}")
        return code_in(self._texts[message_id])


def code_in(text: str) -> str:
    """Give the code in a text."""
    (code,) = _CODE.findall(text)
    return str(code)


def _install(private: Path) -> Path:
    site = private / "site"
    about = site / "otpsvc_careless-1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("careless_sender.py"), site / f"{_MODULE}.py")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: otpsvc-careless\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[otpsvc.senders]\ncareless = {_MODULE}:CarelessSender\n")
    return site


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    """Run migrated stores, one server and one worker for the body of a `with`; all may dump core."""
    home, private = directory / "home", directory / "private"
    home.mkdir()
    private.mkdir()
    (home / "metrics").mkdir()
    before = resource.getrlimit(resource.RLIMIT_CORE)
    with (
        start_stores(home / ".otpsvc") as stores,
        outside.running_gateways() as gateways,
        own.running_park(home / "phones-0") as park,
    ):
        stack = Stack(home, private, stores, gateways, park)
        try:
            migrated = stack.command("migrate")
            assert migrated.returncode == 0, migrated.stderr
            for name, value in _TALKATIVE.items():
                run_sql(stores.database_url, f"ALTER DATABASE otpsvc SET {name} = {value}")
            resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
            stack.start("serve")
            stack.start("worker")
            yield stack
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, before)
            stack.stop()
