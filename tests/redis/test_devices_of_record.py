"""What the store holds of a device: the newest version, whoever comes last; and who was taken out stays out."""

import asyncio
import random

import msgspec
import pytest

from otpsvc.devices.model import DeviceStatus, Gone, SimUse
from otpsvc.devices.policy import Budget
from otpsvc.messages.policy import QuietHours
from tests.otp.house import CLIENT, OTHER_CLIENT, House
from tests.redis.presence import Presence, device_of, later

LOST = Gone.CONNECTION_LOST


async def test_a_device_that_was_taken_out_is_turned_away_by_every_process_at_once(
    presence: Presence, others: list[Presence]
) -> None:
    device = device_of(version=4)
    await presence.seen(device, stream="s1", is_pull=True)
    await presence.put_into_inbox(device, "msg_1", "msg_2")
    gone = later(device, status=DeviceStatus.DISABLED)
    await presence.devices.retire(gone, Gone.USER_LOGOUT)
    for process in others:
        for version in (1, 4, 5):
            stale = msgspec.structs.replace(device, version=version)
            assert await process.seen(stale, stream="s1", is_pull=True) is None
            await process.devices.refresh(stale)
    assert not await presence.is_online(device)
    assert await presence.pool(device) is None
    assert (await presence.record(device))["retired"] == "1"
    assert await presence.hurried() == [f"{CLIENT} msg_1", f"{CLIENT} msg_2"]
    await presence.settle()
    assert await presence.told(device) == ["connected", Gone.USER_LOGOUT]
    back = later(gone, status=DeviceStatus.ACTIVE)
    assert await presence.seen(back, stream="s2") == 2
    assert await presence.is_online(device)
    # Nothing is left of the stream that it had before.
    await presence.devices.left(back, "s2", LOST)
    assert not await presence.is_online(device)
    # Who was taken out stays out at that version, though the device is back at another.
    assert await others[0].seen(device, is_pull=True) is None


async def test_a_device_that_never_came_can_be_taken_out(presence: Presence) -> None:
    device = device_of(status=DeviceStatus.PENDING)
    await presence.devices.retire(device, Gone.USER_LOGOUT)
    assert await presence.seen(device, stream="s1") is None
    await presence.look()
    assert await presence.events(device) == []


@pytest.mark.parametrize("status", [DeviceStatus.DISABLED, DeviceStatus.DELETED])
async def test_a_device_that_is_out_is_turned_away_whatever_the_store_knows(
    house: House, presence: Presence, status: DeviceStatus
) -> None:
    assert await presence.seen(device_of(status=status), stream="s1") is None
    assert await house.names() == []
    device = device_of()
    await presence.seen(device, stream="s1")
    await presence.devices.refresh(later(device, status=status))
    assert not await presence.is_online(device)
    assert await presence.seen(device, stream="s1") is None


async def test_an_order_to_take_out_that_comes_too_late_does_nothing(presence: Presence) -> None:
    device = device_of()
    out = later(device, status=DeviceStatus.DISABLED)
    back = later(out, status=DeviceStatus.ACTIVE)
    await presence.seen(back, stream="s1")
    await presence.devices.retire(out, Gone.USER_LOGOUT)
    assert await presence.is_online(device)
    await presence.devices.refresh(out)
    assert (await presence.record(device))["is_active"] == "1"


async def test_the_newest_version_wins_whoever_comes_last(presence: Presence, others: list[Presence]) -> None:
    versions = [device_of()]
    for n in range(2, 20):
        budget = Budget(messages_per_window=n, is_spare=n % 2 == 0)
        versions.append(later(versions[-1], budget=budget))
    order = versions * 3
    random.Random(5).shuffle(order)
    await asyncio.gather(
        *(
            others[n % 3].seen(device, stream=f"s{n}") if n % 2 else others[n % 3].devices.refresh(device)
            for n, device in enumerate(order)
        )
    )
    await presence.seen(versions[3])
    await presence.devices.refresh(versions[-1])
    record = await presence.record(versions[0])
    assert (record["version"], record["budget_messages"], record["is_spare"]) == ("19", "19", "0")


@pytest.mark.parametrize("seed", range(4))
async def test_no_race_brings_a_retired_device_back(presence: Presence, others: list[Presence], seed: int) -> None:
    rng = random.Random(seed)
    device = device_of()
    out = later(device, status=DeviceStatus.DELETED)
    calls = [others[n % 3].seen(device, stream=f"s{n}", is_pull=n % 4 == 0) for n in range(30)]
    calls += [others[n % 3].devices.left(device, f"s{n}", LOST) for n in range(10)]
    calls.append(presence.devices.retire(out, Gone.USER_LOGOUT))
    rng.shuffle(calls)
    await asyncio.gather(*calls)
    assert await presence.seen(device, stream="after") is None
    assert not await presence.is_online(device)
    assert await presence.pool(device) is None
    assert await presence.devices.n_online() == 0
    await presence.settle()
    assert await presence.told(device) in ([], ["connected", Gone.USER_LOGOUT], ["connected", LOST])


