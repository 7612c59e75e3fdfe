"""`otpsvc forget`: erase everything that names one phone number. Nothing here may print any part of that number."""

import os
import sys
from pathlib import Path

import rich_click as click

from otpsvc.app import open_house
from otpsvc.cli_run import HELP_OPTIONS, as_text, config_option
from otpsvc.ending import run
from otpsvc.otp.erasure import Forgotten
from otpsvc.otp.ports import Tenant
from otpsvc.settings import Settings, load

_FROM_STDIN = "-"
_MOST_BYTES = 1000  # more than any number, so that a wrong file is refused and not read to its end


@click.command("forget", context_settings=HELP_OPTIONS)
@config_option
@click.argument("number", nargs=-1, required=True, callback=as_text, metavar="NUMBER")
@click.option("--client", "client_id", callback=as_text, help="Only what this client sent; needs --mode.")
@click.option("--mode", type=click.Choice(["live", "test"]), help="Live or test, where --client is given.")
def forget(config: Path | None, number: tuple[str, ...], client_id: str | None, mode: str | None) -> None:
    """Erase NUMBER everywhere: living codes end, messages not yet sent are cancelled, the history no longer names it.

    Give - as NUMBER to have it read from standard input. Do that wherever others use this machine: what stands on a
    command line shows in the list of processes and stays in the shell's history.

    Without --client it is erased at all clients, in both modes. Limits on the number stay as they are, without naming
    it, so nobody gets new codes by this. Prints how much was erased, and never the number. Safe to repeat; a run that
    was broken off is completed by the next one.
    """
    if (client_id is None) != (mode is None):
        raise click.UsageError("--client and --mode go together: a client's live and test numbers are apart.")
    tenant = Tenant(client_id, mode) if client_id is not None and mode is not None else None
    settings = load(config, os.environ)
    forgotten = run(_forget(settings, _given(number), tenant))
    click.echo(f"erased: codes {forgotten.n_otps}, messages {forgotten.n_messages}")


async def _forget(settings: Settings, number: str, tenant: Tenant | None) -> Forgotten:
    async with open_house(settings) as house:
        if tenant is not None:
            # A misspelt client has no numbers either: it must not look like success.
            await house.clients.get_client(tenant.client_id)
        return await house.eraser.forget(number, tenant=tenant)


def _given(words: tuple[str, ...]) -> str:
    """Put together a number that was written with spaces and without quotes, or read it from standard input."""
    if words != (_FROM_STDIN,):
        return " ".join(words)
    if sys.stdin.isatty():
        click.echo("The number, then Enter and Ctrl-D:", err=True)
    return sys.stdin.buffer.read(_MOST_BYTES).decode(errors="replace").strip()
