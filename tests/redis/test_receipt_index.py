"""Which message a gateway's id names: receipts before and after that is known, and who asks the gateway about it."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from otpsvc.redis import receipt_index
from otpsvc.redis.client import RedisClient
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.senders.contract import Channel, Receipt, ReceiptStatus, RejectionKind, SentMessage
from tests.otp.house import HOUR_S, House

SENDER = "vonage-eu"
LIFE_S = 300


def message(n: int = 1, provider_id: str | None = "") -> SentMessage:
    return SentMessage(
        message_id=f"msg_{n:026d}",
        provider_id=f"gateway id {n}" if provider_id == "" else provider_id,
        channel=Channel.SMS,
        sent_at=1_800_000_000.125 + n,
    )


def receipt(n: int = 1, status: ReceiptStatus = ReceiptStatus.DELIVERED, **fields: Any) -> Receipt:
    return Receipt(**{"status": status, "provider_id": f"gateway id {n}", **fields})


class Desk:
    """The index, and short ways to it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.index = RedisReceiptIndex(house.client, house.keys)

    async def now_ms(self) -> int:
        seconds, micros = await self.house.raw.time()
        return int(seconds * 1000 + micros // 1000)

    async def expect(
        self, sent: SentMessage, *, sender: str = SENDER, poll_in_s: float | None = None, life_s: float = LIFE_S
    ) -> list[Receipt]:
        ends_at = await self.now_ms() + int(life_s * 1000)
        return list(await self.index.expect(sent, sender=sender, expires_at_ms=ends_at, poll_in_s=poll_in_s))

    async def due(self, *, limit: int = 100, again_in_s: float = 15) -> list[SentMessage]:
        """Claim what is due; in the order of the ids, because those of one millisecond come in any."""
        due = await self.index.due_polls(SENDER, limit=limit, again_in_s=again_in_s)
        return sorted(due, key=lambda one: one.message_id)

    async def polled(self) -> int:
        return int(await self.house.raw.zcard(self.house.keys.polls(SENDER)))


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house)


# Receipts


async def test_a_receipt_finds_its_message(desk: Desk) -> None:
    assert await desk.expect(message(1)) == []
    assert await desk.expect(message(2)) == []
    assert await desk.index.find_or_park(SENDER, receipt(2)) == message(2).message_id
    assert await desk.index.find_or_park(SENDER, receipt(1)) == message(1).message_id
    assert await desk.index.find_or_park("another", receipt(1)) is None, "another gateway's ids are its own"


async def test_receipts_that_came_too_early_are_given_back_in_their_order(desk: Desk) -> None:
    early = [
        receipt(status=ReceiptStatus.ACCEPTED, happened_at=1_800_000_000.5),
        receipt(status=ReceiptStatus.FAILED, kind=RejectionKind.BLOCKED),
    ]
    for one in early:
        assert await desk.index.find_or_park(SENDER, one) is None
    assert await desk.index.find_or_park(SENDER, early[0]) is None, "a gateway may repeat itself"
    assert await desk.expect(message(2)) == []
    assert await desk.expect(message()) == early
    assert await desk.expect(message()) == early, "the answer may have been lost"
    assert await desk.index.find_or_park(SENDER, early[0]) == message().message_id


async def test_a_gateways_own_words_and_ids_are_not_parked(desk: Desk, redis_url: str) -> None:
    """A gateway may name messages after their codes; all that is sent to the store before it has answered is a hash."""
    told = receipt(
        provider_id="id-123456", detail="for +33612345678: 123456", receipt_id="r-123456", message_id="m-123456"
    )
    async with desk.house.raw.monitor() as monitor:
        assert await desk.index.find_or_park(SENDER, told) is None
        await desk.house.raw.ping()
        commands = [str((await monitor.next_command())["command"])]
        while not commands[-1].upper().startswith("PING"):
            commands.append(str((await monitor.next_command())["command"]))
    assert any(":parked:" in command for command in commands)
    assert "123456" not in repr(commands)
    assert "123456" not in repr(await desk.house.snapshot())
    assert await desk.expect(message(provider_id="id-123456")) == [receipt(provider_id="id-123456")]


@pytest.mark.parametrize("provider_id", [None, "", "x" * 256, "line\nbreak", "\ud800"])
async def test_what_cannot_be_an_id_is_neither_noted_nor_parked(desk: Desk, provider_id: str | None) -> None:
    assert await desk.index.find_or_park(SENDER, receipt(provider_id=provider_id)) is None
    odd = msgspec.structs.replace(message(), provider_id=provider_id)
    assert await desk.expect(odd, poll_in_s=0) == []
    await desk.index.end_polls(SENDER, [odd])
    assert await desk.house.names() == []


