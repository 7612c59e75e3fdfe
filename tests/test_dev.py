"""`otpsvc dev` under everything that a developer does to it: stop, kill, start twice, start again."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.programs import (
    PATIENCE_S,
    Program,
    descendants,
    environment,
    free_port,
    is_running,
    wait_until,
    working_in,
)

Start = Callable[..., Program]

# A terminal of its own, as a terminal emulator makes it: Ctrl-C in it reaches every process of the foreground.
IN_A_TERMINAL = (
    "import os, sys; os.login_tty(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
# What make does: it starts the service, says who it is, and can be killed.
AS_MAKE = (
    "import os, subprocess, sys\n"
    "os.environ['OTPSVC_PARENT_PID'] = str(os.getpid())\n"
    "subprocess.run([sys.executable, '-m', 'otpsvc', 'dev'])\n"
)


@pytest.fixture
def home(prepared_data_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """A directory whose `.otpsvc` was started before; nothing may be working in it afterwards."""
    shutil.copytree(prepared_data_dir, tmp_path / ".otpsvc")
    yield tmp_path
    wait_until(lambda: not working_in(tmp_path), "everything to end")


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start `otpsvc dev` there on a free port."""
    programs: list[Program] = []

    def run(*arguments: str, directory: Path = home, waits: bool = True, **variables: str) -> Program:
        port = {} if "--port" in arguments else {"PORT": str(free_port())}
        program = Program("dev", *arguments, directory=directory, variables={**port, **variables})
        programs.append(program)
        if waits:
            program.wait_to_say("Ctrl-C ends it")
        return program

    yield run
    for program in programs:
        program.kill()


def known(home: Path) -> dict[str, str]:
    """What `dev.env` says."""
    return dict(re.findall(r"^export (\w+)=(\S+)$", (home / ".otpsvc" / "dev.env").read_text(), re.MULTILINE))


def client_of(home: Path) -> httpx.Client:
    given = known(home)
    headers = {"X-API-Key": given["OTPSVC_API_KEY"], "X-Client-ID": given["OTPSVC_CLIENT_ID"]}
    return httpx.Client(base_url=given["OTPSVC_URL"], headers=headers, timeout=PATIENCE_S)


def inbox(client: httpx.Client) -> dict[str, str]:
    """The texts in the inbox by message id."""
    return {entry["message_id"]: entry["text"] for entry in client.get("/dev/inbox.json").json()}


def one_line(program: Program) -> str:
    """What a refused start said: one line on standard error, no traceback, status 1."""
    assert program.wait() == 1
    assert len(program.stderr.splitlines()) == 1, program.stderr
    line = program.stderr.strip()
    assert line.startswith("otpsvc: ")
    return line


def test_ctrl_c_ends_everything_and_the_second_run_keeps_the_data(home: Path, start: Start) -> None:
    first = start()
    before = known(home)
    with client_of(home) as client:
        sent = client.post("/v1/otp", json={"to": "+33612345678", "metadata": {"kept": True}}).json()
        wait_until(lambda: sent["message_id"] in inbox(client), "the message")
        code = inbox(client)[sent["message_id"]][:6]
    family = descendants(first.process.pid)
    assert family > set(working_in(home)) > set()
    assert first.end(signal.SIGINT) == 0
    assert not any(map(is_running, family))
    assert first.stdout.endswith("stopped\n")
    assert first.stderr == ""
    assert working_in(home) == {}

    second = start()
    after = known(home)
    assert {**after, "OTPSVC_URL": ""} == {**before, "OTPSVC_URL": ""}
    assert "keyring" not in second.stdout
    with client_of(home) as client:
        verified = client.post(f"/v1/otp/{sent['otp_id']}/verify", json={"code": code}).json()
        assert (verified["valid"], verified["metadata"]) == (True, {"kept": True})
    assert second.end(signal.SIGTERM) == 0


def test_messages_sent_just_before_the_end_are_delivered_or_come_after_the_restart(home: Path, start: Start) -> None:
    program = start()
    sent: list[dict[str, Any]] = []

    def send(place: int) -> None:
        try:
            answer = client.post("/v1/otp", json={"to": f"+33612000{place:03d}"})
        except httpx.TransportError:
            return  # it listens no more, and has promised nothing
        assert answer.status_code == 200
        sent.append(answer.json())
        if len(sent) == 30:
            program.process.send_signal(signal.SIGTERM)

    with client_of(home) as client, ThreadPoolExecutor(8) as senders:
        for done in [senders.submit(send, place) for place in range(200)]:
            done.result()
    assert program.wait() == 0
    assert len(sent) >= 30
    assert program.stderr == ""
    start()
    with client_of(home) as client:
        for answer in sent:

            def has_arrived(answer: dict[str, Any] = answer) -> bool:
                status = client.get(f"/v1/otp/{answer['otp_id']}").json()["message_status"]
                assert status in {"queued", "processing", "sent", "delivered"}
                return status in {"sent", "delivered"} or answer["message_id"] in inbox(client)

            wait_until(has_arrived, "a message")


