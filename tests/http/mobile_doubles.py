"""What stands behind a stream, where the real things could not be made to do what a test needs."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from otpsvc.devices.model import Device, DeviceStatus, Gone
from otpsvc.devices.policy import Budget
from otpsvc.http.mobile.stream import Streams

DEVICE = Device(
    id="dev_x",
    client_id="client_x",
    mode="test",
    name="x",
    status=DeviceStatus.ACTIVE,
    version=1,
    login="phone-x",
    sims=(),
    budget=Budget(),
    created_at=datetime.now(UTC),
)


class Doubles:
    """All that a stream asks, answering well."""

    def __init__(self) -> None:
        self.left_streams: list[tuple[Device, str, Gone]] = []
        self.counted: list[str] = []

    def streams(self) -> Streams:
        everything: Any = self
        closing = asyncio.Event()
        return Streams(everything, everything, everything, keep_alive_s=60, closing=closing, meter=everything)

    async def device_of(self, authorization: str | None) -> Device:
        return DEVICE

    async def heard(self, device: Device, *, stream: str = "") -> tuple[Device, int]:
        return DEVICE, 0

    async def left(self, device: Device, stream: str, why: Gone) -> None:
        self.left_streams.append((device, stream, why))

    async def listen(self, device_id: str) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    def called(self, call: str, outcome: str, seconds: float) -> None:
        self.counted.append(outcome)


class Flood:
    """Calls without end: what is not read can only be kept or left."""

    def __init__(self) -> None:
        self.said = 0

    async def listen(self, device_id: str) -> AsyncIterator[str]:
        while True:
            self.said += 1
            await asyncio.sleep(0)
            yield f"cancelled {'x' * 50_000}"

    async def call(self, device_id: str, what: str) -> None:
        """Nobody listens."""

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()
