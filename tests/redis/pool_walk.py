"""A pool of phones that anything happens to, with a second book kept by the test, which no script ever sees."""

import asyncio
import time
from collections import defaultdict
from typing import Any

from otpsvc.devices.model import Device, DeviceStatus, Gone, Pulled, Told
from otpsvc.devices.policy import Budget
from tests.otp.house import OTHER_CLIENT, House
from tests.redis.phones import SENDER, SLOTS, Phones
from tests.redis.presence import later

# As `House.age`, in one step of the server: a walk is long.
AGE = """
for _, name in ipairs(redis.call('KEYS', '*')) do
  local kind, left = redis.call('TYPE', name).ok, redis.call('PTTL', name)
  if kind == 'hash' then
    local facts = redis.call('HGETALL', name)
    for place = 1, #facts, 2 do
      local is_time = string.find(facts[place], '_at$') or string.find(facts[place], '_until$')
      if is_time and facts[place + 1] ~= '' then
        redis.call('HSET', name, facts[place], facts[place + 1] - ARGV[1])
      end
    end
  elseif kind == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', name, 0, -1)) do
      redis.call('ZINCRBY', name, -ARGV[1], member)
    end
  end
  if left >= 0 then
    redis.call('PEXPIRE', name, left - ARGV[1])
  end
end
"""
WINDOW_S, MOST_MESSAGES, MOST_RECIPIENTS = 60, 3, 3
LIFE_S, DAY_S = 300, 86_400
PASSED = {"silent", "failed", "cancelled"}