def test_killed_outright_it_leaves_nothing_behind(home: Path, start: Start) -> None:
    program = start()
    with client_of(home) as client:
        sent = client.post("/v1/otp", json={"to": "+33612345678"}).json()
        wait_until(lambda: sent["message_id"] in inbox(client), "the message")
        code = inbox(client)[sent["message_id"]][:6]
    family = descendants(program.process.pid)
    assert family > set(working_in(home)) > set()
    program.kill()
    wait_until(lambda: not any(map(is_running, family)), "the stores and their guard to end")
    assert working_in(home) == {}
    start()
    with client_of(home) as client:
        assert client.post(f"/v1/otp/{sent['otp_id']}/verify", json={"code": code}).json()["valid"] is True


def test_a_killed_make_takes_the_service_with_it(home: Path) -> None:
    variables = environment({"PORT": str(free_port())})
    with (home / "out.txt").open("wb") as out:
        make = subprocess.Popen([sys.executable, "-c", AS_MAKE], cwd=home, env=variables, stdout=out, stderr=out,
                                start_new_session=True)  # fmt: skip
    try:
        wait_until(lambda: "Ctrl-C ends it" in (home / "out.txt").read_text(), "the greeting")
        assert working_in(home)
    finally:
        make.kill()
        make.wait(PATIENCE_S)
    wait_until(lambda: not working_in(home), "the service to end")
    wait_until(lambda: (home / "out.txt").read_text().endswith("stopped\n"), "its last word")


def test_a_store_that_dies_ends_the_service_with_a_word_why(home: Path, start: Start) -> None:
    program = start()
    (valkey,) = [pid for pid, command in working_in(home).items() if "valkey" in command.split()[0]]
    os.kill(valkey, signal.SIGKILL)
    assert program.wait() == 1
    assert program.stderr.splitlines()[-1].startswith("otpsvc: Valkey ended by itself")
    assert "Traceback" not in program.stderr


def test_a_taken_port_is_said_before_anything_starts(home: Path, start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        began_with = sorted((home / ".otpsvc").iterdir())
        line = one_line(start("--port", str(port), waits=False))
        assert f"127.0.0.1:{port}" in line
        assert "PORT=" in line
        assert sorted((home / ".otpsvc").iterdir()) == began_with


def test_a_host_that_is_none_is_no_taken_port(start: Start) -> None:
    line = one_line(start("--host", "no-such-host.invalid", waits=False))
    assert "no-such-host.invalid" in line
    assert "another" not in line
    assert "PORT=" not in line


def test_a_second_dev_on_the_same_data_names_the_first(home: Path, start: Start, tmp_path: Path) -> None:
    first = start()
    second = start("--data-dir", str(home / ".otpsvc"), directory=tmp_path / "other", waits=False)
    line = one_line(second)
    assert str(first.process.pid) in line
    with client_of(home) as client:
        assert client.get("/health/ready").status_code == 200
    assert first.end() == 0


@pytest.mark.parametrize("port", ["abc", "0", "-1", "70000", "80 80"])
def test_a_port_that_is_none_is_a_usage_error(tmp_path: Path, port: str) -> None:
    program = Program("dev", directory=tmp_path, variables={"PORT": port})
    assert program.wait() == 2
    assert "--port" in program.stderr
    assert "Traceback" not in program.stderr
    assert not (tmp_path / ".otpsvc").exists()


def test_settings_of_production_in_the_environment_are_not_used(home: Path, start: Start) -> None:
    """A developer's shell may well hold the addresses of real stores: `dev` must never touch them."""
    start(
        OTPSVC_REDIS_URL="redis://127.0.0.1:1/0",
        OTPSVC_DATABASE_URL="postgresql://u:p@127.0.0.1:1/production",
        OTPSVC_KEYS_MASTERS="prod:" + "11" * 32,
        OTPSVC_CLIENT_ID="client_000000000000",
        OTPSVC_API_KEY="zs_live_x",
    )
    with client_of(home) as client:
        assert client.post("/v1/otp", json={"to": "+33612345678"}).status_code == 200


def test_a_terminal_shows_the_message_and_its_ctrl_c_ends_it(home: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", IN_A_TERMINAL, str(theirs), "-m", "otpsvc", "dev"]
    variables = environment({"PORT": str(free_port())})
    process = subprocess.Popen(command, cwd=home, env=variables, pass_fds=(theirs,))
    os.close(theirs)
    shown = b""

    def read_until(words: str) -> None:
        nonlocal shown

        def has_come() -> bool:
            nonlocal shown
            if select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 65_536)
            return words.encode() in shown

        wait_until(has_come, words)

    try:
        read_until("Ctrl-C ends it")
        with client_of(home) as client:
            body = {"to": "+33612345678", "template": "Line one\nCode {{code}}\u200f <b>"}
            sent = client.post("/v1/otp", json=body).json()
            wait_until(lambda: sent["message_id"] in inbox(client), "the message")
            code = re.findall(r"\d{6}", inbox(client)[sent["message_id"]])[0]
        read_until(f"Line one | Code {code}")
        assert b"+33612345678" in shown
        os.write(ours, b"\x03")
        read_until("stopped")
        assert process.wait(PATIENCE_S) == 0
        assert b"Traceback" not in shown
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        os.close(ours)
    assert working_in(home) == {}