async def test_no_more_than_ten_receipts_are_parked_per_id_and_the_last_ones_stay(desk: Desk) -> None:
    early = [receipt(happened_at=float(n)) for n in range(25)]
    for one in early:
        await desk.index.find_or_park(SENDER, one)
    assert await desk.expect(message()) == early[-10:]


async def test_a_flood_about_ids_that_nobody_gave_fills_no_store(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_index, "MOST_PARKED", 5)
    await desk.index.find_or_park("another", receipt(1))
    for n in range(1, 13):
        await desk.index.find_or_park(SENDER, receipt(n))
        # Two receipts about one id take the room of one.
        await desk.index.find_or_park(SENDER, receipt(n, ReceiptStatus.SENT))
        await asyncio.sleep(0.002)  # the oldest is known by its millisecond
    assert sum(b":parked:" in name for name in await desk.house.names()) == 5 + 1
    assert [len(await desk.expect(message(n))) for n in (7, 8, 12)] == [0, 2, 2]
    assert len(await desk.expect(message(1), sender="another")) == 1
    await desk.house.age(121)
    await desk.index.find_or_park(SENDER, receipt(13))
    assert await desk.house.raw.zcard(desk.house.keys.parking(SENDER)) == 1


async def test_what_is_parked_is_forgotten_after_two_minutes(desk: Desk) -> None:
    await desk.index.find_or_park(SENDER, receipt())
    await desk.house.age(119)
    assert len(await desk.house.names()) == 2
    await desk.house.age(1)
    assert await desk.house.names() == []
    assert await desk.expect(message()) == []


async def test_no_receipt_falls_between_noting_and_finding(desk: Desk, redis_url: str) -> None:
    """Whatever comes first over connections of its own, each receipt is either found or given back, never both."""
    client = RedisClient(redis_url, timeout_s=5, max_connections=1)
    gateway = RedisReceiptIndex(client, desk.house.keys)
    n_early = 0
    try:
        for n in range(100):
            told = [receipt(n, happened_at=float(m)) for m in range(4)]
            noting = asyncio.create_task(desk.expect(message(n)))
            found = [await gateway.find_or_park(SENDER, one) for one in told]
            given = await noting
            for one, message_id in zip(told, found, strict=True):
                assert (message_id is None) == (one in given)
            n_early += len(given)
    finally:
        await client.close()
    assert 0 < n_early < 400


async def test_an_id_that_a_gateway_uses_again_names_the_later_message(desk: Desk) -> None:
    later = msgspec.structs.replace(message(2), provider_id=message(1).provider_id)
    await desk.expect(message(1), poll_in_s=0)
    await desk.expect(later, poll_in_s=0)
    assert await desk.index.find_or_park(SENDER, receipt(1)) == later.message_id
    assert await desk.due() == [later]
    await desk.index.end_polls(SENDER, [message(1)])
    await desk.house.age(15)
    assert await desk.due() == [later], "the earlier message's end is not the later one's"


@pytest.mark.parametrize("life_s", [-1e9, 0, LIFE_S, 1e9])
async def test_a_note_stays_an_hour_past_its_code_and_a_day_at_most(desk: Desk, life_s: float) -> None:
    await desk.expect(message(), life_s=life_s)
    stays_s = min(max(life_s, 0), 23 * HOUR_S) + HOUR_S
    await desk.house.age(stays_s - 5)
    assert await desk.index.find_or_park(SENDER, receipt()) == message().message_id
    await desk.house.age(5)
    assert await desk.index.find_or_park(SENDER, receipt()) is None


# Polls


async def test_only_what_is_to_be_polled_is_and_only_when_it_is_due(desk: Desk) -> None:
    await desk.expect(message(1))
    await desk.expect(message(2), poll_in_s=30)
    await desk.expect(message(3), poll_in_s=0)
    assert await desk.due(again_in_s=100) == [message(3)]
    await desk.house.age(30)
    assert await desk.due(again_in_s=100) == [message(2)]
    await desk.house.age(70)
    assert await desk.due(again_in_s=100) == [message(3)]


async def test_a_message_noted_again_keeps_its_turn(desk: Desk) -> None:
    await desk.expect(message(), poll_in_s=0)
    assert await desk.due(again_in_s=60) == [message()]
    await desk.expect(msgspec.structs.replace(message(), sent_at=1.0), poll_in_s=0)
    assert await desk.due() == []
    assert await desk.polled() == 1


