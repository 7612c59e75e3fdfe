"""`otpsvc senders`: which ways out there are, whether they work, one message through one of them, a new one to write.

Nothing here needs Redis or PostgreSQL. What a stranger's sender raises is told by its type alone: its words may repeat
a secret. Numbers are shown masked.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click

from otpsvc import phone, skeleton
from otpsvc.app_delivery import check_senders
from otpsvc.app_devices import open_devices
from otpsvc.cli_run import HELP_OPTIONS, as_text, config_option
from otpsvc.clock import SystemClock
from otpsvc.ending import run
from otpsvc.errors import ConfigurationError
from otpsvc.ids import new_message_id
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Health,
    OutboundMessage,
    Rejected,
    RetryLater,
    Sender,
    SenderContext,
    Unknown,
)
from otpsvc.senders.registry import installed_senders, load_senders, opened
from otpsvc.settings import Settings, load

TEST_TEXT = "otpsvc test message"

_TEST_LIFE_S = 300.0
_PATIENCE_S = 15.0  # for each of opening and asking
_LAST_PATIENCE_S = 45.0  # for a sender that holds up the process and listens to nobody
_MOST_SHOWN = 200


@click.group(context_settings=HELP_OPTIONS)
def senders() -> None:
    """List, check, try and write senders: the ways by which messages leave (docs/senders.md)."""


@senders.command("list")
@config_option
def list_senders(config: Path | None) -> None:
    """List the sender types that are installed, then the senders of the settings and where messages come to them.

    A type shows its name, the package it is from, its channels, and what it can do. Calls nobody.
    """
    for line in _aligned([("TYPE", "FROM", "CHANNELS", "CAN"), *_type_rows()]):
        click.echo(line)
    settings = load(config, os.environ, needs=())
    if not settings.senders:
        click.echo("\nNo senders are set up: give each a table [senders.<name>] in otpsvc.toml.")
        return
    click.echo()
    rows = [
        (name, table.type, "; ".join(_places(settings, name)) or "on no route")
        for name, table in settings.senders.items()
    ]
    for line in _aligned([("SENDER", "TYPE", "WHERE"), *rows]):
        click.echo(line)


@senders.command("check")
@config_option
@click.argument("name", required=False, callback=as_text)
def check(config: Path | None, name: str | None) -> None:
    """Make each sender of the settings, open it, and ask whether it could send now; or only the sender NAME.

    Sends nothing. Prints one line per sender; status 1 and one line per fault if any of them could not do its work.
    """
    settings = load(config, os.environ, needs=())
    chosen = [_chosen(settings, name)] if name is not None else list(settings.senders)
    if not chosen:
        raise ConfigurationError("no senders are set up: give each a table [senders.<name>] in otpsvc.toml")
    with _bounded():
        faults = run(_check_all(settings, chosen))
    if not faults and name is None:
        check_senders(settings, SystemClock())  # the routes, which are only as good as their senders
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        sys.exit(1)


@senders.command("send-test")
@config_option
@click.argument("name", callback=as_text)
@click.argument("number", callback=as_text)
@click.option(
    "--channel", type=click.Choice([str(one) for one in Channel]), help="Default: sms where it can, else any."
)
@click.option("--yes", is_flag=True, help="Do not ask first.")
def send_test(config: Path | None, name: str, number: str, channel: str | None, *, yes: bool) -> None:
    """Send the text "otpsvc test message" to NUMBER through the sender NAME, and print what became of it.

    It is a real message and costs what one costs. No code is made, nothing is stored, no limit counts it. Status 0 if
    the gateway took it.
    """
    try:
        to = phone.normalise(number)
    except phone.InvalidNumber as error:
        raise ConfigurationError(f"NUMBER: {error}") from None
    settings = load(config, os.environ, needs=())
    _chosen(settings, name)
    if not yes:
        click.confirm(f"Send a real message to {phone.mask(to)} through {name}?", abort=True)
    with _bounded(settings.delivery.step_timeout_s):
        outcome = run(_send_one(settings, name, to, Channel(channel) if channel else None))
    click.echo(f"{phone.mask(to)} through {name}: {_in_words(outcome)}")
    if not isinstance(outcome, Accepted):
        sys.exit(1)


@senders.command("new")
@click.argument("name", callback=as_text)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Where to write it. Default: ./otpsvc-NAME. It must not exist, or be empty.",
)
def new(name: str, directory: Path | None) -> None:
    """Write a package with a sender type NAME to start from: it works as it is, with its double and its tests."""
    skeleton.render(name)  # a name that cannot be is said before anything else
    if name in installed_senders():
        raise ConfigurationError(f"a sender type {name!r} is installed already: choose another name")
    target = directory if directory is not None else Path(f"otpsvc-{name}")
    for path in skeleton.write(name, target):
        click.echo(path)
    click.echo(
        f"\nNext: cd {target}, pip install . pytest pytest-asyncio, pytest. README.md says how to go on.", err=True
    )


async def _check_all(settings: Settings, names: list[str]) -> list[str]:
    said = await asyncio.gather(*(_check_one(settings, name) for name in names))
    return [line for lines in said for line in lines]


async def _check_one(settings: Settings, name: str) -> list[str]:
    """Return what is wrong with one sender, a line each."""
    try:
        if _is_pool(settings, name):
            health = await _health_of_phones(settings)
        else:
            async with _open(settings, name) as sender, asyncio.timeout(_PATIENCE_S):
                health = await sender.health()
    except ConfigurationError as error:
        return str(error).splitlines()
    except TimeoutError:
        return [f"senders.{name}: no answer within {_PATIENCE_S:g} s"]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code can raise anything
        return [f"senders.{name}: health failed with {type(error).__name__}"]
    return _said(settings, name, health)


def _said(settings: Settings, name: str, health: object) -> list[str]:
    """Print what a sender answered if it is ready, or return what is wrong; a stranger's answer may be anything."""
    if not isinstance(health, Health):
        return [f"senders.{name}: health answered {type(health).__name__}, which is no Health: ask its author"]
    detail = f": {_printable(health.detail)}" if health.detail else ""
    if not health.is_ready:
        return [f"senders.{name}: not ready{detail}"]
    where = "" if _places(settings, name) else ", but on no route"
    click.echo(f"{name}: ready{where}{detail}")
    return []


