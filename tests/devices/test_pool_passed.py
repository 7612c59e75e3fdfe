"""The dispatcher passes the pool when its receipt is overdue: what no phone has pulled is taken back before."""

import time
from collections.abc import AsyncIterator

import pytest

from otpsvc.testing import RecordingSender
from tests.devices.pool_house import PoolHouse, open_pool

RECEIPT_S = 60


@pytest.fixture
def second() -> RecordingSender:
    return RecordingSender("b")


@pytest.fixture
async def route(redis_url: str, second: RecordingSender) -> AsyncIterator[PoolHouse]:
    """Phones that are waited for longer than their receipt, and a gateway behind them."""
    async with open_pool(redis_url, others=[second], wait_s=270, receipt_within_s=RECEIPT_S) as stand:
        yield stand


async def test_what_no_phone_has_pulled_is_taken_back_first(route: PoolHouse, second: RecordingSender) -> None:
    phone = await route.phone()
    sent = await route.send()
    await route.pass_by(RECEIPT_S + 1, phone)
    assert await route.deliver() == 1
    assert len(second.sent) == 1
    assert await phone.pull() == []
    await route.mind()
    assert await route.status(sent) == ("sent", "")
    told = await route.told(sent)
    assert "tried send_timeout" in told
    assert "tried silent" not in told
    message = await route.otp.message(sent.message_id)
    assert set(message["asked"].split()) == {"phones=failed:send_timeout", "b=accepted"}
    assert "dup:phones" not in message
    # Whoever did this may do it again: it is the same answer.
    await phone.say(sent.message_id, "sent")
    assert (await route.otp.message(sent.message_id))["asked"] == message["asked"]


async def test_what_a_phone_has_pulled_is_passed_with_a_word(route: PoolHouse, second: RecordingSender) -> None:
    phone = await route.phone()
    sent = await route.send()
    assert len(await phone.pull()) == 1
    await route.pass_by(RECEIPT_S + 1, phone)
    await route.deliver()
    assert len(second.sent) == 1
    assert "tried silent" in await route.told(sent)
    assert (await route.otp.message(sent.message_id))["dup:phones"] == "1"
    assert [one.is_cancelling for one in await phone.pull()] == [True]


async def test_a_worker_that_dies_between_taking_back_and_telling_leaves_no_duplicate(
    route: PoolHouse, second: RecordingSender
) -> None:
    phone = await route.phone()
    sent = await route.send()
    await route.pass_by(RECEIPT_S + 1, phone)
    (claimed,) = await route.otp.claim(lease_s=60)
    assert await route.offers.withdraw(phone.device.tenant, claimed.message_id)
    await route.pass_by(61, phone)
    await route.deliver()
    assert len(second.sent) == 1
    assert "tried silent" not in await route.told(sent)


async def test_what_the_pool_gives_up_while_a_worker_holds_it_is_no_duplicate(
    redis_url: str, second: RecordingSender
) -> None:
    """Both deadlines come at once: the pool's word is heard between the worker's claim and its call."""
    async with open_pool(redis_url, others=[second], wait_s=RECEIPT_S, receipt_within_s=RECEIPT_S) as route:
        phone = await route.phone()
        sent = await route.send()
        await route.pass_by(RECEIPT_S + 1, phone)
        (claimed,) = await route.otp.claim(lease_s=60)
        await route.mind()
        await route.dispatcher.deliver(claimed, queue=route.otp.queue, lease_ends_at=time.monotonic() + 60)
        assert len(second.sent) == 1
        told = await route.told(sent)
        assert told.count("tried no_device") == 1
        assert "tried silent" not in told
