"""The part of the story that is about senders: their gates, their receipts that come too early, and their polls."""

from otpsvc.messages.policy import SenderLimits
from otpsvc.messages.ports import Verdict
from otpsvc.redis.gates import RedisGates
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.senders.contract import Channel, Receipt, ReceiptStatus, SentMessage
from tests.otp.house import House

SENDER, BROKEN, RESTING, SILENT = "steady", "broken", "resting", "silent"
LIMITS = {
    SENDER: SenderLimits(rate_per_s=0.01),
    BROKEN: SenderLimits(breaker_failures=1, concurrency=1),
    # It ends its pause at once, so that nobody has to wait to see what comes after it.
    RESTING: SenderLimits(breaker_failures=1, breaker_pause_s=0),
    SILENT: SenderLimits(missed_receipts=1, missed_for_s=0),
}
MOST_POLLS = 10_000


async def pass_the_gates(house: House) -> None:
    gates = RedisGates(house.client, house.keys, LIMITS)

    async def call(sender: str, permit: str, verdict: Verdict) -> None:
        assert not (await gates.admit(sender, permit, lapses_in_s=60)).held
        await gates.report(sender, permit, verdict)

    async def held(sender: str) -> str:
        return (await gates.admit(sender, "late", lapses_in_s=60)).held

    await call(SENDER, "p1", "works")
    assert await held(SENDER) == "rate"
    await gates.report(SENDER, "p1", "works")
    await gates.report(SENDER, "", "unclear", hold_s=60)
    await gates.admit(BROKEN, "p2", lapses_in_s=60)
    assert await held(BROKEN) == "crowd"
    await gates.report(BROKEN, "p2", "fails")
    assert await held(BROKEN) == "open"
    await call(RESTING, "p3", "fails")
    states = await gates.states()
    assert [states[name].state for name in (SENDER, BROKEN, RESTING)] == ["closed", "open", "half_open"]
    await gates.admit(RESTING, "p4", lapses_in_s=60)
    assert await held(RESTING) == "open"
    await gates.report(RESTING, "p4", "works")
    await gates.admit(RESTING, "p5", lapses_in_s=60)
    for _ in range(2):
        await gates.missed(SILENT, "0badc0de")
    assert (await gates.admit(SILENT, "p6", lapses_in_s=60, has_others=True)).held == "demoted"
    await gates.heard(SILENT)
    await gates.missed(SILENT, "0badc0de")


async def await_receipts(house: House) -> None:
    index = RedisReceiptIndex(house.client, house.keys)
    expires_at_ms = int((await house.raw.time())[0]) * 1000 + 300_000
    sent = [
        SentMessage(message_id=f"msg_{n:026d}", provider_id=f"g{n}", channel=Channel.SMS, sent_at=1.0) for n in range(4)
    ]
    early, lost = (Receipt(status=ReceiptStatus.SENT, provider_id=name) for name in ("g0", "elsewhere"))
    for receipt in (early, early, lost):
        assert await index.find_or_park(SENDER, receipt) is None
    for one in (*sent[:3], sent[0]):
        await index.expect(one, sender=SENDER, expires_at_ms=expires_at_ms, poll_in_s=0)
    assert await index.find_or_park(SENDER, early) == sent[0].message_id
    await index.end_polls(SENDER, sent[:1])
    due = await index.due_polls(SENDER, limit=10, again_in_s=15)
    assert sorted(one.message_id for one in due) == [one.message_id for one in sent[1:3]]
    # As many as may be, so that one more finds no room.
    crowd = {f"{n:032x}": 0 for n in range(MOST_POLLS)}
    await house.raw.zadd(house.keys.polls(SENDER), crowd)
    await index.expect(sent[3], sender=SENDER, expires_at_ms=expires_at_ms, poll_in_s=0)
    await house.raw.zrem(house.keys.polls(SENDER), *crowd)
