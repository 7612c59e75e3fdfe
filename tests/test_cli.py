"""The command line: it teaches, refuses in one line, and runs the service as it is run for real."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rich_click as click

from otpsvc.cli import cli, main
from otpsvc.embedded import RunningStores
from tests.conftest import run_sql
from tests.programs import KEYRING, Program, production, wait_until

Run = Callable[..., "Said"]


class Said:
    """What a command said, and the status it ended with."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def line(self) -> str:
        """The one line of a refusal."""
        assert self.status == 1, self.out + self.err
        (line,) = self.err.splitlines()
        assert line.startswith("otpsvc: ")
        return line


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command of ours in this process, with nothing set but what the test gives."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OTPSVC_") or name == "PORT"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    # It would hold for this process and all that it starts later.
    monkeypatch.setattr("otpsvc.cli.keep_memory_private", lambda: None)

    def call(*arguments: str, **variables: str) -> Said:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["otpsvc", *arguments])
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def empty_database(stores: RunningStores) -> Iterator[str]:
    """A database as PostgreSQL makes it, not yet migrated."""
    run_sql(stores.database_url, "CREATE DATABASE cli_empty TEMPLATE template0")
    yield stores.stores.database("cli_empty")
    run_sql(stores.database_url, "DROP DATABASE cli_empty WITH (FORCE)")


@pytest.fixture
def variables(redis_url: str, database_url: str) -> dict[str, str]:
    """The environment of a production process."""
    return production(redis_url, database_url)


# -- help


