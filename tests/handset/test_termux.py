"""Sending for real, with a program in the place of Termux's."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.handset.radio import Outgoing
from otpsvc.handset.termux import COMMAND, TermuxRadio
from otpsvc.handset.wire import PhoneState
from tests.handset.phones import until
from tests.programs import is_running

TEXT = 'Your code is 4711; rm -rf "$HOME" `id`\né🙂'

Standing = Callable[..., Path]


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standing:
    """Put a program in Termux's place which notes how it was called, then does `what`; returns where it notes that."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(what: str = "exit 0", name: str = COMMAND) -> Path:
        program, notes = tmp_path / name, tmp_path / "notes"
        notes.mkdir(exist_ok=True)
        program.write_text(
            "#!/bin/sh\n"
            f'for one in "$@"; do printf "%s\\n" "$one"; done > {notes}/arguments\n'
            f"cat > {notes}/text\n"
            f"echo $$ > {notes}/pid\n"
            f"{what}\n"
        )
        program.chmod(0o755)
        return notes

    return put


async def told_by(radio: TermuxRadio, *, to: str = "+33612345678", sim: int | None = None) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []

    def hear(state: PhoneState, error: str) -> None:
        told.append((state.value, error))

    await radio.send(Outgoing(message_id="msg_1", device_id="dev_1", to=to, text=TEXT, sim_number=sim), hear)
    radio.close()
    return told


async def test_number_and_text_reach_the_command_as_they_are(standing: Standing) -> None:
    notes = standing()
    assert await told_by(TermuxRadio()) == [("Sent", "")]
    assert (notes / "arguments").read_text() == "-n\n+33612345678\n"
    assert (notes / "text").read_text() == TEXT


@pytest.mark.parametrize(("several", "sim", "slot"), [(True, 2, ["-s", "1"]), (False, 2, []), (True, None, [])])
async def test_a_sim_is_asked_for_only_where_there_are_several(
    standing: Standing, several: bool, sim: int | None, slot: list[str]
) -> None:
    notes = standing()
    assert await told_by(TermuxRadio(has_several_sims=several), sim=sim) == [("Sent", "")]
    assert (notes / "arguments").read_text().split() == ["-n", "+33612345678", *slot]


@pytest.mark.parametrize("to", ["", "+", "-n", "--help", "+336 12", "1;id", "+33612345678,+33612345679", "٣٣٦١٢"])
async def test_what_is_no_number_never_reaches_the_command(standing: Standing, to: str) -> None:
    notes = standing()
    assert await told_by(TermuxRadio(), to=to) == [("Failed", "invalid number")]
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("exit 3", "termux-sms-send ended with status 3"),
        ("kill -9 $$", "termux-sms-send ended with status -9"),
        (
            f"echo '{json.dumps({'error': 'Please grant the permission android.permission.SEND_SMS'})}'",
            "no permission to send SMS: allow it to the app Termux:API",
        ),
        (f"echo '{json.dumps({'error': 'cannot send to +33612345678'})}'; exit 1", "termux-sms-send refused"),
    ],
)
async def test_failures_are_told_in_words_of_ours(standing: Standing, what: str, error: str) -> None:
    standing(what)
    assert await told_by(TermuxRadio()) == [("Failed", error)]


@pytest.mark.parametrize("said", ["nonsense", "{", "[]", "null", '{"ok": true}'])
async def test_other_output_is_no_failure(standing: Standing, said: str) -> None:
    standing(f"echo '{said}'")
    assert await told_by(TermuxRadio()) == [("Sent", "")]


@pytest.mark.parametrize("what", ["sleep 600", "exit 0"])
async def test_what_does_not_end_in_time_is_ended_and_nothing_is_claimed(standing: Standing, what: str) -> None:
    notes = standing('sleep 600 & echo $! > "$(dirname "$0")/notes/child"; ' + what)
    assert await told_by(TermuxRadio(timeout_s=1.0)) == []
    await until(lambda: not is_running(int((notes / "child").read_text())))
    assert not is_running(int((notes / "pid").read_text()))


async def test_cancelled_it_leaves_no_process(standing: Standing) -> None:
    notes = standing("sleep 600")
    sending = asyncio.create_task(told_by(TermuxRadio()))
    await until(lambda: (notes / "pid").exists() and (notes / "pid").read_text().endswith("\n"))
    sending.cancel()
    await asyncio.wait({sending})
    assert not is_running(int((notes / "pid").read_text()))


async def test_a_command_that_cannot_be_started(standing: Standing, tmp_path: Path) -> None:
    standing()
    radio = TermuxRadio()
    (tmp_path / COMMAND).unlink()
    assert await told_by(radio) == [("Failed", "termux-sms-send cannot be started")]


def test_without_the_command_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="pkg install termux-api"):
        TermuxRadio()
