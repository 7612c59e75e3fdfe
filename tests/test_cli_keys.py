"""`otpsvc keys`: a rotation as an operator does it, and what stops one that would lose something."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result

from otpsvc import cli_keys
from otpsvc.cli_clients import client, key
from otpsvc.cli_keys import keys
from otpsvc.clients.auth import Authenticator
from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring
from otpsvc.errors import ConfigurationError
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.masters import PostgresMasters
from otpsvc.postgres.pool import Database, open_database
from otpsvc.settings import load

T = TypeVar("T")
A, B = "aa" * 32, "bb" * 32


class Operator:
    """Types commands, on one installation."""

    def __init__(self, database_url: str, path: Path) -> None:
        self.path = path
        self.variables = {"OTPSVC_DATABASE_URL": database_url, "OTPSVC_KEYS_MASTERS_FILE": str(path)}

    def keys(self, *arguments: str, **variables: str) -> Result:
        return CliRunner().invoke(keys, list(arguments), env={**self.variables, **variables})

    def done(self, *arguments: str, **variables: str) -> str:
        """Run a command that must do what it was asked to."""
        result = self.keys(*arguments, **variables)
        assert result.exit_code == 0, result.output + repr(result.exception)
        return result.output

    def refused(self, *arguments: str, **variables: str) -> str:
        """Run a command that must refuse, and return its one line."""
        before = self.path.read_bytes() if self.path.exists() else b""
        result = self.keys(*arguments, **variables)
        assert isinstance(result.exception, ConfigurationError), result.output + repr(result.exception)
        assert result.output == ""
        assert (self.path.read_bytes() if self.path.exists() else b"") == before
        return str(result.exception)

    def new_key(self) -> tuple[str, str]:
        """Make a client with a key; return its id and the key."""
        runner = CliRunner()
        client_id = runner.invoke(client, ["create", "Shop"], env=self.variables).output.strip()
        return client_id, runner.invoke(key, ["create", client_id], env=self.variables).output.strip()

    def keyring(self) -> Keyring:
        return Keyring.from_masters(load(None, self.variables, needs=()).keys.masters)

    def rows(self) -> dict[str, list[str]]:
        """What `keys list` says: by master, its use, its API keys, and whether it may go."""
        head, *lines = self.done("list").splitlines()
        assert re.split(r"\s{2,}", head) == ["MASTER", "USE", "API KEYS", "MAY BE REMOVED"]
        return {row[0]: row[1:] for row in (re.split(r"\s{2,}", line) for line in lines)}

    def database(self, call: Callable[[Database], Awaitable[T]]) -> T:
        async def with_database() -> T:
            database = await open_database(self.variables["OTPSVC_DATABASE_URL"])
            try:
                return await call(database)
            finally:
                await database.close()

        return asyncio.run(with_database())

    def restart(self, *used: tuple[str, str]) -> None:
        """Start a process with the keyring as it is now, and have it serve these client ids and keys once."""

        async def serve(database: Database) -> None:
            masters = PostgresMasters(database)
            keyring = await masters.settle(self.keyring(), is_index_named=False)
            await masters.note_current(keyring.current.slot)
            authenticator = Authenticator(PostgresClients(database), keyring, Policy(), SystemClock())
            for client_id, text in used:
                await authenticator.authenticate(text, client_id)
            await asyncio.gather(*authenticator._retagger._moves)
            await authenticator.close()

        self.database(serve)


@pytest.fixture
def operator(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OTPSVC_")]:
        monkeypatch.delenv(name)
    return Operator(database_url, tmp_path / "masters")


@pytest.fixture
def move_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Let the commands believe that it is later."""

    def move(by: timedelta) -> None:
        class LaterTime(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # only ever asked for UTC
                return datetime.now(UTC) + by

        monkeypatch.setattr(cli_keys, "datetime", LaterTime)

    return move


def test_a_keyring_from_its_first_file_to_the_end_of_a_rotation(
    operator: Operator, move_time: Callable[[timedelta], None]
) -> None:
    year = datetime.now(UTC).year
    first, second = f"{year}a", f"{year}b"
    assert operator.done("new", str(operator.path)) == ""
    used, idle = operator.new_key(), operator.new_key()
    operator.restart(used, idle)
    index_row = ["index", "0", "no: it keys the indexes of numbers, and so every limit"]
    assert operator.rows() == {first: ["current", "2", "no: it is current"], "index": index_row}

    assert f"added {second} as the second master" in operator.done("rotate", "--add")
    operator.restart(used, idle)
    assert operator.rows()[second] == ["-", "0", "yes"]
    said = operator.done("rotate", "--promote", second)
    assert f"{second} is the first master" in said
    assert "restart every process" in said

    operator.restart(used)
    rows = operator.rows()
    assert rows[second] == ["current", "1", "no: it is current"]
    assert rows["index"] == index_row
    use, count, obstacle = rows[first]
    assert (use, count) == ("-", "1")
    assert "1 API key is under it" in obstacle
    assert "codes made under it may live until" in obstacle
    move_time(timedelta(minutes=196))
    assert "1 API key is under it" in operator.refused("rotate", "--remove", first)
    operator.restart(idle)
    move_time(timedelta(minutes=194))
    assert "codes made under it may live until" in operator.refused("rotate", "--remove", first)
    move_time(timedelta(minutes=196))
    assert operator.rows()[first] == ["-", "0", "yes"]
    assert f"removed {first}" in operator.done("rotate", "--remove", first)
    assert list(operator.rows()) == [second, "index"]
    operator.restart(used, idle)


def test_what_is_first_or_the_index_never_goes_and_force_takes_the_rest(operator: Operator) -> None:
    operator.path.write_text(f"new:{A}\nold:{B}\n")
    operator.path.chmod(0o600)
    made = operator.new_key()
    operator.restart(made)
    operator.done("rotate", "--add", "next")
    operator.done("rotate", "--promote", "next")
    for name, reason in (("next", "it is current"), ("old", "it keys the indexes")):
        assert reason in operator.refused("rotate", "--remove", name, "--force")
    assert "With --force all that is lost" in operator.refused("rotate", "--remove", "new")
    operator.done("rotate", "--remove", "new", "--force")
    result = operator.keys("list")
    assert "1 API key is under a master that is not in this keyring" in result.output
    assert operator.keyring().current.name == "next"


def test_a_master_that_was_first_nobody_knows_until_when_needs_force(operator: Operator) -> None:
    """A keyring that was turned by hand says nothing of the time."""
    operator.path.write_text(f"new:{A}\nold:{B}\n")
    operator.path.chmod(0o600)
    operator.restart()
    operator.path.write_text(f"next:{'cc' * 32}\nnew:{A}\nnever:{'dd' * 32}\nold:{B}\n")
    assert operator.rows()["never"] == ["-", "0", "yes"]
    assert "until when is not written down" in operator.refused("rotate", "--remove", "new")
    operator.done("rotate", "--remove", "never")
    operator.done("rotate", "--remove", "new", "--force")


def test_revoked_and_expired_keys_hold_no_master_back(operator: Operator) -> None:
    operator.path.write_text(f"new:{A}\nold:{B}\n")
    operator.path.chmod(0o600)
    client_id, text = operator.new_key()
    assert operator.rows()["new"][1] == "1"
    assert CliRunner().invoke(key, ["revoke", client_id, text[8:21]], env=operator.variables).exit_code == 0
    assert operator.rows()["new"][1] == "0"


def test_the_index_master_is_that_of_the_first_key_or_start(operator: Operator) -> None:
    """A key's check comes from it: one made before the first start must work after any rotation."""
    operator.path.write_text(f"one:{A}\n")
    operator.path.chmod(0o600)
    made = operator.new_key()
    for name in ("two", "three"):
        operator.done("rotate", "--add", name)
        operator.done("rotate", "--promote", name)
    assert {name: row[0] for name, row in operator.rows().items()} == {"three": "current", "two": "-", "one": "index"}
    operator.restart(made, operator.new_key())
    with_another = {"OTPSVC_KEYS_INDEX_MASTER": "two"}
    assert "the index key of this database is that of 'one'" in operator.refused("list", **with_another)


def test_a_keyring_that_is_no_file_cannot_be_rotated_by_a_command(operator: Operator) -> None:
    inline = {"OTPSVC_KEYS_MASTERS_FILE": "", "OTPSVC_KEYS_MASTERS": f"new:{A},old:{B}"}
    for step in (["--add"], ["--promote", "old"], ["--remove", "old"]):
        line = operator.refused("rotate", *step, **inline)
        assert "keys.masters_file" in line
        assert A not in line
    assert "current" in operator.done("list", **inline)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--add", "--promote", "a"], ["--add", "x", "--remove", "a"], ["--promote", "a", "--force"], ["--force"],
     ["--promote"], ["--remove"], ["--add", "\udcff"], ["--promote", "\udcff"]],
)  # fmt: skip
def test_one_step_at_a_time(operator: Operator, arguments: list[str]) -> None:
    operator.done("new", str(operator.path))
    before = operator.path.read_bytes()
    result = operator.keys("rotate", *arguments)
    assert result.exit_code == 2
    assert operator.path.read_bytes() == before


def test_wrong_names_are_one_line(operator: Operator) -> None:
    operator.done("new", str(operator.path), "--name", "one")
    assert "there is no master two" in operator.refused("rotate", "--promote", "two")
    assert "there is no master two" in operator.refused("rotate", "--remove", "two")
    assert "is the first master already" in operator.refused("rotate", "--promote", "one")
    assert "there is a master one already" in operator.refused("rotate", "--add", "one")
    assert "exists already" in operator.refused("new", str(operator.path))


def test_no_command_shows_a_secret(operator: Operator) -> None:
    operator.done("new", str(operator.path))
    said = operator.done("list") + operator.done("rotate", "--add", "x") + operator.done("rotate", "--promote", "x")
    said += operator.done("list")
    for secret in re.findall(r"[0-9a-f]{64}", operator.path.read_text()):
        assert secret not in said
        assert secret[:16] not in said
