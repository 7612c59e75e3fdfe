"""From an accepted code over the pool to a phone and back to the message, on the real store, whatever breaks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from otpsvc.clock import SystemClock
from otpsvc.devices.minder import run_minder
from otpsvc.errors import ApiError
from otpsvc.otp.model import VerifiedOtp
from otpsvc.redis.client import RedisClient
from otpsvc.senders.contract import Channel, SentMessage
from otpsvc.testing import RecordingSender
from tests.devices.pool_house import Phone, PoolHouse, open_pool
from tests.otp.house import NUMBER, OTHER_CLIENT, OTHER_NUMBER
from tests.redis.lossy import LossyWay, lossy_way


@pytest.fixture
async def stand(redis_url: str) -> AsyncIterator[PoolHouse]:
    async with open_pool(redis_url) as opened:
        yield opened


@pytest.fixture
def second() -> RecordingSender:
    return RecordingSender("b")


@pytest.fixture
async def route(redis_url: str, second: RecordingSender) -> AsyncIterator[PoolHouse]:
    """Phones first, then another sender."""
    async with open_pool(redis_url, others=[second]) as opened:
        yield opened


# -- the good day


async def test_a_code_goes_out_through_a_phone_and_verifies(stand: PoolHouse) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    assert await stand.status(sent) == ("sent", "")
    (message,) = await phone.pull()
    assert (message.message_id, message.to) == (sent.message_id, NUMBER)
    assert message.expires_at - message.created_at == 300_000
    assert message.sim_number == 1
    await phone.say(sent.message_id, "Processed", "Sent", "Delivered")
    assert await stand.status(sent) == ("delivered", "")
    assert await stand.told(sent) == ["offered", "sent", "pulled", "delivered"]
    assert await phone.pull() == []
    verified = await stand.otp.verify(sent.otp_id, stand.code(message.text))
    assert isinstance(verified, VerifiedOtp)
    assert [(word, seconds is not None) for _, word, seconds in stand.ledger.reports] == [
        ("processed", False),
        ("sent", True),
        ("delivered", False),
    ]


async def test_late_doubled_and_disordered_words_of_a_phone(stand: PoolHouse) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    await phone.pull()
    await phone.say(sent.message_id, "Delivered", "Delivered", "Sent", "Processed", "Failed", "Cancelled", "Pending")
    assert await stand.status(sent) == ("delivered", "")
    assert (await stand.told(sent)).count("delivered") == 1
    await stand.pass_by(5)
    await stand.mind()
    assert (await stand.told(sent)).count("delivered") == 1


# -- no phone


async def test_without_a_phone_the_message_waits_and_then_fails_by_name(stand: PoolHouse) -> None:
    phone = await stand.phone()
    await phone.leave()
    sent = await stand.send()
    assert await stand.status(sent) == ("queued", "retry_later")
    for _ in range(12):
        await stand.pass_by(5)
        await stand.deliver()
        if (await stand.status(sent))[0] == "failed":
            break
    assert await stand.status(sent) == ("failed", "no_device")


async def test_a_phone_that_comes_while_it_waits_gets_it(stand: PoolHouse) -> None:
    phone = await stand.phone()
    await phone.leave()
    sent = await stand.send()
    await stand.pass_by(2, phone)
    await stand.deliver()
    assert [one.message_id for one in await phone.pull()] == [sent.message_id]


async def test_nobody_elses_phone_gets_it_meanwhile(stand: PoolHouse) -> None:
    strangers = [await stand.phone(client_id=OTHER_CLIENT), await stand.phone(mode="live")]
    sent = await stand.send()
    assert await stand.status(sent) == ("queued", "retry_later")
    assert [await phone.pull() for phone in strangers] == [[], []]


async def test_without_a_phone_the_next_sender_carries_it_at_once(route: PoolHouse, second: RecordingSender) -> None:
    sent = await route.send()
    assert await route.status(sent) == ("sent", "")
    assert len(second.sent) == 1


# -- taking over


async def test_what_is_not_pulled_goes_to_another_phone(stand: PoolHouse) -> None:
    first = await stand.phone()
    sent = await stand.send()
    other = await stand.phone()
    await stand.pass_by(11, first, other)
    await stand.mind()
    assert [one.message_id for one in await other.pull()] == [sent.message_id]
    assert await first.pull() == []
    await other.say(sent.message_id, "Sent")
    assert await stand.status(sent) == ("sent", "")
    assert stand.ledger.takeovers == [("phones", "not_pulled", False)]


async def test_what_nobody_pulls_is_given_up_and_the_next_sender_carries_it(
    route: PoolHouse, second: RecordingSender
) -> None:
    phone = await route.phone()
    sent = await route.send()
    for _ in range(8):
        await route.pass_by(5, phone)
        await route.mind()
        await route.deliver()
        if second.sent:
            break
    assert len(second.sent) == 1
    assert await phone.pull() == []
    assert "tried no_device" in await route.told(sent)
    assert not any("silent" in one for one in await route.told(sent)), "nobody had pulled it, so no duplicate"


async def test_what_nobody_pulls_fails_by_name_where_nobody_follows(stand: PoolHouse) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    for _ in range(8):
        await stand.pass_by(5, phone)
        await stand.mind()
    assert await stand.status(sent) == ("failed", "no_device")


async def test_a_phone_without_credit_leaves_it_to_the_next_one(stand: PoolHouse) -> None:
    first = await stand.phone()
    sent = await stand.send()
    other = await stand.phone()
    await first.pull()
    await first.say(sent.message_id, "Processed")
    await first.say(sent.message_id, "Failed", error=f"no credit left for {NUMBER}")
    assert [one.message_id for one in await other.pull()] == [sent.message_id]
    assert stand.ledger.takeovers == [("phones", "failed", False)]
    assert (await stand.presence.state(first.device)).last_error == "credit"
    await other.say(sent.message_id, "Sent")
    assert await stand.status(sent) == ("sent", "")


async def test_a_blocked_number_is_tried_by_nobody_else(route: PoolHouse, second: RecordingSender) -> None:
    first = await route.phone()
    sent = await route.send()
    await route.phone()
    await first.pull()
    await first.say(sent.message_id, "Failed", error="number is blocked")
    await route.deliver()
    assert await route.status(sent) == ("failed", "blocked")
    assert second.sent == []


async def test_a_silent_phone_is_passed_and_the_duplicate_counted(stand: PoolHouse) -> None:
    first = await stand.phone()
    sent = await stand.send()
    other = await stand.phone()
    await first.pull()
    await stand.pass_by(31, first, other)
    await stand.mind()
    assert stand.ledger.takeovers == [("phones", "silent", True)]
    assert [one.message_id for one in await other.pull()] == [sent.message_id]
    await first.say(sent.message_id, "Sent")
    assert await stand.status(sent) == ("sent", "")


async def test_a_code_that_has_ended_is_given_to_no_phone(stand: PoolHouse) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    await stand.otp.cancel(sent.otp_id)
    assert await phone.pull() == []
    await stand.pass_by(11, phone)
    await stand.mind()
    assert await phone.pull() == []


async def test_a_sender_takes_a_message_back_that_nobody_pulled(stand: PoolHouse) -> None:
    phone = await stand.phone()
    taken_back, pulled = [
        SentMessage(
            message_id=(await stand.send(to=to)).message_id,
            provider_id=None,
            channel=Channel.SMS,
            sent_at=0.0,
            client_id=phone.device.client_id,
            mode=phone.device.mode,
        )
        for to in (NUMBER, OTHER_NUMBER)
    ]
    assert await stand.pool.cancel(taken_back)
    assert [one.message_id for one in await phone.pull()] == [pulled.message_id]
    assert not await stand.pool.cancel(pulled)


# -- whose word counts


async def test_nobody_elses_word_is_heard(stand: PoolHouse) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    await phone.pull()
    strangers = [
        await stand.phone(client_id=OTHER_CLIENT),
        await stand.phone(mode="live"),
        await stand.phone(),
        await stand.phone(client_id=OTHER_CLIENT, id=phone.id),
        await stand.phone(is_there=False),
    ]
    before = (await stand.otp.message(sent.message_id), await stand.told(sent))
    for stranger in strangers:
        assert await stranger.pull() == []
        await stranger.say(sent.message_id, "Processed", "Sent", "Delivered", "Failed", "Cancelled")
    assert (await stand.otp.message(sent.message_id), await stand.told(sent)) == before
    assert stand.ledger.reports == []


# -- a crash between the step in the store and the receipt


async def crashed(stand: PoolHouse, monkeypatch: pytest.MonkeyPatch, where: str, work: Any) -> None:
    """Kill a task of ours as soon as it comes to this step."""
    reached = asyncio.Event()

    async def hang(*given: Any, **options: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        owner, name = (stand.pool, "_receipts") if where == "take" else (stand.offers, "done")
        patch.setattr(owner, name, hang)
        task = asyncio.create_task(work())
        async with asyncio.timeout(5):
            await reached.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("where", ["take", "done"])
async def test_a_crash_after_a_report_is_made_good_by_the_minder(
    where: str, stand: PoolHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    await phone.pull()
    await crashed(stand, monkeypatch, where, lambda: phone.say(sent.message_id, "Delivered"))
    assert await stand.status(sent) == (("sent" if where == "take" else "delivered"), "")
    await stand.pass_by(4, phone)
    assert await stand.mind() == 1
    assert await stand.status(sent) == ("delivered", "")
    assert (await stand.told(sent)).count("delivered") == 1
    await stand.pass_by(60, phone)
    assert await stand.mind() == 0, "it is told for good"


@pytest.mark.parametrize("where", ["take", "done"])
async def test_a_crash_of_the_minder_is_made_good_by_the_next(
    where: str, stand: PoolHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await stand.phone()
    sent = await stand.send()
    await stand.pass_by(31, phone)

    async def work() -> None:
        await run_minder(stand.pool, stand.offers, stand.presence, stop=asyncio.Event(), clock=SystemClock())

    await crashed(stand, monkeypatch, where, work)
    assert await stand.status(sent) == (("sent", "") if where == "take" else ("failed", "no_device"))
    await stand.pass_by(6, phone)
    assert await stand.mind() == 1
    assert await stand.status(sent) == ("failed", "no_device")
    assert (await stand.told(sent)).count("failed") == 1
    await stand.pass_by(60, phone)
    assert await stand.mind() == 0


@pytest.mark.parametrize("n_lost", range(1, 6))
async def test_answers_of_the_store_that_are_lost_change_nothing(
    n_lost: int, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with lossy_way(redis_url, tmp_path_factory.mktemp("w")) as (way, url):
        client = RedisClient(url, timeout_s=5, max_connections=4)
        try:
            async with open_pool(redis_url, client=client) as stand:
                await live_with_losses(stand, way, n_lost)
                assert way.lost > 0
        finally:
            await client.close()


async def live_with_losses(stand: PoolHouse, way: LossyWay, n_lost: int) -> None:
    """Lose some answers at each step; whoever hears nothing does it again."""

    async def at_last(work: Callable[[], Awaitable[object]]) -> object:
        way.to_lose = n_lost
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(ApiError):
                    return await work()

    first = await stand.phone()
    sent = await stand.otp.send()
    for _ in range(5):
        way.to_lose = n_lost
        await stand.deliver()
        await stand.pass_by(2, first)
    other = await stand.phone()
    await stand.pass_by(11, first, other)
    way.to_lose = 0
    (due,) = await stand.offers.due(limit=10, again_in_ms=5000)

    async def look() -> None:
        await stand.pool.settle(await stand.offers.look(due), sent.message_id)

    await at_last(look)
    pulled: list[str] = []

    async def pull() -> None:
        pulled.extend(one.message_id for one in await other.pull())

    await at_last(pull)
    assert pulled == [sent.message_id]
    assert await first.pull() == []
    await at_last(lambda: other.say(sent.message_id, "Sent"))
    await at_last(lambda: other.say(sent.message_id, "Delivered"))
    way.to_lose = 0
    await stand.pass_by(6, first, other)
    await stand.mind()
    assert await stand.status(sent) == ("delivered", "")
    told = await stand.told(sent)
    assert [told.count(word) for word in ("taken_over not_pulled", "pulled", "delivered")] == [1, 1, 1]


async def test_many_minders_take_each_message_over_once(stand: PoolHouse) -> None:
    first = await stand.phone()
    sent = [await stand.send(to=f"+3361234{number:04d}") for number in range(20)]
    others: list[Phone] = [await stand.phone() for _ in range(3)]
    await stand.pass_by(11, first, *others)
    stop = asyncio.Event()
    minders = [
        asyncio.create_task(run_minder(stand.pool, stand.offers, stand.presence, stop=stop, clock=SystemClock()))
        for _ in range(5)
    ]
    try:
        async with asyncio.timeout(10):
            while len(stand.ledger.takeovers) < 20:  # noqa: ASYNC110 - what the minders did is only counted
                await asyncio.sleep(0.01)
    finally:
        stop.set()
        await asyncio.gather(*minders)
    assert stand.ledger.takeovers == [("phones", "not_pulled", False)] * 20
    pulled = [one.message_id for phone in (first, *others) for one in await phone.pull()]
    assert sorted(pulled) == sorted(one.message_id for one in sent)
