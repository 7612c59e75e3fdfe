"""Devices as whoever runs them handles them: what changes where, who hears of it, and what is refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import redis.asyncio

from otpsvc import ids
from otpsvc.devices.model import Device, DeviceStatus, Gone, Registered, Registration
from otpsvc.devices.policy import Budget
from otpsvc.devices.rotation import passphrase_bound
from otpsvc.devices.service import DeviceService
from otpsvc.errors import ApiError
from otpsvc.messages.policy import QuietHours
from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from tests.devices.house import PIXEL, SIMS, STRANGER, TENANT, TEST_TENANT, DeviceHouse, code_of

Call = Callable[[DeviceService, Any, str], Awaitable[object]]

CALLS: list[Call] = [
    lambda service, tenant, one: service.show(tenant, one),
    lambda service, tenant, one: service.rename(tenant, one, "Mine"),
    lambda service, tenant, one: service.confirm(tenant, one),
    lambda service, tenant, one: service.enable(tenant, one),
    lambda service, tenant, one: service.disable(tenant, one),
    lambda service, tenant, one: service.delete(tenant, one),
    lambda service, tenant, one: service.rotate_token(tenant, one),
    lambda service, tenant, one: service.set_budget(tenant, one, {"is_spare": True}),
    lambda service, tenant, one: service.set_passphrase(tenant, one, "secret"),
    lambda service, tenant, one: service.find(tenant, one),
]


@pytest.fixture
async def phone(house: DeviceHouse) -> Registered:
    """A confirmed phone of the first tenant that has called once."""
    _, registered = await house.paired()
    await house.comes_in(registered.token)
    return registered


@pytest.fixture
async def words(house: DeviceHouse, redis_url: str) -> AsyncIterator[list[str]]:
    """What is called to devices, word by word, from now on."""
    heard: list[str] = []
    async with redis.asyncio.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        await channel.subscribe(house.keys.device_calls)

        assert (await channel.get_message(timeout=5))["type"] == "subscribe"

        async def listen() -> None:
            while True:
                told = await channel.get_message(timeout=None)
                heard.append(told["data"].decode())

        listening = asyncio.create_task(listen())
        yield heard
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def heard(words: list[str], *expected: str) -> None:
    """Wait until these words were called, and no others."""
    async with asyncio.timeout(5):
        while len(words) < len(expected):  # noqa: ASYNC110 - it is told on another connection
            await asyncio.sleep(0.005)
    assert words == list(expected)
    words.clear()


async def test_unknown_foreign_deleted_and_malformed_ids_look_the_same(house: DeviceHouse, phone: Registered) -> None:
    _, deleted = await house.paired()
    await house.service.delete(TENANT, deleted.device.id)
    before = await house.sql("select * from known_devices order by id")
    one = phone.device.id
    odd = [(STRANGER, one), (TEST_TENANT, one), (TENANT, deleted.device.id), (TENANT, ids.new_device_id())]
    odd += [(TENANT, text) for text in ("", "x", "dev_", one.upper(), one + " ", f"{one}\0", "dev_" + "\udc80" * 26)]
    for tenant, device_id in odd:
        for call in CALLS:
            with pytest.raises(ApiError) as caught:
                await call(house.service, tenant, device_id)
            assert (caught.value.code, caught.value.details) == ("INVALID_DEVICE_ID", {}), device_id
    assert await house.sql("select * from known_devices order by id") == before
    await house.comes_in(phone.token)


async def test_devices_are_listed_by_tenant_oldest_first_with_their_state(house: DeviceHouse) -> None:
    _, first = await house.paired()
    await house.paired(STRANGER)
    await house.paired(TEST_TENANT)
    _, second = await house.paired(is_confirmed=False)
    await house.access.heard(await house.device(first), stream="s1")
    views = await house.service.list_devices(TENANT)
    assert [view.device.id for view in views] == [first.device.id, second.device.id]
    assert [view.state is not None and view.state.is_online for view in views] == [True, False]
    assert await house.service.show(TENANT, first.device.id) == views[0]
    assert len(await house.records.list_all()) == 4


async def test_without_the_store_devices_are_listed_without_a_state(house: DeviceHouse, phone: Registered) -> None:
    away = RedisDevices(RedisClient("redis://127.0.0.1:1", timeout_s=0.3, max_connections=1), house.keys)
    service = service_with(house, away)
    (view,) = await service.list_devices(TENANT)
    assert (view.device.id, view.state) == (phone.device.id, None)


def service_with(house: DeviceHouse, presence: RedisDevices) -> DeviceService:
    return DeviceService(
        records=house.records,
        presence=presence,
        offers=house.offers,
        calls=house.calls,
        keyring=house.keyring,
        settings=house.settings,
        clock=house.clock,
    )


async def test_what_takes_a_device_out_fails_aloud_where_the_store_cannot_be_told_and_holds_all_the_same(
    house: DeviceHouse, phone: Registered
) -> None:
    away = RedisDevices(RedisClient("redis://127.0.0.1:1", timeout_s=0.3, max_connections=1), house.keys)
    service = service_with(house, away)
    assert await code_of(service.disable(TENANT, phone.device.id)) == "SERVICE_UNAVAILABLE"
    assert await code_of(house.comes_in(phone.token, access=house.another_process())) == "DEVICE_UNAUTHORISED"
    # What only changes a device goes through: the store hears of it with the next call.
    assert (await service.enable(TENANT, phone.device.id)).status is DeviceStatus.ACTIVE
    assert (await service.rename(TENANT, phone.device.id, "Kitchen")).name == "Kitchen"


async def test_a_phone_is_confirmed_once_and_the_pool_hears_of_it(house: DeviceHouse, words: list[str]) -> None:
    _, registered = await house.paired(is_confirmed=False)
    device = await house.comes_in(registered.token)
    confirmed = await house.service.confirm(TENANT, device.id)
    assert (confirmed.status, confirmed.version) == (DeviceStatus.ACTIVE, device.version + 1)
    assert confirmed.confirmed_at is not None
    await heard(words, f"{device.id} settings")
    assert (await house.service.confirm(TENANT, device.id)).version == confirmed.version
    assert (await house.service.enable(TENANT, device.id)).version == confirmed.version
    facts = await house.raw.hgetall(house.keys.devices(TENANT.client_id).device_base + device.id)
    assert (facts[b"is_active"], facts[b"version"]) == (b"1", str(confirmed.version).encode())


async def test_enabling_is_not_confirming_and_confirming_not_enabling(house: DeviceHouse) -> None:
    _, pending = await house.paired(is_confirmed=False)
    one = pending.device.id
    assert (await house.service.enable(TENANT, one)).status is DeviceStatus.PENDING
    disabled = await house.service.disable(TENANT, one)
    with pytest.raises(ApiError) as caught:
        await house.service.confirm(TENANT, one)
    expected = {"status": "disabled", "version": disabled.version}
    assert (caught.value.code, caught.value.details) == ("CONFLICT", expected)
    for _ in range(2):
        enabled = await house.service.enable(TENANT, one)
        assert (enabled.status, enabled.confirmed_at) == (DeviceStatus.PENDING, None)
    assert (await house.service.confirm(TENANT, one)).status is DeviceStatus.ACTIVE
    await house.service.disable(TENANT, one)
    assert (await house.service.enable(TENANT, one)).status is DeviceStatus.ACTIVE


async def test_a_phone_that_is_disabled_at_the_same_time_stays_out(house: DeviceHouse) -> None:
    _, registered = await house.paired(is_confirmed=False)
    one = registered.device.id
    for n in range(20):
        calls = [house.service.confirm(TENANT, one), house.service.disable(TENANT, one)]
        await asyncio.gather(*calls[:: 1 if n % 2 else -1], return_exceptions=True)
        assert (await house.device(registered)).status is DeviceStatus.DISABLED
        # As if nobody had confirmed it.
        await house.sql("update devices set status = 'pending', confirmed_at = null")


async def test_a_phone_that_became_another_is_not_confirmed_as_the_one_that_was_seen(house: DeviceHouse) -> None:
    pairing, first = await house.paired(is_confirmed=False)
    evil = await house.login(pairing, Registration(name="Evil"))
    with pytest.raises(ApiError) as caught:
        await house.service.confirm(TENANT, first.device.id, first.device.version)
    assert caught.value.details == {"status": "pending", "version": evil.device.version}
    assert (await house.device(first)).status is DeviceStatus.PENDING
    # An answer that was lost may be asked for again.
    for _ in range(2):
        confirmed = await house.service.confirm(TENANT, first.device.id, evil.device.version)
        assert (confirmed.status, confirmed.version) == (DeviceStatus.ACTIVE, evil.device.version + 1)
    assert await code_of(house.service.confirm(TENANT, first.device.id, first.device.version)) == "CONFLICT"


@pytest.mark.parametrize(
    ("end", "status"),
    [("disable", DeviceStatus.DISABLED), ("delete", DeviceStatus.DELETED), ("rotate_token", DeviceStatus.ACTIVE)],
)
async def test_who_is_taken_out_hears_it(
    house: DeviceHouse, phone: Registered, words: list[str], end: str, status: DeviceStatus
) -> None:
    device = await house.device(phone)
    await house.access.heard(device, stream="s1")
    out: Device = await getattr(house.service, end)(TENANT, device.id)
    assert (out.status, out.version) == (status, device.version + 1)
    await heard(words, f"{device.id} gone")
    state = await house.presence.state(out)
    assert (state.is_online, state.gone) == (False, Gone.USER_LOGOUT)


async def test_a_disabled_device_can_be_disabled_and_deleted_again(house: DeviceHouse, phone: Registered) -> None:
    for _ in range(2):
        await house.service.disable(TENANT, phone.device.id)
    await house.service.delete(TENANT, phone.device.id)
    assert await code_of(house.service.delete(TENANT, phone.device.id)) == "INVALID_DEVICE_ID"


async def test_a_device_is_found_by_id_or_by_a_name_that_is_its_alone(house: DeviceHouse) -> None:
    _, one = await house.paired()
    assert (await house.service.find(TENANT, one.device.id)).id == one.device.id
    assert (await house.service.find(TENANT, PIXEL.name)).id == one.device.id
    _, two = await house.paired()
    with pytest.raises(ApiError) as caught:
        await house.service.find(TENANT, PIXEL.name)
    assert caught.value.code == "CONFLICT"
    assert caught.value.details["devices"] == [one.device.id, two.device.id]
    await house.service.rename(TENANT, two.device.id, " Kitchen ")
    assert (await house.service.find(TENANT, "Kitchen")).id == two.device.id
    assert await code_of(house.service.find(STRANGER, "Kitchen")) == "INVALID_DEVICE_ID"


async def test_unfit_names_are_refused(house: DeviceHouse, phone: Registered) -> None:
    for name in ("", "  ", "x" * 101, "a\nb", "a\0b", "\u202e"):
        with pytest.raises(ApiError) as caught:
            await house.service.rename(TENANT, phone.device.id, name)
        assert (caught.value.code, caught.value.details["field"]) == ("VALIDATION_ERROR", "name")


# -- budgets


async def test_a_budget_is_changed_field_by_field(house: DeviceHouse, phone: Registered, words: list[str]) -> None:
    service, one = house.service, phone.device.id
    quiet = {"start": "22:00", "end": "07:00", "zone": "Europe/Rome"}
    await service.set_budget(TENANT, one, {"messages_per_window": 10, "quiet": quiet})
    changed = await service.set_budget(TENANT, one, {"is_spare": True})
    expected = Budget(messages_per_window=10, quiet=QuietHours(**quiet), is_spare=True)
    assert changed.budget == expected
    assert (await house.device(phone)).budget == expected
    await heard(words, *[f"{one} settings"] * 2)
    (row,) = await house.sql("select budget from devices")
    assert msgspec.json.decode(row["budget"]) == {"messages_per_window": 10, "quiet": quiet, "is_spare": True}
    facts = await house.raw.hgetall(house.keys.devices(TENANT.client_id).device_base + one)
    assert (facts[b"budget_messages"], facts[b"is_spare"]) == (b"10", b"1")
    back = await service.set_budget(TENANT, one, msgspec.to_builtins(Budget()))
    assert back.budget == Budget()
    (row,) = await house.sql("select budget from devices")
    assert row["budget"] == "{}"


UNFIT_BUDGETS: list[tuple[dict[str, Any], str]] = [
    ({"messages": 1}, "budget.messages"),
    ({"messages_per_window": 0}, "budget.messages_per_window"),
    ({"messages_per_window": 10_001}, "budget.messages_per_window"),
    ({"messages_per_window": "25"}, "budget.messages_per_window"),
    ({"messages_per_window": 2.5}, "budget.messages_per_window"),
    ({"messages_per_window": None}, "budget.messages_per_window"),
    ({"window_s": 59}, "budget.window_s"),
    ({"window_s": 86_401}, "budget.window_s"),
    ({"recipients_per_day": -1}, "budget.recipients_per_day"),
    ({"is_spare": "yes"}, "budget.is_spare"),
    ({"quiet": "22:00-07:00"}, "budget.quiet"),
    ({"quiet": {"start": "22:00"}}, "budget.quiet"),
    ({"quiet": {"start": "24:00", "end": "07:00"}}, "budget.quiet.start"),
    ({"quiet": {"start": "22:00", "end": "22:00"}}, "budget.quiet.end"),
    ({"quiet": {"start": "22:00", "end": "07:00", "zone": "Mars/Olympus"}}, "budget.quiet.zone"),
    ({"quiet": {"start": "22:00", "end": "07:00", "zone": "../../etc/passwd"}}, "budget.quiet.zone"),
    ({"quiet": {"start": "22:00", "end": "07:00", "zone": "\0"}}, "budget.quiet.zone"),
    ({"quiet": {"start": "22:00", "end": "07:00", "zone": ""}}, "budget.quiet.zone"),
]


async def test_an_unfit_budget_is_refused_by_its_field_and_changes_nothing(
    house: DeviceHouse, phone: Registered
) -> None:
    before = await house.device(phone)
    for changes, field in UNFIT_BUDGETS:
        with pytest.raises(ApiError) as caught:
            await house.service.set_budget(TENANT, phone.device.id, changes)
        assert (caught.value.code, caught.value.details["field"]) == ("VALIDATION_ERROR", field)
        assert caught.value.details["reason"]
    after = await house.device(phone)
    assert (after.budget, after.version) == (before.budget, before.version)


# -- passphrases


async def test_a_passphrase_is_kept_sealed_and_taken_away(house: DeviceHouse, phone: Registered) -> None:
    device = await house.service.set_passphrase(TENANT, phone.device.id, "pass phrase")
    assert device.has_passphrase
    assert device.passphrase_count == device.version
    assert opened(house, device) == b"pass phrase"
    assert b"pass phrase" not in device.passphrase_sealed
    assert not (await house.service.set_passphrase(TENANT, phone.device.id, None)).has_passphrase


def opened(house: DeviceHouse, device: Device) -> bytes:
    return house.keyring.unseal(
        device.passphrase_sealed,
        record_id=device.id,
        count=device.passphrase_count,
        bound_to=passphrase_bound(device),
    )


async def test_an_unfit_passphrase_is_refused_without_repeating_it(house: DeviceHouse, phone: Registered) -> None:
    for text in ("", "x" * 129, "a\nb", "\0"):
        with pytest.raises(ApiError) as caught:
            await house.service.set_passphrase(TENANT, phone.device.id, text)
        assert caught.value.code == "VALIDATION_ERROR"
        assert caught.value.details == {"field": "passphrase", "reason": "must be 1 to 128 printable characters"}


async def test_of_passphrases_set_at_once_each_that_was_kept_has_a_key_of_its_own(
    house: DeviceHouse, phone: Registered
) -> None:
    texts = [f"passphrase {n}" for n in range(4)]
    set_all = (house.service.set_passphrase(TENANT, phone.device.id, text) for text in texts)
    outcomes = await asyncio.gather(*set_all, return_exceptions=True)
    kept = [device for device in outcomes if isinstance(device, Device)]
    assert kept
    assert {one.code for one in outcomes if isinstance(one, ApiError)} <= {"CONFLICT"}
    assert len({device.passphrase_count for device in kept}) == len(kept)
    last = await house.device(phone)
    assert last.passphrase_count == max(device.passphrase_count for device in kept)
    assert opened(house, last).decode() in texts


# -- against registrations at the same time


async def test_a_switched_off_phone_is_off_whatever_registers_at_the_same_time(house: DeviceHouse) -> None:
    for _ in range(3):
        pairing, registered = await house.paired()
        other = Registration(name="Another phone", sims=SIMS)
        outcomes = await asyncio.gather(
            house.login(pairing, other),
            house.service.disable(TENANT, registered.device.id),
            house.login(pairing),
            return_exceptions=True,
        )
        assert (await house.device(registered)).status is DeviceStatus.DISABLED
        for token in [registered.token, *(one.token for one in outcomes if isinstance(one, Registered))]:
            assert await code_of(house.comes_in(token)) == "DEVICE_UNAUTHORISED"
