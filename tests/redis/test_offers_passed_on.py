"""How long a message is passed from phone to phone, and what counts of it where."""

import pytest

from otpsvc.devices.model import Device
from otpsvc.devices.policy import Budget
from tests.otp.house import House
from tests.redis.phones import GIVE_UP_S, PULL_S, REPORT_S, Phones

HOUR_S = 3600


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


async def pass_by(phones: Phones, seconds: float, *devices: Device) -> None:
    """Let time pass, after which these phones are still there, each by a stream that stays open."""
    await phones.house.age(seconds)
    for device in devices:
        await phones.come(device)


async def silent_and_next(phones: Phones) -> tuple[str, Device, Device]:
    """A message that one phone has pulled and says nothing of, and that was given to the next."""
    first = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(first)
    second = await phones.phone()
    await pass_by(phones, REPORT_S, second)
    assert (await phones.look(message_id)).device_id == second.id
    return message_id, first, second


async def test_what_many_phones_do_not_pull_is_given_up_in_time(phones: Phones) -> None:
    team = [await phones.phone() for _ in range(12)]
    message_id, _ = await phones.offered()
    ends = []
    for _ in range(int(GIVE_UP_S / PULL_S) + 1):
        await pass_by(phones, PULL_S, *team)
        ends += [(told.status, told.kind) for told in await phones.mind() if told.status]
    assert ends == [("failed", "no_device")]
    assert "pulled" not in {name for name, _ in await phones.told_of(message_id)}
    for phone in team:
        assert await phones.pulled_ids(phone) == []


async def test_it_is_given_up_while_another_sender_can_still_be_asked(phones: Phones) -> None:
    phone = await phones.phone()
    message_id = await phones.message()
    now_ms = await phones.presence.now_ms()
    await phones.offer(message_id, expires_at_ms=now_ms + 50_000)
    await pass_by(phones, PULL_S, phone)
    assert (await phones.look(message_id)).outcome == "waiting"
    await pass_by(phones, 6, phone)
    assert (await phones.look(message_id)).kind == "no_device"


@pytest.mark.parametrize("why", ["unpulled", "failed"])
async def test_what_a_silent_phone_may_have_is_offered_on_after_the_next_one_too(phones: Phones, why: str) -> None:
    """Whoever is asked next is asked under the word that it may arrive twice, which has been said."""
    message_id, first, second = await silent_and_next(phones)
    if why == "failed":
        await phones.pull(second)
        assert (await phones.report(second, message_id, "failed")).outcome == "waiting"
    await phones.go(second)
    await phones.house.age(GIVE_UP_S)
    assert [told.status for told in await phones.mind()] == [""]
    third = await phones.phone()
    await pass_by(phones, PULL_S, third)
    (moved,) = await phones.mind()
    expected = ("moved", third.id, "gone" if why == "unpulled" else "failed", False)
    assert (moved.outcome, moved.device_id, moved.why, moved.may_duplicate) == expected
    assert await phones.pulled_ids(third) == [message_id]
    assert (await phones.states(message_id))[first.id] == "silent"
    assert (await phones.report(third, message_id, "sent")).status == "sent"


async def test_a_failure_that_no_phone_could_help_ends_the_passing_on(phones: Phones) -> None:
    message_id, first, second = await silent_and_next(phones)
    await phones.pull(second)
    told = await phones.report(second, message_id, "failed", kind="invalid_number", next_may_try=False)
    assert told.outcome == "waiting"
    third = await phones.phone()
    for _ in range(3):
        await pass_by(phones, PULL_S, first, third)
        await phones.mind()
    assert third.id not in await phones.states(message_id)
    assert [one.is_cancelling for one in await phones.pull(first)] == [True]
    assert (await phones.report(first, message_id, "failed", kind="no_credit")).status == "failed"


async def test_a_sim_counts_a_message_from_when_it_was_sent(phones: Phones) -> None:
    phone = await phones.phone(budget=Budget(messages_per_window=1, window_s=600))
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    await pass_by(phones, 250, phone)
    await phones.report(phone, message_id, "sent")
    await pass_by(phones, 500, phone)
    assert (await phones.offer(await phones.message())).outcome == "budget"
    await pass_by(phones, 101, phone)
    await phones.offered()


async def test_a_failure_before_the_pull_gives_no_other_sims_budget_away(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    second = await phones.phone()
    assert (await phones.report(phone, message_id, "failed")).device_id == second.id
    for device in (phone, second):
        assert (await phones.counted(device))[0] == [message_id]


async def test_one_that_drops_what_it_was_told_to_drop_had_it_too_long(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    await phones.verify(message_id)
    assert [one.is_cancelling for one in await phones.pull(phone)] == [True]
    told = await phones.report(phone, message_id, "cancelled")
    assert (told.status, told.kind) == ("cancelled", "send_timeout")


async def test_an_offer_that_was_told_of_is_kept_for_an_hour(phones: Phones) -> None:
    phone = await phones.phone()
    told, untold = [(await phones.offered())[0] for _ in range(2)]
    await phones.pull(phone)
    await phones.settle(await phones.report(phone, told, "sent"))
    await phones.house.age(HOUR_S - 60)
    assert (await phones.report(phone, told, "delivered")).status == "delivered"
    await phones.house.age(61)
    assert await phones.record(told) == {}
    assert await phones.record(untold)
