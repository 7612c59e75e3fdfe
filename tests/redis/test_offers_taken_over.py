"""A phone that does not come, goes, or says nothing: who has the message next, and what is told where nobody can."""

import pytest

from otpsvc.devices.model import Device, DeviceStatus, Gone
from otpsvc.devices.policy import Budget
from otpsvc.events.model import Event
from tests.otp.house import House
from tests.redis.phones import GIVE_UP_S, PULL_S, REPORT_S, Phones
from tests.redis.presence import later


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


async def pair(phones: Phones) -> tuple[str, Device, Device]:
    """A message, the phone that has it, and another that might."""
    first = await phones.phone()
    message_id, _ = await phones.offered()
    return message_id, first, await phones.phone()


async def come(phones: Phones, *devices: Device) -> None:
    for device in devices:
        await phones.come(device)


def passed(events: list[Event]) -> list[tuple[str, str, str]]:
    """Who was passed, why, and whether the message may arrive twice."""
    return [
        (event.data["device"], event.data["outcome"], event.data.get("may_duplicate", ""))
        for event in events
        if event.name == "message.taken_over"
    ]


async def test_one_that_does_not_pull_in_time_loses_it(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    assert (await phones.look(message_id)).outcome == "waiting"
    await phones.house.age(PULL_S)
    (moved,) = await phones.mind()
    assert (moved.outcome, moved.device_id, moved.why, moved.may_duplicate) == ("moved", second.id, "not_pulled", False)
    assert moved.status == ""
    assert await phones.pulled_ids(first) == []
    assert await phones.counted(first) == ([], [])
    assert await phones.pulled_ids(second) == [message_id]
    assert passed(await phones.events(message_id)) == [(first.id, "not_pulled", "")]


async def test_one_that_has_gone_loses_it_at_once(phones: Phones) -> None:
    first = await phones.phone()
    _, second = await phones.offered(), await phones.phone()
    await phones.presence.devices.left(first, "s1", Gone.CONNECTION_LOST)
    (moved,) = await phones.mind()
    assert (moved.outcome, moved.device_id, moved.why) == ("moved", second.id, "gone")
    assert (await phones.presence.state(first)).misses == 0


async def test_one_that_was_taken_out_loses_it_at_once(phones: Phones) -> None:
    _, first, second = await pair(phones)
    await phones.presence.devices.retire(later(first, status=DeviceStatus.DELETED), Gone.USER_LOGOUT)
    assert [(told.outcome, told.device_id) for told in await phones.mind()] == [("moved", second.id)]


async def test_one_that_pulled_keeps_it_until_its_word_is_overdue(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    await phones.go(first)
    await phones.house.age(REPORT_S - 2)
    await come(phones, second)
    assert (await phones.look(message_id)).outcome == "waiting"
    await phones.house.age(2)
    (moved,) = await phones.mind()
    assert (moved.outcome, moved.device_id, moved.why, moved.may_duplicate) == ("moved", second.id, "silent", True)
    assert await phones.states(message_id) == {first.id: "silent", second.id: "offered"}
    assert passed(await phones.events(message_id)) == [(first.id, "silent", "1")]
    # What it pulled counts, whatever became of it.
    assert (await phones.counted(first))[0] == [message_id]
    # If it comes back, it is asked to drop it.
    await come(phones, first)
    assert [one.is_cancelling for one in await phones.pull(first)] == [True]
    assert [one.is_cancelling for one in await phones.pull(second)] == [False]


async def test_a_passed_one_is_believed_and_the_other_is_called_off(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    await phones.house.age(REPORT_S)
    await come(phones, first, second)
    await phones.mind()
    told = await phones.report(first, message_id, "sent")
    assert (told.outcome, told.status) == ("told", "sent")
    assert await phones.pulled_ids(second) == []
    assert await phones.counted(second) == ([], [])
    assert await phones.states(message_id) == {first.id: "sent", second.id: "withdrawn"}
    await phones.settle(told)
    assert await phones.waiting() == {}


async def test_what_both_have_is_sent_by_both_if_they_say_so(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    await phones.house.age(REPORT_S)
    await come(phones, first, second)
    await phones.mind()
    await phones.pull(second)
    await phones.settle(await phones.report(first, message_id, "sent"))
    assert [one.is_cancelling for one in await phones.pull(second)] == [True]
    assert (await phones.report(second, message_id, "sent")).outcome == "waiting"
    assert (await phones.report(second, message_id, "delivered")).status == "delivered"


async def test_no_third_phone_gets_what_another_may_have(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    await phones.house.age(REPORT_S)
    await come(phones, first, second)
    await phones.mind()
    await phones.pull(second)
    third = await phones.phone()
    assert (await phones.report(second, message_id, "failed")).outcome == "waiting"
    assert third.id not in await phones.states(message_id)
    told = await phones.report(first, message_id, "failed", kind="no_credit")
    # Now surely nobody has it.
    assert (told.outcome, told.device_id) == ("moved", third.id)


async def test_a_failure_is_the_next_phones_turn(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    moved = await phones.report(first, message_id, "failed")
    assert (moved.outcome, moved.device_id, moved.why, moved.status) == ("moved", second.id, "failed", "")
    assert (await phones.counted(first))[0] == [message_id]
    assert await phones.pulled_ids(second) == [message_id]
    assert passed(await phones.events(message_id)) == [(first.id, "failed", "")]
    told = await phones.report(second, message_id, "failed", kind="no_credit")
    assert (told.outcome, told.status, told.kind) == ("told", "failed", "no_credit")


async def test_a_failure_that_no_phone_could_help_is_told(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    told = await phones.report(first, message_id, "failed", kind="invalid_number", next_may_try=False)
    assert (told.outcome, told.status, told.kind) == ("told", "failed", "invalid_number")
    assert await phones.inbox(second) == []


async def test_a_failure_of_what_nobody_wants_goes_to_nobody(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    await phones.verify(message_id)
    assert (await phones.report(first, message_id, "failed")).status == "failed"
    assert await phones.inbox(second) == []


async def test_no_more_than_four_phones_come_to_have_it(phones: Phones) -> None:
    by_id = {device.id: device for device in [await phones.phone() for _ in range(6)]}
    message_id, holder = await phones.offered()
    for _ in range(3):
        await phones.pull(by_id[holder])
        moved = await phones.report(by_id[holder], message_id, "failed")
        assert moved.outcome == "moved"
        holder = moved.device_id
    await phones.pull(by_id[holder])
    assert (await phones.report(by_id[holder], message_id, "failed")).status == "failed"


async def test_what_nobody_can_pull_waits_for_the_phone_and_is_then_given_up(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.go(phone)
    assert (await phones.look(message_id)).outcome == "waiting"
    await phones.house.age(GIVE_UP_S - 2)
    assert [told.outcome for told in await phones.mind()] == ["waiting"]
    assert await phones.states(message_id) == {phone.id: "offered"}
    await phones.house.age(2)
    (told,) = await phones.mind()
    assert (told.outcome, told.status, told.kind) == ("told", "failed", "no_device")
    assert await phones.waiting() == {}
    await phones.come(phone)
    assert await phones.pulled_ids(phone) == []
    assert await phones.counted(phone) == ([], [])
    assert (await phones.house.message(message_id))["asked"] == "phones=failed:no_device"


async def test_a_phone_that_comes_back_in_time_pulls_it(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.go(phone)
    await phones.house.age(PULL_S * 3)
    await phones.mind()
    await phones.come(phone)
    assert await phones.pulled_ids(phone) == [message_id]


async def test_a_pinned_message_goes_to_no_other(phones: Phones) -> None:
    first, _ = await phones.phone(), await phones.phone()
    _, holder = await phones.offered(pinned=first.id)
    assert holder == first.id
    await phones.go(first)
    await phones.house.age(GIVE_UP_S)
    (told,) = await phones.mind()
    assert (told.outcome, told.status, told.kind) == ("told", "failed", "device_offline")


async def test_a_silent_one_without_another_leaves_it_to_the_receipt_deadline(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    for _ in range(5):
        await phones.house.age(REPORT_S)
        assert [(told.outcome, told.status) for told in await phones.mind()] == [("waiting", "")]
    assert await phones.states(message_id) == {phone.id: "pulled"}
    late = await phones.phone()
    await phones.house.age(PULL_S)
    assert [told.device_id for told in await phones.mind()] == [late.id]


async def test_another_sender_asked_meanwhile_ends_the_offer(phones: Phones) -> None:
    message_id, _, second = await pair(phones)
    key = phones.house.keys.partitions[0].message_base + message_id
    await phones.house.raw.hset(key, "asked", "phones=silent other=begun")
    await phones.house.age(PULL_S)
    (told,) = await phones.mind()
    assert (told.outcome, told.status, told.kind) == ("told", "cancelled", "send_timeout")
    assert await phones.inbox(second) == []


async def test_three_calls_without_an_answer_and_the_phone_is_not_there(phones: Phones) -> None:
    phone = await phones.phone()
    await phones.offered()
    await phones.offered()
    for misses in (1, 2, 3):
        # Its stream stays open all the while.
        await phones.house.age(PULL_S)
        await phones.come(phone)
        await phones.mind()
        state = await phones.presence.state(phone)
        assert (state.misses, state.is_online) == (misses, misses < 3)
        assert state.gone == ("BATTERY_SAVER" if misses == 3 else "")
    await phones.presence.look()
    assert "BATTERY_SAVER" in (await phones.presence.record(phone))["gone"]
    assert (await phones.offer(await phones.message())).outcome == "none"
    assert len(await phones.pulled_ids(phone)) == 2
    assert (await phones.presence.state(phone)).is_online


async def test_a_message_may_come_back_to_a_phone_that_never_pulled_it(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.go(first)
    assert (await phones.look(message_id)).device_id == second.id
    await phones.come(first)
    await phones.go(second)
    assert (await phones.look(message_id)).device_id == first.id
    assert await phones.states(message_id) == {first.id: "offered", second.id: "withdrawn"}
    assert await phones.pulled_ids(first) == [message_id]


async def test_budget_is_given_back_exactly_where_it_was_not_used(phones: Phones) -> None:
    phone = await phones.phone(budget=Budget(recipients_per_day=1))
    first, second = await phones.message(), await phones.message()
    for message_id in (first, second):
        assert (await phones.offer(message_id, recipient="same")).outcome == "offered"
    # The later one has not been sent: what the earlier one counted still does.
    assert await phones.offers.withdraw(phone.tenant, second)
    assert await phones.counted(phone) == ([first], ["same"])
    assert await phones.offers.withdraw(phone.tenant, first)
    assert await phones.counted(phone) == ([], [])
    # The earlier one is taken back, and the later one was pulled.
    third, fourth = await phones.message(), await phones.message()
    for message_id in (third, fourth):
        await phones.offer(message_id, recipient="same")
    await phones.offers.withdraw(phone.tenant, third)
    assert await phones.pulled_ids(phone) == [fourth]
    assert await phones.counted(phone) == ([fourth], ["same"])
    assert (await phones.offer(await phones.message(), recipient="another")).outcome == "budget"


async def test_a_recipient_stays_counted_where_an_earlier_message_to_it_was_pulled(phones: Phones) -> None:
    """Whatever the phone that it goes to next knows of that recipient."""
    first = await phones.phone()
    earlier = await phones.message()
    await phones.offer(earlier, recipient="same")
    await phones.pull(first)
    later_one = await phones.message()
    await phones.offer(later_one, recipient="same")
    second = await phones.phone()
    await phones.go(first)
    assert (await phones.look(later_one)).device_id == second.id
    assert await phones.counted(first) == ([earlier], ["same"])
    assert await phones.counted(second) == ([later_one], ["same"])


async def test_what_has_left_is_given_to_nobody_even_before_it_is_told(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    await phones.pull(first)
    await phones.house.age(REPORT_S)
    await come(phones, first, second)
    await phones.mind()
    await phones.pull(second)
    await phones.report(first, message_id, "sent")
    assert [one.is_cancelling for one in await phones.pull(second)] == [True]
    third = await phones.phone()
    await phones.house.age(REPORT_S)
    await come(phones, first, second, third)
    assert [(told.outcome, told.status) for told in await phones.mind()] == [("told", "sent")]
    assert third.id not in await phones.states(message_id)


async def test_phones_that_come_and_go_do_not_fill_the_events(phones: Phones) -> None:
    message_id, first, second = await pair(phones)
    for _ in range(20):
        await phones.go(first)
        await phones.come(second, "s2")
        await phones.look(message_id)
        await phones.go(second)
        await phones.come(first, "s2")
        await phones.look(message_id)
    assert len(await phones.events(message_id)) == 12 + 11
    holder = first if (await phones.record(message_id))["holder"] == first.id else second
    await phones.come(holder, "s3")
    assert await phones.pulled_ids(holder) == [message_id]