async def test_a_change_is_told_to_the_store_only_where_it_knows_the_phone(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.devices.refresh(device)
    assert await house.names() == []
    await presence.seen(device)
    changed = later(device, sims=device.sims[:1])
    before = await presence.state(device)
    await presence.devices.refresh(changed)
    assert (await presence.record(device))["sims"] == '[[0,1,"free"]]'
    assert await presence.state(device) == msgspec.structs.replace(before, sims=before.sims[:1])


async def test_what_the_pool_reads_is_written_as_agreed(presence: Presence) -> None:
    quiet = QuietHours(start="00:00", end="23:59")
    device = device_of(
        version=7,
        budget=Budget(messages_per_window=3, window_s=60, recipients_per_day=9, quiet=quiet, is_spare=True),
    )
    await presence.seen(device, is_pull=True)
    record = await presence.record(device)
    facts = {name: record[name] for name in record if not name.endswith(("_at", "_until")) and "quiet" not in name}
    assert facts == {
        "version": "7",
        "mode": "test",
        "is_active": "1",
        "retired": "0",
        "sims": '[[0,1,"free"],[1,2,""]]',
        "budget_messages": "3",
        "budget_window_ms": "60000",
        "budget_recipients": "9",
        "is_spare": "1",
        "misses": "0",
        "gone": "",
        "told": "connected",
        "is_first": "1",
    }
    assert int(record["quiet_from"]) < int(record["quiet_to"])
    pending = later(device, status=DeviceStatus.PENDING)
    await presence.seen(pending)
    assert (await presence.record(device))["is_active"] == "0"


async def test_the_quiet_stretch_moves_on_with_every_word_but_never_back(house: House, presence: Presence) -> None:
    device = device_of(budget=Budget(quiet=QuietHours(start="00:00", end="23:59")))
    await presence.seen(device)
    before = (await presence.record(device))["quiet_to"]
    name = house.keys.devices(CLIENT).device_base + device.id
    await house.raw.hset(name, mapping={"quiet_from": 1, "quiet_to": 2})
    await presence.seen(device)
    assert (await presence.record(device))["quiet_to"] == before
    await presence.seen(later(device, budget=Budget()))
    await presence.seen(device)
    assert (await presence.record(device))["quiet_to"] == "0"


async def test_what_the_pool_has_done_with_is_not_brought_back(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await presence.put_into_inbox(device, "msg_1", "msg_2", look_in_ms=-5000)
    await house.raw.zrem(house.keys.offers, f"{CLIENT} msg_1")
    before = await house.raw.zrange(house.keys.offers, 0, -1, withscores=True)
    await presence.devices.retire(later(device), Gone.USER_LOGOUT)
    assert await house.raw.zrange(house.keys.offers, 0, -1, withscores=True) == before


async def test_the_devices_of_others_and_of_the_other_mode_are_not_touched(house: House, presence: Presence) -> None:
    foreign = device_of(client_id=OTHER_CLIENT)
    live = device_of(mode="live")
    for device in (foreign, live):
        await presence.seen(device, stream="s1")
        await presence.put_into_inbox(device, f"msg_{device.mode}")
    before = await house.snapshot()
    mine = device_of()
    await presence.seen(mine, stream="s1", is_pull=True)
    await presence.devices.left(mine, "s1", LOST)
    await presence.devices.retire(later(mine), Gone.USER_LOGOUT)
    await presence.look()
    after = await house.snapshot()
    theirs = [name for name in before if OTHER_CLIENT.encode() in name or name.endswith(b":pool:live")]
    theirs.append((house.keys.devices(CLIENT).device_base + live.id).encode())
    assert len(theirs) >= 6
    assert {name: after[name] for name in theirs} == {name: before[name] for name in theirs}
    assert await presence.hurried() == []


async def test_the_state_tells_how_much_each_sim_has_used(house: House, presence: Presence) -> None:
    device = device_of(budget=Budget(window_s=600))
    await presence.seen(device)
    names, now = house.keys.devices(CLIENT), await presence.now_ms()
    await house.raw.zadd(f"{names.sim_base}{device.id}:0", {"a": now, "b": now - 599_000, "c": now - 601_000})
    await house.raw.zadd(f"{names.recipients_base}{device.id}:1", {"x": now - 86_399_000, "y": now - 86_401_000})
    await house.raw.hset(names.device_base + device.id, mapping={"last_error": "NO_CREDIT", "last_error_at": 5})
    await presence.put_into_inbox(device, "msg_1")
    state = await presence.state(device)
    assert state.sims == (SimUse(slot=0, messages=2, recipients=0), SimUse(slot=1, messages=0, recipients=1))
    assert (state.waiting, state.last_error, state.last_error_at) == (1, "NO_CREDIT", 5)


async def test_a_phone_that_does_not_tell_its_sims_has_one(presence: Presence) -> None:
    device = device_of(sims=())
    await presence.seen(device)
    assert (await presence.state(device)).sims == (SimUse(slot=0, messages=0, recipients=0),)


@pytest.mark.parametrize("is_full", [False, True])
async def test_what_lies_with_it_does_not_wait_until_it_is_told_that_it_has_gone(house: House, is_full: bool) -> None:
    """It came, went, came and lapses, all in less time than is told of; or there is no room for any event."""
    presence = Presence(house, event_limit=0 if is_full else 500_000)
    device = device_of()
    await presence.seen(device, stream="s1")
    await presence.devices.left(device, "s1", LOST)
    await presence.seen(device, stream="s2", online_s=1)
    await presence.put_into_inbox(device, "msg_1", look_in_ms=1_000_000)
    told = await presence.told(device)
    await house.age(1)
    await presence.look()
    assert await presence.hurried() == [f"{CLIENT} msg_1"]
    assert await presence.told(device) == told
