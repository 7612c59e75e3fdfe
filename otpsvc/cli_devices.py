"""`otpsvc device`: the team's own phones: see how they are, change them, switch them off.

How a phone is paired is in `cli_pairings`. A passphrase is asked for or read from standard input, never taken from the
command line.
"""

import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import rich_click as click

from otpsvc.app_devices import DeviceDesk, open_devices
from otpsvc.cli_pairings import (
    ask_and_confirm,
    client_option,
    confirm_at,
    json_option,
    mode_option,
    pair,
    pairings,
    tenant_of,
    unpair,
)
from otpsvc.cli_run import HELP_OPTIONS, as_text, config_option
from otpsvc.devices import words
from otpsvc.devices.model import DeviceStatus, DeviceView, Tenant
from otpsvc.devices.policy import Budget
from otpsvc.ending import run
from otpsvc.ids import MalformedId, parse_device_id
from otpsvc.settings import Settings, load

_LONGEST_PASSPHRASE = 1024  # bytes that are read of one

device_argument = click.argument("which", metavar="DEVICE", callback=as_text)

_Command = TypeVar("_Command", bound=Callable[..., None])
_Change = Callable[[DeviceDesk, Tenant, str], Awaitable[object]]


def on_device(command: _Command) -> _Command:
    """Give a command what says which phone is meant, and where the settings are."""
    for decorate in (device_argument, mode_option, client_option, config_option):
        command = decorate(command)
    return command


@click.group(context_settings=HELP_OPTIONS)
def device() -> None:
    """Turn Android phones into senders, and look after them (docs/devices.md).

    DEVICE is a phone's id, or its name.
    """


for command in (pair, pairings, unpair):
    device.add_command(command)


