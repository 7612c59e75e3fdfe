"""`otpsvc events`: what happened, from PostgreSQL: the last of it, or as it comes in.

Nothing secret is shown, because nothing secret is in these events: no number, no text, no code.
"""

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click

from otpsvc.app_stores import open_database_of, refuse_old_database
from otpsvc.cli_run import HELP_OPTIONS, as_text, config_option
from otpsvc.ending import run
from otpsvc.errors import ApiError
from otpsvc.events.model import Event
from otpsvc.events.ports import EventLog
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.settings import Need, Settings, load

_EVERY_S = 0.5
_PAGE = 500

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.group(context_settings=HELP_OPTIONS)
def events() -> None:
    """Look at what happened: codes sent, guessed, verified, expired, and their messages."""


@events.command("tail")
@config_option
@click.option(
    "--otp", "otp_id", callback=as_text, default="", help="Only this OTP; shows first what it has been through."
)
@click.option("--client", "client_id", callback=as_text, default="", help="Only this client.")
@json_option
def tail(config: Path | None, otp_id: str, client_id: str, *, as_json: bool) -> None:
    """Follow what happens from now on, one line per event, until Ctrl-C.

    Events show up in the order in which they were written down, a moment after they happened; under `otpsvc worker`,
    which writes them. A PostgreSQL that goes away is waited for, and what happened meanwhile follows.
    """
    settings = _settings(config)
    with _quiet_about_a_closed_pipe():
        run(_tail(settings, otp_id or None, client_id or None, as_json=as_json))


@events.command("list")
@config_option
@click.option("--otp", "otp_id", callback=as_text, default="", help="Only this OTP.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many at most.")
@json_option
def list_events(config: Path | None, otp_id: str, limit: int, *, as_json: bool) -> None:
    """List the newest events, the last one at the bottom."""
    settings = _settings(config)
    with _quiet_about_a_closed_pipe():
        _show(run(_newest(settings, otp_id or None, limit)), as_json=as_json)


def line_of(event: Event) -> str:
    """Write an event as one line: time, name, whose it is, and its details."""
    details = " ".join(f"{key}={value}" for key, value in sorted(event.data.items()) if value)
    when = datetime.fromtimestamp(event.occurred_at / 1000, UTC).isoformat(timespec="milliseconds")
    words = (when.replace("+00:00", "Z"), f"{event.name:<17}", f"{event.client_id}/{event.mode}", event.otp_id)
    line = "  ".join(word for word in (*words, event.message_id, details) if word)
    # A gateway's words are among the details: they must not be able to drive a terminal.
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


def json_of(event: Event) -> str:
    """Write an event as one JSON object, its details among its fields' names under `data`."""
    known: dict[str, Any] = {
        "event_id": event.event_id,
        "event": event.name,
        "occurred_at": event.occurred_at,
        "client_id": event.client_id,
        "mode": event.mode,
        "otp_id": event.otp_id,
        "message_id": event.message_id,
        "data": event.data,
    }
    return msgspec.json.encode(known).decode()


def _settings(config: Path | None) -> Settings:
    needs: tuple[Need, ...] = ("database.url",)
    return load(config, os.environ, needs=needs)


@contextlib.asynccontextmanager
async def _open_log(settings: Settings) -> AsyncIterator[EventLog]:
    async with open_database_of(settings) as database:
        await refuse_old_database(database)
        history = settings.history
        yield PostgresEventLog(database, event_days=history.event_days, message_days=history.message_days)


async def _newest(settings: Settings, otp_id: str | None, limit: int) -> Sequence[Event]:
    async with _open_log(settings) as log:
        return (await log.recent(limit=limit, after=None, otp_id=otp_id)).events


async def _tail(settings: Settings, otp_id: str | None, client_id: str | None, *, as_json: bool) -> None:
    following = asyncio.create_task(_follow(settings, otp_id, client_id, as_json=as_json))
    for number in (signal.SIGINT, signal.SIGTERM):
        # At once, also while a server is waited for that says nothing.
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def _follow(settings: Settings, otp_id: str | None, client_id: str | None, *, as_json: bool) -> None:
    async with _open_log(settings) as log:
        begun = await log.recent(limit=_PAGE if otp_id else 0, after=None, otp_id=otp_id, client_id=client_id)
        _show(begun.events, as_json=as_json)
        cursor, is_away = begun.cursor, False
        while not _is_reader_gone():
            try:
                page = await log.recent(limit=_PAGE, after=cursor, otp_id=otp_id, client_id=client_id)
            except ApiError:
                if not is_away:
                    click.echo("PostgreSQL does not answer, waiting for it", err=True)
                is_away = True
            else:
                is_away = False
                cursor = page.cursor
                _show(page.events, as_json=as_json)
                if len(page.events) == _PAGE:
                    continue
            await asyncio.sleep(_EVERY_S)


def _show(page: Sequence[Event], *, as_json: bool) -> None:
    for event in page:
        click.echo(json_of(event) if as_json else line_of(event))


def _is_reader_gone() -> bool:
    """Say whether nobody reads the standard output any more, which a pipe tells only to who asks or writes."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _quiet_about_a_closed_pipe() -> Iterator[None]:
    """End without a word when the reader of a pipe has seen enough."""
    try:
        yield
    except BrokenPipeError:
        # What is still buffered has nowhere to go; without this the interpreter complains when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
