"""The hunt's ground: a running stack that is watched from all sides, what goes wrong on it, and where to look after."""

import asyncio
import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import redis

from otpsvc.crypto import Master
from tests.conftest import run_sql
from tests.leaks.careless_sender import HABITS
from tests.leaks.flows import Flows
from tests.leaks.gateways import SECRETS
from tests.leaks.needles import Needles
from tests.leaks.phone_flows import PhoneFlows
from tests.leaks.places import Hit, Place, hunt, places_of
from tests.leaks.stack import MASTER, Stack, code_in, running_stack
from tests.leaks.watchers import Monitor, Processes, Queries
from tests.programs import wait_until

_ALL_COMMANDS = {
    "slowlog-log-slower-than": 0,
    "slowlog-max-len": 1_000_000,
    "commandlog-request-larger-than": 0,
    "commandlog-large-request-max-len": 1_000_000,
    "commandlog-reply-larger-than": 0,
    "commandlog-large-reply-max-len": 1_000_000,
    "rdbcompression": "no",
}
_REFUSED = ("messages", "devices", "device_sims", "device_pairings")


@dataclass
class Scene:
    """A watched stack."""

    stack: Stack
    raw: Any
    monitor: Monitor
    queries: Queries
    processes: Processes

    @property
    def places(self) -> list[Place]:
        return places_of(self.stack, self.monitor, self.queries, self.processes)

    def secrets_of(self, *flows: Flows) -> Needles:
        """All that was ever secret in these flows; what the sender was given is what there was to know."""
        entries, gateways, phones = self.stack.entries(), self.stack.gateways, self.stack.park.learn()
        texts = [*(entry["text"] for entry in entries), *(held.text for held in gateways.held()), *phones.texts]
        theirs = {code for _, code in gateways.sessions()} | phones.codes
        return Needles(
            codes={*map(code_in, texts), *theirs}.union(*(each.guesses for each in flows)),
            numbers={*(entry["to"] for entry in entries), *phones.numbers}.union(*(each.numbers for each in flows)),
            credentials=phones.credentials.union(*(each.sessions for each in flows)),
            words={*SECRETS, *self.stack.keys, *(key[21:] for key in self.stack.keys), *keys_of(MASTER)}.union(
                *(each.addresses for each in flows)
            ),
        )

    def hunt(self, needles: Needles) -> list[Hit]:
        return hunt(self.places, needles)

    def gateway_keys(self) -> set[str]:
        """Which kinds of keys there are about gateways."""
        return {
            name.decode().partition("}:")[2].partition(":")[0] for name in self.raw.scan_iter("*{g:*", count=10_000)
        }

    def phone_keys(self) -> set[str]:
        """Which kinds of keys there are about phones."""
        names = [name.decode() for name in self.raw.scan_iter("*{[cd]*}:*", count=10_000)]
        return {name.partition("}:")[2].partition(":")[0] for name in names}

    def outcomes(self, event: str) -> set[str]:
        """Which outcomes of one kind of event are in the history."""

        async def read() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.stack.stores.database_url)
            try:
                query = "SELECT DISTINCT data->>'outcome' AS outcome FROM events WHERE name = $1"
                return list(await connection.fetch(query, event))
            finally:
                await connection.close()

        return {row["outcome"] for row in asyncio.run(read())}

    def remains_of(self, otp_ids: list[str]) -> list[str]:
        """Say what is left of these OTPs that tells something about a person; every one must be in the history."""

        async def read() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.stack.stores.database_url)
            try:
                query = (
                    "SELECT otp_id, to_sealed, to_index, to_masked, text, metadata FROM messages WHERE otp_id = ANY($1)"
                )
                return list(await connection.fetch(query, otp_ids))
            finally:
                await connection.close()

        rows = asyncio.run(read())
        assert {row["otp_id"] for row in rows} == set(otp_ids)
        records = [
            self.raw.hgetall(name) for otp_id in otp_ids for name in self.raw.scan_iter(f"*{otp_id}", count=10_000)
        ]
        living = [record for record in records if record[b"to"] or record[b"to_sealed"] or record[b"metadata"]]
        return [str(row) for row in rows if any(list(row)[1:])] + [str(record) for record in living]

    # -- what goes wrong

    def lose_worker(self, flows: Flows) -> None:
        """kill -9 of the worker, in the middle of slow deliveries."""
        sent = [flows.send(flows.number(HABITS.index("accepts slowly"))) for _ in range(5)]
        self.stack.code_of(sent[0]["message_id"])
        self.stack.end("worker", signal.SIGKILL)
        self.stack.start("worker")

    def lose_server(self, flows: Flows, number: int) -> None:
        """End the server while callers ask for codes; SIGABRT is what a fault in a library looks like."""
        with self._asking(flows):
            self.stack.end("serve", number)
        self.stack.start("serve")

    def abort_worker(self, flows: Flows) -> None:
        """A crash while plain text is in the process's memory."""
        sent = flows.send(flows.number(HABITS.index("hangs")))
        self.stack.code_of(sent["message_id"])
        self.stack.end("worker", signal.SIGABRT)
        self.stack.start("worker")

    def break_a_script(self, flows: Flows) -> None:
        """A key of the wrong type: the one kind of fault that no caller can be blamed for."""
        number = flows.number()
        before = set(self.raw.scan_iter("*:sends:*", count=10_000))
        flows.send(number)
        (name,) = set(self.raw.scan_iter("*:sends:*", count=10_000)) - before
        self.raw.set(name, "no zset")
        answer = flows.browser.post("/v1/otp", json={"to": number})
        assert answer.status_code == 500, answer.text
        self.raw.delete(name)

    def fill_memory(self, flows: Flows, phones: PhoneFlows) -> None:
        """Redis refuses every write."""
        otp_id, code = flows.sent_with_code()
        phone = phones.office.played_phone()
        self.raw.config_set("maxmemory", 1)
        try:
            assert flows.browser.post("/v1/otp", json={"to": flows.number()}).status_code == 503
            assert flows.verify(otp_id, code).status_code == 503
            assert phone.calls() == {503}
            assert phone.registers().status_code == 503
        finally:
            self.raw.config_set("maxmemory", 0)

    def stall_redis(self, flows: Flows) -> None:
        """Redis hears and does not answer, then hangs up on everybody, then has forgotten every script."""
        otp_id, code = flows.sent_with_code()
        self.raw.client_pause(1500, all=False)
        assert flows.verify(otp_id, code).status_code == 503
        self.raw.client_unpause()
        for client in self.raw.client_list():
            if "O" not in client["flags"]:  # the one that watches
                self.raw.client_kill_filter(_id=client["id"], skipme=True)
        self.raw.script_flush()
        wait_until(lambda: httpx.get(f"{self.stack.url}/health/ready").status_code == 200, "a server that is ready")
        assert flows.verify(otp_id, code).status_code < 500

    def refuse_rows(self, flows: Flows, phones: PhoneFlows) -> None:
        """PostgreSQL refuses what it is given, and says at length what that was."""
        url, desk = self.stack.stores.database_url, phones.office
        phone = desk.played_phone()
        for table in _REFUSED:
            run_sql(url, f"ALTER TABLE {table} ADD CONSTRAINT refuses CHECK (false) NOT VALID")
        try:
            assert desk.browser.post("/v1/devices/pairings").status_code >= 500
            assert phone.registers().status_code >= 500
            refused = desk.browser.patch(f"/v1/devices/{phone.id}", json={"passphrase": desk.passphrase()})
            assert refused.status_code >= 500
            flows.succeeds()
            time.sleep(1)  # for the drain to meet it; whether it does is no part of what is asserted
        finally:
            for table in _REFUSED:
                run_sql(url, f"ALTER TABLE {table} DROP CONSTRAINT refuses")

    def use_commands(self, flows: Flows, phones: PhoneFlows) -> None:
        """Operators look around, forget a number, and look after the phones."""
        number = flows.number()
        flows.sent_with_code(number)
        device_id = phones.regular.device_id
        commands = {
            "client list": "",
            "events list": "",
            "forget -": number,
            f"device passphrase {device_id}": phones.office.passphrase(),
            "device list": "",
            f"device show {device_id} --json": "",
        }
        with ThreadPoolExecutor() as pool:
            for done in pool.map(lambda line: self.stack.command(*line.split(), given=commands[line]), commands):
                assert done.returncode == 0, done.stderr

    @contextmanager
    def _asking(self, flows: Flows) -> Iterator[None]:
        """Callers who ask without a pause, and do not mind being cut off."""
        stop = threading.Event()

        def ask() -> None:
            with flows.stack.browser(flows.shop) as browser:
                while not stop.is_set():
                    with contextlib.suppress(httpx.HTTPError):
                        browser.post("/v1/otp", json={"to": flows.number()})

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)  # so that some are under way; it does not matter how many
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def settle(self) -> None:
        """Wait until every message has ended and every event is written."""

        def is_quiet() -> bool:
            due = sum(self.raw.zcard(name) for name in self.raw.scan_iter("*:due", count=10_000))
            unwritten = sum(self.raw.xlen(name) for name in self.raw.scan_iter("*:events", count=10_000))
            return bool(due + unwritten == 0)

        wait_until(is_quiet, "messages and events")

    # -- what a leak would look like

    def plants(self, *planted: str) -> dict[str, Callable[[], None]]:
        """By place: put secrets there, as a mistake of ours would."""
        stack, home = self.stack, self.stack.home
        url = stack.stores.database_url
        text = " and ".join(planted)

        def row() -> None:
            # More than once, or no statistics would have it.
            table = f"planted_{secrets.token_hex(8)}"
            run_sql(url, f"CREATE TABLE {table} AS SELECT '{text}' AS said FROM generate_series(1, 3)")  # noqa: S608 - both were made here

        def said() -> None:
            stack.command("client", "list", "--config", text)

        def answered() -> None:
            with stack.browser() as browser:
                for secret in planted:
                    browser.get("/health/live", headers={"X-Request-ID": f"code-{secret}"})

        def dumped() -> None:
            folder = next(home.glob("serve-*"))
            (folder / "core.1").write_bytes(b"\x7fELF" + secrets.token_bytes(5000) + text.encode())

        def counted() -> None:
            (home / "metrics" / "counter_1.db").write_bytes(f'{{"to": "{text}"}}'.encode())

        def argued() -> None:
            stack.command("client", "policy", "x", f"ttl_s={text}")

        return {
            "redis keys and values": lambda: self.raw.hset("planted", "code", text),
            "redis slowlog": lambda: self.raw.echo(text),
            "redis monitor": lambda: self.raw.echo(text),
            "redis append-only file": lambda: self.raw.set("written", text),
            "redis snapshot": lambda: self.raw.set("saved", text),
            "postgresql rows": row,
            "postgresql pages and journal": row,
            "postgresql statistics": row,
            "postgresql queries": lambda: run_sql(url, f"SELECT pg_sleep(0.5), '{text}'"),
            "server logs": lambda: run_sql(url, f"SELECT '{text}'"),
            "what processes said": said,
            "crash dumps": dumped,
            "metrics": counted,
            "http answers": answered,
            "arguments and environments": argued,
        }


def keys_of(master: str) -> Iterator[str | bytes]:
    """A master and every key that is made of it, as bytes and as they are printed."""
    derived = Master.derive("one", bytes.fromhex(master))
    keys = (derived.pepper, derived.index, derived.seal, derived.fingerprint, derived.auth, derived.check)
    for key in (bytes.fromhex(master), *keys):
        yield key
        yield key.hex()


@contextmanager
def watched_stack(directory: Path) -> Iterator[Scene]:
    """Run a stack for the body of a `with`, under the eyes of every watcher."""
    with running_stack(directory) as stack, redis.Redis.from_url(stack.stores.redis_url) as client:
        raw: Any = client  # the library's types allow for both its clients
        for name, value in _ALL_COMMANDS.items():
            with contextlib.suppress(redis.ResponseError):  # Redis has no COMMANDLOG
                raw.config_set(name, value)
        monitor = Monitor(stack.stores.redis_url, directory / "monitor.txt")
        with monitor, Queries(stack.stores.database_url) as queries, Processes() as processes:
            yield Scene(stack, raw, monitor, queries, processes)
