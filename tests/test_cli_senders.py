"""`otpsvc senders`: what it lists, what it finds wrong, what it sends and how it says so, and what it writes."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from otpsvc.cli import main
from otpsvc.senders.registry import installed_senders
from otpsvc.testing import Fault
from tests.programs import PATIENCE_S
from tests.senders.sample.tests.gateway import TOKEN, SampleGateway

NUMBER = "+447911123987"
SAMPLE = Path(__file__).parent / "senders" / "sample"


class Said(NamedTuple):
    status: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, sample: None) -> Call:
    """Run the command in this process, in a directory of its own, with `given` typed at its questions."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in [name for name in os.environ if name.startswith("OTPSVC_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str, settings: str = "", given: str = "") -> Said:
        file = home / "otpsvc.toml"
        file.write_text(settings)
        file.chmod(0o600)
        (tmp_path / "typed").write_text(given)
        with monkeypatch.context() as patch, (tmp_path / "typed").open() as typed:
            patch.setattr(sys, "argv", ["otpsvc", "senders", *arguments])
            patch.setattr(sys, "stdin", typed)
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        for secret in (NUMBER[1:], NUMBER[3:], TOKEN):
            assert secret not in said.out + said.err
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the sample on the path as a distribution; the wheel is built elsewhere (tests/senders/test_sample.py)."""
    site = tmp_path / "site"
    about = site / "otpsvc_sample-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: otpsvc-sample\nVersion: 0.1.0\n")
    points = ["sample = otpsvc_sample.sender:SampleSender", *(f"{one} = odd_senders:{one.title()}" for one in ODD)]
    (about / "entry_points.txt").write_text(
        "\n".join(["[otpsvc.senders]", *points, "gone = no_such_module:Gone", "over = quits_at_once:Gone"])
    )
    (site / "quits_at_once.py").write_text("raise SystemExit(0)")
    (site / "otpsvc_sample").symlink_to(SAMPLE / "otpsvc_sample")
    (site / "odd_senders.py").write_text(ODD_SENDERS)
    monkeypatch.syspath_prepend(site)
    yield
    for module in ("otpsvc_sample", "otpsvc_sample.sender", "odd_senders", "quits_at_once"):
        sys.modules.pop(module, None)


ODD = ("sulks", "shouts", "sleeps", "babbles", "blurts", "quits")
ODD_SENDERS = """
import asyncio
from otpsvc.senders.contract import *

class Sulks(Sender[NoSettings]):
    capabilities = Capabilities(channels=frozenset({Channel.SMS, Channel.VOICE}))
    async def send(self, message):
        return Rejected(RejectionKind.NO_CREDIT, "code 9\\x1b[2J")
    async def health(self):
        return Health(is_ready=False, detail="no credit")

class Shouts(Sulks):
    async def send(self, message):
        raise RuntimeError(message.to)
    async def health(self):
        raise RuntimeError("a-token-for-tests")

class Sleeps(Sulks):
    async def open(self):
        await asyncio.Event().wait()

class Babbles(Sulks):
    async def send(self, message):
        return None
    async def health(self):
        return True

class Blurts(Sulks):
    async def send(self, message):
        return RetryLater("soon", 7)
    async def health(self):
        return Health(is_ready=True, detail=7)

class Quits(Sulks):
    async def send(self, message):
        raise SystemExit(0)
    async def health(self):
        raise SystemExit(0)
"""


@pytest.fixture
def gateway() -> Iterator[SampleGateway]:
    """The sample's gateway on a loop of its own: the command has one too."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    double = SampleGateway()
    asyncio.run_coroutine_threadsafe(double.__aenter__(), loop).result(PATIENCE_S)
    yield double
    asyncio.run_coroutine_threadsafe(double.__aexit__(), loop).result(PATIENCE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE_S)
    loop.close()


