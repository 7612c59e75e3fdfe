"""Devices and pairings as PostgreSQL holds them: the locks under all that happens at once, and what is kept."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from otpsvc import ids
from otpsvc.crypto import Keyring
from otpsvc.devices.model import Account, Device, DeviceStatus, Registration, Sim, Tenant
from otpsvc.devices.policy import Budget
from otpsvc.errors import ApiError
from otpsvc.messages.policy import QuietHours
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.devices import PostgresDevices
from otpsvc.postgres.masters import MasterUse, PostgresMasters
from otpsvc.postgres.pool import Database, open_database

TENANT = Tenant("client_100000000001", "live")
SLOT = b"\x01\x02"
PHONE = Registration(name="Pixel", sims=(Sim(slot=0, number=1, phone_number="***1234"),))


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresDevices]:
    database = await open_database(database_url, max_connections=16, timeout_s=10)
    await PostgresClients(database).insert_client(client_id=TENANT.client_id, name="Shop", policy={})
    yield PostgresDevices(database)
    await database.close()


@pytest.fixture
async def server(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the test's own, to look at and to disturb."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def tag(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def opened(records: PostgresDevices, number: int, *, code: int | None = None) -> Account:
    """Open a pairing whose login, hash and code are made of a number."""
    until = datetime.now(UTC) + timedelta(hours=1)
    assert await records.insert_pairing(
        login=f"phone-{number}",
        tenant=TENANT,
        password_hash=f"hash {number}",
        code_tag=tag(number if code is None else code),
        code_expires_at=until,
        expires_at=until,
        is_confirmed_by_itself=False,
    )
    account = await records.account(f"phone-{number}")
    assert account is not None
    return account


async def registered(
    records: PostgresDevices, account: Account, *, token: int = 1, most: int = 200, password_hash: str | None = None
) -> Device | None:
    return await records.register(
        account,
        ids.new_device_id(),
        PHONE,
        token_tag=tag(token),
        auth_key_id=SLOT,
        most_per_client=most,
        password_hash=password_hash,
    )


async def test_a_login_and_an_open_code_are_taken_once(records: PostgresDevices) -> None:
    await opened(records, 1)
    until = datetime.now(UTC) + timedelta(hours=1)
    for login, code in (("phone-1", 9), ("phone-9", 1)):
        assert not await records.insert_pairing(
            login=login,
            tenant=TENANT,
            password_hash="x",
            code_tag=tag(code),
            code_expires_at=until,
            expires_at=until,
            is_confirmed_by_itself=False,
        )
    await opened(records, 2)
    assert await records.set_code("phone-2", tag(1), until) is None
    assert await records.set_code("phone-2", tag(2), until) == until
    assert await records.set_code("phone-9", tag(9), until) is None


async def test_an_account_says_what_became_of_it(records: PostgresDevices) -> None:
    account = await opened(records, 1)
    assert (account.device_id, account.device_status) == (None, None)
    device = await registered(records, account)
    assert device is not None
    changes = {DeviceStatus.ACTIVE: records.confirm, DeviceStatus.DISABLED: records.disable}
    for status, change in {**changes, DeviceStatus.DELETED: records.delete}.items():
        await change(TENANT, device.id)
        account = await records.account("phone-1") or account
        assert (account.device_id, account.device_status) == (device.id, status)
    assert account.password_hash == ""
    assert await records.account("phone-2") is None


async def test_every_change_raises_the_version_by_one(records: PostgresDevices) -> None:
    account = await opened(records, 1)
    device = await registered(records, account)
    assert device is not None
    assert device.version == 1
    changes = [
        records.confirm(TENANT, device.id),
        records.rename(TENANT, device.id, "Kitchen"),
        records.set_budget(TENANT, device.id, Budget(quiet=QuietHours(start="22:00", end="07:00"))),
        records.set_passphrase(TENANT, device.id, b"sealed", 5),
        records.clear_token(TENANT, device.id),
        records.set_sims(device.id, Registration(name="x", sims=())),
        registered(records, account),
        records.disable(TENANT, device.id),
        records.delete(TENANT, device.id),
    ]
    versions = []
    for change in changes:
        changed = await change
        assert changed is not None
        versions.append(changed.version)
    assert versions == list(range(2, 11))
    assert await records.find(TENANT, device.id) is None
    for change in (
        records.confirm(TENANT, device.id),
        records.rename(TENANT, device.id, "Kitchen"),
        records.set_budget(TENANT, device.id, Budget()),
        records.set_passphrase(TENANT, device.id, b"", 11),
        records.clear_token(TENANT, device.id),
        records.set_sims(device.id, PHONE),
        registered(records, account),
    ):
        assert await change is None


async def test_a_passphrase_is_taken_only_at_the_version_it_was_sealed_for(records: PostgresDevices) -> None:
    device = await registered(records, await opened(records, 1))
    assert device is not None
    assert await records.set_passphrase(TENANT, device.id, b"sealed", 3) is None
    assert await records.set_passphrase(TENANT, device.id, b"sealed", 1) is None
    changed = await records.set_passphrase(TENANT, device.id, b"sealed", 2)
    assert changed is not None
    assert (changed.version, changed.passphrase_count, changed.passphrase_sealed) == (2, 2, b"sealed")


async def test_a_token_that_was_cleared_fits_nothing(records: PostgresDevices) -> None:
    device = await registered(records, await opened(records, 1))
    assert device is not None
    record = await records.find_token(device.id)
    assert record is not None
    assert (record.token_tag, record.auth_key_id) == (tag(1), SLOT)
    await records.clear_token(TENANT, device.id)
    record = await records.find_token(device.id)
    assert record is not None
    assert (record.token_tag, record.auth_key_id) == (b"", b"")
    await records.delete(TENANT, device.id)
    assert await records.find_token(device.id) is None
    assert await records.find_token(ids.new_device_id()) is None


async def test_who_took_a_code_is_too_late_once_the_login_was_used(records: PostgresDevices) -> None:
    await opened(records, 1)
    by_code = await records.take_code(tag(1), most_wrong=10)
    assert by_code is not None
    device = await registered(records, by_code)
    assert device is not None
    assert await registered(records, by_code, token=2, password_hash="new hash") is None
    record = await records.find_token(device.id)
    assert record is not None
    assert record.token_tag == tag(1)


async def test_another_account_never_gets_at_a_device(records: PostgresDevices) -> None:
    device = await registered(records, await opened(records, 1))
    other = await registered(records, await opened(records, 2), token=2)
    assert device is not None
    assert other is not None
    assert device.id != other.id
    assert [one.id for one in await records.list_devices(TENANT)] == [device.id, other.id]


async def test_all_that_happens_at_once_waits_for_each_other_and_never_for_good(
    records: PostgresDevices, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """A deadlock would show as SERVICE_UNAVAILABLE, an escaped count as a wrong sum."""
    accounts = [await opened(records, number) for number in range(12)]
    there = [await registered(records, account, token=number + 1) for number, account in enumerate(accounts[:6])]
    devices = [device for device in there if device is not None]
    until = datetime.now(UTC) + timedelta(minutes=5)

    async def wrong_codes() -> None:
        for number in range(20):
            assert await records.take_code(tag(1000 + number), most_wrong=10_000) is None

    async def new_codes() -> None:
        for number in range(20):
            await records.set_code(f"phone-{6 + number % 6}", tag(100 + number % 6), until)

    async def new_pairings(first: int) -> None:
        for number in range(10):
            await opened(records, first + number)

    async def registrations() -> None:
        await asyncio.gather(*(registered(records, account, token=5, most=10) for account in accounts[:10]))

    async def changes() -> None:
        for device in devices:
            await records.disable(TENANT, device.id)
            await records.enable(TENANT, device.id)
            await records.set_sims(device.id, Registration(name="x", sims=()))
            await records.delete(TENANT, device.id)

    await asyncio.gather(
        wrong_codes(), wrong_codes(), new_codes(), new_pairings(200), new_pairings(300), registrations(), changes()
    )
    counted = [
        row[0]
        for row in await server.fetch(
            "select wrong_codes from device_pairings where login in ($1, $2)", "phone-10", "phone-11"
        )
    ]
    assert counted == [40, 40]


@pytest.mark.parametrize("most", [1, 4])
async def test_the_limit_holds_over_many_registrations_at_once(records: PostgresDevices, most: int) -> None:
    accounts = [await opened(records, number) for number in range(12)]
    outcomes = await asyncio.gather(
        *(registered(records, account, most=most) for account in accounts), return_exceptions=True
    )
    assert sum(isinstance(one, Device) for one in outcomes) == most
    refused = [one for one in outcomes if isinstance(one, ApiError)]
    assert {(one.code, str(one.details)) for one in refused} == {
        ("CONFLICT", str({"limit": "devices", "allowed": most}))
    }
    assert len(refused) == 12 - most


async def test_phones_and_their_passphrases_need_their_master(records: PostgresDevices, database_url: str) -> None:
    ring = Keyring.from_masters({"a": b"a" * 32, "b": b"b" * 32})
    first, second = (master.slot for master in ring.masters)
    made = [await registered(records, await opened(records, number), token=number + 1) for number in range(3)]
    devices = [device for device in made if device is not None]
    database: Database = records._database
    masters = PostgresMasters(database)
    assert (await masters.uses())[SLOT] == MasterUse(was_current=True, living_keys=0, phones=3)
    await records.set_passphrase(TENANT, devices[0].id, first + b"sealed", 2)
    await records.set_passphrase(TENANT, devices[1].id, first + b"sealed", 2)
    await records.disable(TENANT, devices[1].id)
    uses = await masters.uses()
    assert uses[SLOT].phones == 2
    assert uses[first] == MasterUse(was_current=False, living_keys=0, phones=2)
    assert second not in uses
    for device in devices:
        await records.delete(TENANT, device.id)
    assert await masters.uses() == {SLOT: MasterUse(was_current=True, living_keys=0, phones=0)}
