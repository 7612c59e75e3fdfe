"""Who calls while PostgreSQL is cut off or says nothing: known keys go on, nobody waits for long."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from otpsvc.clients.auth import KNOWN_FOR_S, PROBE_EVERY_S, Authenticator
from otpsvc.clients.keys import make_key
from otpsvc.clients.model import NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.testing import ManualClock
from tests.clients.cable import Cable, address_over

Refused = Callable[[str | None, str | None], Awaitable[str]]


@pytest.fixture
def lookup_url(database_url: str, cable: Cable) -> str:
    """Send the authenticator's questions over the cable; the operator's side stays connected."""
    return address_over(cable, database_url)


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
    refused: Refused,
    authenticator: Authenticator,
    cable: Cable,
    clock: ManualClock,
    shop: NewApiKey,
    keyring: Keyring,
    asked: list[str],
) -> None:
    client_id = shop.key.client_id
    await authenticator.authenticate(shop.text, client_id)
    await cable.cut()
    clock.advance(KNOWN_FOR_S)
    await authenticator.authenticate(shop.text, client_id)
    asked_before = len(asked)
    for _ in range(100):
        assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
        assert await refused(make_key("live", keyring), client_id) == "SERVICE_UNAVAILABLE"
    assert len(asked) == asked_before
    clock.advance(PROBE_EVERY_S)
    for _ in range(100):
        assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id
    await settled(authenticator)
    assert len(asked) == asked_before + 1


async def test_a_postgresql_that_says_nothing_holds_nobody_up(
    refused: Refused,
    authenticator: Authenticator,
    cable: Cable,
    clock: ManualClock,
    shop: NewApiKey,
    keyring: Keyring,
    asked: list[str],
) -> None:
    client_id = shop.key.client_id
    await authenticator.authenticate(shop.text, client_id)
    cable.hang()
    clock.advance(KNOWN_FOR_S)
    calls = [authenticator.authenticate(shop.text, client_id) for _ in range(50)]
    assert len(await asyncio.gather(*calls)) == 50
    assert len(asked) == 2
    assert await refused(make_key("live", keyring), client_id) == "SERVICE_UNAVAILABLE"
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