@device.command("list")
@config_option
@click.option("--client", "client_id", callback=as_text, default="", help="Only this client's.")
@click.option("--mode", type=click.Choice(["live", "test"]), help="Only live or only test ones.")
@json_option
def list_devices(config: Path | None, client_id: str, mode: str | None, *, as_json: bool) -> None:
    """List the phones: whether each is there, what waits for it, what of its budget is used, its last error."""
    settings = load(config, os.environ)
    views = run(_list(settings, client_id, mode))
    if as_json:
        for view in views:
            click.echo(_json_of(view))
        return
    if not views:
        click.echo("No phones. Pair one: otpsvc device pair")
        return
    now = datetime.now(UTC)
    rows = [words.HEAD, *(words.row_of(view, now) for view in views)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@device.command("show")
@on_device
@json_option
def show(config: Path | None, client_id: str, mode: str, which: str, *, as_json: bool) -> None:
    """Show all that is known of one phone."""
    _tell(_with_device(config, client_id, mode, which, None), as_json=as_json)


@device.command("rename")
@on_device
@click.argument("name", callback=as_text)
def rename(config: Path | None, client_id: str, mode: str, which: str, name: str) -> None:
    """Give a phone another name; what the phone calls itself no longer changes it."""
    _tell(_with_device(config, client_id, mode, which, lambda desk, t, one: desk.service.rename(t, one, name)))


@device.command("confirm")
@on_device
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--version", type=click.IntRange(min=1), help="Do not ask, but only if it is still at this version.")
def confirm(config: Path | None, client_id: str, mode: str, which: str, *, yes: bool, version: int | None) -> None:
    """Let a phone that has registered send, once somebody has looked at how it calls itself."""
    view = _with_device(config, client_id, mode, which, None)
    settings = load(config, os.environ)
    if version is not None or yes or view.device.status is not DeviceStatus.PENDING:
        run(confirm_at(settings, view, version or view.device.version))
    elif not ask_and_confirm(settings, view):
        return
    _tell(_with_device(config, client_id, mode, view.device.id, None))


@device.command("enable")
@on_device
def enable(config: Path | None, client_id: str, mode: str, which: str) -> None:
    """Take back `disable`: the phone is let in again at its next try; one never confirmed has to be, as before."""
    _tell(_with_device(config, client_id, mode, which, lambda desk, t, one: desk.service.enable(t, one)))


@device.command("disable")
@on_device
def disable(config: Path | None, client_id: str, mode: str, which: str) -> None:
    """Turn a phone and its login away at once; what it has not pulled goes to others. Nothing is deleted."""
    _tell(_with_device(config, client_id, mode, which, lambda desk, t, one: desk.service.disable(t, one)))


@device.command("delete")
@on_device
@click.option("--yes", is_flag=True, help="Do not ask first.")
def delete(config: Path | None, client_id: str, mode: str, which: str, *, yes: bool) -> None:
    """Delete a phone for good: its token and its login die at once. It can come back by a new pairing only."""
    view = _with_device(config, client_id, mode, which, None)
    if not yes:
        click.confirm(f"Delete {words.printable(view.device.name)} ({view.device.id})?", abort=True)
    run(_delete(load(config, os.environ), view))
    click.echo(f"deleted {view.device.id}")


@device.command("rotate-token")
@on_device
def rotate_token(config: Path | None, client_id: str, mode: str, which: str) -> None:
    """Make a phone's token worthless: the phone is out until it registers again, with its login and password.

    A simulated phone does that by itself; with the app count on somebody's signing in on the phone. To keep a phone out
    for a while, disable it instead.
    """
    _tell(_with_device(config, client_id, mode, which, lambda desk, t, one: desk.service.rotate_token(t, one)))


@device.command("budget")
@on_device
@click.option("--messages", "messages_per_window", type=int, help="How many a SIM may send in the window.")
@click.option("--window-s", "window_s", type=int, help="How long the window is, in seconds.")
@click.option(
    "--recipients", "recipients_per_day", type=int, help="How many different numbers a SIM may write to a day."
)
@click.option(
    "--quiet", callback=as_text, metavar="HH:MM-HH:MM", help="When the phone is left alone; `none` for never."
)
@click.option("--zone", callback=as_text, help="The time zone of --quiet, e.g. Europe/Rome. Default: UTC.")
@click.option("--spare/--no-spare", "is_spare", default=None, help="Use it only when no other phone could be.")
@click.option("--default", "is_default", is_flag=True, help="Give it the default budget first.")
def budget(
    config: Path | None,
    client_id: str,
    mode: str,
    which: str,
    quiet: str | None,
    zone: str | None,
    *,
    is_default: bool,
    **given: int | None,
) -> None:
    """Change what each SIM of a phone may send; without options, show it."""
    changes: dict[str, Any] = msgspec.to_builtins(Budget()) if is_default else {}
    changes |= {name: value for name, value in given.items() if value is not None}
    if quiet is not None:
        changes["quiet"] = _quiet(quiet, zone)
    elif zone is not None:
        raise click.UsageError("--zone goes with --quiet")
    call = (lambda desk, t, one: desk.service.set_budget(t, one, changes)) if changes else None
    _tell(_with_device(config, client_id, mode, which, call))


@device.command("passphrase")
@on_device
@click.option("--off", is_flag=True, help="Encrypt no longer.")
def passphrase(config: Path | None, client_id: str, mode: str, which: str, *, off: bool) -> None:
    """Encrypt numbers and texts for this phone end to end, under the passphrase that is typed into its app.

    It is asked for, or read from standard input.
    """
    text = None if off else _typed_passphrase()
    _tell(_with_device(config, client_id, mode, which, lambda desk, t, one: desk.service.set_passphrase(t, one, text)))


def _with_device(config: Path | None, client_id: str, mode: str, which: str, change: _Change | None) -> DeviceView:
    """Find a phone, change it, and return it as it is then."""
    settings = load(config, os.environ)

    async def changed() -> DeviceView:
        async with open_devices(settings) as desk:
            tenant, device_id = await _find(settings, desk, client_id, mode, which)
            if change is not None:
                await change(desk, tenant, device_id)
            return await desk.service.show(tenant, device_id)

    return run(changed())


async def _find(settings: Settings, desk: DeviceDesk, client_id: str, mode: str, which: str) -> tuple[Tenant, str]:
    try:
        parse_device_id(which)
    except MalformedId:
        tenant = await tenant_of(settings, client_id, mode)
        return tenant, (await desk.service.find(tenant, which)).id
    # An id says which phone is meant, whoever's it is; a --client that does not fit must not be overlooked.
    if not client_id:
        for one in await desk.records.list_all():
            if one.id == which:
                return one.tenant, one.id
    return await tenant_of(settings, client_id, mode), which


async def _delete(settings: Settings, view: DeviceView) -> None:
    async with open_devices(settings) as desk:
        await desk.service.delete(view.device.tenant, view.device.id)


async def _list(settings: Settings, client_id: str, mode: str | None) -> list[DeviceView]:
    if client_id:
        await tenant_of(settings, client_id, "live")  # a misspelt client must not look like one without phones
    async with open_devices(settings) as desk:
        tenants = sorted({one.tenant for one in await desk.records.list_all()})
        wanted = [one for one in tenants if client_id in ("", one.client_id) and (mode is None or mode == one.mode)]
        return [view for one in wanted for view in await desk.service.list_devices(one)]


def _tell(view: DeviceView, *, as_json: bool = False) -> None:
    if as_json:
        click.echo(_json_of(view))
        return
    lines = words.lines_of(view, datetime.now(UTC))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:<{width}}  {value}")


def _json_of(view: DeviceView) -> bytes:
    return msgspec.json.encode({"client_id": view.device.client_id, **words.facts_of(view)})


def _quiet(text: str, zone: str | None) -> dict[str, str] | None:
    if text == "none":
        return None
    start, separator, end = text.partition("-")
    if not separator:
        raise click.UsageError("--quiet is HH:MM-HH:MM, e.g. 22:00-07:00, or none")
    return {"start": start.strip(), "end": end.strip(), "zone": zone or "UTC"}


def _typed_passphrase() -> str:
    if sys.stdin.isatty():
        text: str = click.prompt("Passphrase, as it is typed into the app", hide_input=True, confirmation_prompt=True)
        return text
    return sys.stdin.buffer.read(_LONGEST_PASSPHRASE).decode(errors="replace").strip("\r\n")
