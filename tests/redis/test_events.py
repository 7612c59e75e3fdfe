"""The event streams: read once, kept until they are acknowledged, cut off behind what is, whatever dies in between."""

import asyncio

from otpsvc.events.model import StreamEntry
from tests.otp.house import House, open_house

NOBODY = 0.01
OWNER = {"client": "c", "mode": "live", "otp_id": "o", "message_id": "m"}


async def send_many(house: House, n: int) -> list[str]:
    return [(await house.send(to=f"+336123{i:05d}")).otp_id for i in range(n)]


async def length(house: House) -> int:
    return int(await house.raw.xlen(house.keys.partitions[0].events))


def otps(entries: list[StreamEntry]) -> list[str]:
    return [entry.event.otp_id for entry in entries]


async def test_events_from_before_the_group_are_read_too_and_each_once(house: House) -> None:
    sent = await send_many(house, 3)
    await house.stream.prepare()
    first = await house.stream.read(limit=2, wait_s=NOBODY)
    second = await house.stream.read(limit=10, wait_s=NOBODY)
    assert otps([*first, *second]) == sent
    assert await house.stream.read(limit=10, wait_s=NOBODY) == []
    assert await length(house) == 3


async def test_an_event_says_all_that_history_needs(house: House) -> None:
    caller = house.caller()
    sent, code = await house.send_with_code(caller, metadata={"order": 7}, purpose="login")
    await house.stream.prepare()
    (entry,) = await house.stream.read(limit=10, wait_s=NOBODY)
    event, view = entry.event, await house.get(sent.otp_id)
    assert (event.name, event.otp_id, event.message_id) == ("otp.sent", sent.otp_id, sent.message_id)
    assert (event.client_id, event.mode, event.occurred_at) == (caller.client_id, "test", view.created_at)
    to_index = house.keyring.index("number", "+33612345678").hex()
    assert event.data == {
        "purpose": "login",
        "code_length": "6",
        "max_attempts": "3",
        "channel": "sms",
        "parts": "1",
        "to": sent.to,
        "to_index": to_index,
        "text": f"code {'•' * 6} for 300 s",
        "metadata": '{"order":7}',
        "expires_at": str(view.expires_at),
        "resend_at": str(view.resend_at),
    }
    assert code.encode() not in event.to_sealed
    assert b"33612345678" not in event.to_sealed
    assert event.to_sealed


async def test_a_resend_tells_the_same_about_its_own_message(house: House) -> None:
    sent = await house.send(metadata={"order": 7})
    again = await house.resend(sent.otp_id)
    first, _, second = await house.all_events()
    assert (second.name, second.message_id) == ("otp.resent", again.message_id)
    assert {**first.data, "expires_at": "", "resend_at": ""} == {**second.data, "expires_at": "", "resend_at": ""}
    assert first.to_sealed == second.to_sealed


async def test_what_is_acknowledged_leaves_and_nothing_before_it_is_lost(house: House) -> None:
    sent = await send_many(house, 5)
    await house.stream.prepare()
    entries = await house.stream.read(limit=4, wait_s=NOBODY)
    await house.stream.acknowledge(entries[1:3])
    assert await length(house) == 5
    await house.stream.acknowledge(entries[:1])
    assert await length(house) == 2
    await house.stream.acknowledge(entries[:3])
    await house.stream.acknowledge(entries[3:])
    assert await length(house) == 1
    (last,) = await house.stream.read(limit=4, wait_s=NOBODY)
    assert last.event.otp_id == sent[4]
    await house.stream.acknowledge([last])
    await house.stream.acknowledge([last])
    assert await length(house) == 0


async def test_what_a_dead_drain_had_read_is_taken_over(house: House) -> None:
    sent = await send_many(house, 3)
    await house.stream.prepare()
    await house.stream.read(limit=10, wait_s=NOBODY)
    assert await house.stream.reclaim(idle_s=60, limit=10) == []
    assert otps(await house.stream.reclaim(idle_s=0, limit=2)) == sent[:2]
    assert otps(await house.stream.reclaim(idle_s=0, limit=10)) == sent