def _is_pool(settings: Settings, name: str) -> bool:
    """Say whether a sender is a pool of phones, which a worker alone can open; raises ConfigurationError."""
    context = SenderContext(is_dev=False, clock=SystemClock(), public_url=settings.http.public_url)
    return load_senders({name: settings.senders[name]}, context)[name].capabilities.is_pool


async def _health_of_phones(settings: Settings) -> Health:
    """Ask the store of the phones; raises ConfigurationError where the settings name none, or it does not answer."""
    async with open_devices(settings) as desk, asyncio.timeout(_PATIENCE_S):
        n_online = await desk.presence.n_online()
    return Health(is_ready=True, detail=f"{n_online} phone{'' if n_online == 1 else 's'} connected, of all clients")


async def _send_one(settings: Settings, name: str, to: str, channel: Channel | None) -> object:
    if _is_pool(settings, name):
        raise ConfigurationError(
            f"senders.{name}: a phone sends for its client only: POST /v1/otp with that client's key and X-Device-ID"
        )
    async with _open(settings, name) as sender:
        channels = sender.capabilities.channels
        if channel is not None and channel not in channels:
            raise ConfigurationError(f"senders.{name} cannot carry {channel}, only {_listed(channels)}")
        message = OutboundMessage(
            message_id=new_message_id(partition=0).text,
            client_id="client_000000000000",
            mode="live",
            channel=channel or (Channel.SMS if Channel.SMS in channels else min(channels)),
            to=to,
            text=TEST_TEXT,
            expires_at=SystemClock().time() + _TEST_LIFE_S,
            life_s=_TEST_LIFE_S,
            try_number=1,
        )
        try:
            async with asyncio.timeout(settings.delivery.step_timeout_s):
                return await sender.send(message)
        except TimeoutError:
            return Unknown("time-out")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as the dispatcher: what is raised says nothing
            return Unknown(f"send failed with {type(error).__name__}")


