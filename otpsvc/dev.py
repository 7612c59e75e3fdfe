"""`otpsvc dev`: the whole service in one process on its own stores, with a client, a key and a phone ready to use."""

import asyncio
import contextlib
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from otpsvc import logs
from otpsvc.app import House, create_app, open_house, run_background, settle_memory
from otpsvc.app_delivery import open_delivery, open_outlets, run_delivery
from otpsvc.dev_phone import DevPhone
from otpsvc.devices.model import Tenant
from otpsvc.embedded import EmbeddedError, start_stores
from otpsvc.ending import run
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.pages.developer import Developer
from otpsvc.postgres.migrate import migrate
from otpsvc.serving import PortTakenError, bind, run_server, stop_on_signals, watch_parent
from otpsvc.settings import Settings, load

_CLIENT_NAME = "dev"
_EXAMPLE_NUMBER = "+33612345678"
_MASTER_FILE = "master.key"
_ENV_FILE = "dev.env"
_INBOX, _PHONES = "inbox", "phones"

Say = Callable[[str], None]


def say(line: str) -> None:
    """Tell the developer something, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_dev(*, config: Path | None, host: str | None, port: int | None, data_dir: Path) -> None:
    """Run until Ctrl-C or TERM; raises ConfigurationError with one line about what to change."""
    listen = {"http.host": host, "http.port": port}
    overrides: dict[str, object] = {key: value for key, value in listen.items() if value is not None}
    settings = load(config, os.environ, overrides=overrides, needs=())
    logs.configure(settings.log.level, "text")
    sock = _bind(settings)
    try:
        with start_stores(data_dir, say=say) as stores:
            own = {
                "redis.url": stores.redis_url,
                "database.url": stores.database_url,
                "keys.masters": {"dev": _master(data_dir)},
                "delivery.senders": (_PHONES,),
                "devices.confirms_by_itself": True,
            }
            settings = load(config, os.environ, overrides={**overrides, **own})
            run(_run(settings, sock, data_dir, stores.failure))
    except EmbeddedError as error:
        raise ConfigurationError(str(error)) from None
    finally:
        sock.close()


async def _run(settings: Settings, sock: socket.socket, data_dir: Path, failure: Callable[[], str | None]) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    await migrate(settings.database.url.reveal())
    async with contextlib.AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(settings))
        outlets = await stack.enter_async_context(
            open_outlets(house.stores, is_dev=True, is_worker=True, mirrors={"terminal": "terminal", _INBOX: _INBOX})
        )
        delivery = open_delivery(house.stores, outlets)
        client_id, api_key = await _ready_client(house, data_dir / _ENV_FILE)
        caller = await house.authenticator.authenticate(api_key, client_id)
        phones, phone = house.phones, DevPhone()
        developer = Developer(lambda: caller, phone.air, phone.phones, phone.switch)
        app = create_app(house, outlets, closing=stop, has_inbox=True, developer=developer)
        settle_memory()
        url = _url(sock)
        # Before anything answers: a script that waits for the service reads it next.
        _write_env(data_dir / _ENV_FILE, url, client_id, api_key)
        fault: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_server(app, sock, stop, trusted_proxies=settings.http.trusted_proxies))
            tasks.create_task(run_background(house, stop))
            tasks.create_task(house.key_news.run(stop))
            tasks.create_task(phones.calls.run(stop))
            tasks.create_task(watch_parent(stop))
            tasks.create_task(_watch_stores(failure, stop, fault))
            async with phone.connected(phones.service, phones.pairing, Tenant(client_id, "test"), url):
                # Whoever reads the address may use it: the phone is there. What the last run left has waited for it.
                tasks.create_task(run_delivery(delivery, settings, stop, house.clock))
                say(_greeting(url, client_id, api_key, data_dir / _ENV_FILE))
                await stop.wait()
    say("stopped")
    if fault:
        raise ConfigurationError(fault[0])


async def _watch_stores(failure: Callable[[], str | None], stop: asyncio.Event, fault: list[str]) -> None:
    while not stop.is_set():
        if line := failure():
            fault.append(line)
            stop.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)


def _bind(settings: Settings) -> socket.socket:
    try:
        return bind(settings.http.host, settings.http.port)
    except PortTakenError as error:
        raise ConfigurationError(f"{error}. Is another one running? PORT=9000 make run takes another port.") from None


def _master(data_dir: Path) -> str:
    """Give the keyring's master (hex), made at the first start: a developer has no keyring of his own."""
    path = data_dir / _MASTER_FILE
    if not path.exists():
        say(f"making a keyring of your own in {path}")
        _write_private(path, secrets.token_hex(32))
    return path.read_text().strip()


async def _ready_client(house: House, env_path: Path) -> tuple[str, str]:
    """Give a client id and a test key that work: those of the last run if they still do, else new ones."""
    known = _read_env(env_path)
    client_id, api_key = known.get("OTPSVC_CLIENT_ID"), known.get("OTPSVC_API_KEY")
    if client_id and api_key:
        try:
            await house.authenticator.authenticate(api_key, client_id)
        except ApiError:
            say("the key of the last run no longer works, making a new one")
        else:
            return client_id, api_key
    client = await house.clients.create_client(_CLIENT_NAME)
    made = await house.clients.create_key(client.id, mode="test", name=_CLIENT_NAME)
    return client.id, made.text


def _read_env(path: Path) -> dict[str, str]:
    try:
        words = shlex.split(path.read_text(), comments=True)
    except (OSError, ValueError):
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _write_env(path: Path, url: str, client_id: str, api_key: str) -> None:
    values = {"OTPSVC_URL": url, "OTPSVC_CLIENT_ID": client_id, "OTPSVC_API_KEY": api_key}
    _write_private(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))


def _write_private(path: Path, text: str) -> None:
    """Replace a file that only we may read, in one step: a crash leaves the old one or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - read, not bound
    return f"http://{reachable}:{port}"


def _greeting(url: str, client_id: str, api_key: str, env_path: Path) -> str:
    return f"""
otpsvc is running on {url}

  client id   {client_id}
  API key     {api_key}   (test mode)
  phone       {url}/dev/phone    its screen; {url}/demo has a signup form beside it
  inbox       {url}/dev/inbox
  API docs    {url}/docs

Paste this in another terminal:

  . {shlex.quote(str(env_path.absolute()))}
  curl -X POST $OTPSVC_URL/v1/otp -H "X-API-Key: $OTPSVC_API_KEY" -H "X-Client-ID: $OTPSVC_CLIENT_ID" \\
       -H 'Content-Type: application/json' -d '{{"to":"{_EXAMPLE_NUMBER}"}}'
  curl -X POST "$OTPSVC_URL/v1/otp/<otp_id>/verify" \\
       -H "X-API-Key: $OTPSVC_API_KEY" -H "X-Client-ID: $OTPSVC_CLIENT_ID" \\
       -H 'Content-Type: application/json' -d '{{"code":"<code from the phone>"}}'

Ctrl-C ends it; the data stays in {_shown(env_path.parent)}.
"""


def _shown(path: Path) -> str:
    """Write a path as short as it can be typed where the command was started."""
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
