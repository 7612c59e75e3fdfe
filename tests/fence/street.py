"""Phones in the street over a store that forgets, and the test's own book of what they did, which forgets nothing.

A handset is the app on a phone: it takes each message once, and says again how far it is with whatever it is given.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from otpsvc.devices.model import Device
from tests.fence.pair import running_pair
from tests.otp.house import House, open_house
from tests.redis.phones import SLOTS, Phones
from tests.redis.pool_walk import AGE
from tests.redis.presence import device_of
from tests.redis.servers import running


class Fall(NamedTuple):
    """How a store loses its last writes: what is written after `begin` is gone with the server at `end`.

    `end` gives the address of the store that is there then.
    """

    url: str
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[str]]


@asynccontextmanager
async def promotion() -> AsyncIterator[Fall]:
    """A replica that lacks the last writes takes over from a primary that died; once."""
    async with running_pair() as pair:

        async def end() -> str:
            await pair.fail_over()
            return pair.replica.url

        yield Fall(pair.primary.url, pair.cut, end)


@asynccontextmanager
async def restart() -> AsyncIterator[Fall]:
    """A server crashes and comes back without what had not reached its disk; as often as a test wants."""
    async with running() as server:

        async def begin() -> None:
            server.remember()

        async def end() -> str:
            await server.lose_the_rest()
            return server.url

        yield Fall(server.url, begin, end)


FALLS = {"promotion": promotion, "restart": restart}


@dataclass
class Handset:
    """One phone. `knows` is how far it is with each message; `unsaid` what it has yet to say."""

    device: Device
    is_there: bool = True
    knows: dict[str, str] = field(default_factory=dict)
    unsaid: list[str] = field(default_factory=list)

    def take(self, message_id: str, *, is_cancelling: bool) -> bool:
        """Take one message of a list; say whether it is a new one to be sent."""
        known = self.knows.get(message_id)
        if is_cancelling and known in (None, "taken"):
            self.knows[message_id] = "cancelled"
        elif known is None:
            self.knows[message_id] = "taken"
        if self.knows[message_id] != "taken":
            self.unsaid.append(message_id)
        return known is None and not is_cancelling


class Street:
    """Handsets and messages. Between two falls everything goes over `phones` and its house."""

    phones: Phones
    house: House

    def __init__(self, handsets: int, *, is_fenced: bool) -> None:
        devices = [device_of(sims=()) for _ in range(handsets)]
        self.handsets = {device.id: Handset(device) for device in devices}
        self.arrived: Counter[str] = Counter()
        self.given_after_a_fall: set[str] = set()
        self._is_fenced = is_fenced
        self._n_stores = 0
        self._made_in: dict[str, int] = {}
        self._codes: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._duplicates: dict[str, str] = {}

    @asynccontextmanager
    async def over(self, url: str) -> AsyncIterator[None]:
        """Go on with the store at this address, to which every phone comes that is there."""
        async with open_house(url, is_fenced=self._is_fenced) as house:
            self._n_stores += 1
            self.house, self.phones = house, Phones(house, is_fenced=self._is_fenced)
            self.phones.otp_of, self.phones.code_of = self._codes
            await self.come()
            yield
            await self.check()

    async def come(self) -> None:
        """Let every phone that is there say so."""
        for handset in self.handsets.values():
            if handset.is_there:
                await self.phones.come(handset.device)

    async def message(self, *, to: str = "") -> str:
        """Let a code be sent and a worker begin with it."""
        message_id = await self.phones.message(to=to)
        self._made_in[message_id] = self._n_stores
        return message_id

    async def holder(self, message_id: str) -> Handset | None:
        """The phone that has a message, as the store knows it."""
        return self.handsets.get((await self.phones.record(message_id)).get("holder", ""))

    async def pull(self, handset: Handset) -> None:
        await self.phones.presence.seen(handset.device, is_pull=True)
        for one in await self.phones.offers.pull(handset.device, limit=100, slots=SLOTS) or ():
            is_new = handset.take(one.message_id, is_cancelling=one.is_cancelling)
            if is_new and self._made_in[one.message_id] < self._n_stores:
                self.given_after_a_fall.add(one.message_id)

    async def radio(self, handset: Handset, *, fails: bool = False) -> None:
        """Send what the phone has taken, or fail to."""
        for message_id, state in handset.knows.items():
            if state == "taken":
                handset.knows[message_id] = "failed" if fails else "sent"
                self.arrived[message_id] += not fails
                handset.unsaid.append(message_id)

    async def say(self, handset: Handset) -> None:
        """Say what the phone has yet to say; what comes of it is told to the message."""
        while handset.unsaid:
            message_id = handset.unsaid.pop()
            await self.phones.settle(await self.phones.report(handset.device, message_id, handset.knows[message_id]))

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and look at what is due then; a worker ends what nobody wants, and calls no other sender."""
        await self.house.raw.eval(AGE, 0, int(seconds * 1000))
        await self.come()
        await self.phones.mind()
        await self.house.claim()

    async def check(self) -> None:
        """No message arrived more often than it was told that it might; with the fence none crosses a fall."""
        for event in await self.house.all_events():
            if event.data.get("may_duplicate"):
                self._duplicates[event.event_id] = event.message_id
        told = Counter(self._duplicates.values())
        twice = {one: n for one, n in self.arrived.items() if n > 1 + told[one]}
        assert not twice, {one: await self.phones.record(one) for one in twice}
        assert not (self._is_fenced and self.given_after_a_fall)

    async def live_out(self) -> None:
        """Let phones and time do the rest: in the end nobody looks at anything, and nothing is left."""
        for _ in range(20):
            for handset in self.handsets.values():
                if handset.is_there:
                    await self.pull(handset)
                    await self.radio(handset)
                    await self.say(handset)
            await self.check()
            await self.pass_time(31)
        assert await self.phones.waiting() == {}
        for message_id in self._made_in:
            assert (await self.house.message(message_id)).get("status", "") != "processing"
        await self.house.age(8 * 86_400)
        await self.house.claim()
        await self.house.sweep()
        while await self.phones.presence.look():
            pass
        await self.phones.mind()
        assert [name.rpartition(b":")[2] for name in await self.house.names()] == [b"events"]
