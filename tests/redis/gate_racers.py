"""Processes that race for one sender's gate, each with its own connections.

A plan is `{"what": a method of `Racer`, "limits": {…}, "name": the racer's own, …}`; the rest is what that method
takes.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio

from otpsvc.messages.policy import SenderLimits
from otpsvc.redis.client import RedisClient
from otpsvc.redis.gates import RedisGates
from otpsvc.redis.keys import Keys
from tests.redis.racing import Racers, be_racer, started

LEDGER = "ledger"  # the test's own count of who holds a permit, beside the store's


class GateRacers:
    """Several racers at once."""

    def __init__(self, racers: Racers) -> None:
        self._racers = racers

    def race(self, what: str, limits: dict[str, Any], **plan: Any) -> list[Any]:
        """Let all do the same at the same moment; give what each of them brought."""
        names = [f"racer{number}" for number in range(len(self._racers))]
        return self._racers.race([{"what": what, "limits": limits, "name": name, **plan} for name in names])

    def kill(self) -> None:
        """End all of them as a crash would."""
        self._racers.kill()


@contextmanager
def start_gate_racers(redis_url: str, number: int) -> Iterator[GateRacers]:
    """Start the processes and end them."""
    with started(__file__, redis_url, number) as racers:
        yield GateRacers(racers)


class Racer:
    """What goes on in one of the processes."""

    def __init__(self, url: str) -> None:
        self.client = RedisClient(url, timeout_s=5, max_connections=8)
        self.raw: Any = redis.asyncio.Redis.from_url(url)

    async def admits(
        self, gates: RedisGates, *, sender: str, name: str, calls: int, lapses_in_s: float, has_others: bool = False
    ) -> list[str]:
        """Ask so many times at once and keep what is given; give the words of the answers."""
        asked = [
            gates.admit(sender, f"{name}-{n}", lapses_in_s=lapses_in_s, has_others=has_others) for n in range(calls)
        ]
        return [admission.held or "admitted" for admission in await asyncio.gather(*asked)]

    async def works(self, gates: RedisGates, *, sender: str, name: str, workers: int, rounds: int) -> list[int]:
        """Let each worker make so many calls; give the most that held a permit at once, and how often one was held."""
        most = refused = 0

        async def work(worker: int) -> None:
            nonlocal most, refused
            for n in range(rounds):
                permit = f"{name}-{worker}-{n}"
                while (await gates.admit(sender, permit, lapses_in_s=60)).held:
                    refused += 1
                    await asyncio.sleep(0.005)
                most = max(most, await self.raw.incr(LEDGER))
                await asyncio.sleep(0.001)
                await self.raw.decr(LEDGER)
                await gates.report(sender, permit, "works")

        await asyncio.gather(*(work(worker) for worker in range(workers)))
        return [most, refused]

    async def reports(self, gates: RedisGates, *, sender: str, name: str, calls: int, verdict: Any) -> list[int]:
        """Report all that `admits` was given, each twice at once."""
        permits = [f"{name}-{n}" for n in range(calls)] * 2
        await asyncio.gather(*(gates.report(sender, permit, verdict) for permit in permits))
        return [calls]

    async def misses(self, gates: RedisGates, *, sender: str, name: str, calls: int) -> list[int]:
        """Miss a receipt of each of so many numbers at once, the same for every racer."""
        await asyncio.gather(*(gates.missed(sender, f"{n:08x}") for n in range(calls)))
        return [calls]

    async def answer(self, plan: dict[str, Any]) -> list[Any]:
        what, limits = plan.pop("what"), plan.pop("limits")
        gates = RedisGates(self.client, Keys("test", 1), {plan["sender"]: SenderLimits(**limits)})
        answer: list[Any] = await getattr(self, what)(gates, **plan)
        return answer


async def main(url: str) -> None:
    racer = Racer(url)
    await racer.raw.ping()
    await be_racer(racer.answer)
    await racer.client.close()
    await racer.raw.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