async def test_no_two_pollers_get_the_same_within_its_time(desk: Desk, redis_url: str) -> None:
    for n in range(300):
        await desk.expect(message(n), poll_in_s=0)
    clients = [RedisClient(redis_url, timeout_s=5, max_connections=4) for _ in range(4)]
    pollers = [RedisReceiptIndex(client, desk.house.keys) for client in clients]
    try:
        for _ in range(3):
            asked = [poller.due_polls(SENDER, limit=13, again_in_s=60) for poller in pollers * 8]
            batches = await asyncio.gather(*asked)
            got = Counter(one.message_id for batch in batches for one in batch)
            assert len(got) == 300
            assert set(got.values()) == {1}
            assert max(map(len, batches)) == 13
            await desk.house.age(59)
            assert await desk.due() == []
            await desk.house.age(1)
    finally:
        for client in clients:
            await client.close()


async def test_polls_that_ended_are_asked_about_no_more(desk: Desk) -> None:
    for n in range(5):
        await desk.expect(message(n), poll_in_s=0)
    await desk.index.end_polls(SENDER, [message(1), message(3), message(1), message(99)])
    assert await desk.due() == [message(0), message(2), message(4)]
    await desk.index.end_polls(SENDER, [])
    assert await desk.polled() == 3
    assert await desk.index.find_or_park(SENDER, receipt(1)) == message(1).message_id, "its receipts are still read"


async def test_a_message_is_let_go_ten_minutes_after_its_code(desk: Desk) -> None:
    await desk.expect(message(1), poll_in_s=0, life_s=-600)
    await desk.expect(message(2), poll_in_s=0, life_s=-590)
    assert await desk.due() == [message(2)]
    assert await desk.polled() == 1
    assert await desk.index.find_or_park(SENDER, receipt(1)) == message(1).message_id, "its receipts are still read"


async def test_a_message_whose_note_is_gone_is_let_go(desk: Desk) -> None:
    await desk.expect(message(), poll_in_s=0)
    await desk.house.age(LIFE_S + HOUR_S)
    assert await desk.due() == []
    assert await desk.polled() == 0


async def test_what_is_too_old_does_not_stand_in_the_way(desk: Desk) -> None:
    for n in range(200):
        await desk.expect(message(n), poll_in_s=0, life_s=-600)
    await desk.expect(message(500), poll_in_s=1)
    await desk.house.age(1)
    assert await desk.due(limit=1) == [message(500)]
    assert await desk.polled() == 1


async def test_no_more_than_ten_thousand_are_asked_about(desk: Desk) -> None:
    key = desk.house.keys.polls(SENDER)
    far = await desk.now_ms() + 60_000
    await desk.house.raw.zadd(key, {f"id{n}": far for n in range(9_999)})
    await desk.expect(message(1), poll_in_s=0)
    early = receipt(2)
    await desk.index.find_or_park(SENDER, early)
    assert await desk.expect(message(2), poll_in_s=0) == [early]
    assert await desk.polled() == 10_000
    assert await desk.due() == [message(1)]
    assert await desk.index.find_or_park(SENDER, receipt(2)) == message(2).message_id, "its receipts are still read"
    await desk.index.end_polls(SENDER, [message(1)])
    await desk.expect(message(3), poll_in_s=0)
    assert await desk.due() == [message(3)]


async def test_a_thousand_are_given_at_once_at_most(desk: Desk) -> None:
    ends_at = await desk.now_ms() + LIFE_S * 1000
    expect = desk.index.expect
    await asyncio.gather(*(expect(message(n), sender=SENDER, expires_at_ms=ends_at, poll_in_s=0) for n in range(1_200)))
    everyone = await desk.due(limit=10_000)
    assert len(everyone) == 1000
    everyone += await desk.due(limit=10_000)
    assert len({one.message_id for one in everyone}) == 1_200
    await desk.index.end_polls(SENDER, everyone)
    assert await desk.polled() == 0


async def test_a_clock_set_back_stops_no_polls(desk: Desk) -> None:
    await desk.expect(message(), poll_in_s=0)
    await desk.due()
    await desk.house.age(-30 * 86_400)
    assert await desk.due() == [message()]
    assert await desk.due() == []
    await desk.house.age(15)
    assert await desk.due() == [message()]


async def test_every_key_ends_by_itself(desk: Desk) -> None:
    await desk.index.find_or_park(SENDER, receipt(2))
    await desk.expect(message(), poll_in_s=0)
    await desk.due()
    names = await desk.house.names()
    assert len(names) == 4
    for name in names:
        assert 0 < await desk.house.raw.pttl(name) <= 86_400_000
    assert b"gateway id" not in b"".join(names)
