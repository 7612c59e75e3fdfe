"""Which device calls: right tokens pass from memory, dead ones never, retired ones stop at once in every process."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from otpsvc import ids
from otpsvc.crypto import Keyring
from otpsvc.devices import access as access_module
from otpsvc.devices.access import DEAD_FOR_S, KNOWN_FOR_S, NOTED_EVERY_S, DeviceAccess
from otpsvc.devices.model import Device, DeviceStatus, Registration, TokenRecord
from otpsvc.devices.tokens import new_token
from otpsvc.postgres.devices import PostgresDevices
from otpsvc.testing import ManualClock
from tests.devices.house import PIXEL, SIMS, TENANT, DeviceHouse, code_of, open_house


class CountingRecords(PostgresDevices):
    """The real records, noting what was asked and holding answers back where a test says so."""

    def __init__(self, house: DeviceHouse) -> None:
        super().__init__(house.database)
        self.asked: list[str] = []
        self.noted: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def find_token(self, device_id: str) -> TokenRecord | None:
        self.asked.append(device_id)
        record = await super().find_token(device_id)
        await self.may_answer.wait()
        return record

    async def note_seen(self, device_id: str) -> None:
        self.noted.append(device_id)
        await super().note_seen(device_id)


@dataclass
class Door:
    """The access of one process with a clock and records that a test has in hand."""

    house: DeviceHouse
    clock: ManualClock
    records: CountingRecords
    access: DeviceAccess

    async def device_of(self, token: str) -> Device:
        return await self.access.device_of(f"Bearer {token}")

    async def refused(self, token: str) -> str:
        return await code_of(self.device_of(token))


@pytest.fixture
async def door(redis_url: str, database_url: str) -> AsyncIterator[Door]:
    clock = ManualClock()
    async with open_house(redis_url, database_url) as house:
        records = CountingRecords(house)
        access = DeviceAccess(
            records=records, presence=house.presence, keyring=house.keyring, clock=clock, online_s=60.0
        )
        yield Door(house, clock, records, access)
        records.may_answer.set()
        await access.close()


async def test_a_token_is_answered_from_memory_for_ten_seconds(door: Door) -> None:
    _, registered = await door.house.paired()
    for _ in range(50):
        assert (await door.device_of(registered.token)).id == registered.device.id
    assert len(door.records.asked) == 1
    door.clock.advance(KNOWN_FOR_S)
    await door.device_of(registered.token)
    assert len(door.records.asked) == 2


async def test_many_cold_calls_cause_one_query(door: Door) -> None:
    _, registered = await door.house.paired()
    devices = await asyncio.gather(*(door.device_of(registered.token) for _ in range(100)))
    assert {device.id for device in devices} == {registered.device.id}
    assert len(door.records.asked) == 1


async def test_a_caller_that_goes_away_does_not_take_the_others_with_it(door: Door) -> None:
    _, registered = await door.house.paired()
    door.records.may_answer.clear()
    calls = [asyncio.create_task(door.device_of(registered.token)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    door.records.may_answer.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(outcome, Device) for outcome in outcomes[1:])


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic cGhvbmUtYTpi",
        "Bearer dt_" + "0" * 60,
        "Bearer \udc80\0",
        "Bearer " + "x" * 100_000,
    ],
)
async def test_what_is_no_token_of_ours_costs_nothing(door: Door, header: str | None) -> None:
    assert await code_of(door.access.device_of(header)) == "DEVICE_UNAUTHORISED"
    assert door.records.asked == []


async def test_a_token_without_its_scheme_or_of_another_installation_costs_nothing(door: Door) -> None:
    _, registered = await door.house.paired()
    stranger = Keyring.from_masters({"new": b"n" * 32, "old": b"x" * 32})
    foreign = new_token(registered.device.id, stranger).text
    for header in (registered.token, f"Basic {registered.token}", f"Code {registered.token}", f"Bearer {foreign}"):
        assert await code_of(door.access.device_of(header)) == "DEVICE_UNAUTHORISED"
    assert door.records.asked == []
    assert (await door.access.device_of(f" bearer  {registered.token} ")).id == registered.device.id


async def test_a_token_that_was_never_stored_is_dead_for_a_while_and_disturbs_nobody(door: Door) -> None:
    _, registered = await door.house.paired()
    await door.device_of(registered.token)
    invented = new_token(registered.device.id, door.house.keyring).text
    for _ in range(20):
        assert await door.refused(invented) == "DEVICE_UNAUTHORISED"
        assert (await door.device_of(registered.token)).id == registered.device.id
    assert len(door.records.asked) == 2
    door.clock.advance(DEAD_FOR_S)
    assert await door.refused(invented) == "DEVICE_UNAUTHORISED"
    assert len(door.records.asked) == 3


async def test_a_token_of_no_device_is_asked_for_once_in_a_while(door: Door) -> None:
    unknown = new_token(ids.new_device_id(), door.house.keyring).text
    for _ in range(20):
        assert await door.refused(unknown) == "DEVICE_UNAUTHORISED"
    assert len(door.records.asked) == 1


async def test_a_new_token_is_good_at_once_even_while_the_old_one_is_being_looked_up(door: Door) -> None:
    pairing, first = await door.house.paired()
    door.records.may_answer.clear()
    old = asyncio.create_task(door.device_of(first.token))
    while not door.records.asked:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # the question has its answer, which is held back
    second = await door.house.login(pairing)
    new = asyncio.create_task(door.device_of(second.token))
    await asyncio.sleep(0)
    door.records.may_answer.set()
    assert (await new).id == first.device.id
    await asyncio.gather(old, return_exceptions=True)
    assert await door.refused(first.token) == "DEVICE_UNAUTHORISED"


async def test_the_memory_of_known_devices_is_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "MAX_KNOWN", 2)
    registered = [(await door.house.paired())[1] for _ in range(4)]
    for one in (*registered, *registered):
        assert (await door.device_of(one.token)).id == one.device.id
    assert len(door.access._known) == 2


# -- devices that may not call


async def test_a_pending_phone_may_call(door: Door) -> None:
    _, registered = await door.house.paired(is_confirmed=False)
    device = await door.device_of(registered.token)
    assert device.status is DeviceStatus.PENDING
    assert (await door.access.heard(device, stream="s1")).waiting == 0


@pytest.mark.parametrize("end", ["disable", "delete", "rotate_token"])
async def test_a_retired_device_is_out_at_once_in_every_process(door: Door, end: str) -> None:
    _, registered = await door.house.paired()
    elsewhere = door.house.another_process()
    await door.house.comes_in(registered.token, access=elsewhere)
    device = await door.device_of(registered.token)
    await door.access.heard(device, stream="s1")
    await getattr(door.house.service, end)(TENANT, registered.device.id)
    # One call of this process was let through by memory alone: the store turns it away all the same.
    assert await code_of(door.access.heard(device, stream="s1")) == "DEVICE_UNAUTHORISED"
    assert await code_of(door.access.heard(device, is_pull=True)) == "DEVICE_UNAUTHORISED"
    assert await door.refused(registered.token) == "DEVICE_UNAUTHORISED"
    assert await code_of(door.house.comes_in(registered.token, access=elsewhere)) == "DEVICE_UNAUTHORISED"


async def test_an_enabled_device_comes_back_with_the_token_it_had(door: Door) -> None:
    _, registered = await door.house.paired()
    await door.house.service.disable(TENANT, registered.device.id)
    assert await door.refused(registered.token) == "DEVICE_UNAUTHORISED"
    await door.house.service.enable(TENANT, registered.device.id)
    door.clock.advance(KNOWN_FOR_S)
    device = await door.device_of(registered.token)
    assert device.status is DeviceStatus.ACTIVE
    assert (await door.access.heard(device, is_pull=True)).waiting == 0


async def test_what_was_changed_elsewhere_holds_with_the_next_call(door: Door) -> None:
    _, registered = await door.house.paired()
    await door.access.heard(await door.device_of(registered.token), stream="s1")
    await door.house.service.set_passphrase(TENANT, registered.device.id, "correct horse battery")
    known = await door.device_of(registered.token)
    assert not known.has_passphrase, "nothing is remembered, so nothing is tested"
    proofs: list[dict[str, Any]] = [{"is_pull": True}, {"stream": "s1"}, {}]
    for proof in proofs:
        assert (await door.access.heard(known, **proof)).device.has_passphrase
    assert (await door.device_of(registered.token)).has_passphrase


async def test_a_rotated_token_is_replaced_by_registering_again(door: Door) -> None:
    pairing, registered = await door.house.paired()
    await door.device_of(registered.token)
    await door.house.service.rotate_token(TENANT, registered.device.id)
    again = await door.house.login(pairing)
    assert again.device.status is DeviceStatus.ACTIVE
    device = await door.device_of(again.token)
    assert (await door.access.heard(device)).waiting == 0
    door.clock.advance(KNOWN_FOR_S)
    assert await door.refused(registered.token) == "DEVICE_UNAUTHORISED"


# -- what a phone says of itself


async def test_new_sims_are_taken_and_raise_the_version_only_if_they_are_new(door: Door) -> None:
    _, registered = await door.house.paired()
    device = await door.device_of(registered.token)
    same = await door.access.update(device, Registration(name="ignored", sims=SIMS[::-1]))
    assert (same.version, same.sims, same.name) == (device.version, SIMS, PIXEL.name)
    fewer = await door.access.update(device, Registration(name="ignored", sims=SIMS[:1]))
    assert (fewer.version, fewer.sims, fewer.status) == (device.version + 1, SIMS[:1], DeviceStatus.ACTIVE)
    assert await door.device_of(registered.token) == fewer


async def test_a_device_that_was_deleted_meanwhile_says_nothing_more(door: Door) -> None:
    _, registered = await door.house.paired()
    device = await door.device_of(registered.token)
    await door.house.service.delete(TENANT, device.id)
    update = door.access.update(device, Registration(name="x", sims=SIMS))
    assert await code_of(update) == "DEVICE_UNAUTHORISED"
    assert await door.house.sql("select * from device_sims") == []


async def test_it_is_written_down_once_a_minute_that_a_phone_was_heard_of(door: Door) -> None:
    _, registered = await door.house.paired()
    device = await door.device_of(registered.token)
    for _ in range(10):
        await door.access.heard(device)
    await asyncio.gather(*door.access._notes)
    assert door.records.noted == [device.id]
    assert (await door.house.device(registered)).last_seen_at is not None
    door.clock.advance(NOTED_EVERY_S)
    await door.device_of(registered.token)
    await door.access.heard(device)
    assert len(door.records.noted) <= 2
    await asyncio.gather(*door.access._notes)
    assert door.records.noted == [device.id] * 2


async def test_closing_ends_a_lookup_under_way(door: Door) -> None:
    _, registered = await door.house.paired()
    door.records.may_answer.clear()
    call = asyncio.create_task(door.device_of(registered.token))
    while not door.records.asked:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.001)
    await door.access.close()
    with pytest.raises(asyncio.CancelledError):
        await call
