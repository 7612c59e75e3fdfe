"""Phones that run for the body of a test, and are gone after it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from otpsvc.handset.pace import Pace
from otpsvc.handset.simulated import SimulatedPhone
from tests.handset.server import MobileServer

PATIENCE_S = 10.0
FAST = Pace(scale=0.01)


@contextlib.asynccontextmanager
async def running(server: MobileServer, **given: Any) -> AsyncIterator[SimulatedPhone]:
    """A phone that is connected, with an account of its own unless it brings one."""
    if not {"login", "code"} & given.keys():
        account = server.account(f"phone-{len(server.accounts)}")
        given |= {"login": account.login, "password": account.password}
    phone = SimulatedPhone(server.url, **({"pace": FAST} | given))
    async with living(phone):
        await asyncio.wait_for(phone.connected(), PATIENCE_S)
        yield phone


@contextlib.asynccontextmanager
async def living(phone: SimulatedPhone) -> AsyncIterator[None]:
    """Let a phone run, and end it in good order."""
    stop = asyncio.Event()
    life = asyncio.create_task(phone.run(stop))
    try:
        yield
        stop.set()
        await asyncio.wait_for(life, PATIENCE_S)
    finally:
        life.cancel()
        await asyncio.wait({life})


async def until(is_so: Callable[[], bool], what: str = "it") -> None:
    """Wait for something that must come true."""
    for _ in range(int(PATIENCE_S / 0.005)):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"waited for {what}")