def table(gateway: SampleGateway, name: str = "acme", *, timeout_s: int = 9, **changed: str) -> str:
    given = {"type": "sample", "base_url": gateway.url, "token": TOKEN, **changed}
    lines = [f'{key} = "{value}"' for key, value in given.items()]
    return "\n".join([f"[senders.{name}]", *lines, "allow_private = true", f"timeout_s = {timeout_s}", ""])


def row(said: Said, first: str) -> str:
    (line,) = (line for line in said.out.splitlines() if line.split()[:1] == [first])
    return " ".join(line.split())


def test_every_installed_type_is_listed(senders: Call) -> None:
    said = senders("list")
    assert (said.status, said.err) == (0, "")
    assert row(said, "sample") == (
        "sample otpsvc-sample 0.1.0 sms idempotent, honours expiry, receipts, up to 1000 letters"
    )
    assert row(said, "sulks").endswith("sms,voice send")
    assert "dev only" in row(said, "inbox")
    assert "cannot be imported: ModuleNotFoundError" in row(said, "gone")
    assert "cannot be imported: SystemExit" in row(said, "over")
    assert all(row(said, kind) for kind in installed_senders())
    assert "No senders are set up" in said.out


def test_the_senders_of_the_settings_are_listed_with_their_places(senders: Call, gateway: SampleGateway) -> None:
    settings = f"""
[delivery]
senders = ["other", "acme"]
[routes.sms]
"+39" = ["acme"]
[routes.client_100000000001.sms]
"*" = ["other", "acme"]
{table(gateway)}
{table(gateway, "other")}
{table(gateway, "spare")}
"""
    said = senders("list", settings=settings)
    assert said.status == 0
    assert row(said, "acme") == (
        'acme sample delivery.senders 2 of 2; routes.sms "+39" 1 of 1; routes.client_100000000001.sms "*" 2 of 2'
    )
    assert row(said, "spare") == "spare sample on no route"


def test_types_are_listed_even_where_the_settings_are_wrong(senders: Call) -> None:
    said = senders("list", settings="[delivery]\nsender = []\n")
    assert said.status == 1
    assert "sample" in said.out
    assert "delivery.sender" in said.err


def test_a_good_sender_is_ready(senders: Call, gateway: SampleGateway) -> None:
    settings = '[delivery]\nsenders = ["acme"]\n' + table(gateway)
    assert senders("check", settings=settings) == (0, "acme: ready: status 200\n", "")
    assert senders("check", "acme", settings=settings).status == 0
    assert [(one.method, one.path) for one in gateway.requests] == [("GET", "/account")] * 2


def test_a_sender_on_no_route_is_told(senders: Call, gateway: SampleGateway) -> None:
    assert senders("check", settings=table(gateway)).out == "acme: ready, but on no route: status 200\n"


def test_each_fault_is_one_line(senders: Call, gateway: SampleGateway) -> None:
    settings = f"""
{table(gateway, "good")}
{table(gateway, "stranger", token="another-token")}
[senders.lacking]
type = "sample"
base_url = "https://sms.example.com"
[senders.misspelt]
type = "smaple"
[senders.shown]
type = "inbox"
[senders.sulky]
type = "sulks"
[senders.loud]
type = "shouts"
"""
    said = senders("check", settings=settings)
    assert said.status == 1
    assert said.out == "good: ready, but on no route: status 200\n"
    faults = said.err.splitlines()
    assert [line.split(":")[0].split(" ")[0] for line in faults] == [
        "senders.stranger",
        "senders.lacking.token",
        "senders.misspelt.type",
        "senders.shown",
        "senders.sulky",
        "senders.loud",
    ]
    assert faults[0] == "senders.stranger: not ready: status 401"
    assert faults[-2:] == ["senders.sulky: not ready: no credit", "senders.loud: health failed with RuntimeError"]
    assert senders("check", "good", settings=settings).status == 0


def test_a_gateway_that_is_down_is_a_fault_in_bounded_time(senders: Call, gateway: SampleGateway) -> None:
    gateway.misbehave(Fault.HANG)
    said = senders("check", settings=table(gateway, timeout_s=1))
    assert (said.status, said.out) == (1, "")
    assert said.err == "senders.acme: not ready: time-out\n"