class PoolWalk:
    """Each public method is one step; `check` is what must hold after every one of them."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.phones = Phones(house)
        self.team: list[Device] = []
        self.messages: list[str] = []
        self._connected: dict[str, int] = {}
        self._out: set[str] = set()
        self._aged_s = 0.0
        self._recipient: dict[str, str] = {}
        self._sent_at: dict[str, float] = {}
        self._ended: set[str] = set()
        self._given_up: set[str] = set()
        self._pulled_at: dict[tuple[str, str], float] = {}
        self._said: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._told: dict[str, list[str]] = defaultdict(list)
        self._left: set[str] = set()

    async def begin(self, phones: int = 3) -> None:
        await self.house.raw.flushdb()
        budget = Budget(messages_per_window=MOST_MESSAGES, window_s=WINDOW_S, recipients_per_day=MOST_RECIPIENTS)
        for _ in range(phones):
            device = await self.phones.phone(is_there=False, budget=budget)
            self.team.append(device)
            await self.come(len(self.team) - 1)
        await self.phones.phone(client_id=OTHER_CLIENT)
        await self.phones.phone(mode="live")

    # -- what happens

    async def send(self, recipient: int) -> None:
        message_id = await self.phones.message()
        self.messages.append(message_id)
        self._recipient[message_id], self._sent_at[message_id] = f"to{recipient % 5}", self._now()
        await self._offer(message_id)

    async def offer_again(self, message: int) -> None:
        if message_id := self._message(message):
            before = await self.phones.record(message_id)
            offer = await self._offer(message_id)
            if before and before["is_withdrawn"] == "0" and before["owed"] == "" and offer.outcome == "offered":
                assert offer.device_id == before["holder"]

    async def pull(self, phone: int) -> None:
        device = self._phone(phone)
        before = {message_id: await self.phones.states(message_id) for message_id in self.messages}
        duplicates = await self._possible_duplicates()
        now = self._now()
        if await self.phones.presence.seen(device, is_pull=True) is None:
            return
        for one in await self.phones.offers.pull(device, limit=100, slots=SLOTS) or []:
            self._check_pulled(device, one, before[one.message_id], duplicates)
            if not one.is_cancelling:
                self._pulled_at.setdefault((device.id, one.message_id), now)

    async def pull_by_holder(self, message: int) -> None:
        """Let the phone pull that a message lies in wait for."""
        if (place := await self._holder(message)) is not None:
            await self.pull(place)

    async def report_by_holder(self, message: int, word: int) -> None:
        """Let the phone speak that had a message last."""
        if (place := await self._holder(message)) is not None:
            await self.report(place, message, word)

    async def report(self, phone: int, message: int, word: int) -> None:
        device, message_id = self._phone(phone), self._message(message)
        status = ("processed", "sent", "delivered", "failed", "failed", "cancelled")[word % 6]
        if not message_id:
            return
        state = (await self.phones.states(message_id)).get(device.id, "")
        told = await self.phones.report(device, message_id, status, next_may_try=word % 7 != 3)
        if not state:
            assert told.outcome in {"ignored", "retired"}
        if told.outcome not in {"ignored", "retired"}:
            self._said[device.id, message_id].add(status)
            if status in {"sent", "delivered"}:
                self._left.add(message_id)
        await self._settle(told, is_lost=word % 5 == 0)

    async def report_from_elsewhere(self, message: int, word: int) -> None:
        if message_id := self._message(message):
            foreign = await self.phones.phone(client_id=OTHER_CLIENT, is_there=False)
            before = await self.phones.record(message_id)
            told = await self.phones.report(foreign, message_id, ("sent", "failed")[word % 2])
            assert told.outcome == "ignored"
            assert await self.phones.record(message_id) == before

    async def look(self, message: int) -> None:
        if message_id := self._message(message):
            await self._settle(await self.phones.look(message_id))

    async def mind(self, is_lost: int = 0) -> None:
        for offer in await self.phones.offers.due(limit=100, again_in_ms=2000):
            await self._settle(await self.phones.offers.look(offer), is_lost=is_lost % 3 == 1)
        await self.phones.presence.look()

    async def age(self, choice: int) -> None:
        seconds = (2, 11, 11, 31, 31, 61)[choice % 6]
        await self.house.raw.eval(AGE, 0, seconds * 1000)
        self._aged_s += seconds
        for place, device in enumerate(self.team):
            if device.id in self._connected:
                await self.come(place)

    async def pass_time(self, choice: int) -> None:
        """Let time pass, and look at what is due then."""
        await self.age(choice)
        await self.mind()

    async def come(self, phone: int) -> None:
        device = self._phone(phone)
        if device.id not in self._out:
            number = self._connected.setdefault(device.id, time.monotonic_ns())
            await self.phones.presence.seen(device, stream=f"s{number}")

    async def leave(self, phone: int) -> None:
        device = self._phone(phone)
        if number := self._connected.pop(device.id, None):
            await self.phones.presence.devices.left(device, f"s{number}", Gone.CONNECTION_LOST)

    async def vanish(self, phone: int) -> None:
        device = self._phone(phone)
        self._connected.pop(device.id, None)
        await self.phones.go(device)

    async def retire(self, phone: int) -> None:
        device = self._phone(phone)
        self._connected.pop(device.id, None)
        self._out.add(device.id)
        await self.phones.presence.devices.retire(later(device, status=DeviceStatus.DISABLED), Gone.USER_LOGOUT)

    async def verify(self, message: int) -> None:
        message_id = self._message(message)
        if message_id and message_id not in self._ended and self._now() - self._sent_at[message_id] < LIFE_S - 5:
            await self.phones.verify(message_id)
            self._ended.add(message_id)

    async def ask_another_sender(self, message: int) -> None:
        if message_id := self._message(message):
            name = self.house.keys.partitions[0].message_base + message_id
            if await self.house.raw.exists(name):
                await self.house.raw.hset(name, "asked", f"{SENDER}=silent other=begun")
                self._ended.add(message_id)

    async def withdraw(self, message: int) -> None:
        if message_id := self._message(message):
            pulled = [pair for pair in self._pulled_at if pair[1] == message_id]
            was_offered = bool(await self.phones.record(message_id))
            is_back = await self.phones.offers.withdraw(self.team[0].tenant, message_id)
            assert not (is_back and [pair for pair in pulled if not self._said[pair] & {"failed", "cancelled"}])
            if was_offered:
                self._given_up.add(message_id)

    # -- what must hold

    async def check(self) -> None:
        waiting = await self.phones.waiting()
        records = dict(zip(self.messages, await asyncio.gather(*map(self.phones.record, self.messages)), strict=True))
        for message_id, record in records.items():
            if record:
                self._check_not_forgotten(message_id, record, message_id in waiting)
        states = {
            message_id: dict(pair.split("=") for pair in record.get("by", "").split())
            for message_id, record in records.items()
        }
        await asyncio.gather(*(self._check_budget(device, states) for device in self.team))

    async def live_out(self) -> None:
        """Let time pass until nobody looks at anything any more: all is told that was known."""
        for _ in range(40):
            if not await self.phones.waiting():
                break
            await self.age(2)
            await self.mind()
            await self.check()
        assert await self.phones.waiting() == {}
        for message_id in self.messages:
            record, states = await self.phones.record(message_id), set((await self.phones.states(message_id)).values())
            if not record or message_id in self._given_up:
                continue
            assert not states & {"offered"}
            if message_id in self._left:
                assert {"sent", "delivered"} & set(self._told[message_id])
            elif not states & {"pulled", "processed", "silent"}:
                assert self._told[message_id][-1] in {"failed", "cancelled"}

    def _check_pulled(
        self, device: Device, one: Pulled, states: dict[str, str], duplicates: set[tuple[str, str]]
    ) -> None:
        assert device.id not in self._out
        assert one.message_id in self.messages
        if one.is_cancelling:
            assert (device.id, one.message_id) in self._pulled_at
            assert one.sealed == b""
            return
        assert one.message_id not in self._ended
        assert one.message_id not in self._left
        assert self._now() - self._sent_at[one.message_id] < LIFE_S
        for other, message_id in self._pulled_at:
            if message_id == one.message_id and other != device.id:
                # A word of one that was passed may come late: that it is at it after all.
                is_late_word = states[other] == "processed" and (other, message_id) in duplicates
                assert states[other] in PASSED or is_late_word
                if not self._said[other, message_id] & {"failed", "cancelled"}:
                    assert (other, message_id) in duplicates

    def _check_not_forgotten(self, message_id: str, record: dict[str, str], is_waiting: bool) -> None:
        is_told = record["owed"] == record["told"]
        assert not (is_told and record["owed"]) or record["owed"].partition(":")[0] in self._told[message_id]
        is_over = self._now() - self._sent_at[message_id] >= LIFE_S
        is_withdrawn = record["is_withdrawn"] == "1"
        if not is_waiting:
            assert is_told
            assert record["owed"] or is_over or is_withdrawn, record
            assert "=offered" not in record["by"], record

    async def _check_budget(self, device: Device, states: dict[str, dict[str, str]]) -> None:
        now = self._now()
        times = sorted(at for (owner, _), at in self._pulled_at.items() if owner == device.id)
        for place, first in enumerate(times):
            # A little less than the window, because the test's clock is not the server's.
            assert sum(1 for at in times[place:] if at < first + WINDOW_S - 0.5) <= MOST_MESSAGES
        people = {
            self._recipient[message_id]
            for (owner, message_id), at in self._pulled_at.items()
            if owner == device.id and at > now - DAY_S
        }
        assert len(people) <= MOST_RECIPIENTS
        counted, recipients = await self.phones.counted(device)
        assert people <= set(recipients)
        for message_id in self.messages:
            state = states[message_id].get(device.id)
            if state == "offered":
                assert message_id in counted
                assert self._recipient[message_id] in recipients
            if state == "withdrawn":
                assert message_id not in counted
        is_in = [message_id for message_id in counted if (device.id, message_id) not in self._pulled_at]
        young = [at for at in times if at > now - WINDOW_S + 0.5]
        assert len(young) + len(is_in) <= MOST_MESSAGES

    # -- small things

    async def _offer(self, message_id: str) -> Any:
        offer = await self.phones.offer(message_id, recipient=self._recipient[message_id])
        if offer.outcome == "offered" and message_id in self._given_up:
            record = await self.phones.record(message_id)
            if record["is_withdrawn"] == "0":
                self._given_up.discard(message_id)
        return offer

    async def _possible_duplicates(self) -> set[tuple[str, str]]:
        """The phones that were passed though they had pulled, as it was told, each with its message."""
        return {
            (event.data["device"], event.message_id)
            for event in await self.house.all_events()
            if event.name == "message.taken_over" and event.data.get("may_duplicate") == "1"
        }

    async def _settle(self, told: Told, *, is_lost: bool = False) -> None:
        if told.status and not is_lost:
            await self.phones.settle(told)
            self._told[told.message_id].append(told.status)

    def _phone(self, number: int) -> Device:
        return self.team[number % len(self.team)]

    async def _holder(self, message: int) -> int | None:
        record = await self.phones.record(self._message(message))
        ids = [device.id for device in self.team]
        return ids.index(record["holder"]) if record else None

    def _message(self, number: int) -> str:
        """One of the last few."""
        return self.messages[-1 - number % min(len(self.messages), 3)] if self.messages else ""

    def _now(self) -> float:
        return time.monotonic() + self._aged_s
