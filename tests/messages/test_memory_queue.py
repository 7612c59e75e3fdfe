"""The queue kept in memory obeys the port as the scripts do: what stands on it in tests stands on the store."""

import pytest

from otpsvc.messages.model import ClaimedMessage, MessageStatus
from tests.messages.house import LEASE_S, House


async def claim(house: House) -> ClaimedMessage:
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    return claimed


async def settle(house: House, claimed: ClaimedMessage, way: str) -> bool:
    match way:
        case "sent":
            return await house.queue.record_sent(claimed.message_id, claimed.token, sender="a", provider_id="p")
        case "failed":
            return await house.queue.record_final(
                claimed.message_id, claimed.token, MessageStatus.FAILED, reason="no_credit"
            )
        case _:
            return await house.queue.release(claimed.message_id, claimed.token, due_in_s=0, reason="retry_later")


WAYS = ["sent", "failed", "released"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_repeat_of_what_settled_the_lease_is_told_true_and_changes_nothing(way: str, house: House) -> None:
    claimed = await claim(house)
    assert await settle(house, claimed, way)
    before = (house.record.status, list(house.record.events), house.record.due_at)
    for again in WAYS:
        assert await settle(house, claimed, again)
    assert (house.record.status, house.record.events, house.record.due_at) == before


@pytest.mark.parametrize("way", WAYS)
async def test_a_lost_lease_settles_nothing(way: str, house: House) -> None:
    first = await claim(house)
    house.clock.advance(LEASE_S)
    second = await claim(house)
    assert not await settle(house, first, way)
    assert not await house.queue.begin(first.message_id, first.token, sender="a")
    assert house.record.events == []
    assert await settle(house, second, way)


@pytest.mark.parametrize("way", WAYS)
async def test_a_claim_that_ended_the_message_leaves_nothing_to_settle(way: str, house: House) -> None:
    claimed = await claim(house)
    house.queue.unwanted.add(house.id)
    house.clock.advance(LEASE_S)
    assert (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages == []
    assert house.end == (MessageStatus.CANCELLED, "cancelled")
    assert not await settle(house, claimed, way)


async def test_what_was_begun_is_carried_until_it_is_settled(house: House) -> None:
    first = await claim(house)
    assert await house.queue.begin(first.message_id, first.token, sender="a")
    assert await house.queue.begin(first.message_id, first.token, sender="b")
    house.clock.advance(LEASE_S)
    second = await claim(house)
    assert second.begun_by == "b"
    await house.queue.release(second.message_id, second.token, due_in_s=0, reason="x", begun_by="b")
    third = await claim(house)
    assert third.begun_by == "b"
    await settle(house, third, "released")
    assert (await claim(house)).begun_by == ""


async def test_what_was_claimed_and_not_begun_is_not_in_doubt(house: House) -> None:
    await claim(house)
    house.clock.advance(LEASE_S)
    again = await claim(house)
    assert (again.begun_by, again.tries) == ("", 2)


async def test_no_call_of_an_unwanted_code_begins(house: House) -> None:
    claimed = await claim(house)
    house.queue.unwanted.add(house.id)
    assert not await house.queue.begin(claimed.message_id, claimed.token, sender="a")
    assert house.record.claimed.begun_by == ""


async def test_rewake_lets_a_wait_return(house: House) -> None:
    await house.queue.wait(1)
    await house.queue.rewake()
    await house.queue.wait(60)
