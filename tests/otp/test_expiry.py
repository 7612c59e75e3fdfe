"""The sweep: every OTP that nothing else ended is told of as expired, once, however late and by however many."""

import asyncio
from collections import Counter

import pytest

from otpsvc.otp import sweep
from otpsvc.otp.ports import Swept
from otpsvc.otp.sweep import BATCH, run_sweep
from tests.otp.house import OTHER_CLIENT, OTHER_NUMBER, House

DAY_S = 86_400


async def expired(house: House) -> list[str]:
    return [otp_id for name, otp_id in await house.events() if name == "otp.expired"]


async def test_a_code_that_nobody_used_expires_once_at_the_end_of_its_life(house: House) -> None:
    sent = await house.send(ttl_s=60)
    ends_at = (await house.get(sent.otp_id)).expires_at
    assert await house.sweep() == 0
    assert await expired(house) == []
    await house.age(60)
    assert [await house.sweep() for _ in range(3)] == [1, 0, 0]
    assert await expired(house) == [sent.otp_id]
    (event,) = [event for event in await house.all_events() if event.name == "otp.expired"]
    assert (event.message_id, event.client_id, event.mode) == (sent.message_id, house.caller().client_id, "test")
    assert event.occurred_at == ends_at - 60_000
    view = await house.get(sent.otp_id)
    assert (view.status, view.ended_at) == ("expired", ends_at - 60_000)


@pytest.mark.parametrize("end", ["verified", "locked", "superseded", "cancelled", "forgotten"])
async def test_what_ended_otherwise_does_not_expire(house: House, end: str) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    match end:
        case "verified":
            await house.verify(sent.otp_id, code)
        case "locked":
            await house.lock(sent.otp_id, code)
        case "superseded":
            await house.send(ttl_s=600)
        case "cancelled":
            await house.cancel(sent.otp_id)
        case _:
            await house.forget("+33612345678")
    await house.age(61)
    await house.sweep()
    assert await expired(house) == []


async def test_a_resend_moves_the_end(house: House) -> None:
    sent = await house.send(ttl_s=60)
    await house.age(40)
    await house.resend(sent.otp_id)
    await house.age(30)
    assert await house.sweep() == 0
    await house.age(31)
    assert await house.sweep() == 1
    assert await expired(house) == [sent.otp_id]


async def test_a_sweep_that_comes_days_late_still_tells(house: House) -> None:
    """The record is long gone; that it ended, and whose it was, is not."""
    sent = await house.send()
    other = await house.send(house.caller(OTHER_CLIENT, "live"), to=OTHER_NUMBER)
    await house.age(3 * DAY_S)
    assert await house.raw.exists(house.keys.partitions[0].otp_base + sent.otp_id) == 0
    await house.sweep()
    told = {event.otp_id: (event.client_id, event.mode) for event in await house.all_events()
            if event.name == "otp.expired"}  # fmt: skip
    assert told == {sent.otp_id: (house.caller().client_id, "test"), other.otp_id: (OTHER_CLIENT, "live")}
    assert await house.sweep() == 0


async def test_many_sweeps_at_once_tell_each_end_once(house: House) -> None:
    sent = [(await house.send(to=f"+336123{n:05d}", ttl_s=60)).otp_id for n in range(60)]
    await house.age(61)
    await asyncio.gather(*(house.redis_store.sweep(0, limit=7) for _ in range(40)))
    assert Counter(await expired(house)) == Counter(sent)
    ids = [event.event_id for event in await house.all_events()]
    assert len(set(ids)) == len(ids)


async def test_an_expired_code_leaves_room_and_its_session(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    await house.age(61)
    await house.sweep()
    assert (await house.refused(house.verify(sent.otp_id, code), "OTP_EXPIRED")).reason == "expired"
    await house.refused(house.resend(sent.otp_id), "OTP_EXPIRED")
    await house.refused(house.cancel(sent.otp_id), "OTP_NOT_PENDING")
    await house.send()


async def test_a_message_of_an_expired_code_ends_as_expired(house: House) -> None:
    sent = await house.send(ttl_s=60)
    await house.age(61)
    await house.sweep()
    assert await house.claim() == []
    assert await house.message_events() == [("message.expired", sent.message_id, "code_expired")]


async def test_the_loop_tells_by_itself_until_it_is_stopped(house: House) -> None:
    ids = [(await house.send(to=f"+336123{n:05d}", ttl_s=60)).otp_id for n in range(3)]
    await house.age(59.8)
    stop = asyncio.Event()
    async with asyncio.timeout(30):
        loop = asyncio.create_task(run_sweep(house.redis_store, 1, stop=stop))
        while sorted(await expired(house)) != sorted(ids):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.02)
        stop.set()
        await loop
    assert len(ids) < BATCH


async def test_what_was_told_to_have_expired_stays_so_when_the_clock_goes_back(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    await house.age(61)
    await house.sweep()
    await house.age(-30)
    await house.refused(house.verify(sent.otp_id, code), "OTP_EXPIRED")
    await house.refused(house.resend(sent.otp_id), "OTP_EXPIRED")
    assert await house.status(sent.otp_id) == "expired"


async def test_the_loop_outlives_whatever_the_store_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweep, "MAX_WAIT_S", 0.01)

    class Moody:
        def __init__(self) -> None:
            self.asked = 0

        async def sweep(self, partition: int, *, limit: int) -> Swept:
            self.asked += 1
            if self.asked < 3:
                raise ValueError("NOPERM")
            stop.set()
            return Swept(0, None)

    stop, store = asyncio.Event(), Moody()
    async with asyncio.timeout(30):
        await run_sweep(store, 1, stop=stop)
    assert store.asked == 3
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "NOPERM" not in caplog.text
