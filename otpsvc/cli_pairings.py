"""`otpsvc device pair` and its siblings: open a pairing, wait for its phone, let it send, close what nobody uses.

What a pairing shows (login, password, code, QR) is printed once and kept nowhere. Whoever lets a phone send is asked
about the phone as it was shown: one that has become another meanwhile is shown and asked about again.
"""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click

from otpsvc.app import client_service
from otpsvc.app_devices import open_devices
from otpsvc.app_stores import open_database_of, refuse_old_database
from otpsvc.cli_run import as_text, config_option
from otpsvc.devices import qr, words
from otpsvc.devices.model import DeviceStatus, DeviceView, OpenPairing, Pairing, Tenant
from otpsvc.ending import run
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.settings import Settings, load

_LOOK_EVERY_S = 1.0
_PENDING = DeviceStatus.PENDING
_HEAD = ("LOGIN", "CLIENT", "MODE", "OPENED", "ENDS")

client_option = click.option(
    "--client", "client_id", callback=as_text, default="", help="Whose phone; needed where there are several clients."
)
mode_option = click.option(
    "--mode", type=click.Choice(["live", "test"]), default="live", show_default=True, help="Which of its two worlds."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.command("pair")
@config_option
@client_option
@mode_option
@click.option("--server-url", callback=as_text, help="Where phones reach this service. Default: http.public_url.")
@click.option("--yes", is_flag=True, help="Do not ask: the phone may send as soon as it has registered.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the phone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without QR code; does not wait.")
def pair(
    config: Path | None,
    client_id: str,
    mode: str,
    server_url: str | None,
    *,
    yes: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Open a pairing for one phone and show what it registers with: as a QR code, and in words.

    Then waits for the phone and asks whether it may send. Ctrl-C stops the waiting only: the pairing stays open.
    """
    settings = load(config, os.environ)
    address = (server_url or settings.http.public_url or _own_address(settings)).rstrip("/")
    tenant, opened = run(_open(settings, client_id, mode, address, is_confirmed_by_itself=yes or None))
    if as_json:
        click.echo(msgspec.json.encode(_pairing_facts(opened)))
        return
    _show_pairing(opened)
    if no_wait:
        return
    click.echo("\nWaiting for the phone …", err=True)
    view = run(_wait(settings, tenant, opened))
    if view.device.status is DeviceStatus.ACTIVE:
        _introduce(view)
        click.echo(f"{words.printable(view.device.name)} may send now")
    else:
        ask_and_confirm(settings, view)


@click.command("pairings")
@config_option
@click.option("--client", "client_id", callback=as_text, default="", help="Only this client's.")
@click.option("--mode", type=click.Choice(["live", "test"]), help="Only live or only test ones.")
@json_option
def pairings(config: Path | None, client_id: str, mode: str | None, *, as_json: bool) -> None:
    """List the pairings that wait for their phone."""
    opened = run(_list(load(config, os.environ), client_id, mode))
    if as_json:
        for one in opened:
            click.echo(msgspec.json.encode(one))
        return
    if not opened:
        click.echo("No open pairings")
        return
    rows = [_HEAD, *((one.login, one.client_id, one.mode, _at(one.created_at), _at(one.expires_at)) for one in opened)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@click.command("unpair")
@config_option
@click.argument("login", callback=as_text)
def unpair(config: Path | None, login: str) -> None:
    """End a pairing that waits for its phone: whoever has seen its code or password is not let in by them.

    A phone that has registered already is none of this: disable or delete it.
    """
    run(_close(load(config, os.environ), login))
    click.echo(f"closed {login}")


def ask_and_confirm(settings: Settings, view: DeviceView) -> bool:
    """Show a phone and let it send if somebody says so of just what was shown; ask again where it has changed."""
    while True:
        _introduce(view)
        if not click.confirm("May it send?"):
            click.echo(f"It waits. To let it send later: otpsvc device confirm {view.device.id}")
            return False
        try:
            run(confirm_at(settings, view, view.device.version))
        except ApiError as error:
            if error.code != "CONFLICT" or (now := run(_shown(settings, view))).device.status is not _PENDING:
                raise
            view = now
            click.echo("It is another one now, look again:")
        else:
            click.echo(f"{words.printable(view.device.name)} may send now")
            return True


async def confirm_at(settings: Settings, view: DeviceView, version: int) -> None:
    """Let a phone send if it is still at this version; raises ApiError CONFLICT."""
    async with open_devices(settings) as desk:
        await desk.service.confirm(view.device.tenant, view.device.id, version)


async def tenant_of(settings: Settings, client_id: str, mode: str) -> Tenant:
    """Find whose phone is meant, by default the only client's; raises ApiError, ConfigurationError."""
    async with open_database_of(settings) as database:
        await refuse_old_database(database)
        clients = await client_service(settings, database)
        if client_id:
            return Tenant((await clients.get_client(client_id)).id, mode)
        known = await clients.list_clients()
    if not known:
        raise ConfigurationError("there is no client yet: otpsvc client create NAME")
    if len(known) > 1:
        raise ConfigurationError(f"there are {len(known)} clients: say which one with --client (otpsvc client list)")
    return Tenant(known[0].id, mode)


async def _open(
    settings: Settings, client_id: str, mode: str, address: str, *, is_confirmed_by_itself: bool | None
) -> tuple[Tenant, Pairing]:
    tenant = await tenant_of(settings, client_id, mode)
    async with open_devices(settings) as desk:
        return tenant, await desk.pairing.open(tenant, address, is_confirmed_by_itself=is_confirmed_by_itself)


async def _wait(settings: Settings, tenant: Tenant, pairing: Pairing) -> DeviceView:
    """Return the phone that registers; raises ConfigurationError once the pairing has ended without one."""
    async with open_devices(settings) as desk:
        while datetime.now(UTC) < pairing.expires_at:
            try:
                account = await desk.records.account(pairing.login)
                if account is not None and account.device_id is not None:
                    return await desk.service.show(tenant, account.device_id)
                if account is not None and not account.password_hash:
                    break  # somebody has closed it
            except ApiError as error:
                if error.code != "SERVICE_UNAVAILABLE":
                    raise
            await asyncio.sleep(_LOOK_EVERY_S)
    raise ConfigurationError("no phone registered before the pairing ended: run it again")


async def _shown(settings: Settings, view: DeviceView) -> DeviceView:
    async with open_devices(settings) as desk:
        return await desk.service.show(view.device.tenant, view.device.id)


async def _list(settings: Settings, client_id: str, mode: str | None) -> list[OpenPairing]:
    if client_id:
        await tenant_of(settings, client_id, "live")  # a misspelt client must not look like one without pairings
    async with open_devices(settings) as desk:
        opened = await desk.records.all_open_pairings()
    return [one for one in opened if client_id in ("", one.client_id) and (mode is None or mode == one.mode)]


async def _close(settings: Settings, login: str) -> None:
    async with open_devices(settings) as desk:
        for one in await desk.records.all_open_pairings():
            if one.login == login.strip().lower():
                await desk.pairing.close(one.tenant, one.login)
                return
    raise ConfigurationError("no open pairing has this login: otpsvc device pairings lists them")


def _introduce(view: DeviceView) -> None:
    click.echo(f"{words.printable(view.device.name)} has registered: {view.device.id}")
    for sim in view.device.sims:
        click.echo(f"  SIM {sim.number}: {words.sim_in_words(sim)}")


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _own_address(settings: Settings) -> str:
    host = settings.http.host
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        raise ConfigurationError("set http.public_url to the https address of this service, or give --server-url")
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.http.port}"


def _show_pairing(pairing: Pairing) -> None:
    for line in qr.text(pairing).splitlines():
        # Told to the terminal: a code whose dark and light are the wrong way round is not read by every phone.
        click.secho(line, fg="bright_white", bg="black")
    click.echo("In the app: Settings, Cloud Server: the API URL, and `SSE Only` as notification channel.")
    click.echo("Then, at Home, go online with the code, or sign in with username and password.\n")
    facts = qr.facts(pairing)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"  {name:<{width}}  {value}")
    ends = f"{pairing.code_expires_at:%H:%M} UTC, username and password until {pairing.expires_at:%H:%M} UTC"
    click.echo(f"\nThe code is good until {ends}, for one phone. Details: docs/devices.md")
    if warning := qr.warning(pairing.server_url):
        click.echo(f"Warning: {warning}", err=True)


def _pairing_facts(pairing: Pairing) -> dict[str, Any]:
    return {
        "server_url": pairing.server_url,
        "api_url": qr.api_url(pairing),
        "login": pairing.login,
        "password": pairing.password,
        "code": pairing.code,
        "expires_at": pairing.expires_at,
        "code_expires_at": pairing.code_expires_at,
        "warning": qr.warning(pairing.server_url),
    }
