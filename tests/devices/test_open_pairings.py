"""Pairings that wait for their phone: how many, at what cost to others, and how they end."""

import pytest

from otpsvc.devices.tokens import code_tag
from otpsvc.errors import problem
from tests.devices.house import ADDRESS, PIXEL, SERVER_URL, STRANGER, TENANT, TEST_TENANT, DeviceHouse, code_of
from tests.devices.test_pairing_attacks import guess


async def test_a_client_has_only_so_many_open_pairings(house: DeviceHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.postgres.devices.MOST_OPEN_PAIRINGS", 3)
    pairings = [await house.opened() for _ in range(3)]
    assert await code_of(house.opened()) == "CONFLICT"
    await house.opened(STRANGER)
    await house.login(pairings[0])
    await house.opened()


async def test_pairings_that_were_never_used_are_forgotten_a_day_later(house: DeviceHouse) -> None:
    unused, (used, _) = await house.opened(), await house.paired()
    await house.sql("update device_pairings set expires_at = now() - interval '25 hours'")
    late = await house.opened()
    assert {row["login"] for row in await house.sql("select login from device_pairings")} == {used.login, late.login}
    assert unused.login != late.login


async def test_opening_takes_nothing_that_logins_need(house: DeviceHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = await house.opened()
    places = house.passwords._pairings
    monkeypatch.setattr(places, "taken", places.most)
    assert await code_of(house.pairing.open(TENANT, SERVER_URL)) == "SERVICE_UNAVAILABLE"
    # What is refused anyhow is refused before a hash is made of it.
    monkeypatch.setattr("otpsvc.postgres.devices.MOST_OPEN_PAIRINGS", 1)
    assert await code_of(house.pairing.open(TENANT, SERVER_URL)) == "CONFLICT"
    monkeypatch.setattr("otpsvc.devices.passwords.MOST_OPENED", 3)
    assert await code_of(house.pairing.open(TENANT, SERVER_URL)) == "RATE_LIMIT_EXCEEDED"
    assert len(await house.sql("select * from device_pairings")) == 1
    assert (await house.login(mine)).login == mine.login


async def test_what_could_not_be_looked_at_is_no_try(house: DeviceHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    pairing, (_, registered) = await house.opened(), await house.paired()
    with monkeypatch.context() as patch:
        patch.setattr(house.passwords._logins, "most", 0)
        for _ in range(15):
            assert await code_of(house.login(pairing)) == "SERVICE_UNAVAILABLE"
            renewed = house.pairing.renew_code(pairing.login, pairing.password, ADDRESS)
            assert await code_of(renewed) == "SERVICE_UNAVAILABLE"
            changed = house.pairing.change_password(registered.device, "old one", "long enough", ADDRESS)
            assert await code_of(changed) == "SERVICE_UNAVAILABLE"
    with monkeypatch.context() as patch:
        patch.setattr(house.records, "take_code", _unavailable)
        for _ in range(15):
            assert await guess(house, pairing.code) == "SERVICE_UNAVAILABLE"
    await house.login(pairing)


async def _unavailable(*_: object, **__: object) -> None:
    raise problem("SERVICE_UNAVAILABLE")


async def test_a_closed_pairing_lets_nobody_in_however_far_he_was(house: DeviceHouse) -> None:
    pairing, other = await house.opened(), await house.opened()
    proven = await house.records.account(pairing.login)
    by_code = await house.records.take_code(code_tag(other.code, house.keyring) or b"", most_wrong=10)
    assert proven is not None
    assert by_code is not None
    assert [one.login for one in await house.pairing.open_pairings(TENANT)] == [pairing.login, other.login]
    assert await house.pairing.open_pairings(TEST_TENANT) == []
    for tenant in (STRANGER, TEST_TENANT):
        assert await code_of(house.pairing.close(tenant, pairing.login)) == "RESOURCE_NOT_FOUND"
    for opened in (pairing, other):
        await house.pairing.close(TENANT, opened.login.upper())
        assert await code_of(house.pairing.close(TENANT, opened.login)) == "RESOURCE_NOT_FOUND"
    for account in (proven, by_code):
        assert await code_of(house.pairing._register(account, PIXEL, None)) == "PAIRING_REFUSED"
    assert await code_of(house.login(pairing)) == "PAIRING_REFUSED"
    assert await guess(house, pairing.code) == "PAIRING_REFUSED"
    assert await house.pairing.open_pairings(TENANT) == await house.records.all_open_pairings() == []
    used, registered = await house.paired()
    assert await code_of(house.pairing.close(TENANT, used.login)) == "RESOURCE_NOT_FOUND"
    await house.comes_in(registered.token)
