"""The door: real distributions on the path, found, checked and made, or refused in one clear line."""

import asyncio
import logging
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.messages.policy import SenderLimits
from otpsvc.senders.inbox import InboxSender
from otpsvc.senders.registry import GROUP, HOUSE_KEYS, installed_senders, load_senders, opened
from otpsvc.senders.terminal import TerminalSender
from otpsvc.settings import SenderTable
from otpsvc.settings_values import Given
from otpsvc.testing import RecordingSender, outbound_message, sender_context

ROOT = Path(__file__).parents[2]
Install = Callable[..., None]

ACME = """
from typing import Annotated
import msgspec
from otpsvc.senders.contract import *

class Settings(msgspec.Struct, frozen=True, kw_only=True):
    token: Secret
    url: str = "https://acme.example"
    retries: Annotated[int, msgspec.Meta(ge=0, le=5)] = 1
    mode: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "fast"
    nested: dict[str, int] = {}

class Acme(Sender[Settings]):
    Settings = Settings
    capabilities = Capabilities(channels=frozenset({Channel.SMS}))
    async def send(self, message):
        return Accepted(self.settings.token.reveal())

class NoCapabilities(Sender[NoSettings]):
    async def send(self, message):
        return Accepted()

class NoSend(Sender[NoSettings]):
    capabilities = Acme.capabilities

class OddSettings(Acme):
    Settings = dict

class Limits(msgspec.Struct, frozen=True):
    concurrency: int = 4

class TakesOurKey(Acme):
    Settings = Limits

class Throws(Acme):
    def __init__(self, name, settings, context):
        raise RuntimeError("token is " + settings.token.reveal())

class Quits(Acme):
    def __init__(self, name, settings, context):
        raise SystemExit(0)

class Picky(Acme):
    def __init__(self, name, settings, context):
        from otpsvc.errors import ConfigurationError
        raise ConfigurationError(f"senders.{name}.url: does not answer")

not_a_class = Acme.send
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with entry points (and a module) on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(name: str, points: dict[str, str], module: str | None = None, code: str = "") -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
        lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        if module:
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
            monkeypatch.delitem(__import__("sys").modules, module, raising=False)

    return put


@pytest.fixture
def ours(install: Install) -> None:
    """Install our own entry points as pyproject.toml declares them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        points = tomllib.load(file)["project"]["entry-points"][GROUP]
    if not {"inbox", "terminal"} <= set(installed_senders()):
        install("otpsvc-under-test", points)


@pytest.fixture
def acme(install: Install, ours: None) -> None:
    points = {
        "acme": "acme_sender:Acme",
        "no-capabilities": "acme_sender:NoCapabilities",
        "no-send": "acme_sender:NoSend",
        "odd-settings": "acme_sender:OddSettings",
        "throws": "acme_sender:Throws",
        "quits": "acme_sender:Quits",
        "takes-our-key": "acme_sender:TakesOurKey",
        "picky": "acme_sender:Picky",
        "function": "acme_sender:not_a_class",
        "missing-module": "acme_is_gone:Acme",
        "missing-name": "acme_sender:Gone",
    }
    install("acme-senders", points, "acme_sender", ACME)


def tables(given: Mapping[str, Mapping[str, object]]) -> dict[str, SenderTable]:
    """Make the settings' tables as `otpsvc.toml` would."""
    return {
        name: SenderTable(
            name,
            str(table["type"]),
            {key: Given(value, "otpsvc.toml") for key, value in table.items() if key != "type"},
        )
        for name, table in given.items()
    }


def refusal(table: Mapping[str, object], *, name: str = "a", is_dev: bool = True) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_senders(tables({name: table}), sender_context(is_dev=is_dev))
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_our_own_senders_come_through_the_door(ours: None) -> None:
    given = {"screen": {"type": "terminal"}, "box": {"type": "inbox"}}
    senders = load_senders(tables(given), sender_context())
    assert list(senders) == ["screen", "box"]
    assert isinstance(senders["screen"], TerminalSender)
    assert isinstance(senders["box"], InboxSender)
    assert senders["box"].name == "box"


@pytest.mark.parametrize("kind", ["inbox", "terminal"])
def test_what_shows_codes_loads_under_dev_only(kind: str, ours: None) -> None:
    assert "otpsvc dev" in refusal({"type": kind}, is_dev=False)