def test_a_sender_that_never_opens_is_a_fault(senders: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.cli_senders._PATIENCE_S", 0.2)
    said = senders("check", settings='[senders.slow]\ntype = "sleeps"\n')
    assert said == (1, "", "senders.slow: did not open within 0.2 s\n")
    said = senders("send-test", "slow", NUMBER, "--yes", settings='[senders.slow]\ntype = "sleeps"\n')
    assert said.status == 1


def test_a_route_that_cannot_work_is_a_fault(senders: Call, gateway: SampleGateway) -> None:
    said = senders("check", settings=table(gateway) + '\n[routes.voice]\n"*" = ["acme"]\n')
    assert said.status == 1
    assert "routes.voice" in said.err


@pytest.mark.parametrize("arguments", [("check", "nobody"), ("send-test", "nobody", NUMBER, "--yes")])
def test_an_unknown_sender_is_named_with_those_there_are(
    senders: Call, gateway: SampleGateway, arguments: tuple[str, ...]
) -> None:
    said = senders(*arguments, settings=table(gateway))
    assert (said.status, said.out) == (1, "")
    assert "'nobody'" in said.err
    assert "acme" in said.err


def test_checking_nothing_is_no_success(senders: Call) -> None:
    assert senders("check").status == 1


def test_a_test_message_goes_to_the_number_and_is_told_masked(senders: Call, gateway: SampleGateway) -> None:
    said = senders("send-test", "acme", "0044 7911 123987", "--yes", settings=table(gateway))
    (message,) = gateway.taken.values()
    assert (message["to"], message["text"]) == (NUMBER, "otpsvc test message")
    assert said.status == 0
    assert said.out == f"+447*****3987 through acme: accepted (provider id g-{str(message['reference'])[4:]})\n"


def test_it_asks_before_it_costs_money(senders: Call, gateway: SampleGateway) -> None:
    said = senders("send-test", "acme", NUMBER, settings=table(gateway), given="n\n")
    assert said.status == 1
    assert "+447*****3987 through acme?" in said.out
    assert not gateway.requests
    assert senders("send-test", "acme", NUMBER, settings=table(gateway), given="").status == 1
    assert not gateway.requests
    assert senders("send-test", "acme", NUMBER, settings=table(gateway), given="y\n").status == 0
    assert len(gateway.taken) == 1


def test_what_the_gateway_did_not_take_is_told_and_is_status_one(senders: Call, gateway: SampleGateway) -> None:
    gateway.refuse_with.append("no_credit")
    said = senders("send-test", "acme", NUMBER, "--yes", settings=table(gateway))
    assert said == (1, "+447*****3987 through acme: rejected, no_credit (code no_credit)\n", "")
    gateway.misbehave(Fault.TOO_MANY, Fault.HANG)
    said = senders("send-test", "acme", NUMBER, "--yes", settings=table(gateway))
    assert (said.status, said.out.split(": ")[1]) == (1, "not now, again in 7 s (status 429)\n")
    said = senders("send-test", "acme", NUMBER, "--yes", settings=table(gateway, timeout_s=1))
    assert (said.status, said.out.partition(": ")[2]) == (1, "unknown: it may have been sent (time-out)\n")


def test_a_strangers_words_neither_drive_the_terminal_nor_show_the_number(senders: Call) -> None:
    settings = '[senders.sulky]\ntype = "sulks"\n[senders.loud]\ntype = "shouts"\n'
    said = senders("send-test", "sulky", NUMBER, "--yes", "--channel", "voice", settings=settings)
    assert said.out == "+447*****3987 through sulky: rejected, no_credit (code 9?[2J)\n"
    said = senders("send-test", "loud", NUMBER, "--yes", settings=settings)
    assert said.out.endswith("unknown: it may have been sent (send failed with RuntimeError)\n")


@pytest.mark.parametrize(
    ("kind", "check", "outcome"),
    [
        ("babbles", "health answered bool, which is no Health", "(the sender answered NoneType, which is no outcome)"),
        ("quits", "health failed with SystemExit", "(send failed with SystemExit)"),
        ("over", "quits_at_once:Gone', which cannot be imported: SystemExit", "cannot be imported: SystemExit"),
    ],
)
def test_an_answer_of_no_kind_is_told_and_is_no_success(senders: Call, kind: str, check: str, outcome: str) -> None:
    settings = f'[senders.odd]\ntype = "{kind}"\n'
    said = senders("check", settings=settings)
    assert (said.status, said.out) == (1, "")
    assert check in said.err
    said = senders("send-test", "odd", NUMBER, "--yes", settings=settings)
    assert said.status == 1
    assert outcome in said.out + said.err


def test_fields_of_no_kind_are_shown_as_they_are(senders: Call) -> None:
    settings = '[senders.odd]\ntype = "blurts"\n'
    assert senders("check", settings=settings) == (0, "odd: ready, but on no route: 7\n", "")
    said = senders("send-test", "odd", NUMBER, "--yes", settings=settings)
    assert (said.status, said.out) == (1, "+447*****3987 through odd: not now, again in soon s (7)\n")


@pytest.mark.parametrize("number", ["7911123987", "+44", "nobody", "+4479111239875555"])
def test_what_is_no_number_is_one_line(senders: Call, gateway: SampleGateway, number: str) -> None:
    said = senders("send-test", "acme", number, "--yes", settings=table(gateway))
    assert (said.status, said.out) == (1, "")
    (line,) = said.err.splitlines()
    assert "NUMBER" in line
    assert not gateway.requests


def test_a_channel_it_cannot_carry_is_refused(senders: Call, gateway: SampleGateway) -> None:
    said = senders("send-test", "acme", NUMBER, "--yes", "--channel", "voice", settings=table(gateway))
    assert said.status == 1
    assert "cannot carry voice, only sms" in said.err
    assert not gateway.requests


def test_a_new_sender_is_written(senders: Call) -> None:
    said = senders("new", "acme-eu")
    assert said.status == 0
    written = [Path(line) for line in said.out.splitlines()]
    assert {str(path.relative_to("otpsvc-acme-eu")) for path in written} == {
        "README.md",
        "otpsvc_acme_eu/__init__.py",
        "otpsvc_acme_eu/codes.csv",
        "otpsvc_acme_eu/py.typed",
        "otpsvc_acme_eu/sender.py",
        "pyproject.toml",
        "tests/gateway.py",
        "tests/test_sender.py",
    }
    texts = [path.read_text() for path in written]
    assert not [text for text in texts if "{{" in text or "sample" in text.lower()]
    assert (
        "class AcmeEuSender(Sender[AcmeEuSettings])"
        in (Path("otpsvc-acme-eu") / "otpsvc_acme_eu/sender.py").read_text()
    )


def test_nothing_is_overwritten(senders: Call) -> None:
    Path("elsewhere").mkdir()
    assert senders("new", "acme", "--directory", "elsewhere").status == 0
    (kept := Path("elsewhere/README.md")).write_text("mine")
    said = senders("new", "acme", "--directory", "elsewhere")
    assert (said.status, said.out) == (1, "")
    assert "nothing is overwritten" in said.err
    assert kept.read_text() == "mine"
    Path("link").symlink_to("nowhere")
    assert senders("new", "acme", "--directory", "link").status == 1
    assert senders("new", "acme", "--directory", "elsewhere/README.md").status == 1


@pytest.mark.parametrize(
    "name", ["", "Acme", "2fa", "acme_eu", "acme-", "a--b", "../acme", "a" * 33, "acmé", "a\nb", "sample"]
)
def test_a_name_that_cannot_be_is_refused(senders: Call, name: str) -> None:
    said = senders("new", "--", name)
    assert (said.status, said.out) == (1, "")
    assert len(said.err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["otpsvc.toml"]
