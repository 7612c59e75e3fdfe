"""The terminal sender shows a message on a real terminal, and nowhere else."""

import io
import os
import pty
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpsvc.senders.contract import Accepted, NoSettings, Rejected, RejectionKind
from otpsvc.senders.terminal import TerminalSender
from otpsvc.testing import outbound_message, sender_context


@pytest.fixture
def screen() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """A pseudo-terminal: the descriptor a person looks at, and the stream a program writes to."""
    watched, written = pty.openpty()
    with os.fdopen(written, "w", encoding="utf-8") as stream:
        yield watched, stream
    os.close(watched)


def seen(watched: int) -> str:
    shown = b""
    while select.select([watched], [], [], 0.05 if shown else 2)[0]:
        shown += os.read(watched, 4096)
    return shown.decode()


async def test_a_message_is_one_line(screen: tuple[int, io.TextIOWrapper]) -> None:
    watched, stream = screen
    sender = TerminalSender("terminal", NoSettings(), sender_context(), stream)
    outcome = await sender.send(outbound_message(to="+33612345678", text="123456: ваш код\nстрока два"))
    assert isinstance(outcome, Accepted)
    line = seen(watched)
    assert line.count("\n") == 1
    assert "sms to +33612345678" in line
    assert "123456: ваш код | строка два" in line


async def test_a_text_cannot_steer_the_terminal(screen: tuple[int, io.TextIOWrapper]) -> None:
    watched, stream = screen
    sender = TerminalSender("terminal", NoSettings(), sender_context(), stream)
    await sender.send(outbound_message(text="\x1b[2J\x07\r123456\u202e"))
    line = seen(watched).rstrip("\r\n")
    assert line.isprintable()
    assert "123456" in line


async def test_an_alphabet_the_terminal_lacks_does_not_break_it() -> None:
    watched, written = pty.openpty()
    with os.fdopen(written, "w", encoding="ascii") as stream:
        sender = TerminalSender("terminal", NoSettings(), sender_context(), stream)
        assert isinstance(await sender.send(outbound_message(text="123456: код")), Accepted)
        assert "123456: ???" in seen(watched)
    os.close(watched)


async def test_a_file_is_no_screen(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as stream:
        sender = TerminalSender("terminal", NoSettings(), sender_context(), stream)
        outcome = await sender.send(outbound_message())
    assert isinstance(outcome, Rejected)
    assert outcome.kind is RejectionKind.UNAVAILABLE
    assert path.read_text() == ""


async def test_standard_output_is_judged_when_it_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = TerminalSender("terminal", NoSettings(), sender_context())
    assert isinstance(await sender.send(outbound_message()), Rejected)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stdout", None)
    assert isinstance(await sender.send(outbound_message()), Rejected)