@asynccontextmanager
async def _open(settings: Settings, name: str) -> AsyncIterator[Sender[Any]]:
    """Give the sender, opened; raise ConfigurationError, in a line for a person, if that cannot be."""
    context = SenderContext(is_dev=False, clock=SystemClock(), public_url=settings.http.public_url)
    sender = load_senders({name: settings.senders[name]}, context)[name]
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await stack.enter_async_context(opened([sender]))
        except ConfigurationError:
            raise
        except TimeoutError:
            raise ConfigurationError(f"senders.{name}: did not open within {_PATIENCE_S:g} s") from None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code can raise anything
            raise ConfigurationError(f"senders.{name}: open failed with {type(error).__name__}") from None
        yield sender


@contextmanager
def _bounded(work_s: float = 0.0) -> Iterator[None]:
    """End the process if a sender holds it up beyond the work it may do: no time-out reaches code that never awaits."""
    timer = threading.Timer(_LAST_PATIENCE_S + work_s, _give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up() -> NoReturn:
    click.echo("otpsvc: a sender holds up the process: given up", err=True)
    os._exit(1)


def _chosen(settings: Settings, name: str) -> str:
    if name not in settings.senders:
        known = ", ".join(settings.senders) or "none"
        raise ConfigurationError(f"there is no sender {name!r} in the settings; there are: {known}")
    return name


def _type_rows() -> Iterator[tuple[str, ...]]:
    for kind, point in sorted(installed_senders().items()):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        yield (kind, origin, *_abilities(point))


def _abilities(point: EntryPoint) -> tuple[str, str]:
    try:
        kind = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a stranger's code can raise anything
        return "-", f"cannot be imported: {type(error).__name__}"
    able = getattr(kind, "capabilities", None)
    dev_only = ["dev only"] if getattr(kind, "is_dev_only", False) else []
    if not isinstance(able, Capabilities):
        return "-", ", ".join([*dev_only, "by its settings"])
    return _listed(able.channels), ", ".join([*dev_only, *_words(able)]) or "send"


def _words(able: Capabilities) -> Iterator[str]:
    claims = {
        "owns the code": able.owns_code,
        "idempotent": able.is_idempotent,
        "honours expiry": able.honours_expiry,
        "receipts": able.has_receipts,
        "polls": able.polls_every_s is not None,
        "cancel": able.can_cancel,
        "presence": able.has_presence,
    }
    yield from (word for word, is_claimed in claims.items() if is_claimed)
    if able.longest_text is not None:
        yield f"up to {able.longest_text} letters"


def _places(settings: Settings, name: str) -> list[str]:
    """Say where on which route a sender stands."""
    default = settings.delivery.senders
    places = [f"delivery.senders {default.index(name) + 1} of {len(default)}"] if name in default else []
    for (client_id, channel), stretches in settings.routes.table.items():
        table = ".".join(["routes", *filter(None, (client_id, channel))])
        for prefix, route in stretches.items():
            at = [step.sender for step in route.steps]
            if name in at:
                places.append(f'{table} "{prefix}" {at.index(name) + 1} of {len(at)}')
    return places


def _in_words(outcome: object) -> str:
    """Say what a sender answered; a stranger's may be anything, and its fields too."""
    match outcome:
        case Accepted(provider_id=None):
            return "accepted"
        case Accepted():
            return f"accepted (provider id {_printable(outcome.provider_id)})"
        case Rejected():
            word = f"rejected, {_printable(outcome.kind)}"
        case RetryLater():
            word = f"not now, again in {_printable(outcome.after_s).removesuffix('.0')} s"
        case Unknown():
            word = "unknown: it may have been sent"
        case _:
            return f"unknown: it may have been sent (the sender answered {type(outcome).__name__}, which is no outcome)"
    return f"{word} ({_printable(outcome.detail)})" if outcome.detail else word


def _printable(said: object) -> str:
    """Make a gateway's words fit for a terminal, which they must not be able to drive."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(said)[:_MOST_SHOWN])


def _listed(channels: frozenset[Channel]) -> str:
    return ",".join(sorted(channels))


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
