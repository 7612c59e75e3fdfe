"""What one pull gives: nothing that its process could not open, and the same again where its answer was lost."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from otpsvc.errors import ApiError
from otpsvc.redis import offers
from otpsvc.redis.client import RedisClient
from otpsvc.redis.offers import RedisOffers
from tests.otp.house import House
from tests.redis.lossy import lossy_way
from tests.redis.phones import PULL_S, SLOTS, Phones

NEWER = b"\x00\xff"  # the slot of a master that only some processes have


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


async def pulled_by(phones: Phones, device: Any, *slots: bytes) -> list[str]:
    return [one.message_id for one in await phones.offers.pull(device, limit=100, slots=slots) or ()]


async def test_what_a_process_cannot_open_is_left_as_it_is(phones: Phones, caplog: pytest.LogCaptureFixture) -> None:
    phone = await phones.phone()
    (old, _), (new, _) = await phones.offered(), await phones.offered(sealed=NEWER + b"sealed elsewhere")
    before = await phones.record(new)
    assert await pulled_by(phones, phone, *SLOTS) == [old]
    assert await phones.record(new) == before
    assert "1 messages wait that are sealed under a master which this process does not have" in caplog.text
    assert await pulled_by(phones, phone, *SLOTS, NEWER) == [new]
    assert await phones.told_of(new) == [("offered", phone.id), ("pulled", phone.id)]


async def test_what_was_pulled_elsewhere_waits_for_who_can_open_it(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered(sealed=NEWER + b"sealed elsewhere")
    assert await pulled_by(phones, phone, NEWER) == [message_id]
    await phones.house.age(3)
    before = await phones.record(message_id)
    assert await pulled_by(phones, phone, *SLOTS) == []
    assert await phones.record(message_id) == before
    assert await pulled_by(phones, phone, NEWER) == [message_id]


async def test_what_nobody_could_open_goes_to_another_phone_without_a_doubt(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered(sealed=NEWER + b"sealed elsewhere")
    second = await phones.phone()
    await pulled_by(phones, phone, *SLOTS)
    await phones.house.age(PULL_S)
    for one in (phone, second):
        await phones.come(one)
    (moved,) = await phones.mind()
    assert (moved.outcome, moved.why, moved.may_duplicate) == ("moved", "not_pulled", False)
    assert await pulled_by(phones, second, NEWER) == [message_id]


@pytest.mark.parametrize("slots", [(), (b"\xffx",), (b"xx", b"\xff\xff")])
async def test_a_slot_is_compared_as_a_whole(phones: Phones, slots: tuple[bytes, ...]) -> None:
    """The second half of one and the first of the next is none."""
    phone = await phones.phone()
    await phones.offered(sealed=b"x\xff" + b"sealed")
    assert await pulled_by(phones, phone, *slots) == []


async def test_no_two_events_of_a_repeated_call_have_one_id(phones: Phones, redis_url: str) -> None:
    """Its answer was lost, and when it comes again there is more to pull."""
    phone = await phones.phone()
    ids = [(await phones.offered())[0] for _ in range(2)]
    with tempfile.TemporaryDirectory(prefix="otp") as folder:
        async with lossy_way(redis_url, Path(folder)) as (way, url):
            client = RedisClient(url, timeout_s=5, max_connections=1)
            elsewhere = RedisOffers(client, phones.house.keys)
            await elsewhere.pull(phone, limit=0, slots=SLOTS)
            way.to_lose = 2
            with pytest.raises(ApiError):
                await elsewhere.pull(phone, limit=100, slots=SLOTS)
            ids.append((await phones.offered())[0])
            again = await elsewhere.pull(phone, limit=100, slots=SLOTS)
            await client.close()
    assert again is not None
    assert sorted(one.message_id for one in again) == sorted(ids)
    events = await phones.house.all_events()
    assert len([event for event in events if event.name == "message.pulled"]) == 3
    assert [one for one, n in Counter(event.event_id for event in events).items() if n > 1] == []


def test_chance_looks_like_no_code_and_is_exact_in_lua() -> None:
    assert {len(str(offers._luck())) for _ in range(1000)} == {13}
    assert offers._LEAST_LUCK * 9 + 512 < 2**53


async def test_where_nothing_is_fenced_nobody_has_to_say_which_history_it_is(phones: Phones, redis_url: str) -> None:
    """`redis.fence = "off"` is the way out where a script may not run INFO: phones have to go on working there."""
    phone = await phones.phone()
    before, _ = await phones.offered()
    raw = phones.house.raw
    await raw.execute_command("ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", "-info")
    client = RedisClient(redis_url.replace("://", "://mute:pw@"), timeout_s=5, max_connections=1)
    try:
        for is_fenced in (False, True):
            phones.offers = RedisOffers(client, phones.house.keys, is_fenced=is_fenced)
            if is_fenced:
                with pytest.raises(ResponseError, match="permissions"):
                    await phones.offered()
            else:
                message_id, _ = await phones.offered()
                assert set(await phones.pulled_ids(phone)) == {before, message_id}
    finally:
        await client.close()
        await raw.execute_command("ACL", "DELUSER", "mute")
