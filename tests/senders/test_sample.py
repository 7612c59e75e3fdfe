"""The sample plugin, as a stranger would have it: built, installed beside otpsvc, found, checked, and delivering codes.

And what `otpsvc senders new` writes passes the tests that it comes with.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otpsvc import skeleton
from otpsvc.app import open_house
from otpsvc.clients.model import Principal
from otpsvc.otp.model import SendRequest
from otpsvc.settings import load
from tests.programs import PATIENCE_S, Program, environment, production, wait_until
from tests.senders.sample.tests.gateway import TOKEN, SampleGateway

SAMPLE = Path(__file__).parent / "sample"
NUMBER = "+447911123987"


def call(*command: str, cwd: Path, variables: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed; fail with what it said."""
    finished = subprocess.run(
        command,
        cwd=cwd,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def install(source: Path, folder: Path) -> Path:
    """Build the wheel of a distribution from a copy, install it into a folder, and give the folder for PYTHONPATH."""
    copied = Path(shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*")))
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist"), cwd=copied)
    (wheel,) = (folder / "dist").glob("*.whl")
    pip = [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*pip, "--no-index", "--no-deps", "--target", str(folder / "site"), str(wheel), cwd=folder)
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(SAMPLE, tmp_path_factory.mktemp("sample"))


@pytest.fixture
async def gateway() -> AsyncIterator[SampleGateway]:
    async with SampleGateway() as double:
        yield double


@pytest.fixture
def home(tmp_path: Path, gateway: SampleGateway) -> Path:
    """A directory with the settings of one sender of the sample's type."""
    home = tmp_path / "home"
    home.mkdir()
    file = home / "otpsvc.toml"
    file.write_text(f"""
[delivery]
senders = ["acme"]

[senders.acme]
type = "sample"
base_url = "{gateway.url}"
token = "{TOKEN}"
allow_private = true
""")
    file.chmod(0o600)
    return home


async def run(*arguments: str, home: Path, site: Path) -> str:
    """Run `otpsvc …` as a process of its own that finds the plugin."""
    variables = {"PYTHONPATH": str(site)}
    return await asyncio.to_thread(call, sys.executable, "-m", "otpsvc", *arguments, cwd=home, variables=variables)


async def test_the_command_finds_it_and_its_gateway(home: Path, site: Path, gateway: SampleGateway) -> None:
    listed = [" ".join(line.split()) for line in (await run("senders", "list", home=home, site=site)).splitlines()]
    assert "sample otpsvc-sample 0.1.0 sms idempotent, honours expiry, receipts, up to 1000 letters" in listed
    assert "acme sample delivery.senders 1 of 1" in listed
    assert await run("senders", "check", home=home, site=site) == "acme: ready: status 200\n"
    said = await run("senders", "send-test", "acme", NUMBER, "--yes", home=home, site=site)
    assert said.startswith("+447*****3987 through acme: accepted")
    assert [message["to"] for message in gateway.taken.values()] == [NUMBER]


async def test_a_worker_delivers_through_it(
    home: Path, site: Path, gateway: SampleGateway, redis_url: str, database_url: str
) -> None:
    variables = production(redis_url, database_url)
    worker = Program("worker", directory=home, variables={**variables, "PYTHONPATH": str(site)})
    try:
        async with open_house(load(None, variables)) as house:
            client = await house.clients.create_client("one")
            caller = Principal(client.id, "live", "key", house.settings.otp)
            sent = await house.otp.send(caller, SendRequest(to=NUMBER))
            await asyncio.to_thread(
                wait_until, lambda: bool(gateway.taken) or worker.process.poll() is not None, "a message"
            )
            assert gateway.taken, worker.stdout + worker.stderr
            (message,) = gateway.taken.values()
            assert message["to"] == NUMBER
            assert 200 < float(str(message["valid_for"])) <= house.settings.otp.ttl_s
            code = str(message["text"])[: house.settings.otp.code_length]
            assert (await house.otp.get(caller, sent.otp_id)).status == "pending"
            assert code.isdecimal()
            assert code not in worker.stdout + worker.stderr
        await asyncio.to_thread(worker.end)
    finally:
        worker.kill()
    assert len(gateway.taken) == 1
    assert NUMBER[3:] not in worker.stdout + worker.stderr
    assert TOKEN not in worker.stdout + worker.stderr


async def test_what_is_written_passes_its_own_tests(tmp_path: Path) -> None:
    skeleton.write("acme-eu", tmp_path / "new")
    said = await asyncio.to_thread(
        call, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "new"
    )
    assert " passed" in said
    assert "skipped" not in said


async def test_what_is_written_is_well_typed(tmp_path: Path) -> None:
    skeleton.write("acme-eu", tmp_path / "new")
    call(sys.executable, "-m", "mypy", "--strict", ".", cwd=tmp_path / "new")
