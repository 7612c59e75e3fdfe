"""What a phone keeps: a file that nobody else reads, whole at every moment, and held by one process."""

import os
import stat
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.handset.journal import Credentials, FileJournal, Handled, MemoryJournal
from otpsvc.handset.simulated import SimulatedPhone
from tests.handset.phones import FAST, living, until
from tests.handset.server import MobileServer

WHO = Credentials(server="https://otp.example/mobile/v1", id="dev_1", token="a-token", login="me", password="a-word")


def test_it_is_read_back_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with FileJournal(path) as journal:
        assert journal.kept.credentials is None
        journal.identify(WHO)
        journal.note(Handled("msg_1", "Sent", 2000.0), 1000.0)
        journal.note(Handled("msg_2", "Processed", 2000.0), 1000.0)
        journal.note(Handled("msg_2", "Sent", 2000.0), 1000.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with FileJournal(path) as journal:
        assert journal.kept.credentials == WHO
        assert journal.kept.handled["msg_2"].state == "Sent"
        assert list(journal.kept.handled) == ["msg_1", "msg_2"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state.json", "state.json.lock"]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with FileJournal(path), pytest.raises(ConfigurationError, match="another process"):
        FileJournal(path).__enter__()
    with FileJournal(path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"credentials": {"id": "only"}}', b"[" * 100_000])
def test_what_is_no_state_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a phone's state"):
        FileJournal(path).__enter__()
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_used_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot use"):
        FileJournal(tmp_path / "nowhere" / "state.json").__enter__()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match="cannot use"):
        FileJournal(tmp_path / "folder").__enter__()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with FileJournal(path) as journal:
        journal.identify(WHO)
        before = path.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigurationError, match="No space left"):
            journal.note(Handled("msg_1", "Sent", 2000.0), 1000.0)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state.json", "state.json.lock"]


def test_what_is_over_is_forgotten_once_that_is_much() -> None:
    journal = MemoryJournal()
    for number in range(300):
        journal.note(Handled(f"msg_{number}", "Sent", 10.0 if number < 250 else 1e9), 1000.0)
    assert 50 <= len(journal.kept.handled) <= 201
    for number in range(6000):
        journal.note(Handled(f"new_{number}", "Sent", 1e9), 1000.0)
    assert len(journal.kept.handled) == 5000
    assert "new_5999" in journal.kept.handled


def test_secrets_are_not_shown() -> None:
    assert "a-token" not in repr(WHO)
    assert "a-word" not in repr(WHO)


async def test_after_a_restart_nothing_is_sent_twice_and_nobody_registers_anew(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    async with MobileServer() as server:
        account = server.account()
        with FileJournal(path) as journal:
            phone = SimulatedPhone(
                server.url, login=account.login, password=account.password, journal=journal, pace=FAST
            )
            async with living(phone):
                await phone.connected()
                server.is_deaf = True
                message_id = server.enqueue(server.device())
                await server.heard(server.device(), message_id, "Delivered")
        kept = path.read_text()
        assert "Code" not in kept
        assert "+336" not in kept
        server.device().reports.clear()
        with FileJournal(path) as journal:
            again = SimulatedPhone(server.url, journal=journal, pace=FAST)
            async with living(again):
                await server.heard(server.device(), message_id, "Delivered")
                await until(lambda: again.is_connected)
        assert again.device_id == server.device().id
        assert again.air.list() == []
        assert server.asked("POST", "/device") == 1
        assert server.device().reports[0]["recipients"][0]["phoneNumber"] == "+33612345678"
