"""Processes that race for one sender's gate, each with its own connections, and how a test holds them.

A racer reads one JSON line per race, `{"start_at": seconds since 1970, "limits": {…}, "what": …, …}`, does what it says
when the time has come, and writes one JSON line with what came of it.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis.asyncio

from otpsvc.messages.policy import SenderLimits
from otpsvc.redis.client import RedisClient
from otpsvc.redis.gates import RedisGates
from otpsvc.redis.keys import Keys

ROOT = Path(__file__).parents[2]
HEAD_START_S = 0.05
LONGEST_RACE_S = 30
LEDGER = "ledger"  # the test's own count of who holds a permit, beside the store's


class GateRacers:
    """Several racers at once."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def race(self, what: str, limits: dict[str, Any], **plan: Any) -> list[Any]:
        """Let all do the same at the same moment; give what each of them brought."""
        start_at = time.time() + HEAD_START_S
        for number, process in enumerate(self._processes):
            assert process.stdin is not None
            told = {"start_at": start_at, "what": what, "limits": limits, "name": f"racer{number}", **plan}
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
        return [json.loads(_line(process)) for process in self._processes]

    def kill(self) -> None:
        """End all of them as a crash would."""
        for process in self._processes:
            process.kill()


@contextmanager
def start_gate_racers(redis_url: str, number: int) -> Iterator[GateRacers]:
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
        yield GateRacers(processes)
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
        self.client = RedisClient(url, timeout_s=5, max_connections=8)
        self.raw: Any = redis.asyncio.Redis.from_url(url)

    async def admits(self, gates: RedisGates, *, sender: str, name: str, calls: int, lapses_in_s: float) -> list[str]:
        """Ask so many times at once and keep what is given; give the words of the answers."""
        asked = [gates.admit(sender, f"{name}-{n}", lapses_in_s=lapses_in_s) for n in range(calls)]
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

    async def run(self) -> None:
        await self.raw.ping()
        print("ready", flush=True)  # noqa: T201  (the answer goes through the pipe)
        while line := await asyncio.to_thread(sys.stdin.readline):
            plan = json.loads(line)
            start_at, what, limits = plan.pop("start_at"), plan.pop("what"), plan.pop("limits")
            gates = RedisGates(self.client, Keys("test", 1), {plan["sender"]: SenderLimits(**limits)})
            await asyncio.sleep(start_at - time.time())
            async with asyncio.timeout(LONGEST_RACE_S):
                answer = await getattr(self, what)(gates, **plan)
            print(json.dumps(answer), flush=True)  # noqa: T201  (as above)
        await self.client.close()
        await self.raw.aclose()


if __name__ == "__main__":
    asyncio.run(Racer(sys.argv[1]).run())
