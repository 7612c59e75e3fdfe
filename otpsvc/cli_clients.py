"""`otpsvc client` and `otpsvc key`: the tenants and the API keys they prove themselves with."""

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import rich_click as click

from otpsvc.app import client_service
from otpsvc.app_stores import open_database_of, refuse_old_database
from otpsvc.cli_run import HELP_OPTIONS, as_text, config_option
from otpsvc.clients.model import ApiKey, Client
from otpsvc.clients.service import ClientService
from otpsvc.ending import run
from otpsvc.errors import ConfigurationError
from otpsvc.settings import Need, load

T = TypeVar("T")

_NUMBER = re.compile(r"-?[0-9]{1,18}\Z")


@click.group(context_settings=HELP_OPTIONS)
def client() -> None:
    """Make and change clients: the tenants that send and verify codes."""


@client.command("create")
@config_option
@click.argument("name", callback=as_text)
@click.option(
    "--policy",
    multiple=True,
    callback=as_text,
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
@config_option
def list_clients(config: Path | None) -> None:
    """List all clients: id, status, name, and what their policy changes."""
    for one in _with_clients(config, lambda clients: clients.list_clients()):
        click.echo(_client_line(one))


@client.command("policy")
@config_option
@click.argument("client_id", callback=as_text)
@click.argument("policy", nargs=-1, callback=as_text, metavar="[KEY=VALUE]...")
def set_policy(config: Path | None, client_id: str, policy: tuple[str, ...]) -> None:
    """Replace what CLIENT_ID's policy changes; without KEY=VALUE it has the default policy again.

    Running processes follow within a second.
    """
    overrides = _policy(policy)
    click.echo(_client_line(_with_clients(config, lambda clients: clients.set_policy(client_id, overrides))))


@client.command("suspend")
@config_option
@click.argument("client_id", callback=as_text)
def suspend_client(config: Path | None, client_id: str) -> None:
    """Refuse every call of CLIENT_ID, within a second everywhere. Nothing is deleted."""
    click.echo(_client_line(_with_clients(config, lambda clients: clients.suspend_client(client_id))))


@client.command("resume")
@config_option
@click.argument("client_id", callback=as_text)
def resume_client(config: Path | None, client_id: str) -> None:
    """Take back a suspension."""
    click.echo(_client_line(_with_clients(config, lambda clients: clients.resume_client(client_id))))


@click.group(context_settings=HELP_OPTIONS)
def key() -> None:
    """Make, list and revoke the API keys with which a client proves who it is."""


@key.command("create")
@config_option
@click.argument("client_id", callback=as_text)
@click.option(
    "--mode",
    type=click.Choice(["live", "test"]),
    default="test",
    show_default=True,
    help="Which of the two worlds it works in: a test key never sees what a live one sent, nor the reverse.",
)
@click.option("--name", default="", callback=as_text, help="What it is for, to tell keys apart.")
@click.option("--expires-in-days", type=click.IntRange(1, 3650), help="Default: never.")
def create_key(config: Path | None, client_id: str, mode: Any, name: str, expires_in_days: int | None) -> None:
    """Make an API key for CLIENT_ID and print it. It is shown this once: only its hash is kept."""
    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None
    made = _with_clients(
        config, lambda clients: clients.create_key(client_id, mode=mode, name=name, expires_at=expires_at)
    )
    click.echo(made.text)


@key.command("list")
@config_option
@click.argument("client_id", callback=as_text)
def list_keys(config: Path | None, client_id: str) -> None:
    """List CLIENT_ID's keys by their public ids."""
    found = _with_clients(config, lambda clients: clients.list_keys(client_id))
    for line in _key_lines(found):
        click.echo(line)


@key.command("revoke")
@config_option
@click.argument("client_id", callback=as_text)
@click.argument("public_id", callback=as_text)
def revoke_key(config: Path | None, client_id: str, public_id: str) -> None:
    """Refuse a key from now on, within a second everywhere. PUBLIC_ID is what `key list` shows.

    Behind a connection pooler in transaction mode it takes up to 30 seconds.
    """
    revoked = _with_clients(config, lambda clients: clients.revoke_key(client_id, public_id))
    click.echo("\n".join(_key_lines([revoked])))


def _with_clients(config: Path | None, call: Callable[[ClientService], Awaitable[T]]) -> T:
    needs: tuple[Need, ...] = ("database.url", "keys.masters")
    settings = load(config, os.environ, needs=needs)

    async def call_service() -> T:
        async with open_database_of(settings) as database:
            await refuse_old_database(database)
            return await call(await client_service(settings, database))

    return run(call_service())


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


def _key_lines(keys: Sequence[ApiKey]) -> list[str]:
    """Return a line for each key, in columns."""
    states = [_state(one) for one in keys]
    width = max(map(len, states), default=0)
    return [
        f"{one.public_id}  {one.mode}  {state:<{width}}  {one.name}".rstrip()
        for one, state in zip(keys, states, strict=True)
    ]


def _state(one: ApiKey) -> str:
    if one.revoked_at:
        return "revoked"
    return f"until {one.expires_at:%Y-%m-%d}" if one.expires_at else "active"
