"""A command ends when its work does, also where a stranger's call cannot be stopped."""

import asyncio
import subprocess
import sys
import time

import pytest

from otpsvc.ending import run
from tests.programs import PATIENCE_S, environment

DEAF = """
async def deaf():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

task = asyncio.create_task(deaf())
"""
STUCK = """
task = asyncio.create_task(asyncio.to_thread(time.sleep, 1_000_000))
"""
PROGRAM = """
import asyncio, sys, time
from otpsvc.ending import leave, run

async def work():
{left}
    await asyncio.sleep(0.1)
    return 7

print("the work gave", run(work()))
leave(3)
"""


@pytest.mark.parametrize("left", [DEAF, STUCK, "pass"], ids=["a deaf task", "a stuck thread", "nothing"])
def test_what_cannot_be_stopped_is_left_behind(left: str) -> None:
    indented = "".join(f"    {line}\n" for line in left.strip("\n").splitlines())
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(left=indented)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, "the work gave 7\n"), ended.stderr
    assert ("left behind" in ended.stderr) == (left != "pass")


def test_what_can_end_does_so_before_the_command_goes_on() -> None:
    ended: list[str] = []

    async def polite() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("task")

    def slow() -> None:
        time.sleep(0.05)
        ended.append("thread")

    async def work() -> None:
        asyncio.create_task(polite())  # noqa: RUF006 - that it is left to itself is what is tested
        asyncio.get_running_loop().run_in_executor(None, slow)
        await asyncio.sleep(0)

    run(work())
    assert sorted(ended) == ["task", "thread"]


def test_an_error_of_the_work_comes_through() -> None:
    async def work() -> None:
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        run(work())
