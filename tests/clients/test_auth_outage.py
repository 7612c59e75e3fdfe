"""Who calls while PostgreSQL is cut off or says nothing: known keys go on, nobody waits for long."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from otpsvc.clients.auth import KNOWN_FOR_S, PROBE_EVERY_S, Authenticator
from otpsvc.clients.keys import make_key
from otpsvc.clients.model import NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.testing import ManualClock

Refused = Callable[[str | None, str | None], Awaitable[str]]


class Cable:
    """A relay between the pool and the server's socket: plugged in, cut (refuses), or hung (says nothing)."""

    def __init__(self, server_socket: Path, directory: Path) -> None:
        self._server_socket = server_socket
        self.directory = directory
        self._socket = directory / server_socket.name
        self._relays: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._flows = asyncio.Event()

    async def plug_in(self) -> None:
        self._flows.set()
        self._listener = await asyncio.start_unix_server(self._relay, self._socket)

    def hang(self) -> None:
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    async def cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._socket.unlink(missing_ok=True)
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._carry(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._server_socket)
        try:
            ways = [
                asyncio.create_task(self._copy(reader, to_server)),
                asyncio.create_task(self._copy(from_server, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in (writer, to_server):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def cable(database_url: str) -> AsyncIterator[Cable]:
    query = parse_qs(urlsplit(database_url).query)
    directory = Path(tempfile.mkdtemp(prefix="cable-"))
    cable = Cable(Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}", directory)
    await cable.plug_in()
    yield cable
    await cable.cut()
    shutil.rmtree(directory)


@pytest.fixture
def lookup_url(database_url: str, cable: Cable) -> str:
    """Send the authenticator's questions over the cable; the operator's side stays connected."""
    parts = urlsplit(database_url)
    port = parse_qs(parts.query)["port"][0]
    return f"postgresql://{parts.netloc}{parts.path}?host={quote(str(cable.directory))}&port={port}"


async def settled(authenticator: Authenticator) -> None:
    """Let the lookups in the background end."""
    await asyncio.gather(*authenticator._lookups.values(), return_exceptions=True)


async def test_with_postgresql_cut_off_known_keys_go_on_and_unknown_ones_wait(
    refused: Refused,
    authenticator: Authenticator,
    service: ClientService,
    cable: Cable,
    clock: ManualClock,
    shop: NewApiKey,
    wrong_text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client_id = shop.key.client_id
    cold = await service.create_key(client_id, "live")
    expires_at = datetime.fromtimestamp(clock.time(), UTC) + timedelta(minutes=30)
    mortal = await service.create_key(client_id, "live", expires_at=expires_at)
    await authenticator.authenticate(shop.text, client_id)
    await authenticator.authenticate(mortal.text, client_id)
    await cable.cut()
    for _ in range(5):
        clock.advance(600)
        assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
        assert await refused(wrong_text, client_id) == "INVALID_API_KEY"
        assert await refused(cold.text, client_id) == "SERVICE_UNAVAILABLE"
    assert await refused(mortal.text, client_id) == "INVALID_API_KEY"
    await settled(authenticator)
    assert "PostgreSQL did not serve key_for_authentication" in caplog.text
    assert str(cable.directory) not in caplog.text
    assert "Traceback" not in caplog.text
    # Back again: the next request starts a probe, what follows is fresh.
    await service.revoke_key(client_id, shop.key.public_id)
    await cable.plug_in()
    clock.advance(PROBE_EVERY_S)
    assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
    await settled(authenticator)
    assert await refused(shop.text, client_id) == "INVALID_API_KEY"
    assert (await authenticator.authenticate(cold.text, client_id)).client_id == shop.key.client_id


async def test_while_postgresql_is_away_it_is_asked_rarely_and_nobody_waits_for_it(
    refused: Refused, authenticator: Authenticator, cable: Cable, clock: ManualClock, shop: NewApiKey, asked: list[str]
) -> None:
    client_id = shop.key.client_id
    await authenticator.authenticate(shop.text, client_id)
    await cable.cut()
    clock.advance(KNOWN_FOR_S)
    await authenticator.authenticate(shop.text, client_id)
    asked_before = len(asked)
    for _ in range(100):
        assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
        assert await refused(make_key("live"), client_id) == "SERVICE_UNAVAILABLE"
    assert len(asked) == asked_before
    clock.advance(PROBE_EVERY_S)
    for _ in range(100):
        assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
    await settled(authenticator)
    assert len(asked) == asked_before + 1


async def test_a_postgresql_that_says_nothing_holds_nobody_up(
    refused: Refused, authenticator: Authenticator, cable: Cable, clock: ManualClock, shop: NewApiKey, asked: list[str]
) -> None:
    client_id = shop.key.client_id
    await authenticator.authenticate(shop.text, client_id)
    cable.hang()
    clock.advance(KNOWN_FOR_S)
    calls = [authenticator.authenticate(shop.text, client_id) for _ in range(50)]
    assert len(await asyncio.gather(*calls)) == 50
    assert len(asked) == 2
    assert await refused(make_key("live"), client_id) == "SERVICE_UNAVAILABLE"
    cable.resume()
    await settled(authenticator)
    clock.advance(PROBE_EVERY_S)
    assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
    await settled(authenticator)
    assert authenticator.authenticate_cached(shop.text, client_id) is not None


async def test_closing_ends_a_lookup_under_way(authenticator: Authenticator, cable: Cable, shop: NewApiKey) -> None:
    cable.hang()
    call = asyncio.create_task(authenticator.authenticate(shop.text, shop.key.client_id))
    while not authenticator._lookups:  # noqa: ASYNC110 - one turn of the loop, there is no event to wait for
        await asyncio.sleep(0)
    await authenticator.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not authenticator._lookups
