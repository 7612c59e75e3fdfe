"""The service as it is run for real: servers that share a port, a worker, and a sender that a stranger wrote."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from otpsvc.app import client_service
from otpsvc.app_stores import open_database_of
from otpsvc.clients.model import Mode
from otpsvc.serving import PortTakenError, bind, listen
from otpsvc.settings import load
from tests.programs import PATIENCE_S, Program, production, wait_until

# A sender as a stranger writes it: a distribution of its own, found by its entry point.
STRANGERS_SENDER = """
import json, os
import msgspec
from otpsvc.senders.contract import Accepted, Capabilities, Channel, Secret, Sender

class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    token: Secret

class FileSender(Sender[Settings]):
    Settings = Settings
    capabilities = Capabilities(channels=frozenset({Channel.SMS}), is_idempotent=True)

    async def send(self, message):
        line = json.dumps({"id": message.message_id, "to": message.to, "text": message.text, "pid": os.getpid()})
        with open(self.settings.path, "a") as file:
            file.write(line + "\\n")
        return Accepted(provider_id="file-1")
"""


@pytest.fixture
def variables(redis_url: str, database_url: str) -> dict[str, str]:
    """The environment of a production process."""
    return production(redis_url, database_url)


def headers_of_a_client(variables: dict[str, str], mode: Mode) -> dict[str, str]:
    """Make a client and a key, as an operator does before the first start."""

    async def make() -> dict[str, str]:
        settings = load(None, variables)
        async with open_database_of(settings) as database:
            clients = await client_service(settings, database)
            client = await clients.create_client("shop", {"cooldown_s": 0})
            key = await clients.create_key(client.id, mode)
        return {"X-API-Key": key.text, "X-Client-ID": client.id}

    return asyncio.run(make())


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start commands as processes of their own."""
    programs: list[Program] = []

    def start(*arguments: str, variables: dict[str, str]) -> Program:
        program = Program(*arguments, directory=tmp_path / f"process{len(programs)}", variables=variables)
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A directory that holds a stranger's distribution, as pip would have left it."""
    site = tmp_path / "site"
    about = site / "strange_sender-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "strange_sender.py").write_text(STRANGERS_SENDER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-sender\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[otpsvc.senders]\nstrange-file = strange_sender:FileSender\n")
    return site


def test_two_servers_and_a_worker_with_a_strangers_sender(
    variables: dict[str, str], launch: Callable[..., Program], stranger: Path, tmp_path: Path
) -> None:
    delivered = tmp_path / "delivered.jsonl"
    headers = headers_of_a_client(variables, "live")
    with_sender = {
        **variables,
        "PYTHONPATH": str(stranger),
        "OTPSVC_DELIVERY_SENDERS": "files",
        "OTPSVC_SENDERS_FILES_TYPE": "strange-file",
        "OTPSVC_SENDERS_FILES_PATH": str(delivered),
        "OTPSVC_SENDERS_FILES_TOKEN": "t0ken",
    }
    servers = [launch("serve", variables=variables) for _ in range(2)]
    worker = launch("worker", variables=with_sender)
    for server in servers:
        server.wait_to_say("otpsvc serves on")
    worker.wait_to_say("otpsvc worker delivers through files")
    address = f"http://127.0.0.1:{variables['OTPSVC_HTTP_PORT']}"

    def entries() -> dict[str, dict[str, Any]]:
        lines = delivered.read_text().splitlines() if delivered.exists() else []
        return {entry["id"]: entry for entry in map(json.loads, lines)}

    def send_and_verify(number: str) -> None:
        with httpx.Client(base_url=address, headers=headers, timeout=PATIENCE_S) as client:
            sent = client.post("/v1/otp", json={"to": number})
            assert sent.status_code == 200, sent.text
            wait_until(lambda: sent.json()["message_id"] in entries(), "the delivery")
            entry = entries()[sent.json()["message_id"]]
            assert (entry["to"], entry["pid"]) == (number, worker.process.pid)
            otp_id, code = sent.json()["otp_id"], entry["text"][:6]
            path = f"/v1/otp/{otp_id}"
            wait_until(lambda: client.get(path).json()["message_status"] == "sent", "the record")
            assert client.post(f"{path}/verify", json={"code": code}).json()["valid"] is True
            for said in (*servers, worker):
                assert code not in said.stdout + said.stderr
                assert number not in said.stdout + said.stderr

    send_and_verify("+33612345678")
    with httpx.Client(base_url=address, headers=headers) as client:
        assert client.get("/dev/inbox.json").status_code == 404
        assert client.get("/docs").status_code == 200
    assert servers[0].end(signal.SIGTERM) == 0
    send_and_verify("+33612345679")
    assert "t0ken" not in worker.stdout + worker.stderr
    assert [servers[1].end(signal.SIGTERM), worker.end(signal.SIGINT)] == [0, 0]
    for said in (*servers, worker):
        assert "Traceback" not in said.stderr


