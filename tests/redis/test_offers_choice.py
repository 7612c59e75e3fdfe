"""Which phone gets a message: presence, budgets, operator, load; and why none does."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from otpsvc.devices.model import DeviceStatus, Sim, Tenant
from otpsvc.devices.policy import Budget
from otpsvc.messages.policy import QuietHours
from tests.otp.house import CLIENT, OTHER_CLIENT, House
from tests.redis.phones import PULL_S, SENDER, Phones

TENANT = Tenant(CLIENT, "test")
FREE = (Sim(slot=0, number=1, carrier="Free"),)
ORANGE = (Sim(slot=0, number=1, carrier="Orange F"),)
BOTH = (*FREE, Sim(slot=1, number=2, carrier="Orange"))


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


def quiet_now() -> QuietHours:
    now = datetime.now(UTC)
    return QuietHours(start=f"{now - timedelta(hours=1):%H:%M}", end=f"{now + timedelta(hours=1):%H:%M}")


async def test_nobody_is_there(phones: Phones) -> None:
    async def outcomes(**pinned: str) -> set[str]:
        offer = await phones.offer(await phones.message(), **pinned)
        assert offer.age_ms >= 0
        assert bool(offer.device_id) == (offer.outcome == "offered")
        return {offer.outcome, await phones.offers.reach(TENANT, **pinned)}

    assert await outcomes() == {"empty"}
    absent = await phones.phone(is_there=False)
    assert await outcomes() == {"none"}
    assert await outcomes(pinned=absent.id) == {"offline"}
    assert await outcomes(pinned="dev_0" + "0" * 25) == {"foreign"}
    for stranger in (await phones.phone(client_id=OTHER_CLIENT), await phones.phone(mode="live")):
        assert await outcomes(pinned=stranger.id) == {"foreign"}
    assert await outcomes() == {"none"}
    pending = await phones.phone(status=DeviceStatus.PENDING)
    assert await outcomes() == {"none"}
    assert await outcomes(pinned=pending.id) == {"offline"}
    there = await phones.phone()
    assert await outcomes() == {"offered", ""}
    assert await outcomes(pinned=there.id) == {"offered", ""}


async def test_those_who_are_there_may_not_send_now(phones: Phones) -> None:
    tired = await phones.phone(budget=Budget(messages_per_window=1))
    await phones.offered()
    await phones.phone(budget=Budget(quiet=quiet_now()))
    offer = await phones.offer(await phones.message())
    assert offer.outcome == "budget"
    assert (await phones.offer(await phones.message(), pinned=tired.id)).outcome == "budget"
    assert await phones.offers.reach(TENANT) == await phones.offers.reach(TENANT, tired.id) == ""


async def test_modes_and_clients_never_meet(phones: Phones) -> None:
    ours, live = await phones.phone(), await phones.phone(mode="live")
    theirs = await phones.phone(client_id=OTHER_CLIENT)
    assert set(await phones.share(6)) == {ours.id}
    message_id = await phones.message(mode="live")
    assert (await phones.offer(message_id, tenant=Tenant(CLIENT, "live"))).device_id == live.id
    for device in (live, theirs):
        assert not set(await phones.pulled_ids(device)) & set(await phones.inbox(ours))
    names = phones.house.keys.devices(CLIENT)
    assert await phones.house.raw.zrange(names.pool_base + "live", 0, -1) == [live.id.encode()]


async def test_a_sim_sends_no_more_than_its_window_holds(phones: Phones) -> None:
    phone = await phones.phone(budget=Budget(messages_per_window=3, window_s=600))
    for _ in range(3):
        await phones.offered()
    waiting = await phones.message()
    assert (await phones.offer(waiting)).outcome == "budget"
    # What is pulled late counts from then on, not from when it was offered.
    await phones.house.age(100)
    await phones.come(phone)
    assert len(await phones.pull(phone)) == 3
    await phones.house.age(590)
    await phones.come(phone)
    assert (await phones.offer(await phones.message())).outcome == "budget"
    await phones.house.age(15)
    await phones.come(phone)
    assert await phones.share(3) == {phone.id: 3}
    assert (await phones.offer(await phones.message())).outcome == "budget"


async def test_what_is_not_pulled_counts_for_as_long_as_it_could_be(phones: Phones) -> None:
    phone = await phones.phone(budget=Budget(messages_per_window=1, window_s=60))
    first, _ = await phones.offered()
    await phones.house.age(120)
    await phones.come(phone)
    assert (await phones.offer(await phones.message())).outcome == "budget"
    assert await phones.pulled_ids(phone) == [first]
    await phones.house.age(61)
    await phones.come(phone)
    await phones.offered()


async def test_a_sim_writes_to_no_more_people_than_its_day_holds(phones: Phones) -> None:
    phone = await phones.phone(budget=Budget(recipients_per_day=2, messages_per_window=100))
    for recipient in ("a", "b", "a", "b", "b"):
        await phones.offered(recipient=recipient)
    assert (await phones.offer(await phones.message(), recipient="c")).outcome == "budget"
    await phones.pull(phone)
    await phones.house.age(86_000)
    await phones.come(phone)
    assert (await phones.offer(await phones.message(), recipient="c")).outcome == "budget"
    await phones.offered(recipient="a")
    await phones.house.age(500)
    await phones.come(phone)
    await phones.offered(recipient="c")
    assert (await phones.offer(await phones.message(), recipient="b")).outcome == "budget"


async def test_each_sim_has_a_budget_of_its_own(phones: Phones) -> None:
    phone = await phones.phone(sims=BOTH, budget=Budget(messages_per_window=3))
    assert await phones.share(6) == {phone.id: 6}
    assert [len((await phones.counted(phone, slot))[0]) for slot in (0, 1)] == [3, 3]
    assert (await phones.offer(await phones.message())).outcome == "budget"
    assert Counter(one.sim_number for one in await phones.pull(phone)) == {1: 3, 2: 3}


async def test_the_numbers_own_operator_comes_first(phones: Phones) -> None:
    free, orange, both = [await phones.phone(sims=sims) for sims in (FREE, ORANGE, BOTH)]
    assert set(await phones.share(8, operator="free")) == {free.id, both.id}
    assert (await phones.counted(both, 1))[0] == []
    assert set(await phones.share(8, operator="orange")) == {orange.id, both.id}
    assert set(await phones.share(9, operator="sfr")) == {free.id, orange.id, both.id}


async def test_a_sim_of_the_operator_over_its_budget_gives_way_to_another_phone(phones: Phones) -> None:
    both = await phones.phone(sims=BOTH, budget=Budget(messages_per_window=2))
    assert await phones.share(2, operator="free") == {both.id: 2}
    free = await phones.phone(sims=FREE, budget=Budget(messages_per_window=2))
    assert await phones.share(2, operator="free") == {free.id: 2}
    assert await phones.share(2, operator="free") == {both.id: 2}
    assert (await phones.offer(await phones.message(), operator="free")).outcome == "budget"


async def test_a_spare_one_is_used_when_no_other_can_be(phones: Phones) -> None:
    spare = await phones.phone(sims=FREE, budget=Budget(is_spare=True))
    other = await phones.phone(sims=ORANGE, budget=Budget(messages_per_window=4))
    assert await phones.share(6, operator="free") == {other.id: 4, spare.id: 2}


async def test_the_least_loaded_comes_first(phones: Phones) -> None:
    busy = await phones.phone()
    await phones.share(3)
    fresh = await phones.phone()
    assert await phones.share(3) == {fresh.id: 3}
    await phones.pull(fresh)
    for message_id in await phones.inbox(fresh):
        await phones.report(fresh, message_id, "processed")
    assert await phones.share(2) == {fresh.id: 2}
    assert len(await phones.inbox(busy)) == 3


async def test_one_that_did_not_pull_of_late_comes_after_the_others(phones: Phones) -> None:
    slow = await phones.phone()
    await phones.offered()
    quick = await phones.phone()
    await phones.house.age(PULL_S)
    for phone in (slow, quick):
        await phones.come(phone)
    await phones.mind()
    assert await phones.share(5) == {quick.id: 5}


async def test_a_full_inbox_takes_no_more(phones: Phones) -> None:
    phone = await phones.phone()
    names = phones.house.keys.devices(phone.client_id)
    await phones.house.raw.zadd(names.inbox_base + phone.id, {f"msg_{n}": n for n in range(500)})
    assert (await phones.offer(await phones.message())).outcome == "budget"
    assert (await phones.offer(await phones.message(), pinned=phone.id)).outcome == "budget"


@pytest.mark.parametrize("operator", ["", "free", "nobody"])
async def test_many_messages_are_spread_evenly_and_within_budget(phones: Phones, operator: str) -> None:
    """Two thousand over a hundred phones: 25 each would be too many to refuse any."""
    budget: Any = Budget(messages_per_window=22)
    team = [await phones.phone(sims=FREE, budget=budget) for _ in range(100)]
    house, caller = phones.house, phones.house.caller()
    ids = [(await house.send(caller, to=f"+336{n:08d}")).message_id for n in range(2000)]
    while claimed := await house.claim():
        for one in claimed:
            await house.queue.begin(one.message_id, one.token, sender=SENDER)
    expires_at_ms = int((await house.message(ids[0]))["expires_at"])
    shares = Counter(
        [
            (await phones.offer(message_id, operator=operator, expires_at_ms=expires_at_ms)).device_id
            for message_id in ids
        ]
    )
    assert set(shares) == {phone.id for phone in team}
    assert max(shares.values()) <= 22
    assert min(shares.values()) >= 17
    counted = [await phones.counted(phone) for phone in team]
    assert [len(messages) for messages, _ in counted] == [shares[phone.id] for phone in team]
    assert sorted(one for messages, _ in counted for one in messages) == sorted(ids)


async def test_a_large_pool_that_was_looked_through_in_vain_is_left_alone_for_a_second(phones: Phones) -> None:
    tired = [await phones.phone(budget=Budget(messages_per_window=1)) for _ in range(20)]
    await phones.share(20)
    assert (await phones.offer(await phones.message())).outcome == "budget"
    fresh = await phones.phone(budget=Budget(messages_per_window=100))
    outcomes = [(await phones.offer(await phones.message())).outcome for _ in range(20)]
    assert set(outcomes) <= {"budget", "offered"}
    assert (await phones.offer(await phones.message(), pinned=fresh.id)).outcome == "offered"
    await phones.house.age(1)
    assert set(await phones.share(20)) == {fresh.id}
    assert [len((await phones.counted(phone))[0]) for phone in tired] == [1] * 20


@pytest.mark.parametrize("n_orange", [1, 3, 12])
async def test_an_operators_few_phones_of_many_are_found_until_they_are_over_their_budget(
    phones: Phones, n_orange: int
) -> None:
    budget = Budget(messages_per_window=2)
    team = {
        (await phones.phone(sims=ORANGE if n < n_orange else FREE, budget=budget)).id: n < n_orange for n in range(30)
    }
    shares = await phones.share(2 * n_orange, operator="orange")
    assert shares == {phone_id: 2 for phone_id, is_orange in team.items() if is_orange}
    others = await phones.share(2 * (30 - n_orange), operator="orange")
    assert others == {phone_id: 2 for phone_id, is_orange in team.items() if not is_orange}
    assert (await phones.offer(await phones.message(), operator="orange")).outcome == "budget"


async def test_a_recipient_counts_from_the_pull(phones: Phones) -> None:
    phone = await phones.phone(budget=Budget(recipients_per_day=1))
    message_id, _ = await phones.offered(recipient="a")
    await phones.house.age(250)
    await phones.come(phone)
    assert await phones.pulled_ids(phone) == [message_id]
    await phones.house.age(86_300)
    await phones.come(phone)
    assert (await phones.offer(await phones.message(), recipient="b")).outcome == "budget"


async def test_two_offers_to_one_person_in_the_same_millisecond(phones: Phones) -> None:
    """Taking back the first one leaves that person counted for the second."""
    phone = await phones.phone(budget=Budget(messages_per_window=100))
    for n in range(10):
        pair = [await phones.message(), await phones.message()]
        await asyncio.gather(*(phones.offer(message_id, recipient=f"r{n}") for message_id in pair))
        (first,) = [one for one in pair if (await phones.record(one))["recipient_was_at"] == ""]
        assert await phones.offers.withdraw(TENANT, first)
        assert f"r{n}" in (await phones.counted(phone))[1]
