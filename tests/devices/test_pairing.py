"""How a phone becomes a device, and comes again."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from otpsvc.devices.model import DeviceStatus, Registration
from otpsvc.devices.tokens import read_token
from otpsvc.errors import ApiError
from tests.devices.house import (
    ADDRESS,
    PIXEL,
    SERVER_URL,
    SIMS,
    TENANT,
    DeviceHouse,
    code_of,
)


async def test_a_pairing_says_all_that_a_phone_needs(house: DeviceHouse) -> None:
    before = datetime.now(UTC)
    pairing = await house.pairing.open(TENANT, SERVER_URL + "/")
    assert pairing.server_url == SERVER_URL
    assert re.fullmatch(r"phone-[a-hj-km-np-tv-z]{6}", pairing.login)
    assert re.fullmatch(r"[a-hj-km-np-tv-z2-9]{14}", pairing.password)
    assert re.fullmatch(r"[0-9]{6}", pairing.code)
    assert timedelta(seconds=590) < pairing.code_expires_at - before < timedelta(seconds=610)
    assert timedelta(seconds=3590) < pairing.expires_at - before < timedelta(seconds=3610)
    for secret in (pairing.password, pairing.code):
        assert secret not in repr(pairing)


async def test_a_code_never_outlives_its_pairing(house: DeviceHouse) -> None:
    service = house.pairing_service(pairing_s=60)
    pairing = await service.open(TENANT, SERVER_URL)
    assert pairing.code_expires_at == pairing.expires_at
    _, until = await service.renew_code(pairing.login, pairing.password, ADDRESS)
    assert until == pairing.expires_at


async def test_a_client_that_does_not_exist_gets_no_pairing(house: DeviceHouse) -> None:
    unknown = TENANT._replace(client_id="client_999999999999")
    assert await code_of(house.pairing.open(unknown, SERVER_URL)) == "RESOURCE_NOT_FOUND"


async def test_a_phone_registers_with_login_and_password_and_waits_to_be_confirmed(house: DeviceHouse) -> None:
    pairing = await house.opened()
    registered = await house.login(pairing)
    device = registered.device
    assert device.status is DeviceStatus.PENDING
    assert device.confirmed_at is None
    assert (device.name, device.sims, device.tenant, device.login) == (PIXEL.name, SIMS, TENANT, pairing.login)
    assert registered.login == pairing.login
    assert registered.password is None
    assert read_token(registered.token, house.keyring) == device.id
    assert await house.comes_in(registered.token) == device


async def test_a_login_may_be_typed_as_a_keyboard_wants_it(house: DeviceHouse) -> None:
    pairing = await house.opened()
    typed = msgspec.structs.replace(pairing, login=f" {pairing.login.capitalize()} ")
    assert (await house.login(typed)).login == pairing.login


async def test_a_phone_registers_with_its_code_and_gets_a_password_of_its_own(house: DeviceHouse) -> None:
    pairing = await house.opened()
    registered = await house.pairing.register_by_code(f" {pairing.code} ", PIXEL, ADDRESS)
    assert registered.device.status is DeviceStatus.PENDING
    assert registered.password is not None
    assert registered.login == pairing.login
    assert registered.token not in repr(registered)
    assert registered.password not in repr(registered)
    # What was shown with the code opens nothing any more; what the phone was given does.
    assert await code_of(house.login(pairing)) == "PAIRING_REFUSED"
    again = await house.login(msgspec.structs.replace(pairing, password=registered.password))
    assert again.device.id == registered.device.id


async def test_a_phone_that_is_confirmed_by_itself_may_send_at_once(house: DeviceHouse) -> None:
    pairing = await house.opened(is_confirmed_by_itself=True)
    device = (await house.login(pairing)).device
    assert device.status is DeviceStatus.ACTIVE
    assert device.confirmed_at is not None
    other = (await house.login(pairing, Registration(name="Another phone"))).device
    assert (other.id, other.status) == (device.id, DeviceStatus.ACTIVE)


async def test_the_settings_say_whether_phones_are_confirmed_by_themselves(house: DeviceHouse) -> None:
    pairing = await house.pairing_service(confirms_by_itself=True).open(TENANT, SERVER_URL)
    assert (await house.login(pairing)).device.status is DeviceStatus.ACTIVE


async def test_who_registers_again_keeps_the_id_and_the_old_token_is_void_in_every_process(
    house: DeviceHouse,
) -> None:
    pairing, first = await house.paired()
    elsewhere = house.another_process()
    for access in (house.access, elsewhere):
        await house.comes_in(first.token, access=access)
    second = await house.login(pairing)
    assert second.device.id == first.device.id
    assert second.token != first.token
    assert second.device.status is DeviceStatus.ACTIVE
    assert second.device.version > first.device.version
    for access in (house.access, elsewhere):
        assert await code_of(house.comes_in(first.token, access=access)) == "DEVICE_UNAUTHORISED"
        # At once, though it is another token than the one that was refused a moment ago.
        assert (await house.comes_in(second.token, access=access)).id == first.device.id
        assert await code_of(house.comes_in(first.token, access=access)) == "DEVICE_UNAUTHORISED"
        assert (await house.comes_in(second.token, access=access)).id == first.device.id


@pytest.mark.parametrize(
    "other",
    [
        Registration(name="Another phone", sims=SIMS),
        Registration(name=PIXEL.name, sims=SIMS[:1]),
        Registration(name=PIXEL.name, sims=()),
        Registration(name=PIXEL.name, sims=(msgspec.structs.replace(SIMS[0], iccid="*****0000"), SIMS[1])),
        Registration(name=PIXEL.name, sims=(msgspec.structs.replace(SIMS[0], phone_number=None), SIMS[1])),
        Registration(name=PIXEL.name, sims=(SIMS[0], msgspec.structs.replace(SIMS[1], slot=2, number=3))),
    ],
)
async def test_who_comes_again_as_another_has_to_be_confirmed_anew(house: DeviceHouse, other: Registration) -> None:
    pairing, first = await house.paired()
    again = await house.login(pairing, other)
    assert again.device.id == first.device.id
    assert again.device.status is DeviceStatus.PENDING
    assert again.device.confirmed_at is None
    assert (again.device.name, again.device.sims) == (other.name, other.sims)


async def test_a_carrier_that_changes_its_name_is_no_other_sim(house: DeviceHouse) -> None:
    pairing, _ = await house.paired()
    roaming = tuple(msgspec.structs.replace(sim, carrier="Orange B") for sim in SIMS)
    again = await house.login(pairing, Registration(name=PIXEL.name, sims=roaming[::-1]))
    assert again.device.status is DeviceStatus.ACTIVE
    assert again.device.sims == roaming


async def test_a_name_that_we_gave_stays_and_the_phones_own_word_still_tells_it_apart(house: DeviceHouse) -> None:
    pairing, registered = await house.paired()
    await house.service.rename(TENANT, registered.device.id, "Kitchen")
    same = await house.login(pairing)
    assert (same.device.name, same.device.status) == ("Kitchen", DeviceStatus.ACTIVE)
    other = await house.login(pairing, Registration(name="Another phone", sims=SIMS))
    assert (other.device.name, other.device.status) == ("Kitchen", DeviceStatus.PENDING)


async def test_a_new_code_voids_the_one_before(house: DeviceHouse) -> None:
    pairing = await house.opened()
    code, until = await house.pairing.renew_code(pairing.login, pairing.password, ADDRESS)
    assert code != pairing.code
    assert until > pairing.code_expires_at
    assert await code_of(house.pairing.register_by_code(pairing.code, PIXEL, ADDRESS)) == "PAIRING_REFUSED"
    await house.pairing.register_by_code(code, PIXEL, ADDRESS)


async def test_a_used_pairing_gets_no_other_code(house: DeviceHouse) -> None:
    pairing, _ = await house.paired()
    assert await code_of(house.pairing.renew_code(pairing.login, pairing.password, ADDRESS)) == "PAIRING_REFUSED"


async def test_a_password_is_changed_by_who_knows_it(house: DeviceHouse) -> None:
    pairing, registered = await house.paired()
    device = await house.device(registered)
    change = house.pairing.change_password
    assert await code_of(change(device, "wrong password", "a new password", ADDRESS)) == "PAIRING_REFUSED"
    await change(device, pairing.password, "a new password", ADDRESS)
    assert await code_of(house.login(pairing)) == "PAIRING_REFUSED"
    again = await house.login(msgspec.structs.replace(pairing, password="a new password"))
    assert again.device.id == device.id


@pytest.mark.parametrize("unfit", ["", "short", "x" * 129])
async def test_an_unfit_password_is_refused_by_its_field(house: DeviceHouse, unfit: str) -> None:
    pairing, registered = await house.paired()
    with pytest.raises(ApiError) as caught:
        await house.pairing.change_password(registered.device, pairing.password, unfit, ADDRESS)
    assert caught.value.code == "VALIDATION_ERROR"
    assert caught.value.details["field"] == "newPassword"


async def test_a_phone_that_sends_its_first_registration_twice_at_once_is_one_device(house: DeviceHouse) -> None:
    pairing = await house.opened()
    both = await asyncio.gather(house.login(pairing), house.login(pairing), return_exceptions=True)
    registered = [one for one in both if not isinstance(one, BaseException)]
    assert len({one.device.id for one in registered}) == 1
    assert len(await house.records.list_devices(TENANT)) == 1
    good = [one for one in registered if read_token(one.token, house.keyring) == one.device.id]
    assert good == registered
    outcomes = await asyncio.gather(*(house.comes_in(one.token) for one in registered), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