async def test_many_drains_share_without_twins(house: House) -> None:
    sent = await send_many(house, 40)
    await house.stream.prepare()
    batches = await asyncio.gather(*(house.stream.read(limit=3, wait_s=NOBODY) for _ in range(20)))
    assert sorted(otps([entry for batch in batches for entry in batch])) == sorted(sent)
    await asyncio.gather(*(house.stream.acknowledge(batch) for batch in batches))
    assert await length(house) == 0


async def test_the_backlog_counts_what_was_not_written(house: House) -> None:
    await house.stream.prepare()
    assert await house.stream.backlog() == (0, 0.0)
    await send_many(house, 3)
    entries = await house.stream.read(limit=2, wait_s=NOBODY)
    backlog = await house.stream.backlog()
    assert backlog.unwritten == 3
    assert backlog.oldest_age_s >= 0
    await house.stream.acknowledge(entries)
    assert (await house.stream.backlog()).unwritten == 1


async def test_a_store_that_was_emptied_is_prepared_again(house: House) -> None:
    await house.stream.prepare()
    await house.raw.flushall()
    await send_many(house, 1)
    assert await house.stream.read(limit=2, wait_s=NOBODY) == []
    assert len(await house.stream.read(limit=2, wait_s=NOBODY)) == 1


async def test_a_foreign_entry_does_not_hold_up_the_others(house: House) -> None:
    await house.stream.prepare()
    await house.raw.xadd(house.keys.partitions[0].events, {b"nonsense": b"\xff"})
    await send_many(house, 1)
    entries = await house.stream.read(limit=10, wait_s=NOBODY)
    assert [entry.event.data.get("is_unreadable") for entry in entries] == ["true", None]
    await house.stream.acknowledge(entries)
    assert await length(house) == 0


async def test_all_partitions_are_read(redis_url: str) -> None:
    async with open_house(redis_url, partitions=4) as house:
        sent = await send_many(house, 30)
        await house.stream.prepare()
        entries = []
        while batch := await house.stream.read(limit=8, wait_s=NOBODY):
            entries += batch
        assert sorted(otps(entries)) == sorted(sent)
        assert len({entry.partition for entry in entries}) == 4
        assert (await house.stream.backlog()).unwritten == 30
        await house.stream.acknowledge(entries)
        assert (await house.stream.backlog()).unwritten == 0


async def test_what_is_acknowledged_after_the_stream_was_lost_holds_up_nobody(house: House) -> None:
    """An empty replica was promoted, say, while a drain had a batch in hand."""
    await send_many(house, 2)
    await house.stream.prepare()
    entries = await house.stream.read(limit=10, wait_s=NOBODY)
    await house.raw.flushall()
    await house.stream.acknowledge(entries)
    await send_many(house, 1)
    await house.stream.acknowledge(entries)
    await house.stream.prepare()
    assert len(await house.stream.read(limit=10, wait_s=NOBODY)) == 1


async def test_a_small_batch_stays_small_over_many_partitions(redis_url: str) -> None:
    """A share of nothing would be all there is."""
    async with open_house(redis_url, partitions=64) as house:
        await house.stream.prepare()
        for n in range(50):
            await house.raw.xadd(
                house.keys.partitions[3].events, {"event_id": f"e{n}", "event": "x", "occurred_at": 1, **OWNER}
            )
        found = 0
        while found < 50:
            batch = await house.stream.read(limit=2, wait_s=NOBODY)
            assert 0 < len(batch) <= 8
            found += len(batch)


async def test_one_busy_partition_moves_as_fast_as_many(redis_url: str) -> None:
    async with open_house(redis_url, partitions=64) as house:
        await house.stream.prepare()
        busy = house.keys.partitions[17].events
        for n in range(200):
            await house.raw.xadd(busy, {"event_id": f"e{n}", "event": "otp.sent", "occurred_at": 1, **OWNER})
        batches = []
        while batch := await house.stream.read(limit=400, wait_s=NOBODY):
            batches.append(len(batch))
        assert sum(batches) == 200
        assert len(batches) <= 5
