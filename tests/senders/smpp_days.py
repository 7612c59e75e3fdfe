"""What the tests of `smpp` share: a sender bound to an SMSC for a while, and a house that keeps its receipts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from otpsvc.clock import SystemClock
from otpsvc.senders.contract import Outcome, Receipt, Secret, Sender, SenderContext
from otpsvc.senders.smpp import SmppSender
from otpsvc.senders.smpp_settings import SmppSettings
from otpsvc.testing import outbound_message
from otpsvc.testing.conformance import Scene
from tests.gateways.smsc import PASSWORD, SYSTEM_ID, Smsc

_PATIENCE_S = 20.0


class House:
    """Keeps receipts as the house does, or fails to."""

    def __init__(self) -> None:
        self.kept: list[Receipt] = []
        self.is_able = True

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        assert sender == "carrier"
        if not self.is_able:
            raise RuntimeError("store down")
        self.kept += receipts

    async def has(self, count: int) -> list[Receipt]:
        await until(lambda: len(self.kept) >= count)
        return self.kept


def make(port: int = 2775, house: House | None = None, **given: Any) -> SmppSender:
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "system_id": SYSTEM_ID,
        "password": Secret(PASSWORD),
        "source": "OTP",
        "tls": False,
        "timeout_s": 1.0,
        "allow_private": True,
    }
    context = SenderContext(is_dev=False, clock=SystemClock(), take_receipts=house.take if house else None)
    return SmppSender("carrier", SmppSettings(**(settings | given)), context)


class Day(Scene):
    """A scene whose double is known to be an SMSC."""

    @property
    def smsc(self) -> Smsc:
        assert isinstance(self.gateway, Smsc)
        return self.gateway

    async def send(self, text: str = "583920 is your code.", **given: Any) -> Outcome:
        async with asyncio.timeout(_PATIENCE_S):
            return await self.sender.send(outbound_message(text=text, **given))


@asynccontextmanager
async def bound(house: House | None = None, smsc: Smsc | None = None, **given: Any) -> AsyncIterator[Day]:
    async with smsc or Smsc() as double:
        sender = make(double.port, house, **given)
        try:
            await sender.open()
            yield Day(sender, double)
        finally:
            await sender.close()


async def ready(sender: Sender[Any]) -> None:
    """Wait until its links are up."""
    await until(lambda: _is_ready(sender))


async def fallen(sender: Sender[Any]) -> None:
    """Wait until one of its links is down."""
    await until(lambda: _is_down(sender))


async def until(is_so: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until it is so, never for ever."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            said = is_so()
            if said if isinstance(said, bool) else await said:
                return
            await asyncio.sleep(0.01)


async def _is_ready(sender: Sender[Any]) -> bool:
    return (await sender.health()).is_ready


async def _is_down(sender: Sender[Any]) -> bool:
    return not await _is_ready(sender)
