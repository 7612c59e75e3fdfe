"""The first five minutes of a new user: start it, paste what it printed, read the inbox, verify."""

import json
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.programs import Program, environment, free_port, wait_until, working_in

NUMBER = "+33612345678"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user is: a directory with a space and a quote in its name."""
    return tmp_path_factory.mktemp("home") / "my user's project"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def dev(home: Path, port: int) -> Iterator[Program]:
    """`otpsvc dev`, for the first time on this machine."""
    program = Program("dev", directory=home, variables={"PORT": str(port)})
    try:
        program.wait_to_say("Ctrl-C ends it")
        yield program
        assert program.end() == 0
        assert working_in(home) == {}
    finally:
        program.kill()


def sourced(home: Path) -> dict[str, str]:
    """What a shell has in its environment after `. .otpsvc/dev.env`."""
    script = ". .otpsvc/dev.env; exec env -0"
    shown = subprocess.run(
        ["sh", "-ec", script], cwd=home, env=environment(), capture_output=True, text=True, check=True
    )
    return dict(entry.split("=", 1) for entry in shown.stdout.split("\0") if "=" in entry)


def pasted(dev: Program) -> str:
    """The block of the greeting that is there to be pasted."""
    _, _, rest = dev.stdout.partition("Paste this in another terminal:\n")
    return rest.partition("Ctrl-C ends it")[0].strip()


def test_the_greeting_says_all_one_needs(dev: Program, home: Path, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    given = sourced(home)
    for words in (
        f"otpsvc is running on {url}\n",
        given["OTPSVC_CLIENT_ID"],
        given["OTPSVC_API_KEY"],
        f"{url}/dev/inbox\n",
        f"{url}/docs\n",
        f"  . {shlex.quote(str(home / '.otpsvc/dev.env'))}\n",
        "the data stays in .otpsvc.",
    ):
        assert words in dev.stdout
    assert dev.stderr == ""
    for path in ("/dev/inbox", "/docs", "/docs/errors", "/health/ready"):
        assert httpx.get(url + path).status_code == 200


def test_its_files_are_for_the_user_alone(dev: Program, home: Path, port: int) -> None:
    data_dir = home / ".otpsvc"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data_dir, *data_dir.iterdir())}
    assert modes["dev.env"] == modes["master.key"] == 0o600
    assert not [name for name, mode in modes.items() if mode & 0o077]
    given = sourced(home)
    assert given["OTPSVC_URL"] == f"http://127.0.0.1:{port}"
    assert re.fullmatch(r"client_\d{12}", given["OTPSVC_CLIENT_ID"])
    assert given["OTPSVC_API_KEY"].startswith("zs_test_")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
def test_what_it_printed_works_when_pasted(dev: Program, home: Path) -> None:
    # The shell's own line endings decide where one command ends and the next begins.
    source, send, verify = re.split(r"\n(?=  ?curl )", pasted(dev))

    def run(command: str) -> str:
        script = f"{source.strip()}\n{command.strip()}"
        done = subprocess.run(
            ["sh", "-e"], input=script, cwd=home, env=environment(), capture_output=True, text=True, check=True
        )
        return done.stdout

    sent = json.loads(run(send))
    assert sent["success"] is True
    url = sourced(home)["OTPSVC_URL"]
    inbox = f"{url}/dev/inbox.json?to={NUMBER}"
    wait_until(lambda: bool(httpx.get(inbox).json()), "the message")
    entry = httpx.get(inbox).json()[0]
    assert entry["message_id"] == sent["message_id"]
    (code,) = re.findall(r"\d{6}", entry["text"])
    verified = json.loads(run(verify.replace("<otp_id>", sent["otp_id"]).replace("<code from the phone>", code)))
    assert verified["valid"] is True
    assert code in httpx.get(f"{url}/dev/inbox").text


def test_a_program_of_the_user_does_the_same(dev: Program, home: Path) -> None:
    given = sourced(home)
    headers = {"X-API-Key": given["OTPSVC_API_KEY"], "X-Client-ID": given["OTPSVC_CLIENT_ID"]}
    with httpx.Client(base_url=given["OTPSVC_URL"], headers=headers) as client:
        sent = client.post("/v1/sms/send-otp", json={"to": "+39 312 345 6789", "length": 4, "purpose": "login"})
        assert sent.status_code == 200
        found = {"to": "393123456789"}
        wait_until(lambda: bool(client.get("/dev/inbox.json", params=found).json()), "the message")
        text = client.get("/dev/inbox.json", params=found).json()[0]["text"]
        assert "codice" in text
        body = {"otp_id": sent.json()["otp_id"], "code": text[:4], "phone": "+393123456789"}
        assert client.post("/v1/sms/verify-otp", json=body).json()["valid"] is True


def test_codes_and_numbers_are_in_no_file_and_in_nothing_it_says(dev: Program, home: Path) -> None:
    """Standard output is a file here, as under a service manager: what is written there stays."""
    given = sourced(home)
    headers = {"X-API-Key": given["OTPSVC_API_KEY"], "X-Client-ID": given["OTPSVC_CLIENT_ID"]}
    number = "+447911123456"
    with httpx.Client(base_url=given["OTPSVC_URL"], headers=headers) as client:
        assert client.post("/v1/otp", json={"to": number, "code_length": 10}).status_code == 200
        wait_until(lambda: bool(client.get("/dev/inbox.json", params={"to": number}).json()), "the message")
        (code,) = re.findall(r"\d{10}", client.get("/dev/inbox.json", params={"to": number}).json()[0]["text"])
        # One that expects the event file and the append-only file to be written out.
        assert client.get("/health/ready").status_code == 200
    for secret in (code, number, number[1:]):
        assert secret not in dev.stdout + dev.stderr
        for path in home.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