def commands(group: click.Group = cli, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_explains_itself(run: Run, path: tuple[str, ...], command: click.Command) -> None:
    said = run(*path, "--help")
    assert (said.status, said.err) == (0, "")
    assert run(*path, "-h").out == said.out
    shown = " ".join(said.out.split())
    assert len(command.help or "") > 20
    assert (command.help or "").split("\n")[0].strip() in shown
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert len(parameter.help or "") > 10, parameter.name
            assert parameter.opts[0] in shown
        else:
            assert (parameter.name or "").upper() in shown.upper()


def test_the_help_of_all_says_where_to_begin(run: Run) -> None:
    shown = " ".join(run("--help").out.split())
    assert "Start with `otpsvc dev`" in shown
    for path, _ in commands():
        if len(path) == 1:
            assert path[0] in shown
    for step in ("otpsvc migrate", "otpsvc client create", "otpsvc key create", "otpsvc serve", "otpsvc worker"):
        assert step in shown


@pytest.mark.parametrize("arguments", [["nothing"], ["serve", "--prot", "1"], ["serve", "--port", "0"],
                                       ["key", "create"],
                                       ["key", "create", "x", "--mode", "prod"], ["client", "create", "\udcff"],
                                       ["client", "suspend", "\udcff"], ["key", "revoke", "x", "\udcff"],
                                       ["client", "policy", "x", "\udcff=1"]])  # fmt: skip
def test_usage_errors_are_no_tracebacks(run: Run, arguments: list[str]) -> None:
    said = run(*arguments)
    assert said.status == 2
    assert said.out == ""
    assert "Usage: otpsvc" in said.err
    assert "Traceback" not in said.err


# -- clients and keys


def test_from_an_empty_database_to_a_key(run: Run, empty_database: str) -> None:
    given = {"OTPSVC_DATABASE_URL": empty_database, "OTPSVC_KEYS_MASTERS": KEYRING}
    for command in (["client", "list"], ["client", "create", "shop"], ["key", "create", "client_1"]):
        assert "run `otpsvc migrate`" in run(*command, **given).line
    lacking = run("migrate", "--check", OTPSVC_DATABASE_URL=empty_database)
    assert lacking.status == 1
    assert "0001_" in lacking.out
    applied = run("migrate", OTPSVC_DATABASE_URL=empty_database)
    assert applied.status == 0
    assert applied.out.splitlines() == [f"applied {name}" for name in lacking.out.split()]
    for again in (
        run("migrate", OTPSVC_DATABASE_URL=empty_database),
        run("migrate", "--check", OTPSVC_DATABASE_URL=empty_database),
    ):
        assert (again.status, again.out) == (0, "up to date\n")

    client_id = run(
        "client", "create", "Shop é", "--policy", "ttl_s=120", "--policy", "purposes=login,signup", **given
    ).out.strip()
    assert re.fullmatch(r"client_\d{12}", client_id)
    listed = run("client", "list", **given).out
    assert client_id in listed
    assert "active" in listed
    assert '{"ttl_s":120,"purposes":["login","signup"]}' in listed
    assert "suspended" in run("client", "suspend", client_id, **given).out
    assert "active" in run("client", "resume", client_id, **given).out
    assert "default policy" in run("client", "policy", client_id, **given).out

    texts = [
        run("key", "create", client_id, **given).out.strip(),
        run(
            "key", "create", client_id, "--mode", "live", "--name", "server", "--expires-in-days", "7", **given
        ).out.strip(),
    ]
    assert [text[:8] for text in texts] == ["zs_test_", "zs_live_"]
    keys = run("key", "list", client_id, **given).out
    for text in texts:
        assert text not in keys
        assert text[8:21] in keys
    assert re.search(r"live  until \d{4}-\d\d-\d\d  server", keys)
    assert "revoked" in run("key", "revoke", client_id, texts[0][8:21], **given).out
    assert run("key", "revoke", client_id, texts[0][8:21], **given).status == 0


@pytest.mark.parametrize(
    ("pair", "names"),
    [
        ("ttl_s", "KEY=VALUE"), ("", "KEY=VALUE"), ("=5", "unknown field"), ("ttls=60", "unknown field `ttls`"),
        ("ttl_s=", "policy.ttl_s"), ("ttl_s=59", "policy.ttl_s"), ("ttl_s=1801", "policy.ttl_s"),
        ("ttl_s=-60", ">= 60"),
        ("ttl_s=60.5", "policy.ttl_s"), ("ttl_s=1e3", "policy.ttl_s"), ("ttl_s=0x60", "policy.ttl_s"),
        ("ttl_s=" + "9" * 5000, "policy.ttl_s"), ("ttl_s=" + "9" * 18, "<= 1800"), ("ttl_s=٩٩", "policy.ttl_s"),
        ("code_length=3", ">= 4"), ("code_length=11", "<= 10"), ("max_attempts=0", ">= 1"), ("max_attempts=4", "<= 3"),
        ("sends_per_hour=11", "<= 10"), ("sends_per_hour=0", ">= 1"), ("max_resends=6", "<= 5"),
        ("cooldown_s=-1", ">= 0"),
        ("cooldown_s=3601", "<= 3600"), ("grace_s=301", "<= 300"), ("purposes=", "policy.purposes"),
        ("purposes=Login", "policy.purposes"), ("purposes=a b", "policy.purposes"),
        ("purposes=" + "a" * 33, "policy.purposes"),
    ],
)  # fmt: skip
def test_absurd_policies_are_refused_and_change_nothing(
    run: Run, variables: dict[str, str], pair: str, names: str
) -> None:
    client_id = run("client", "create", "shop", "--policy", "ttl_s=61", **variables).out.strip()
    before = run("client", "list", **variables).out
    for line in (
        run("client", "create", "other", "--policy", pair, **variables).line,
        run("client", "policy", client_id, "code_length=8", pair, **variables).line,
    ):
        assert names in line
    assert run("client", "list", **variables).out == before


def test_what_does_not_exist_is_said_to_be_missing(run: Run, variables: dict[str, str]) -> None:
    for command in (
        ["client", "policy", "client_1", "ttl_s=60"], ["client", "suspend", "client_1"],
        ["client", "resume", "client_1"],
        ["key", "create", "client_1"], ["key", "list", "client_1"], ["key", "revoke", "client_1", "x"],
    ):  # fmt: skip
        assert "client_1" in run(*command, **variables).line or "key_id" in run(*command, **variables).line
    for name in ("", " ", "x" * 101, "a\nb", "\x1b[31m"):
        assert "name" in run("client", "create", name, **variables).line


# -- what a crash may leave behind


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_command_dumps_core(variables: dict[str, str], tmp_path: Path) -> None:
    """All but `dev` hold the masters, and some a number or a key."""
    tail = Program("events", "tail", directory=tmp_path / "tail", variables=variables)
    try:
        limits = Path(f"/proc/{tail.process.pid}/limits")
        wait_until(lambda: bool(re.search(r"Max core file size +0 +0 ", limits.read_text())), "the limit to be set")
        tail.process.send_signal(signal.SIGABRT)
        assert tail.wait() == -signal.SIGABRT
    finally:
        tail.kill()
    assert [path.name for path in (tmp_path / "tail").iterdir() if path.name.startswith("core")] == []


# -- what keeps a process from starting


BAD_SETTINGS: dict[str, tuple[dict[str, str], list[str]]] = {
    "unknown": ({"OTPSVC_HTTP_PROT": "1"}, ["OTPSVC_HTTP_PROT", "did you mean OTPSVC_HTTP_PORT?"]),
    "out of bounds": ({"OTPSVC_HTTP_PORT": "99999"}, ["OTPSVC_HTTP_PORT", "1 to 65535"]),
    "not a number": ({"OTPSVC_LIMITS_QUEUE_LIMIT": "many"}, ["OTPSVC_LIMITS_QUEUE_LIMIT"]),
    "attempts": ({"OTPSVC_OTP_MAX_ATTEMPTS": "4"}, ["OTPSVC_OTP_MAX_ATTEMPTS", "1 to 3"]),
    "sends": ({"OTPSVC_OTP_SENDS_PER_HOUR": "11"}, ["OTPSVC_OTP_SENDS_PER_HOUR", "1 to 10"]),
    "key": ({"OTPSVC_KEYS_MASTERS": "a:geheim"}, ["OTPSVC_KEYS_MASTERS", "64 hex digits"]),
    "scheme": ({"OTPSVC_REDIS_URL": "http://geheim@x"}, ["redis", "redis://"]),
    "no redis": ({"OTPSVC_REDIS_URL": "redis://u:geheim@127.0.0.1:1/0"}, ["redis.url"]),
    "no postgresql": ({"OTPSVC_DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x"}, ["database.url"]),
    "profile": ({"OTPSVC_KEYS_HASH_PROFILE": "md5"}, ["keys.hash_profile", "md5", "argon2id-64k"]),
    "file": ({"OTPSVC_CONFIG": "nowhere.toml"}, ["nowhere.toml"]),
    "host": ({"OTPSVC_HTTP_HOST": "no-such-host.invalid"}, ["no-such-host.invalid"]),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_serve_refuses_bad_settings_in_one_line(run: Run, variables: dict[str, str], name: str) -> None:
    changed, words = BAD_SETTINGS[name]
    line = run("serve", **{**variables, **changed}).line
    for word in words:
        assert word in line
    assert "geheim" not in line


@pytest.fixture
def unusable(empty_database: str) -> dict[str, str]:
    """Variables with which no process starts: one that should have been refused before must not run on."""
    return {"OTPSVC_DATABASE_URL": empty_database}


# A stranger's sender that no command but `worker` may open.
CLOSED_SENDER = """
from otpsvc.senders.contract import Accepted, Capabilities, Channel, NoSettings, Sender

class ClosedSender(Sender[NoSettings]):
    capabilities = Capabilities(channels=frozenset({Channel.SMS}))
    async def open(self):
        raise AssertionError("opened")
    async def send(self, message):
        return Accepted()
"""


@pytest.fixture
def strange_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The type of a sender that a stranger's distribution offers."""
    about = tmp_path / "site" / "closed_sender-1.0.dist-info"
    about.mkdir(parents=True)
    (about.parent / "closed_sender.py").write_text(CLOSED_SENDER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: closed-sender\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[otpsvc.senders]\nclosed = closed_sender:ClosedSender\n")
    monkeypatch.syspath_prepend(about.parent)
    return "closed"


def test_serve_and_worker_want_a_migrated_database(
    run: Run, variables: dict[str, str], empty_database: str, strange_type: str
) -> None:
    given = {
        **variables,
        "OTPSVC_DATABASE_URL": empty_database,
        "OTPSVC_DELIVERY_SENDERS": "x",
        "OTPSVC_SENDERS_X_TYPE": strange_type,
    }
    for command in ("serve", "worker"):
        assert "run `otpsvc migrate`" in run(command, **given).line


def test_nothing_given_is_said_at_once_and_wholly(run: Run) -> None:
    said = run("serve")
    assert said.status == 1
    for variable in ("OTPSVC_REDIS_URL", "OTPSVC_DATABASE_URL", "OTPSVC_KEYS_MASTERS"):
        assert variable in said.err
    assert "Traceback" not in said.err


def test_a_port_that_is_taken(run: Run, variables: dict[str, str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port}" in run("serve", "--port", str(port), **variables).line


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize("kind", ["inbox", "terminal"])
def test_senders_that_show_codes_are_refused_outside_dev(
    run: Run, variables: dict[str, str], unusable: dict[str, str], command: str, kind: str
) -> None:
    given = {**variables, **unusable, "OTPSVC_DELIVERY_SENDERS": "shown", "OTPSVC_SENDERS_SHOWN_TYPE": kind}
    line = run(command, **given).line
    assert "senders.shown" in line
    assert "`otpsvc dev`" in line


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_sender_has_to_exist(run: Run, variables: dict[str, str], unusable: dict[str, str], command: str) -> None:
    given = {**variables, **unusable, "OTPSVC_DELIVERY_SENDERS": "x", "OTPSVC_SENDERS_X_TYPE": "terminl"}
    assert "did you mean 'terminal'?" in run(command, **given).line


def test_a_worker_needs_a_sender(run: Run, variables: dict[str, str]) -> None:
    assert "delivery.senders" in run("worker", **variables).line


def test_other_masters_than_those_of_the_first_start_are_refused(run: Run, variables: dict[str, str]) -> None:
    from otpsvc.app import open_house
    from otpsvc.settings import load

    async def start_once() -> None:
        async with open_house(load(None, variables)):
            pass

    asyncio.run(start_once())
    assert "index" in run("serve", **{**variables, "OTPSVC_KEYS_MASTERS": "two:" + "11" * 32}).line
    assert "redis.partitions" in run("serve", **{**variables, "OTPSVC_REDIS_PARTITIONS": "4"}).line
