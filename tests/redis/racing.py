"""Processes that race on one store, each with its own connections: how they are started, told what to do, and ended.

A racer is a program of its own that calls `be_racer`. It reads one JSON line per race, a plan with `start_at` (seconds
since 1970), does what the plan says when the time has come, and writes one JSON line with what came of it.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HEAD_START_S = 0.05
LONGEST_RACE_S = 60


class Racers:
    """Several racers at once, as a test holds them."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def __len__(self) -> int:
        return len(self._processes)

    def race(self, plans: Sequence[dict[str, Any]]) -> list[Any]:
        """Give as many racers a plan each, let all begin at the same moment; give what each of them brought."""
        start_at = time.time() + HEAD_START_S
        racing = self._processes[: len(plans)]
        for process, plan in zip(racing, plans, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps({"start_at": start_at, **plan}) + "\n")
            process.stdin.flush()
        return [json.loads(_line(process)) for process in racing]

    def kill(self) -> None:
        """End all of them as a crash would."""
        for process in self._processes:
            process.kill()


@contextmanager
def started(program: str | Path, redis_url: str, number: int) -> Iterator[Racers]:
    """Start so many racers of this program for the body of a `with`, and end them."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), redis_url],
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
        yield Racers(processes)
    finally:
        for process in processes:
            process.communicate()  # closes its stdin, which ends it


async def be_racer(race: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
    """Race as told over standard input until that ends. Have every connection made before."""
    print("ready", flush=True)  # noqa: T201  (the answer goes through the pipe)
    while line := await asyncio.to_thread(sys.stdin.readline):
        plan = json.loads(line)
        await asyncio.sleep(plan.pop("start_at") - time.time())
        async with asyncio.timeout(LONGEST_RACE_S):
            answer = await race(plan)
        print(json.dumps(answer), flush=True)  # noqa: T201  (as above)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "a racer ended early"
    return line
