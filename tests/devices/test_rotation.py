"""A rotation of the keyring: tokens and passphrases move to the current master when the phone calls."""

import asyncio
import logging

import pytest

from otpsvc.crypto import Keyring
from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.model import Registered
from otpsvc.devices.rotation import passphrase_bound
from otpsvc.postgres.masters import PostgresMasters
from tests.devices.house import ADDRESS, PIXEL, TENANT, DeviceHouse, code_of, open_house

BEFORE = Keyring.from_masters({"a": b"a" * 32, "index": b"i" * 32})
BOTH = Keyring.from_masters({"b": b"b" * 32, "a": b"a" * 32, "index": b"i" * 32})
AFTER = Keyring.from_masters({"b": b"b" * 32, "index": b"i" * 32})


async def started(house: DeviceHouse, keyring: Keyring) -> DeviceAccess:
    """A process that has this keyring."""
    await PostgresMasters(house.database).note_current(keyring.current.slot)
    return house.another_process(keyring=keyring)


async def called(house: DeviceHouse, access: DeviceAccess, registered: Registered) -> None:
    await house.comes_in(registered.token, access=access)
    await asyncio.gather(*access._mover._moves)


async def test_a_phone_that_calls_once_survives_the_removal_of_its_master(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_house(redis_url, database_url, keyring=BEFORE) as house:
        pairing, calls = await house.paired()
        _, sleeps = await house.paired()
        await house.service.set_passphrase(TENANT, calls.device.id, "plain passphrase")
        version = (await house.device(calls)).version
        await called(house, await started(house, BOTH), calls)
        record = await house.records.find_token(calls.device.id)
        assert record is not None
        assert record.auth_key_id == BOTH.current.slot
        assert record.device.version == version
        after = await started(house, AFTER)
        device = await house.comes_in(calls.token, access=after)
        plain = AFTER.unseal(
            device.passphrase_sealed,
            record_id=device.id,
            count=device.passphrase_count,
            bound_to=passphrase_bound(device),
        )
        assert plain == b"plain passphrase"
        # Whoever did not call in between registers anew with its login.
        assert await code_of(house.comes_in(sleeps.token, access=after)) == "DEVICE_UNAUTHORISED"
        again = house.pairing_service(keyring=AFTER)
        registered = await again.register_by_login(pairing.login, pairing.password, PIXEL, ADDRESS)
        await house.comes_in(registered.token, access=after)
        assert calls.token not in caplog.text
        assert "plain passphrase" not in caplog.text


async def test_a_process_with_the_older_keyring_takes_nothing_back(redis_url: str, database_url: str) -> None:
    async with open_house(redis_url, database_url, keyring=BEFORE) as house:
        _, registered = await house.paired()
        await house.service.set_passphrase(TENANT, registered.device.id, "plain passphrase")
        await called(house, await started(house, BOTH), registered)
        moved = await house.sql("select token_tag, auth_key_id, passphrase_sealed from devices")
        await called(house, house.another_process(keyring=turned(BOTH)), registered)
        assert await house.sql("select token_tag, auth_key_id, passphrase_sealed from devices") == moved


def turned(keyring: Keyring) -> Keyring:
    """The same masters as a process has them that does not know of the rotation yet: the older one first."""
    b, a, index = keyring.masters
    return Keyring((a, b, index), keyring.index_master)


async def test_a_move_loses_against_whoever_changed_the_secret_meanwhile(redis_url: str, database_url: str) -> None:
    async with open_house(redis_url, database_url, keyring=BEFORE) as house:
        pairing, registered = await house.paired()
        await house.service.set_passphrase(TENANT, registered.device.id, "first")
        read = await house.records.find_token(registered.device.id)
        assert read is not None
        again = await house.login(pairing)
        await house.service.set_passphrase(TENANT, registered.device.id, "second")
        await PostgresMasters(house.database).note_current(BOTH.current.slot)
        stored = await house.sql("select token_tag, passphrase_sealed from devices")
        tag = bytes(32)
        assert not await house.records.retag_token(read, auth_key_id=BOTH.current.slot, tag=tag)
        assert not await house.records.reseal_passphrase(read.device, BOTH.current.slot + bytes(32))
        assert await house.sql("select token_tag, passphrase_sealed from devices") == stored
        await house.comes_in(again.token)


async def test_what_cannot_be_opened_any_more_is_said_and_the_token_moves(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(redis_url, database_url, keyring=BEFORE) as house:
        _, registered = await house.paired()
        await house.service.set_passphrase(TENANT, registered.device.id, "plain passphrase")
        await house.sql("update devices set passphrase_sealed = '\\x0000'::bytea || substr(passphrase_sealed, 3)")
        await called(house, await started(house, BOTH), registered)
        record = await house.records.find_token(registered.device.id)
        assert record is not None
        assert record.auth_key_id == BOTH.current.slot
        assert (
            f"the passphrase of {registered.device.id} is sealed under a master that is not in the keyring"
            in caplog.text
        )
