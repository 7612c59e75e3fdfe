"""One message lived twice: by the scripts on the store and by the queue in memory, step by step the same.

What must hold of every message whatever happens to it is checked after each step.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from otpsvc.crypto import Keyring
from otpsvc.messages.model import ClaimedMessage, MessageStatus, ReceiptFact, Tried
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.redis.receipts import RedisReceiptBook
from otpsvc.testing import ManualClock, MemoryQueue
from tests.otp.house import MASTERS, House

SENDERS = ("a", "b", "c")
LEASE_S, WAIT_S, STEP_S = 20.0, 20.0, 25.0
FINAL = {"delivered", "failed", "expired", "cancelled"}
AFTER_SENT = {"sent", "delivered", "failed"}
DOUBT = ("failed", "unknown_outcome")
AFTER_DOUBT = {"failed", "sent", "delivered"}
BOUNDED = (b":due", b":ends", b":events")


class Seen(NamedTuple):
    """What a claim brought, as far as both can tell it the same way."""

    tries: int
    begun_by: str
    awaiting: str
    asked: dict[str, str]

    @classmethod
    def of(cls, claimed: ClaimedMessage) -> "Seen":
        return cls(claimed.tries, claimed.begun_by, claimed.awaiting, claimed.asked)


def book_of(house: House, event_limit: int = 100_000) -> RedisReceiptBook:
    index = RedisReceiptIndex(house.client, house.keys)
    return RedisReceiptBook(house.client, house.keys, index, event_limit=event_limit)


class TwiceLived:
    """Every step is done on both sides, and must be answered alike."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.book = book_of(house)
        self.clock = ManualClock()
        self.id = self.memory_id = self.code = self.otp_id = ""

    async def send(self) -> None:
        """Begin anew with one message."""
        await self.house.raw.flushall()
        self.memory = MemoryQueue(self.clock, Keyring.from_masters(MASTERS))
        self.statuses = ["queued"]
        self.tokens: list[tuple[str, str]] = [("none", "none")]
        sent, self.code = await self.house.send_with_code()
        self.id, self.otp_id = sent.message_id, sent.otp_id
        self.memory_id = self.memory.add()

    async def claim(self) -> None:
        ours = await self.house.claim(lease_s=LEASE_S)
        theirs = (await self.memory.claim(limit=100, lease_s=LEASE_S)).messages
        assert [Seen.of(one) for one in ours] == [Seen.of(one) for one in theirs]
        if ours:
            self.tokens.append((ours[0].token, theirs[0].token))

    async def begin(self, sender: str, tried: Sequence[Tried], *, may_duplicate: bool, stale: int) -> None:
        # Nobody calls the sender that it passes.
        tried = [one for one in tried if one.sender != sender]
        await self._same("begin", stale, sender=sender, tried=tried, may_duplicate=may_duplicate)

    async def sent(self, sender: str, tried: Sequence[Tried], *, receipt_in_s: float | None, stale: int) -> None:
        await self._same(
            "record_sent", stale, sender=sender, provider_id=f"g-{sender}", tried=tried, receipt_in_s=receipt_in_s
        )

    async def keep(self, tried: Sequence[Tried], *, stale: int) -> None:
        await self._same("record_kept", stale, tried=tried)

    async def finish(self, status: MessageStatus, reason: str, tried: Sequence[Tried], *, stale: int) -> None:
        await self._same("record_final", stale, status, reason=reason, tried=tried)

    async def release(self, begun_by: str, tried: Sequence[Tried], *, due_in_s: float, stale: int) -> None:
        await self._same("release", stale, due_in_s=due_in_s, reason="later", begun_by=begun_by, tried=tried)

    async def receipt(self, sender: str, fact: ReceiptFact) -> None:
        ours = await self.book.apply(self.id, sender, fact)
        assert ours == await self.memory.apply(self.memory_id, sender, fact), (sender, fact)

    async def pass_time(self) -> None:
        await self.house.age(STEP_S)
        self.clock.advance(STEP_S)

    async def verify(self) -> None:
        """The code is used: nobody wants the message any more."""
        await self.house.verify(self.otp_id, self.code)
        self.memory.unwanted.add(self.memory_id)

    async def _same(self, name: str, stale: int, *args: Any, **options: Any) -> None:
        # The last lease is the one that holds, if any does; those before it are stale.
        ours, theirs = self.tokens[-1 - stale % len(self.tokens)]
        answer = await getattr(self.house.queue, name)(self.id, ours, *args, **options)
        assert answer == await getattr(self.memory, name)(self.memory_id, theirs, *args, **options)

    async def look(self) -> None:
        """What must hold after each step."""
        record = self.memory.messages[self.memory_id]
        stored = await self.house.message(self.id)
        is_due, has_text = await self.house.waiting() == [self.id], await self.house.has_text(self.id)
        assert stored.get("status") == record.status.value
        assert stored.get("sender", "") == record.sender
        assert dict(one.split("=") for one in stored.get("asked", "").split()) == record.asked
        for name, expected in (("begun_by", record.claimed.begun_by), ("awaiting", record.claimed.awaiting)):
            assert stored.get(name, "") == expected, name
        assert is_due == record.is_waiting
        assert not has_text or is_due, "a text that nobody can send any more"
        assert is_due or "token" not in stored
        await self._look_at_events()
        self._look_at_status(stored["status"], stored.get("reason", ""))
        for key in await self.house.names():
            assert key.endswith(BOUNDED) or await self.house.raw.pttl(key) > 0, key

    async def _look_at_events(self) -> None:
        record = self.memory.messages[self.memory_id]
        events = [event for event in await self.house.all_events() if event.name.startswith("message.")]
        tried = [event.data for event in events if event.name == "message.tried"]
        assert [(one["sender"], one["outcome"], "may_duplicate" in one) for one in tried] == record.tried
        others = [event for event in events if event.name != "message.tried"]
        told = [
            (event.name.partition(".")[2].replace("postponed", "queued"), event.data["reason"] or event.data["sender"])
            for event in others
        ]
        words = {"expired": "code_expired", "cancelled": "verified"}
        expected = [(s.value, words.get(word, word) if s.value in words else word) for s, word in record.events]
        assert told == expected
        ends = [one for one in told if one[0] in FINAL]
        # Only an end of which nobody knew is followed by anything; by another such end if it was sent in between.
        assert set(ends[:-1]) <= {DOUBT}, ends
        assert (DOUBT, DOUBT) not in pairwise(told), told
        assert len({event.event_id for event in events}) == len(events)
        assert all(event.data["created_at"] and event.data["tries"] for event in events)

    def _look_at_status(self, status: str, reason: str) -> None:
        before = self.statuses[-1]
        if before == "doubt":
            assert status in AFTER_DOUBT
        elif before in FINAL:
            assert status == before
        elif before == "sent":
            assert status in AFTER_SENT
        self.statuses.append("doubt" if (status, reason) == DOUBT else status)

    async def live_out(self) -> None:
        """Nobody does anything any more but claim: the message comes to its end."""
        for _ in range(16):
            await self.claim()
            await self.look()
            if await self.house.waiting() == []:
                break
            await self.pass_time()
        assert await self.house.waiting() == []
        assert not await self.house.has_text(self.id)
        assert self.statuses[-1] in {*FINAL, "sent", "doubt"}
