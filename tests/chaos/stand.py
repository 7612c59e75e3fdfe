"""Everything a fault test needs: two stores, a client with a key, a ledger, and processes of the service to kill.

All of it is this test's own and ends with it, by process id. Nothing in here decides whether something went well.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from otpsvc.app import client_service
from otpsvc.app_stores import open_database_of
from otpsvc.settings import Settings, load
from tests.chaos.calls import Line
from tests.chaos.evidence import Evidence
from tests.chaos.gateways import PROOF, Gateways, Telling
from tests.chaos.journal import Journal
from tests.chaos.ledger import Ledger, install_ledger
from tests.chaos.processes import Process
from tests.chaos.rows import Reader
from tests.chaos.stores import Pair
from tests.chaos.traffic import FLOWS, Traffic
from tests.programs import PATIENCE_S, production

ROOT = Path(__file__).parents[2]
LEASE_S = 5
# How long a receipt is waited for; what ships would keep the suite for minutes.
RECEIPT_S = 2


MakeStand = Callable[..., AbstractAsyncContextManager["Stand"]]


class Stand:
    """Stores, settings, one client, and the processes that were started."""

    def __init__(self, pair: Pair, database_url: str, directory: Path, variables: Mapping[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.pair = pair
        self.directory = directory
        self.ledger = Ledger(directory / "ledger.jsonl")
        self.down = directory / "once-is-down"
        listed = variables.get("OTPSVC_DELIVERY_SENDERS", "once")
        self._variables = {
            **production(pair.redis_url, database_url),
            "PYTHONPATH": f"{install_ledger(directory)}:{ROOT}",
            "OTPSVC_PARENT_PID": str(os.getpid()),
            "CHAOS_RECLAIM_S": "3",
            "OTPSVC_LOG_FORMAT": "text",
            "OTPSVC_DATABASE_TIMEOUT_S": "2",
            "OTPSVC_DELIVERY_LEASE_S": str(LEASE_S),
            "OTPSVC_DELIVERY_STEP_TIMEOUT_S": "1",
            "OTPSVC_CONFIG": str(self._write_routes(listed)),
            **(sender("once", self.ledger.path, down=str(self.down)) if "once" in listed else {}),
            **(sender("often", self.ledger.path, is_idempotent="true") if "often" in listed else {}),
            "OTPSVC_DELIVERY_SENDERS": listed,
            **variables,
        }
        self.settings: Settings = load(
            None, {name: value for name, value in self._variables.items() if name.startswith("OTPSVC_")}
        )
        self.client_id = ""
        self._headers: dict[str, str] = {}
        self._processes: list[Process] = []
        self._n_traffic = 0

    @property
    def port(self) -> int:
        return self.settings.http.port

    async def open_client(self) -> None:
        """Make a client without a cooldown; what happens from now on is accounted for under it."""
        async with open_database_of(self.settings) as database:
            clients = await client_service(self.settings, database)
            client = await clients.create_client("chaos", {"cooldown_s": 0, "ttl_s": 60})
            key = await clients.create_key(client.id, mode="test")
        self.client_id = client.id
        self._headers = {"X-API-Key": key.text, "X-Client-ID": client.id}

    @property
    def running(self) -> list[Process]:
        """The processes that have not ended."""
        return [process for process in self._processes if process.is_alive]

    def line(self, *, timeout_s: float) -> Line:
        """A connection of this client's to the service."""
        return Line(self.port, self._headers, timeout_s=timeout_s)

    def start(self, command: str, **variables: str) -> Process:
        """Start a process; it is not ready yet."""
        process = Process(
            command, len(self._processes), directory=self.directory, variables={**self._variables, **variables}
        )
        self._processes.append(process)
        return process

    async def started(self, *commands: str) -> list[Process]:
        """Start processes side by side and wait until all of them work."""
        processes = [self.start(command) for command in commands]
        await asyncio.gather(*(process.ready() for process in processes))
        return processes

    def traffic(
        self, *, seed: int, flows: Sequence[str] = FLOWS, patience_s: float = 20.0, timeout_s: float = 3.0
    ) -> Traffic:
        """Callers of this client with a journal of their own."""
        return Traffic(
            self.port, self._headers, self.ledger, seed=seed, flows=flows, patience_s=patience_s, timeout_s=timeout_s
        )

    def gateways(self, *, seed: int) -> Gateways:
        """What the gateways behind the ledger say."""
        return Gateways(self.port, Ledger(self.ledger.path), seed=seed)

    async def quiet(self) -> None:
        """Wait until nothing is left to do."""
        reader = Reader(self.settings, self.client_id)
        try:
            await reader.quiet(PATIENCE_S)
        finally:
            await reader.close()

    def _write_routes(self, listed: str) -> Path:
        path = self.directory / "otpsvc.toml"
        senders = ", ".join(f'"{name}"' for name in listed.split(","))
        path.write_text(f'[routes.sms]\nreceipt_timeout_s = {RECEIPT_S}\n"*" = [{senders}]\n')
        path.chmod(0o600)
        return path

    async def evidence(
        self, *journals: Journal, tellings: Sequence[Telling] = (), idempotent: Sequence[str] = ()
    ) -> Evidence:
        """Wait until all is quiet, let every code's life end, and gather what everybody then says.

        What is still pending would go on expiring while the stores are read, one after the other.
        """
        reader = Reader(self.settings, self.client_id)
        try:
            await reader.quiet(PATIENCE_S)
            await reader.age()
            await reader.quiet(PATIENCE_S)
            evidence = await reader.evidence()
        finally:
            await reader.close()
        self.ledger.refresh()
        evidence.operations = [operation for journal in journals for operation in journal.operations]
        mine = {message.message_id for message in evidence.messages}
        evidence.ledger = [line for line in self.ledger.lines if line.message_id in mine]
        evidence.idempotent = frozenset(idempotent)
        evidence.tellings = list(tellings)
        return evidence

    def complaints(self) -> list[str]:
        """What the processes said that nobody may ever read: a fault of our own code."""
        return [
            f"{log.name}: {line}"
            for log in sorted(self.directory.glob("*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if "Traceback" in line or "broke off" in line
        ]

    async def close(self) -> None:
        """End every process that still runs."""
        for process in self._processes:
            process.ask_to_end()
        for process in self._processes:
            try:
                await process.ended(15)
            except TimeoutError:
                process.kill()


def with_receipts(name: str) -> dict[str, str]:
    """The variables by which a ledger sender takes receipts, and misses those that do not come."""
    given = {"proof": PROOF, "receipt_within_s": str(RECEIPT_S)}
    return {f"OTPSVC_SENDERS_{name}_{key}".upper(): value for key, value in given.items()}


def sender(name: str, path: Path, **settings: str) -> dict[str, str]:
    """The variables of one ledger sender."""
    given = {"type": "ledger", "path": str(path), **settings}
    return {f"OTPSVC_SENDERS_{name}_{key}".upper(): value for key, value in given.items()}


@contextlib.asynccontextmanager
async def open_stand(
    pair: Pair, database_url: str, directory: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Stand]:
    """Make a stand for the body of an `async with`."""
    stand = Stand(pair, database_url, directory, variables or {})
    try:
        await stand.open_client()
        yield stand
    finally:
        await stand.close()
        for process in stand._processes:
            process.kill()
