"""The two commands as processes of their own: what they print, what they refuse, and how they end."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from otpsvc.cli_phones import simulate, termux
from otpsvc.errors import ConfigurationError
from tests.handset.phones import until
from tests.handset.server import MobileServer
from tests.programs import PATIENCE_S, environment

_STARTS = "import sys; from otpsvc import cli_phones; getattr(cli_phones, sys.argv.pop(1))()"


class Command:
    """One running command; what it says goes to a file."""

    def __init__(self, *arguments: str, directory: Path, path: Path | None = None) -> None:
        self.said = directory / f"said-{len(list(directory.iterdir()))}.txt"
        variables = {"OTPSVC_DEVICE_PASSWORD": "a password"}
        if path is not None:
            variables["PATH"] = f"{path}:{os.environ['PATH']}"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", _STARTS, *arguments],
                env=environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def says(self, words: str) -> bool:
        assert self.process.poll() is None, self.said.read_text()
        return words in self.said.read_text()

    async def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, PATIENCE_S), self.said.read_text()


@pytest.fixture
def running_commands() -> Iterator[list[Command]]:
    """Commands that are gone after the test."""
    commands: list[Command] = []
    yield commands
    for command in commands:
        command.process.kill()
        command.process.wait(PATIENCE_S)


@pytest.mark.parametrize(("shows", "number"), [(False, signal.SIGTERM), (True, signal.SIGINT)])
async def test_a_simulated_phone_shows_codes_only_where_it_is_asked_to(
    tmp_path: Path, running_commands: list[Command], shows: bool, number: int
) -> None:
    async with MobileServer() as server:
        account = server.account()
        more = ["--show"] if shows else []
        arguments = ("simulate", "--server", server.url, "--login", account.login, *more)
        command = Command(*arguments, "--name", "By hand", "--sims", "2", "--seed", "4", directory=tmp_path)
        running_commands.append(command)
        await until(lambda: command.says("connected"), "the phone")
        assert server.device().name == "By hand"
        message_id = server.enqueue(server.device(), text="Code 4711\n\x1b[2J")
        await server.heard(server.device(), message_id, "Delivered")
        status, said = await command.end(number)
    assert status == 0
    assert f"registered as {server.device().id}" in said
    assert message_id in said
    assert ("4711" in said, "+33612345678" in said) == (shows, shows)
    assert "\x1b" not in said
    assert "password" not in said
    assert server.farewells == ["closed"]


async def test_termux_sends_for_real_and_knows_itself_again(tmp_path: Path, running_commands: list[Command]) -> None:
    programs, outbox, state = tmp_path / "bin", tmp_path / "outbox", tmp_path / "state.json"
    programs.mkdir()
    (programs / "termux-sms-send").write_text(f'#!/bin/sh\n{{ echo "$2"; cat; echo; }} >> {outbox}\n')
    (programs / "termux-sms-send").chmod(0o755)
    async with MobileServer() as server:
        server.account("phone-abcdef", "a password")
        server.codes["123456"] = "phone-abcdef"
        arguments = ("termux", "--server", server.url, "--state", str(state))
        command = Command(*arguments, "--code", "123456", directory=tmp_path, path=programs)
        running_commands.append(command)
        await until(lambda: command.says("connected"), "the phone")
        message_id = server.enqueue(server.device(), text="Code 4711")
        assert await server.heard(server.device(), message_id, "Sent") == ["Processed", "Sent"]
        assert outbox.read_text() == "+33612345678\nCode 4711\n"
        status, said = await command.end(signal.SIGTERM)
        assert status == 0, said
        assert "4711" not in said + state.read_text()

        again = Command(*arguments, directory=tmp_path, path=programs)
        running_commands.append(again)
        await until(lambda: again.says("connected"), "the phone")
        second = Command(*arguments, directory=tmp_path, path=programs)
        running_commands.append(second)
        assert await asyncio.to_thread(second.process.wait, PATIENCE_S) == 1
        assert "another process uses" in second.said.read_text()
        assert (await again.end(signal.SIGINT))[0] == 0
        assert (server.asked("POST", "/device"), server.asked("PATCH", "/device")) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "http://otp.example", "--code", "1"], "https://"),
        (["--server", "https://otp.example"], "give --code"),
        (["--server", "https://otp.example", "--login", "me"], "give --code"),
    ],
)
def test_what_cannot_be_is_refused_in_words(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(simulate, arguments)
    assert isinstance(result.exception, ConfigurationError)
    assert words in str(result.exception)


@pytest.mark.parametrize("arguments", [["--loses", "2"], ["--sims", "0"], ["--slow", "-1"], ["--seed", "x"]])
def test_what_is_out_of_bounds_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(simulate, ["--server", "https://otp.example", "--code", "1", *arguments]).exit_code == 2


def test_a_state_of_another_server_or_login_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "termux-sms-send").write_text("#!/bin/sh\n")
    (tmp_path / "termux-sms-send").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    state = tmp_path / "state.json"
    state.write_text(
        '{"credentials": {"server": "https://a.example/mobile/v1", "id": "d", "token": "t", "login": "me"}}'
    )
    for more in (["https://b.example"], ["https://a.example", "--login", "another", "--password", "x"]):
        result = CliRunner().invoke(termux, ["--state", str(state), "--server", *more])
        assert isinstance(result.exception, ConfigurationError)
        assert "another server or login" in str(result.exception)


async def test_who_is_turned_away_is_told_so(tmp_path: Path, running_commands: list[Command]) -> None:
    async with MobileServer() as server:
        command = Command("simulate", "--server", server.url, "--code", "999999", directory=tmp_path)
        running_commands.append(command)
        await until(lambda: command.process.poll() is not None, "its end")
    assert command.process.returncode == 1
    assert "status 401" in command.said.read_text()
    assert "999999" not in command.said.read_text()
