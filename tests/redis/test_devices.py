"""Whether a phone is there: one truth for all processes, whatever order their words arrive in."""

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from otpsvc.devices.model import Gone, SimUse
from tests.otp.house import CLIENT, House, open_house
from tests.redis.lossy import lossy_way
from tests.redis.presence import ONLINE_S, TOLD_AGAIN_S, Presence, device_of, later

LOST = Gone.CONNECTION_LOST
T = TypeVar("T")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="otp") as name:
        yield Path(name)


async def test_the_first_connection_ever_is_told_as_such_and_no_later_one(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await presence.seen(device, stream="s1")
    await house.age(ONLINE_S + 1)
    await presence.look()
    await presence.seen(device, stream="s2")
    await presence.settle()
    events = await presence.events(device)
    assert [(event.name, event.data.get("is_first")) for event in events] == [
        ("device.connected", "1"),
        ("device.disconnected", None),
        ("device.connected", "0"),
    ]
    assert {(event.client_id, event.mode, event.otp_id, event.message_id) for event in events} == {
        (CLIENT, "test", "", "")
    }


async def test_a_device_that_was_seen_before_the_store_was_emptied_is_not_new(house: House, presence: Presence) -> None:
    device = device_of(last_seen_at=datetime(2026, 1, 2, tzinfo=UTC))
    await presence.seen(device, is_pull=True)
    (event,) = await presence.events(device)
    assert event.data["is_first"] == "0"


async def test_a_pull_proves_presence_for_a_while_and_a_mere_call_proves_nothing(
    house: House, presence: Presence
) -> None:
    device = device_of()
    await presence.seen(device)
    state = await presence.state(device)
    assert (state.is_online, state.connected_at, state.pulled_at) == (False, 0, 0)
    assert state.seen_at > 0
    assert await presence.devices.n_online() == 0
    until = await presence.pool(device)
    assert until is not None, "a client with a phone is not one without any"
    assert until < await presence.now_ms()
    await presence.seen(device, is_pull=True)
    assert await presence.is_online(device)
    came_at = (await presence.state(device)).connected_at
    await house.age(1)
    await presence.seen(device, is_pull=True)
    assert (await presence.state(device)).connected_at == came_at - 1000
    await house.age(ONLINE_S + 1)
    await presence.seen(device)
    assert not await presence.is_online(device)
    assert await presence.devices.n_online() == 0


async def test_the_stream_of_a_killed_process_lapses(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    went_at = int((await presence.record(device))["online_until"])
    await house.age(ONLINE_S + 30)
    assert not await presence.is_online(device)
    assert await presence.look() == 1
    assert await presence.told(device) == ["connected", LOST]
    # Told at the time at which it went, not at which somebody looked.
    assert (await presence.events(device))[-1].occurred_at == went_at - int((ONLINE_S + 30) * 1000)
    assert (await presence.state(device)).gone == LOST
    assert await presence.look() == 0


async def test_an_old_stream_that_ends_late_takes_nobody_away(presence: Presence, others: list[Presence]) -> None:
    device = device_of()
    await others[0].seen(device, stream="old")
    await others[1].seen(device, stream="new")
    await others[0].devices.left(device, "old", LOST)
    assert await presence.is_online(device)
    await others[1].devices.left(device, "new", Gone.APP_CLOSED)
    assert not await presence.is_online(device)
    await presence.settle()
    assert await presence.told(device) == ["connected", Gone.APP_CLOSED]


async def test_a_word_that_was_under_way_when_its_stream_ended_does_not_open_it_again(presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await presence.devices.left(device, "s1", LOST)
    assert await presence.seen(device, stream="s1") == 0
    assert not await presence.is_online(device)
    # Not even one whose end arrives before its beginning.
    await presence.devices.left(device, "s2", LOST)
    await presence.seen(device, stream="s2")
    assert not await presence.is_online(device)
    await presence.seen(device, stream="s3")
    assert await presence.is_online(device)


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_of_streams_in_any_process(presence: Presence, others: list[Presence], seed: int) -> None:
    """A phone is there exactly while one of its streams is, whatever was said twice, and by whom."""
    rng = random.Random(seed)
    device = device_of()
    names, open_ones, ended = iter(f"s{n}" for n in range(1000)), set[str](), set[str]()
    for _ in range(60):
        process = rng.choice(others)
        match rng.choice(["open", "again", "end", "end", "late", "twice"]):
            case "open":
                open_ones.add(name := next(names))
                await process.seen(device, stream=name)
            case "again" if open_ones:
                await process.seen(device, stream=rng.choice(sorted(open_ones)))
            case "end" if open_ones:
                open_ones.discard(name := rng.choice(sorted(open_ones)))
                ended.add(name)
                await process.devices.left(device, name, LOST)
            case "late" if ended:
                await process.seen(device, stream=rng.choice(sorted(ended)))
            case "twice" if ended:
                await process.devices.left(device, rng.choice(sorted(ended)), LOST)
        assert await presence.is_online(device) == bool(open_ones)
        assert await presence.devices.n_online() == bool(open_ones)
    await presence.settle()
    assert len(await presence.told(device)) in (1, 2)
    assert ((await presence.told(device))[-1] == "connected") == bool(open_ones)


async def test_a_phone_that_flaps_is_told_of_rarely_and_in_the_end_rightly(
    presence: Presence, others: list[Presence]
) -> None:
    staying, leaving = device_of(), device_of()
    for n in range(130):
        for device in (staying, leaving):
            await presence.seen(device, stream=f"s{n}")
            await others[n % 3].devices.left(device, f"s{n}", LOST)
    await presence.seen(staying, stream="last")
    assert await presence.told(staying) == await presence.told(leaving) == ["connected"]
    assert await presence.devices.n_online() == 1
    await presence.settle()
    assert await presence.told(staying) == ["connected"]
    assert await presence.told(leaving) == ["connected", LOST]
    streams = presence.house.keys.devices(CLIENT).streams_base + leaving.id
    assert await presence.house.raw.zcard(streams) <= 101


async def test_what_could_not_be_told_at_once_is_told_without_anybody_coming(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await presence.devices.left(device, "s1", Gone.APP_CLOSED)
    await presence.look()
    assert await presence.told(device) == ["connected"]
    await house.age(TOLD_AGAIN_S)
    await presence.look()
    assert await presence.told(device) == ["connected", Gone.APP_CLOSED]


async def test_what_a_clock_that_was_set_back_told_holds_nothing_up(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await house.age(-3600)
    await presence.devices.left(device, "s1", LOST)
    assert await presence.told(device) == ["connected", LOST]
    await presence.seen(device, stream="s2")
    await house.age(-3 * 86_400)
    assert await presence.look() == 1


async def test_many_watchers_tell_it_once(house: House, presence: Presence, others: list[Presence]) -> None:
    devices = [device_of() for _ in range(40)]
    for device in devices:
        await presence.seen(device, stream="s1")
    await house.age(ONLINE_S + 1)
    looked = await asyncio.gather(*(other.devices.lapsed(limit=30) for other in [*others, *others]))
    assert sum(looked) == len(devices)
    assert sorted(event.data["device"] for event in await presence.events() if "reason" in event.data) == sorted(
        device.id for device in devices
    )


async def test_an_answer_that_was_lost_changes_nothing(redis_url: str, folder: Path) -> None:
    """Our client makes the call again, and the second run finds the first one's work."""
    async with lossy_way(redis_url, folder) as (way, url), open_house(url) as house, open_house(redis_url) as sure:
        presence, device = Presence(house), device_of()
        await presence.devices.n_online()

        async def lossily(call: Awaitable[T]) -> T:
            way.to_lose = 1
            answer = await call
            assert way.to_lose == 0
            return answer

        assert await lossily(presence.seen(device, stream="s1", is_pull=True)) == 0
        await lossily(presence.devices.left(device, "s1", Gone.APP_CLOSED))
        await sure.age(TOLD_AGAIN_S)
        await lossily(presence.look())
        # What that claimed in vain is given to the next one in a while.
        await sure.age(TOLD_AGAIN_S)
        await Presence(sure).look()
        await sure.age(TOLD_AGAIN_S)
        await lossily(presence.seen(device, stream="s2"))
        await sure.age(TOLD_AGAIN_S)
        await lossily(presence.devices.retire(later(device), Gone.USER_LOGOUT))
        assert await lossily(presence.seen(device, stream="s2")) is None
        assert await Presence(sure).told(device) == ["connected", Gone.APP_CLOSED, "connected", Gone.USER_LOGOUT]


async def test_a_watcher_that_dies_forgets_nothing(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await house.age(ONLINE_S + 1)
    # Claimed, and nothing more.
    claim = {"limit": 10, "again_in_ms": 5000, "longest_ms": 86_400_000}
    _, claimed = await house.client.run("devices_due", {"presence": house.keys.presence}, claim)
    assert len(claimed) == 1
    assert await presence.look() == 0
    await house.age(5)
    assert await presence.look() == 1
    assert await presence.told(device) == ["connected", LOST]


@pytest.mark.parametrize("looks_in_vain", [0, 2])
async def test_without_room_for_events_nothing_is_told_until_there_is(house: House, looks_in_vain: int) -> None:
    full, roomy, device = Presence(house, event_limit=0), Presence(house), device_of()
    await full.seen(device, stream="s1")
    for _ in range(looks_in_vain):
        await house.age(2)
        assert await full.look() == 1
    assert await roomy.is_online(device)
    assert await roomy.told(device) == []
    assert await roomy.devices.n_online() == 1
    await house.age(2)
    await roomy.look()
    (event,) = await roomy.events(device)
    assert (event.name, event.data["is_first"]) == ("device.connected", "1")
    # Told at the time at which it came.
    assert event.occurred_at == (await roomy.state(device)).connected_at


async def test_an_open_stream_proves_nothing_once_three_calls_were_not_answered(
    house: House, presence: Presence
) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    now = await presence.now_ms()
    # As the pool does it when it looks at an offer.
    names = house.keys.devices(CLIENT)
    facts = {"misses": 3, "online_until": now, "gone": Gone.BATTERY_SAVER}
    await house.raw.hset(names.device_base + device.id, mapping=facts)
    await house.raw.zadd(names.pool_base + "test", {device.id: now})
    await house.raw.zadd(house.keys.presence, {f"{CLIENT} test {device.id}": now})
    for _ in range(3):
        await presence.seen(device, stream="s1")
    assert not await presence.is_online(device)
    assert await presence.devices.n_online() == 0
    await presence.settle()
    assert await presence.told(device) == ["connected", Gone.BATTERY_SAVER]
    for proof in ({"is_pull": True}, {"stream": "s2"}):
        await house.raw.hset(names.device_base + device.id, mapping=facts)
        await presence.seen(device, **proof)
        assert await presence.is_online(device)
        assert ((await presence.state(device)).misses, (await presence.state(device)).gone) == (0, "")


async def test_why_a_phone_went_first_is_why_it_went(house: House, presence: Presence) -> None:
    device = device_of()
    await presence.seen(device, stream="s1")
    await house.age(TOLD_AGAIN_S)
    # As the pool does it.
    record = house.keys.devices(CLIENT).device_base + device.id
    went_at = await presence.now_ms() - 500
    await house.raw.hset(record, mapping={"misses": 3, "online_until": went_at, "gone": Gone.BATTERY_SAVER})
    await presence.devices.left(device, "s1", LOST)
    assert await presence.told(device) == ["connected", Gone.BATTERY_SAVER]
    assert (await presence.events(device))[-1].occurred_at == went_at


async def test_a_stream_of_which_nothing_is_heard_holds_nobody_there(house: House, presence: Presence) -> None:
    device = device_of()
    streams = house.keys.devices(CLIENT).streams_base + device.id
    for name in ("s1", "s2"):
        await presence.seen(device, stream=name, online_s=86_400)
    await house.age(400)
    await presence.seen(device, stream="s2", online_s=86_400)
    await house.age(400)
    await presence.seen(device, stream="s2", online_s=86_400)
    assert await house.raw.zrange(streams, 0, -1) == [b"s2"]
    await presence.devices.left(device, "s2", LOST)
    assert not await presence.is_online(device)


async def test_what_lies_with_a_phone_that_has_gone_is_looked_at_at_once(house: House, presence: Presence) -> None:
    closing, lapsing, staying = device_of(), device_of(), device_of()
    for device, message_id in ((closing, "msg_1"), (lapsing, "msg_2"), (staying, "msg_3")):
        await presence.seen(device, stream="s1")
        await presence.put_into_inbox(device, message_id, look_in_ms=1_000_000)
    await presence.devices.left(closing, "s1", LOST)
    assert await presence.hurried() == [f"{CLIENT} msg_1"]
    await house.age(ONLINE_S)
    await presence.seen(staying, stream="s1")
    await presence.look()
    assert await presence.hurried() == [f"{CLIENT} msg_1", f"{CLIENT} msg_2"]


async def test_a_store_that_was_emptied_heals_with_the_next_word(house: House, presence: Presence) -> None:
    device = device_of(last_seen_at=datetime(2026, 1, 2, tzinfo=UTC))
    await presence.seen(device, stream="s1")
    await house.raw.flushall()
    await presence.devices.left(device, "other", LOST)
    await presence.look()
    assert (await presence.state(device)).sims == (
        SimUse(slot=0, messages=0, recipients=0),
        SimUse(slot=1, messages=0, recipients=0),
    )
    assert await presence.seen(device, stream="s1") == 0
    assert await presence.is_online(device)
    assert await presence.pool(device) is not None
    assert await presence.devices.n_online() == 1
    await presence.devices.left(device, "s1", LOST)
    await presence.settle()
    assert await presence.told(device) == ["connected", LOST]


async def test_an_online_phone_is_counted_however_soon_it_is_looked_at(house: House, presence: Presence) -> None:
    devices = [device_of() for _ in range(5)]
    for device in devices:
        await presence.seen(device, stream="s1", online_s=5)
    assert await presence.devices.n_online() == 5
    await presence.devices.left(devices[0], "s1", LOST)
    assert await presence.devices.n_online() == 4
    await presence.seen(devices[1], stream="s1", online_s=600)
    await house.age(4)
    await presence.seen(devices[2], stream="s1", online_s=600)
    assert await presence.devices.n_online() == 4
    await house.age(7)
    assert await presence.devices.n_online() == 2
    for device in devices[1:3]:
        await presence.devices.left(device, "s1", LOST)
    assert await presence.devices.n_online() == 0


async def test_every_record_ends_by_itself(house: House, presence: Presence) -> None:
    for n in range(3):
        device = device_of()
        await presence.seen(device, stream="s1", is_pull=True, online_s=86_400)
        if n:
            await presence.devices.left(device, "s1", LOST)
        if n == 2:
            await presence.devices.retire(device, Gone.USER_LOGOUT)
    bounded = {house.keys.presence, house.keys.offers, house.keys.partitions[0].events}
    for name in await house.names():
        assert (await house.raw.pttl(name) > 0) != (name.decode() in bounded), name
    await house.age(8 * 86_400)
    while await presence.look():
        pass
    assert [name.decode() for name in await house.names()] == [house.keys.partitions[0].events]


async def test_a_phone_of_which_nobody_heard_for_a_week_leaves_the_pool(house: House, presence: Presence) -> None:
    forgotten, device = device_of(), device_of()
    await presence.seen(forgotten, is_pull=True)
    for _ in range(2):
        await house.age(4 * 86_400)
        await presence.seen(device, is_pull=True)
    assert await presence.pool(forgotten) is None
    assert await presence.pool(device) is not None


async def test_a_name_of_a_stream_cannot_pass_for_anything_else(presence: Presence) -> None:
    with pytest.raises(ValueError, match="space"):
        await presence.seen(device_of(), stream="ended s1")
