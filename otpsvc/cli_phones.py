"""`otpsvc device simulate` and `otpsvc device termux`: be a phone for a server, in memory or for real.

Neither needs settings, Redis or PostgreSQL: they talk to the server as a phone does. Codes are secrets: what arrives is
printed by `simulate --show` alone, and what a server sends is never trusted to drive the terminal.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import rich_click as click

from otpsvc.cli_run import HELP_OPTIONS, as_text
from otpsvc.ending import run
from otpsvc.errors import ConfigurationError
from otpsvc.handset.air import Air
from otpsvc.handset.journal import FileJournal
from otpsvc.handset.link import Login, ServerLink, server_address
from otpsvc.handset.pace import Pace
from otpsvc.handset.phone import Phone
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import Temper
from otpsvc.handset.termux import TermuxRadio
from otpsvc.handset.wire import SimCard

# Longer than any pause between two keep-alives that a server can be set to; a phone changes networks unnoticed.
_TERMUX_PACE = Pace(silence_s=330.0)
_TEMPER_NAMES = {"offline_every": "offline_every_s", "offline_for": "offline_for_s"}
_SHARE = click.FloatRange(0, 1)

_server = click.option("--server", required=True, callback=as_text, help="Address of the service: https://…")
_login = click.option("--login", default="", callback=as_text, help="Login of the pairing.")
_password = click.option(
    "--password",
    envvar="OTPSVC_DEVICE_PASSWORD",
    default="",
    callback=as_text,
    help="Its password. Better in OTPSVC_DEVICE_PASSWORD: other users of a machine can read arguments.",
)
_code = click.option("--code", default="", callback=as_text, help="The pairing's one-time code, instead of a login.")
_passphrase = click.option(
    "--passphrase",
    envvar="OTPSVC_DEVICE_PASSPHRASE",
    default="",
    callback=as_text,
    help="For end-to-end encryption, as set at the service. Better in OTPSVC_DEVICE_PASSPHRASE.",
)
_allow_http = click.option(
    "--allow-http", is_flag=True, help="Talk to another machine without TLS. Everybody in between reads the codes."
)


@click.command("simulate", context_settings=HELP_OPTIONS)
@_server
@_login
@_password
@_code
@_passphrase
@_allow_http
@click.option("--name", default="Simulated phone", show_default=True, callback=as_text, help="What it calls itself.")
@click.option("--sims", type=click.IntRange(1, 4), default=1, show_default=True, help="How many SIMs it has.")
@click.option("--slow", type=click.FloatRange(0, 3600), default=0, help="Seconds its radio takes for an SMS.")
@click.option("--loses", type=_SHARE, default=0, help="Share of its reports that are lost, 0 to 1.")
@click.option("--doubles", type=_SHARE, default=0, help="Share of its reports that leave twice.")
@click.option("--delays", type=_SHARE, default=0, help="Share of its reports that leave some seconds late.")
@click.option("--fails", type=_SHARE, default=0, help="Share of SMS that it cannot send.")
@click.option("--offline-every", type=click.FloatRange(0, 86_400), default=0, help="Lose the network so often (s).")
@click.option("--offline-for", type=click.FloatRange(0, 86_400), default=10, show_default=True, help="For so long (s).")
@click.option("--seed", type=int, default=0, help="Another number, other accidents.")
@click.option(
    "--show", is_flag=True, help="Print each SMS with its number and text. Codes are secrets: for tests only."
)
def simulate(
    server: str,
    login: str,
    password: str,
    code: str,
    passphrase: str,
    *,
    allow_http: bool,
    name: str,
    sims: int,
    show: bool,
    **temper: Any,
) -> None:
    """Be a phone that sends nothing: it registers, pulls and reports as the Android app does.

    Pair one with `otpsvc device pair` first. SMS end in memory; without --show only their ids are printed. Ctrl-C or
    TERM ends it.
    """
    _need_login(login, password, code)
    air = Air()
    phone = SimulatedPhone(
        server,
        login=login,
        password=password,
        code=code,
        name=name,
        air=air,
        temper=_temper(**temper),
        sims=_sims(sims),
        passphrase=passphrase,
        allow_http=allow_http,
        news=_say,
    )

    async def live(stop: asyncio.Event) -> None:
        watching = asyncio.create_task(_watch(air, shows_all=show))
        try:
            await phone.run(stop)
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    _live(live)


@click.command("termux", context_settings=HELP_OPTIONS)
@_server
@click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that keeps who this phone is and what it has sent; made with mode 0600. Holds its token and password.",
)
@_login
@_password
@_code
@_passphrase
@_allow_http
@click.option("--name", default="Termux phone", show_default=True, callback=as_text, help="What it calls itself.")
@click.option("--sims", type=click.IntRange(1, 4), default=1, show_default=True, help="How many SIMs it has.")
def termux(
    server: str,
    state: Path,
    login: str,
    password: str,
    code: str,
    passphrase: str,
    *,
    allow_http: bool,
    name: str,
    sims: int,
) -> None:
    """Send SMS for real, from a phone that runs this in Termux.

    Needs the app Termux:API with the permission to send SMS, and `pkg install termux-api`. The first time give --code,
    or --login and its password, of a pairing; later --state is enough. Termux does not tell whether an SMS arrived:
    messages end as sent. Keep the phone awake with `termux-wake-lock`. Ctrl-C or TERM ends it once the SMS under way is
    sent.
    """
    base = server_address(server, allow_http=allow_http)
    radio = TermuxRadio(has_several_sims=sims > 1)
    with FileJournal(state) as journal:
        known = journal.kept.credentials
        if known is None:
            _need_login(login, password, code)
        elif known.server != base or (login and login != known.login):
            raise ConfigurationError(f"{state} is of another server or login: take another file for this one")
        phone = Phone(
            ServerLink(base, silence_s=_TERMUX_PACE.silence_s),
            radio,
            journal,
            login=Login(login, password, code),
            name=name,
            sims=_sims(sims),
            passphrase=passphrase,
            pace=_TERMUX_PACE,
            news=_say,
        )
        _live(phone.run)


def _live(life: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    async def live() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await life(stop)

    run(live())


async def _watch(air: Air, *, shows_all: bool) -> None:
    with air.subscribe() as arriving:
        async for sms in arriving:
            _say(f"SMS {sms.message_id} to {sms.to}: {sms.text}" if shows_all else f"SMS {sms.message_id} has left")


def _say(line: str) -> None:
    printable = "".join(letter if letter.isprintable() else "?" for letter in line.replace("\n", " | "))
    click.echo(f"{time.strftime('%H:%M:%S')}  {printable}")


def _need_login(login: str, password: str, code: str) -> None:
    if not (code or (login and password)):
        raise ConfigurationError("give --code, or --login and its password: `otpsvc device pair` shows them")


def _sims(count: int) -> tuple[SimCard, ...]:
    return tuple(SimCard(slot_index=slot, sim_number=slot + 1) for slot in range(count))


def _temper(*, slow: float, **shares: Any) -> Temper:
    return Temper(slow_s=slow, **{_TEMPER_NAMES.get(name, name): value for name, value in shares.items()})
