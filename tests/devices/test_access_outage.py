"""Which device calls while PostgreSQL is cut off or says nothing: known tokens go on, nobody waits for long."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from otpsvc.devices.access import KNOWN_FOR_S, PROBE_EVERY_S, DeviceAccess
from otpsvc.postgres.devices import PostgresDevices
from otpsvc.postgres.pool import open_database
from otpsvc.testing import ManualClock
from tests.clients.cable import Cable, address_over, server_socket
from tests.devices.house import ADDRESS, PIXEL, SERVER_URL, TENANT, DeviceHouse, code_of


@dataclass
class Far:
    """A process whose PostgreSQL is at the end of a cable."""

    cable: Cable
    clock: ManualClock
    records: PostgresDevices
    access: DeviceAccess

    async def called_by(self, token: str) -> str:
        """Make a call; return the device's id."""
        device = await self.access.device_of(f"Bearer {token}")
        await self.access.heard(device)
        return device.id

    async def settled(self) -> None:
        """Let what is under way in the background end."""
        await asyncio.gather(*self.access._lookups.values(), *self.access._notes, return_exceptions=True)


@pytest.fixture
async def far(house: DeviceHouse, database_url: str) -> AsyncIterator[Far]:
    directory = Path(tempfile.mkdtemp(prefix="cable-"))
    cable = Cable(server_socket(database_url), directory)
    await cable.plug_in()
    database = await open_database(address_over(cable, database_url), timeout_s=1)
    clock, records = ManualClock(), PostgresDevices(database)
    access = DeviceAccess(
        records=records,
        presence=house.presence,
        keyring=house.keyring,
        clock=clock,
        online_s=60.0,
        answer_timeout_s=0.3,
    )
    yield Far(cable, clock, records, access)
    await access.close()
    cable.resume()
    await database.close()
    await cable.cut()
    shutil.rmtree(directory)


async def test_with_postgresql_cut_off_known_tokens_go_on_and_unknown_ones_wait(
    house: DeviceHouse, far: Far, caplog: pytest.LogCaptureFixture
) -> None:
    (_, warm), (_, cold) = await house.paired(), await house.paired()
    await far.called_by(warm.token)
    await far.settled()
    await far.cable.cut()
    for _ in range(5):
        far.clock.advance(600)
        assert await far.called_by(warm.token) == warm.device.id
        assert await code_of(far.called_by(cold.token)) == "SERVICE_UNAVAILABLE"
    await far.settled()
    assert str(far.cable.directory) not in caplog.text
    assert "Traceback" not in caplog.text
    await far.cable.plug_in()
    far.clock.advance(PROBE_EVERY_S)
    assert await far.called_by(cold.token) == cold.device.id
    assert await far.called_by(warm.token) == warm.device.id


async def test_what_was_retired_stops_even_while_postgresql_is_away(house: DeviceHouse, far: Far) -> None:
    _, registered = await house.paired()
    await far.called_by(registered.token)
    await far.settled()
    await far.cable.cut()
    await house.service.disable(TENANT, registered.device.id)
    assert await code_of(far.called_by(registered.token)) == "DEVICE_UNAUTHORISED"
    # It is forgotten with that, so from now on nobody can tell.
    assert await code_of(far.called_by(registered.token)) == "SERVICE_UNAVAILABLE"


async def test_with_a_postgresql_that_says_nothing_known_tokens_go_on(house: DeviceHouse, far: Far) -> None:
    (_, warm), (_, cold) = await house.paired(), await house.paired()
    await far.called_by(warm.token)
    await far.settled()
    far.cable.hang()
    far.clock.advance(KNOWN_FOR_S)
    calls = [far.called_by(warm.token) for _ in range(50)]
    assert await asyncio.gather(*calls) == [warm.device.id] * 50
    assert await code_of(far.called_by(cold.token)) == "SERVICE_UNAVAILABLE"
    far.cable.resume()
    await far.settled()
    far.clock.advance(PROBE_EVERY_S)
    assert await far.called_by(cold.token) == cold.device.id


async def test_a_pairing_without_postgresql_says_so(house: DeviceHouse, far: Far) -> None:
    pairing = await house.opened()
    service = house.pairing_service(records=far.records)
    await far.cable.cut()
    for call in (
        service.register_by_login(pairing.login, pairing.password, PIXEL, ADDRESS),
        service.register_by_code(pairing.code, PIXEL, ADDRESS),
        service.open(TENANT, SERVER_URL),
    ):
        assert await code_of(call) == "SERVICE_UNAVAILABLE"