def test_a_server_lets_the_request_under_way_end(variables: dict[str, str], launch: Callable[..., Program]) -> None:
    headers = headers_of_a_client(variables, "test")
    server = launch("serve", variables=variables)
    server.wait_to_say("otpsvc serves on")
    port = int(variables["OTPSVC_HTTP_PORT"])
    body = b'{"to":"+33612345678"}'
    head = (
        f"POST /v1/otp HTTP/1.1\r\nHost: x\r\nX-API-Key: {headers['X-API-Key']}\r\n"
        f"X-Client-ID: {headers['X-Client-ID']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(head.encode() + body[:5])
        time.sleep(0.2)  # so that the server has seen the head; a slower machine makes the test easier, not wrong
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _takes_connections(port), "the server to listen no more")
        connection.sendall(body[5:])
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert server.wait() == 0


HUNG_UP = """
import asyncio, os, signal, sys
from otpsvc.serving import stop_on_signals
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
async def main():
    stop = asyncio.Event()
    stop_on_signals(stop)
    os.kill(os.getpid(), signal.SIGHUP)
    if sys.argv[1] == "SIG_IGN":
        os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(stop.wait(), 60)
    return signal.getsignal(signal.SIGHUP)
print(asyncio.run(main()) is signal.SIG_IGN)
"""


@pytest.mark.parametrize(("disposition", "is_ignored"), [("SIG_DFL", False), ("SIG_IGN", True)])
def test_a_terminal_that_goes_stops_in_good_order_unless_it_shall_not(disposition: str, *, is_ignored: bool) -> None:
    command = [sys.executable, "-c", HUNG_UP, disposition]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, str(is_ignored)), ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can be closed to others of its user")
def test_the_memory_of_a_process_is_its_own() -> None:
    script = "from otpsvc.cli_run import keep_memory_private as keep; import ctypes, resource; keep();"
    script += "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.stdout.strip() == "0 (0, 0)", ended.stderr


def test_a_server_that_starts_takes_nothing_from_one_that_serves(
    variables: dict[str, str], launch: Callable[..., Program]
) -> None:
    server = launch("serve", variables=variables)
    server.wait_to_say("otpsvc serves on")
    address = f"http://127.0.0.1:{variables['OTPSVC_HTTP_PORT']}/health/live"
    anew = {"Connection": "close"}
    with socket.create_server(("127.0.0.1", 0)) as stalled, httpx.Client(headers=anew, timeout=PATIENCE_S) as client:
        stalled.settimeout(PATIENCE_S)
        slow = {
            "OTPSVC_DATABASE_URL": f"postgresql://u:p@127.0.0.1:{stalled.getsockname()[1]}/x",
            "OTPSVC_DATABASE_TIMEOUT_S": "60",
        }
        starting = launch("serve", variables={**variables, **slow})
        connection, _ = stalled.accept()  # it has taken the port by now, and waits for its database
        with connection:
            for _ in range(50):
                assert client.get(address).status_code == 200
            assert starting.process.poll() is None
        stalled.close()
        while starting.process.poll() is None:
            assert client.get(address).status_code == 200
    assert starting.wait() == 1
    assert "database.url" in starting.stderr
    assert server.end(signal.SIGTERM) == 0


def test_a_port_that_somebody_takes_before_we_listen_is_said() -> None:
    with contextlib.closing(bind("127.0.0.1", 0, is_shared=True)) as ours:
        port = ours.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port}"), contextlib.closing(bind("127.0.0.1", port)):
            listen(ours)


def _takes_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
