"""`otpsvc keys`: the masters of the keyring, listed with what needs them, and rotated in three steps.

A command may show names, dates and counts, never a secret. What a wrong step would break is checked before the file is
touched; what only the operator knows (that every process was restarted) is said, not assumed.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import rich_click as click

from otpsvc.app_stores import keyring_of, open_database_of, refuse_old_database
from otpsvc.cli_run import HELP_OPTIONS, as_text, config_option
from otpsvc.crypto import Keyring
from otpsvc.ending import run
from otpsvc.errors import ConfigurationError
from otpsvc.keyring_file import KeyringFile
from otpsvc.postgres.masters import MasterUse, PostgresMasters
from otpsvc.settings import Need, Settings, load

# An OTP id keeps its master over five resends: six lives of thirty minutes at the longest, and 15 minutes of replays.
NEEDED_AFTER = timedelta(minutes=195)

_NEEDS: tuple[Need, ...] = ("database.url", "keys.masters")
_UNUSED = MasterUse(was_current=False, living_keys=0)
_RESTART = "Next: restart every process (serve, worker)"


class Standing(NamedTuple):
    """One master, and what stands between it and its removal. `first_until`: when it stopped being first, if known."""

    name: str
    is_current: bool
    is_index: bool
    use: MasterUse
    first_until: datetime | None

    def needed_by(self) -> str | None:
        """Say why it can never go as things are."""
        if self.is_current:
            return "it is current"
        return "it keys the indexes of numbers, and so every limit" if self.is_index else None

    def risked_by(self, now: datetime) -> str | None:
        """Say what would be lost if it went now."""
        risks = []
        if self.use.living_keys:
            risks.append(f"{_counted(self.use.living_keys)} under it, each until it is used again")
        if self.use.phones:
            are = "1 phone is" if self.use.phones == 1 else f"{self.use.phones} phones are"
            risks.append(f"{are} under it, each until it calls again")
        if self.first_until is not None:
            may_go_at = self.first_until + NEEDED_AFTER
            if now < may_go_at:
                risks.append(f"codes made under it may live until {may_go_at:%Y-%m-%d %H:%M} UTC")
        elif self.use.was_current:
            risks.append("it was first once, and until when is not written down")
        return "; ".join(risks) or None


@click.group(context_settings=HELP_OPTIONS)
def keys() -> None:
    """List and rotate the masters of the keyring, under which codes, numbers and API keys are kept.

    docs/security.md says what they protect and how a rotation goes.
    """


@keys.command("new")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", callback=as_text, help="Name of the first master. Default: the year and a letter, 2026a.")
def new_keyring(path: Path, name: str | None) -> None:
    """Write a first keyring to PATH: a random master, and one for the indexes. Readable by you alone; prints nothing.

    Give it to every process as keys.masters_file (OTPSVC_KEYS_MASTERS_FILE), and keep a copy in a safe place.
    """
    KeyringFile(path).create(name, now=datetime.now(UTC))


@keys.command("list")
@config_option
def list_masters(config: Path | None) -> None:
    """List the masters: which is current, which keys the indexes, what needs each, and when it may be removed."""
    settings = load(config, os.environ, needs=_NEEDS)
    file = KeyringFile.of_settings(config, os.environ)
    standings, strays = run(_standings(settings, file))
    now = datetime.now(UTC)
    rows = [("MASTER", "USE", "API KEYS", "MAY BE REMOVED")]
    for one in standings:
        use = ", ".join(word for word, is_so in (("current", one.is_current), ("index", one.is_index)) if is_so)
        obstacle = one.needed_by() or one.risked_by(now)
        rows.append((one.name, use or "-", str(one.use.living_keys), f"no: {obstacle}" if obstacle else "yes"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if strays:
        click.echo(
            f"{_counted(strays)} under a master that is not in this keyring: refused, until it is back", err=True
        )


@keys.command("rotate")
@config_option
@click.option(
    "--add",
    is_flag=False,
    flag_value="",
    callback=as_text,
    metavar="[NAME]",
    help="Step 1: put a new random master second. NAME by default is the year and the next letter, 2026b.",
)
@click.option("--promote", callback=as_text, metavar="NAME", help="Step 2: put this master first.")
@click.option("--remove", callback=as_text, metavar="NAME", help="Step 3: take this master out, once nothing needs it.")
@click.option(
    "--force", is_flag=True, help="Remove it although API keys, or codes that may still live, are lost with it."
)
def rotate(config: Path | None, add: str | None, promote: str | None, remove: str | None, *, force: bool) -> None:
    """Change the keyring file (keys.masters_file), one step at a time.

    After each step restart every process before the next one: add, restart, promote, restart, wait until `otpsvc keys
    list` says that the old one may go, remove, restart. A crash leaves the old file or the new one.
    """
    if [add, promote, remove].count(None) != 2 or (force and remove is None):
        raise click.UsageError("give one of --add, --promote NAME and --remove NAME; --force goes with --remove only")
    settings = load(config, os.environ, needs=_NEEDS if add is None else ("keys.masters",))
    file = KeyringFile.of_settings(config, os.environ)
    if file is None:
        raise ConfigurationError(
            "keys.masters holds the keyring itself, which no command can change: put it into a file and give that as "
            "keys.masters_file, or change it by hand (docs/security.md, Rotating the keyring)"
        )
    now = datetime.now(UTC)
    if add is not None:
        name = file.add(add or None, now=now)
        click.echo(f"added {name} as the second master to {file.path}")
        click.echo(
            f"{_RESTART}, so that each can read what {name} will make. Then: otpsvc keys rotate --promote {name}"
        )
    elif promote is not None:
        before = run(_promote(settings, file, promote, now))
        click.echo(f"{promote} is the first master in {file.path}; {before} still reads what it made")
        click.echo(f"{_RESTART}. Then wait until `otpsvc keys list` says that {before} may be removed")
    elif remove is not None:
        run(_remove(settings, file, remove, now, is_forced=force))
        click.echo(f"removed {remove} from {file.path}")
        click.echo(f"{_RESTART}")


async def _standings(settings: Settings, file: KeyringFile | None) -> tuple[list[Standing], int]:
    """Return how each master stands, and how many API keys are under none of them."""
    first_until = file.first_until() if file else {}
    async with open_database_of(settings) as database:
        await refuse_old_database(database)
        masters = PostgresMasters(database)
        ring = await _indexed(settings, masters)
        uses = await masters.uses()
    standings = [
        Standing(
            name=master.name,
            is_current=master is ring.current,
            is_index=master is ring.index_master,
            use=uses.pop(master.slot, _UNUSED),
            first_until=first_until.get(master.name),
        )
        for master in ring.masters
    ]
    return standings, sum(use.living_keys for use in uses.values())


async def _promote(settings: Settings, file: KeyringFile, name: str, now: datetime) -> str:
    async with open_database_of(settings) as database:
        await refuse_old_database(database)
        chosen = next((master for master in keyring_of(settings).masters if master.name == name), None)
        if chosen is not None:
            # Before the file: a process that has it first must find it so, and nobody is hurt if no process ever does.
            await PostgresMasters(database).promote(chosen.slot)
    return file.promote(name, now=now)


async def _remove(settings: Settings, file: KeyringFile, name: str, now: datetime, *, is_forced: bool) -> None:
    standings, _ = await _standings(settings, file)
    standing = next((one for one in standings if one.name == name), None)
    if standing is not None:
        if needed_by := standing.needed_by():
            raise ConfigurationError(f"{name} cannot be removed: {needed_by}")
        risked_by = standing.risked_by(now)
        if risked_by and not is_forced:
            raise ConfigurationError(f"{name} may not be removed yet: {risked_by}. With --force all that is lost")
    file.remove(name)


async def _indexed(settings: Settings, masters: PostgresMasters) -> Keyring:
    return await masters.indexed(keyring_of(settings), is_index_named=settings.keys.index_master is not None)


def _counted(living_keys: int) -> str:
    return "1 API key is" if living_keys == 1 else f"{living_keys} API keys are"
