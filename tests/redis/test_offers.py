"""A message on its way to a phone and back: offered, pulled, reported, told, and nothing forgotten in between."""

import pytest

from otpsvc.devices.model import DeviceStatus, Gone, Sim
from tests.otp.house import OTHER_CLIENT, House
from tests.redis.phones import PULL_S, REPORT_S, SEALED, SENDER, SLOTS, Phones
from tests.redis.presence import later


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


async def test_a_message_goes_through_a_phone(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, device_id = await phones.offered()
    assert device_id == phone.id
    (pulled,) = await phones.pull(phone)
    assert (pulled.message_id, pulled.sealed, pulled.sim_number, pulled.is_cancelling) == (message_id, SEALED, 1, False)
    assert pulled.expires_at > pulled.created_at
    assert (await phones.report(phone, message_id, "processed")).outcome == "waiting"
    told = await phones.report(phone, message_id, "sent")
    assert (told.outcome, told.sender, told.status, told.kind) == ("told", SENDER, "sent", "")
    assert 0 <= told.seconds < 60
    await phones.settle(told)
    assert await phones.waiting() == {}
    assert not await phones.has_text(message_id)
    assert (await phones.house.message(message_id))["status"] == "sent"
    told = await phones.report(phone, message_id, "delivered")
    assert (told.outcome, told.status) == ("told", "delivered")
    assert message_id in await phones.waiting()
    await phones.settle(told)
    assert await phones.waiting() == {}
    assert await phones.told_of(message_id) == [("offered", phone.id), ("pulled", phone.id)]
    (offered, _) = await phones.events(message_id)
    assert {**offered.data} == {
        "device": phone.id,
        "sender": SENDER,
        "created_at": (await phones.house.message(message_id))["created_at"],
        "channel": "sms",
        "tries": "1",
    }


async def test_the_same_offer_again_gets_the_same_answer(phones: Phones) -> None:
    await phones.phone()
    await phones.phone()
    message_id, device_id = await phones.offered()
    before = await phones.record(message_id)
    for _ in range(5):
        assert (await phones.offer(message_id)).device_id == device_id
    assert await phones.record(message_id) == before
    assert len(await phones.told_of(message_id)) == 1


async def test_it_is_listed_until_a_word_is_heard_and_then_no_more(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    for _ in range(3):
        assert await phones.pulled_ids(phone) == [message_id]
        # It would report anew whatever it is given again.
        assert await phones.pulled_ids(phone) == []
        await phones.house.age(2)
    assert len(await phones.told_of(message_id)) == 2
    await phones.report(phone, message_id, "processed")
    assert await phones.pulled_ids(phone) == []


async def test_lists_are_oldest_first_and_bounded(phones: Phones) -> None:
    phone = await phones.phone()
    ids = [(await phones.offered())[0] for _ in range(4)]
    names = phones.house.keys.devices(phone.client_id)
    await phones.house.raw.zadd(names.inbox_base + phone.id, {one: place for place, one in enumerate(ids)})
    first = await phones.pull(phone, limit=3)
    assert [one.message_id for one in first] == ids[:3]
    assert await phones.states(ids[3]) == {phone.id: "offered"}


@pytest.mark.parametrize("spoken", ["pulled", "offered", "withdrawn", "silent"])
async def test_a_word_that_no_phone_says_changes_nothing(phones: Phones, spoken: str) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    before = await phones.record(message_id)
    assert (await phones.report(phone, message_id, spoken)).outcome == "ignored"
    assert await phones.record(message_id) == before


async def test_nobody_is_heard_about_a_message_that_was_not_offered_to_it(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    stranger = await phones.phone()
    foreign = await phones.phone(client_id=OTHER_CLIENT)
    before = await phones.house.snapshot()
    for status in ("processed", "sent", "delivered", "failed", "cancelled"):
        for device in (stranger, foreign):
            assert (await phones.report(device, message_id, status)).outcome == "ignored"
        assert (await phones.report(phone, "msg_0" + "0" * 25, status)).outcome == "ignored"
    assert await phones.house.snapshot() == before


async def test_what_nobody_wrote_down_as_told_is_told_again(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    first = await phones.report(phone, message_id, "sent")
    again = await phones.report(phone, message_id, "sent")
    assert (again.outcome, again.status) == (first.outcome, first.status) == ("told", "sent")
    await phones.house.age(4)
    (told,) = await phones.mind()
    assert (told.outcome, told.status, told.sender) == ("told", "sent", SENDER)
    await phones.house.age(60)
    assert await phones.mind() == []
    assert (await phones.report(phone, message_id, "sent")).outcome == "ignored"


async def test_what_was_told_late_does_not_hide_what_came_meanwhile(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    sent = await phones.report(phone, message_id, "sent")
    await phones.report(phone, message_id, "delivered")
    await phones.settle(sent)
    assert message_id in await phones.waiting()
    await phones.house.age(4)
    assert [told.status for told in await phones.mind()] == ["delivered"]
    assert await phones.waiting() == {}


async def test_a_failure_is_told_and_kept_as_the_phones_last_error(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    told = await phones.report(phone, message_id, "failed", kind="no_credit", error="no credit")
    assert (told.outcome, told.status, told.kind) == ("told", "failed", "no_credit")
    state = await phones.presence.state(phone)
    assert state.last_error == "no credit"
    assert state.last_error_at > 0
    assert await phones.inbox(phone) == []
    assert not await phones.has_text(message_id)
    assert (await phones.report(phone, message_id, "processed")).outcome == "ignored"
    assert (await phones.report(phone, message_id, "failed", kind="blocked")).kind == "no_credit"


async def test_a_good_word_after_a_failure_is_believed(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    await phones.settle(await phones.report(phone, message_id, "failed"))
    assert (await phones.report(phone, message_id, "delivered")).status == "delivered"


async def test_a_retired_phone_is_turned_away_and_hears_nothing(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.presence.devices.retire(later(phone, status=DeviceStatus.DISABLED), Gone.USER_LOGOUT)
    before = await phones.house.snapshot()
    assert await phones.offers.pull(phone, limit=10, slots=SLOTS) is None
    assert (await phones.report(phone, message_id, "sent")).outcome == "retired"
    assert await phones.house.snapshot() == before


async def test_a_phone_that_is_not_confirmed_is_given_nothing(phones: Phones) -> None:
    pending = await phones.phone(status=DeviceStatus.PENDING)
    message_id = await phones.message()
    assert (await phones.offer(message_id)).outcome == "none"
    assert (await phones.offer(message_id, pinned=pending.id)).outcome == "offline"
    phone = await phones.phone()
    await phones.offer(message_id)
    # It has registered again under another name, and nobody has confirmed that.
    assert await phones.pulled_ids(later(phone, status=DeviceStatus.PENDING)) == []
    assert await phones.states(message_id) == {phone.id: "offered"}


@pytest.mark.parametrize("end", ["verified", "resent", "cancelled", "short", "other sender"])
async def test_no_list_has_a_message_whose_code_has_ended(phones: Phones, end: str) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    match end:
        case "verified":
            await phones.verify(message_id)
        case "resent":
            await phones.house.resend(phones.otp_of[message_id])
        case "cancelled":
            await phones.house.cancel(phones.otp_of[message_id])
        case "short":
            await phones.house.age(296)
        case "other sender":
            key = phones.house.keys.partitions[0].message_base + message_id
            await phones.house.raw.hset(key, "asked", f"{SENDER}=silent other=begun")
    assert await phones.pulled_ids(phone) == []
    assert await phones.counted(phone) == ([], [])
    assert await phones.inbox(phone) == []
    assert (await phones.offer(message_id)).outcome == "unwanted"
    (told,) = await phones.mind()
    assert (told.outcome, told.status, told.kind) == ("told", "cancelled", "send_timeout")
    assert await phones.waiting() == {}


async def test_what_was_pulled_and_is_wanted_no_more_comes_back_to_be_dropped(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    await phones.verify(message_id)
    (pulled,) = await phones.pull(phone)
    assert (pulled.message_id, pulled.is_cancelling, pulled.sealed) == (message_id, True, b"")
    told = await phones.report(phone, message_id, "cancelled", kind="send_timeout")
    assert (told.outcome, told.status, told.kind) == ("told", "cancelled", "send_timeout")
    assert await phones.pulled_ids(phone) == []
    await phones.house.age(300)
    assert await phones.pulled_ids(phone) == []


async def test_taken_back_for_good(phones: Phones) -> None:
    phone = await phones.phone()
    first, second = (await phones.offered())[0], (await phones.offered())[0]
    tenant = phone.tenant
    assert not await phones.offers.withdraw(tenant._replace(mode="live"), first)
    assert not await phones.offers.withdraw(tenant._replace(client_id=OTHER_CLIENT), first)
    for _ in range(2):
        assert await phones.offers.withdraw(tenant, first)
    assert await phones.pulled_ids(phone) == [second]
    assert not await phones.offers.withdraw(tenant, second)
    assert [one.is_cancelling for one in await phones.pull(phone)] == [True]
    assert await phones.counted(phone) == ([second], ["to" + second[-8:]])
    assert set(await phones.waiting()) == {second}
    assert not await phones.offers.withdraw(tenant, "msg_0" + "0" * 25)


async def test_taken_back_and_wanted_again(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.offers.withdraw(phone.tenant, message_id)
    assert (await phones.offer(message_id))[:2] == ("offered", phone.id)
    assert await phones.pulled_ids(phone) == [message_id]


async def test_nothing_of_a_message_without_a_record_is_offered(phones: Phones) -> None:
    await phones.phone()
    assert (await phones.offer("msg_0" + "0" * 25)).outcome == "unwanted"
    message_id = await phones.message(sender="another")
    assert (await phones.offer(message_id)).outcome == "unwanted"


async def test_an_offer_ends_with_its_code(phones: Phones) -> None:
    phone = await phones.phone()
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    await phones.house.age(301)
    assert not await phones.has_text(message_id)
    assert [told.outcome for told in await phones.mind()] == ["ignored"]
    assert await phones.waiting() == {}
    # It was in time after all, and nobody knew.
    told = await phones.report(phone, message_id, "sent")
    assert (told.outcome, told.status) == ("told", "sent")
    await phones.house.age(2 * 86_400)
    assert await phones.record(message_id) == {}
    assert [told.outcome for told in await phones.mind()] == ["ignored"]
    assert await phones.waiting() == {}


async def test_a_word_restarts_the_wait_for_the_next(phones: Phones) -> None:
    phone, other = await phones.phone(), await phones.phone(is_there=False)
    message_id, _ = await phones.offered()
    await phones.pull(phone)
    await phones.house.age(REPORT_S - 5)
    await phones.report(phone, message_id, "processed")
    await phones.come(other)
    await phones.house.age(10)
    assert (await phones.look(message_id)).outcome == "waiting"
    await phones.house.age(REPORT_S)
    await phones.come(other)
    assert (await phones.look(message_id)).device_id == other.id


async def test_due_offers_are_given_to_one_caller_at_a_time(phones: Phones) -> None:
    await phones.phone()
    ids = [(await phones.offered())[0] for _ in range(3)]
    assert await phones.offers.due(limit=10, again_in_ms=1000) == []
    await phones.house.age(PULL_S)
    first = await phones.offers.due(limit=2, again_in_ms=5000)
    second = await phones.offers.due(limit=2, again_in_ms=5000)
    assert sorted([*first, *second]) == sorted(f"client_100000000001 {one}" for one in ids)
    assert await phones.offers.due(limit=2, again_in_ms=5000) == []
    # A clock that was set back since.
    await phones.house.raw.zadd(phones.house.keys.offers, {first[0]: 9e15})
    assert await phones.offers.due(limit=2, again_in_ms=5000) == [first[0]]


async def test_a_phone_that_does_not_tell_its_sims_has_one(phones: Phones) -> None:
    phone = await phones.phone(sims=())
    message_id, _ = await phones.offered()
    (pulled,) = await phones.pull(phone)
    assert (pulled.message_id, pulled.sim_number) == (message_id, None)
    assert (await phones.counted(phone))[0] == [message_id]


async def test_the_sim_is_named_by_its_number(phones: Phones) -> None:
    phone = await phones.phone(sims=(Sim(slot=4, number=7),))
    await phones.offered()
    assert [one.sim_number for one in await phones.pull(phone)] == [7]
