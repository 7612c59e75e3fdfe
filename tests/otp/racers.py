"""Several racers at once, as a test holds them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.otp.house import CLIENT

ROOT = Path(__file__).parents[2]
HEAD_START_S = 0.05

Call = tuple[str, dict[str, Any]]


class Racers:
    """Processes of their own, each with its own connections to the store."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def __len__(self) -> int:
        return len(self._processes)

    def race(self, *lanes: list[Call], client: str = CLIENT) -> list[list[Any]]:
        """Give each racer its lane of calls, let all start at the same moment; give all outcomes, lane after lane."""
        assert len(lanes) <= len(self._processes)
        start_at = time.time() + HEAD_START_S
        racing = self._processes[: len(lanes)]
        for process, lane in zip(racing, lanes, strict=True):
            assert process.stdin is not None
            plan = {"start_at": start_at, "calls": [(call, client, arguments) for call, arguments in lane]}
            process.stdin.write(json.dumps(plan) + "\n")
            process.stdin.flush()
        return [answer for process in racing for answer in json.loads(_line(process))]

    def share(self, calls: list[Call]) -> list[list[Any]]:
        """Deal the calls out to all racers."""
        return self.race(*(calls[n :: len(self)] for n in range(len(self))))


@contextmanager
def start_racers(redis_url: str, number: int) -> Iterator[Racers]:
    """Start the processes and end them."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("racer.py")), redis_url],
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


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "a racer ended early"
    return line
