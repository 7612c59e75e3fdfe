"""Forgetting a number whose messages are with phones: what the pool holds of it goes too, and no budget is won."""

import pytest

from tests.otp.house import CLIENT, NUMBER, House
from tests.redis.phones import GIVE_UP_S, REPORT_S, Phones


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


@pytest.fixture
def index(house: House) -> str:
    """What stands for the number in a key or a set."""
    return house.keyring.index("number", NUMBER).hex()


async def offered(phones: Phones, index: str) -> str:
    message_id = await phones.message(to=NUMBER)
    assert (await phones.offer(message_id, recipient=index)).outcome == "offered"
    return message_id


async def who_names_it(phones: Phones, index: str) -> set[str]:
    """Of which kind the keys are that hold the index of the number, beside those of the limits."""
    found = set()
    for name, (value, _) in (await phones.house.snapshot()).items():
        kind = name.decode().partition("}:")[2].partition(":")[0]
        if index in repr(value) and kind not in {"otp", "events"}:
            found.add(kind)
    return found


async def test_what_no_phone_has_pulled_is_taken_back(phones: Phones, index: str) -> None:
    phone = await phones.phone()
    other, _ = await phones.offered(recipient="other")
    taken_back = [await offered(phones, index) for _ in range(3)]
    assert await who_names_it(phones, index) == {"offer", "recipients"}
    await phones.house.forget(NUMBER)
    assert await who_names_it(phones, index) == set()
    assert [await phones.has_text(one) for one in taken_back] == [False] * 3
    assert await phones.inbox(phone) == [other]
    assert await phones.counted(phone) == ([other], ["other"])
    assert await phones.pulled_ids(phone) == [other]
    await phones.house.age(0.5)
    told = await phones.mind()
    assert [(one.outcome, one.status, one.kind) for one in told] == [("told", "cancelled", "send_timeout")] * 3
    assert set(await phones.waiting()) == {other}
    for one in taken_back:
        assert (await phones.house.message(one))["status"] == "failed"
        assert (await phones.offer(one, recipient=index)).outcome == "unwanted"


async def test_a_phone_that_has_pulled_it_is_asked_to_drop_it_and_keeps_its_budget(phones: Phones, index: str) -> None:
    phone = await phones.phone()
    message_id = await offered(phones, index)
    await phones.pull(phone)
    await phones.house.forget(NUMBER)
    assert not await phones.has_text(message_id)
    # What the SIM has written to counts for its day.
    assert await who_names_it(phones, index) == {"recipients"}
    assert (await phones.counted(phone))[0] == [message_id]
    assert [told.outcome for told in await phones.mind()] == ["waiting"]
    assert [(one.sealed, one.is_cancelling) for one in await phones.pull(phone)] == [(b"", True)]
    assert (await phones.report(phone, message_id, "sent")).status == "sent"


async def test_only_what_was_not_pulled_is_given_back(phones: Phones, index: str) -> None:
    phone = await phones.phone()
    pulled = await offered(phones, index)
    await phones.pull(phone)
    for _ in range(2):
        await offered(phones, index)
    await phones.house.forget(NUMBER)
    assert await phones.counted(phone) == ([pulled], [index])


async def test_an_offer_of_another_number_or_mode_stays(phones: Phones, index: str) -> None:
    live = Phones(phones.house, mode="live")
    phone, far = await phones.phone(), await phones.phone(mode="live")
    kept, _ = await phones.offered()
    message_id = await offered(live, index)
    await phones.house.forget(NUMBER)
    assert await phones.inbox(phone) == [kept]
    assert await live.inbox(far) == [message_id]
    assert await phones.has_text(kept)
    assert await phones.has_text(message_id)


@pytest.mark.parametrize("end", ["sent", "given up", "taken back", "silent"])
async def test_an_offer_that_is_over_names_nobody(phones: Phones, index: str, end: str) -> None:
    """It is kept for a day, in which late words of phones are heard; forgetting knows the messages of an hour."""
    phone = await phones.phone()
    message_id = await offered(phones, index)
    match end:
        case "sent":
            await phones.pull(phone)
            await phones.settle(await phones.report(phone, message_id, "sent"))
        case "given up":
            await phones.go(phone)
            await phones.house.age(GIVE_UP_S)
            await phones.mind()
        case "taken back":
            await phones.offers.withdraw(phone.tenant, message_id)
        case "silent":
            await phones.pull(phone)
            for _ in range(12):
                await phones.house.age(REPORT_S)
                await phones.mind()
    assert message_id not in await phones.waiting()
    assert await phones.record(message_id)
    assert "offer" not in await who_names_it(phones, index)
    if end in {"sent", "silent"}:
        assert (await phones.report(phone, message_id, "delivered")).status == "delivered"


async def test_a_message_that_is_offered_anew_counts_for_its_number_again(phones: Phones, index: str) -> None:
    phone = await phones.phone()
    message_id = await offered(phones, index)
    await phones.go(phone)
    await phones.house.age(GIVE_UP_S)
    (told,) = [told for told in await phones.mind() if told.status]
    assert (told.status, told.client_id) == ("failed", CLIENT)
    record = phones.house.keys.partitions[0].message_base + message_id
    await phones.house.raw.hset(record, "asked", "phones=begun")
    await phones.come(phone)
    assert (await phones.offer(message_id, recipient=index)).outcome == "offered"
    assert (await phones.record(message_id))["recipient"] == index
    assert await phones.counted(phone) == ([message_id], [index])
