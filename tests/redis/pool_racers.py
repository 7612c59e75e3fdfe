"""Processes that race for the same messages and phones, each with its own connections, and how a test holds them.

A racer reads one JSON line per race, `{"start_at": seconds since 1970, "rounds": …, "offer": {message: its code's end},
"pull": [phones], "report": {phone: {message: state}}, "look": [messages]}`. When the time has come it does all of it at
once, and writes one JSON line: what it pulled, and how often each outcome came.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otpsvc.devices.model import OfferStatus, PhoneReport, Tenant
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys
from otpsvc.redis.offers import RedisOffers
from tests.otp.house import CLIENT
from tests.redis.phones import ONE_SIM, SENDER
from tests.redis.presence import device_of

ROOT = Path(__file__).parents[2]
HEAD_START_S = 0.05
LONGEST_RACE_S = 60


class PoolRacers:
    """Several racers at once."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def race(self, *plans: dict[str, Any]) -> list[dict[str, Any]]:
        """Let each do its plan, beginning again with the first where there are fewer; give what each brought."""
        start_at = time.time() + HEAD_START_S
        for number, process in enumerate(self._processes):
            assert process.stdin is not None
            process.stdin.write(json.dumps({"start_at": start_at, **plans[number % len(plans)]}) + "\n")
            process.stdin.flush()
        return [json.loads(_line(process)) for process in self._processes]


@contextmanager
def start_pool_racers(redis_url: str, number: int) -> Iterator[PoolRacers]:
    """Start the processes and end them."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, redis_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(number)
    ]
    try:
        for process in processes:
            assert _line(process) == "ready\n"
        yield PoolRacers(processes)
    finally:
        for process in processes:
            process.communicate()  # closes its stdin, which ends it


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "a racer ended early"
    return line


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
            sealed=b"sealed",
            expires_at_ms=expires_at_ms,
            pull_within_ms=10_000,
            report_within_ms=30_000,
            give_up_ms=60_000,
        )
        self.outcomes[f"{offer.outcome} {message_id} {offer.device_id}"] += 1

    async def pull(self, device_id: str) -> None:
        for one in await self.offers.pull(device_of(id=device_id, sims=ONE_SIM), limit=100) or []:
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

    async def run(self) -> None:
        await self.client.ping()
        print("ready", flush=True)  # noqa: T201  (the answer goes through the pipe)
        while line := await asyncio.to_thread(sys.stdin.readline):
            plan = json.loads(line)
            await asyncio.sleep(plan.pop("start_at") - time.time())
            async with asyncio.timeout(LONGEST_RACE_S):
                await self.race(**plan)
            print(json.dumps({"pulled": self.pulled, "outcomes": self.outcomes}), flush=True)  # noqa: T201  (as above)
            self.pulled, self.outcomes = [], Counter()
        await self.client.close()


if __name__ == "__main__":
    asyncio.run(Racer(sys.argv[1]).run())
