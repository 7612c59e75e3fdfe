"""Processes that race for the same messages and phones, each with its own connections.

A plan is `{"rounds": …, "offer": {message: its code's end}, "pull": [phones], "report": {phone: {message: state}},
"look": [messages]}`: all of it at once, in any order. The answer is what was pulled, and how often each outcome came.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from otpsvc.devices.model import OfferStatus, PhoneReport, Tenant
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys
from otpsvc.redis.offers import RedisOffers
from tests.otp.house import CLIENT
from tests.redis.phones import ONE_SIM, SEALED, SENDER, SLOTS
from tests.redis.presence import device_of
from tests.redis.racing import Racers, be_racer, started


class PoolRacers:
    """Several racers at once."""

    def __init__(self, racers: Racers) -> None:
        self._racers = racers

    def race(self, *plans: dict[str, Any]) -> list[dict[str, Any]]:
        """Let each do its plan, beginning again with the first where there are fewer; give what each brought."""
        return self._racers.race([plans[number % len(plans)] for number in range(len(self._racers))])


@contextmanager
def start_pool_racers(redis_url: str, number: int) -> Iterator[PoolRacers]:
    """Start the processes and end them."""
    with started(__file__, redis_url, number) as racers:
        yield PoolRacers(racers)


class Racer:
    """What goes on in one of the processes."""

    def __init__(self, url: str) -> None:
        self.client = RedisClient(url, timeout_s=10, max_connections=8)
        self.offers = RedisOffers(self.client, Keys("test", 1))
        self.pulled: list[tuple[str, str]] = []
        self.outcomes: Counter[str] = Counter()

    async def offer(self, message_id: str, expires_at_ms: int) -> None:
        offer = await self.offers.offer(
            message_id=message_id,
            tenant=Tenant(CLIENT, "test"),
            sender=SENDER,
            recipient="to" + message_id[-8:],
            operator="",
            sealed=SEALED,
            expires_at_ms=expires_at_ms,
            pull_within_ms=10_000,
            report_within_ms=30_000,
            give_up_ms=60_000,
        )
        self.outcomes[f"{offer.outcome} {message_id} {offer.device_id}"] += 1

    async def pull(self, device_id: str) -> None:
        for one in await self.offers.pull(device_of(id=device_id, sims=ONE_SIM), limit=100, slots=SLOTS) or []:
            if not one.is_cancelling:
                self.pulled.append((device_id, one.message_id))

    async def report(self, device_id: str, message_id: str, state: str) -> None:
        report = PhoneReport(message_id=message_id, status=OfferStatus(state), kind="undeliverable")
        told = await self.offers.report(device_of(id=device_id, sims=ONE_SIM), report)
        self.outcomes[f"{told.outcome} {message_id}"] += 1

    async def look(self, message_id: str) -> None:
        told = await self.offers.look(f"{CLIENT} {message_id}")
        self.outcomes[f"{told.outcome} {message_id}"] += 1

    async def race(
        self,
        *,
        rounds: int = 1,
        offer: dict[str, int] | None = None,
        pull: Sequence[str] = (),
        report: dict[str, dict[str, str]] | None = None,
        look: Sequence[str] = (),
    ) -> None:
        calls: list[Any] = []
        for _ in range(rounds):
            calls += [lambda m=m, at=at: self.offer(m, at) for m, at in (offer or {}).items()]
            calls += [lambda device=device: self.pull(device) for device in pull]
            calls += [lambda message=message: self.look(message) for message in look]
            for device, states in (report or {}).items():
                calls += [lambda d=device, m=m, state=state: self.report(d, m, state) for m, state in states.items()]
        random.shuffle(calls)
        await asyncio.gather(*(call() for call in calls))

    async def answer(self, plan: dict[str, Any]) -> dict[str, Any]:
        self.pulled, self.outcomes = [], Counter()
        await self.race(**plan)
        return {"pulled": self.pulled, "outcomes": self.outcomes}


async def main(url: str) -> None:
    racer = Racer(url)
    await racer.client.ping()
    await be_racer(racer.answer)
    await racer.client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