async def test_a_strangers_sender_is_made_from_its_settings(acme: None) -> None:
    senders = load_senders(tables({"a": {"type": "acme", "token": "t0ken-t0ken"}}), sender_context(is_dev=False))
    sender = senders["a"]
    assert "t0ken" not in f"{sender!r} {sender.settings!r}"
    assert "t0ken" in repr(await sender.send(outbound_message()))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "senders.a.token must be given"),
        ({"token": "s3cret", "urk": "x"}, "did you mean senders.a.url?"),
        ({"token": 12}, "senders.a.token "),
        ({"token": ""}, "senders.a.token "),
        ({"token": "s3cret", "retries": 6}, "senders.a.retries "),
        ({"token": "s3cret", "retries": True}, "senders.a.retries "),
        ({"token": "s3cret", "mode": "S3CRET"}, "senders.a.mode "),
        ({"token": "s3cret", "nested": {"x": "s3cret"}}, "senders.a.nested"),
    ],
)
def test_a_wrong_setting_is_named_by_its_key_and_its_value_not_told(
    own: dict[str, object], said: str, acme: None
) -> None:
    message = refusal({"type": "acme", **own})
    assert said in message
    assert "s3cret" not in message.lower()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no-capabilities", "capabilities"),
        ("no-send", "lacks send"),
        ("odd-settings", "Settings is not a msgspec.Struct"),
        ("takes-our-key", "has the key 'concurrency', which is read by otpsvc itself"),
        ("function", "not a Sender class"),
        ("missing-module", "ModuleNotFoundError"),
        ("missing-name", "AttributeError"),
        ("quits", "SystemExit"),
    ],
)
def test_a_broken_plugin_is_named_by_its_distribution(kind: str, said: str, acme: None) -> None:
    message = refusal({"type": kind} | ({"token": "x"} if kind in {"odd-settings", "quits"} else {}))
    assert "acme-senders 1.2.3" in message
    assert said in message


def test_every_key_that_the_house_reads_is_known_here() -> None:
    assert {"type", *SenderLimits.__struct_fields__} <= HOUSE_KEYS


def test_a_constructor_that_throws_cannot_tell_a_secret(acme: None) -> None:
    message = refusal({"type": "throws", "token": "s3cret"})
    assert "acme-senders 1.2.3" in message
    assert "RuntimeError" in message
    assert "s3cret" not in message


def test_a_plugins_own_configuration_error_is_passed_on(acme: None) -> None:
    assert refusal({"type": "picky", "token": "x"}) == "senders.a.url: does not answer"


def test_an_unknown_type_lists_what_is_installed(acme: None) -> None:
    message = refusal({"type": "acne"})
    assert "did you mean 'acme'?" in message
    assert "inbox" in message
    assert "terminal" in message


def test_two_packages_cannot_offer_one_type(install: Install) -> None:
    install("first-package", {"twice": "a:A"})
    install("second-package", {"twice": "b:B"})
    message = refusal({"type": "twice"})
    assert "first-package 1.2.3" in message
    assert "second-package 1.2.3" in message


class Openable(RecordingSender):
    def __init__(self, name: str, log: list[str], *, fails: str = "") -> None:
        super().__init__(name)
        self.log = log
        self.fails = fails

    async def open(self) -> None:
        self.log.append(f"open {self.name}")
        if self.fails == "open":
            raise ConfigurationError("cannot open")

    async def close(self) -> None:
        self.log.append(f"close {self.name}")
        if self.fails == "close":
            raise RuntimeError("s3cret")


async def test_senders_are_closed_in_reverse_even_when_one_cannot_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with opened([Openable("a", log), Openable("b", log, fails="close")]):
            log.append("body")
    assert log == ["open a", "open b", "body", "close b", "close a"]
    assert "RuntimeError" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_failed_open_closes_what_was_opened() -> None:
    log: list[str] = []
    with pytest.raises(ConfigurationError, match="cannot open"):
        async with opened([Openable("a", log), Openable("b", log, fails="open"), Openable("c", log)]):
            pytest.fail("the body must not run")
    assert log == ["open a", "open b", "close b", "close a"]


async def test_closes_that_hang_are_left_behind_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.senders.registry._CLOSE_TIMEOUT_S", 0.01)
    heard: list[str] = []
    may_end = asyncio.Event()

    class Deaf(RecordingSender):
        async def close(self) -> None:
            while not may_end.is_set():
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    heard.append(self.name)

    log: list[str] = []
    async with opened([Openable("a", log), *(Deaf(f"deaf{n}") for n in range(20))]):
        pass
    await asyncio.sleep(0)
    assert log == ["open a", "close a"]
    assert len(heard) == 20
    may_end.set()


async def test_who_ends_the_process_while_closing_ends_nothing() -> None:
    class Quits(RecordingSender):
        async def close(self) -> None:
            raise SystemExit(1)

    log: list[str] = []
    async with opened([Openable("a", log), Quits("q")]):
        pass
    assert log == ["open a", "close a"]
