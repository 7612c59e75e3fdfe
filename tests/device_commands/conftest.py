"""Commands on phones, run in this process over the real stores."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpsvc import cli_pairings
from otpsvc.cli import main
from otpsvc.devices.model import Pairing, Registered
from tests.device_commands.operator import Operator, Said
from tests.programs import production

PUBLIC = "https://otp.example.com"


@pytest.fixture
def operator(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    redis_url: str,
    database_url: str,
) -> Operator:
    """Run the command in this process; `given` is typed, or stands on its standard input."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OTPSVC_")]:
        monkeypatch.delenv(name)
    # It would hold for this process and all that it starts later.
    monkeypatch.setattr("otpsvc.cli.keep_memory_private", lambda: None)
    variables = {**production(redis_url, database_url), "OTPSVC_HTTP_PUBLIC_URL": PUBLIC}

    def call(*arguments: str, given: str = "") -> Said:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["otpsvc", "device", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        status = ended.value.code or 0
        return Said(int(status), said.out, said.err)

    return Operator(call, variables)


@pytest.fixture
def client(operator: Operator) -> str:
    """The only client there is."""
    return operator.new_client()


@pytest.fixture
def quick_phone(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Registered]]:
    """A phone that registers as soon as the pairing is shown; the list has what came of it."""
    came: list[Registered] = []
    show = cli_pairings._show_pairing

    def show_and_come(pairing: Pairing) -> None:
        show(pairing)
        came.append(operator.register(pairing.code))

    monkeypatch.setattr(cli_pairings, "_show_pairing", show_and_come)
    yield came
    assert len(came) == 1
