"""What a thousand open streams of events cost one `otpsvc serve`: memory of each, and CPU while nothing happens.

Nothing happens but what keeps them alive: each `devices.keep_alive_s` a stream tells the store, then its phone, that it
is there. They are opened twice, each time at a service that has just started: all in one moment, as the phones come
back after its restart, and by and by.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, cast

from benchmarks.phones_stand import (
    HOST,
    MOST_PER_CLIENT,
    PairedPhone,
    PhoneStand,
    Program,
    cpu_s,
    cpu_with_children_s,
    free_port,
)
from benchmarks.stand import StandError

N_STREAMS = 1000
_IDLE_S, _OPEN_S = 4.0, 30.0
_AT_ONCE = 50
_SIGN_OF_LIFE = b":keepalive"


class StreamsCost(NamedTuple):
    """Per stream: `kb` of the service's memory. Per second, in ms of CPU: idle, and with the streams open.

    `n_signs`: keep-alives that came in the time watched. `opening_ms`: CPU of the service for opening one. `storm_s`:
    until all that were opened in one moment were open or refused; `n_refused` of them were.
    """

    kb: float
    idle_ms: dict[str, float]
    open_ms: dict[str, float]
    n_signs: int
    opening_ms: float
    storm_s: float
    n_refused: int


class _Line(asyncio.Protocol):
    """One stream, as far as it must be read to know that it lives."""

    def __init__(self, token: str) -> None:
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.n_signs = 0
        self._request = (
            f"GET /mobile/v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
            "Accept: text/event-stream\r\n\r\n"
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data.startswith(b"HTTP/1.1 200 "))
        self.n_signs += data.count(_SIGN_OF_LIFE)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_result(False)


async def measure_streams(stand: PhoneStand) -> StreamsCost:
    """Open all in one moment; then by and by, and watch for one period of keep-alives. Raises StandError."""
    phones: list[PairedPhone] = []
    while len(phones) < N_STREAMS:
        caller = await stand.caller()
        phones += await stand.phones(caller.client_id, min(MOST_PER_CLIENT, N_STREAMS - len(phones)))
    with stand.served(port := free_port()):
        began_at = time.perf_counter()
        lines, n_refused = await _open(port, phones)
        storm_s = time.perf_counter() - began_at
        await _close(lines)
    with stand.served(port := free_port()) as service:
        await _close((await _open(port, phones[:_AT_ONCE]))[0])
        idle_ms = await _spent(stand, service, _IDLE_S)
        kb_before, cpu_before_s = service.resident_kb, service.cpu_s
        lines = []
        for start in range(0, len(phones), _AT_ONCE):
            opened, n_lacking = await _open(port, phones[start : start + _AT_ONCE])
            lines += opened
            if n_lacking:
                raise StandError(f"{n_lacking} streams were refused: no result")
        opening_ms = (service.cpu_s - cpu_before_s) / N_STREAMS * 1000
        signs_before = sum(line.n_signs for line in lines)
        open_ms = await _spent(stand, service, stand.settings.devices.keep_alive_s)
        n_signs = sum(line.n_signs for line in lines) - signs_before
        kb = (service.resident_kb - kb_before) / len(lines)
        await _close(lines)
    return StreamsCost(kb, idle_ms, open_ms, n_signs, opening_ms, storm_s, n_refused)


async def _spent(stand: PhoneStand, service: Program, seconds: float) -> dict[str, float]:
    """Watch for a while; give ms of CPU per second."""
    pids = stand.stores.server_pids

    def clocks() -> dict[str, float]:
        return {
            "service": service.cpu_s,
            "Valkey": cpu_s(pids["redis"]),
            "PostgreSQL": cpu_with_children_s(pids["postgres"]),
        }

    before, began_at = clocks(), time.perf_counter()
    await asyncio.sleep(seconds)
    watched_s = time.perf_counter() - began_at
    return {name: (spent - before[name]) / watched_s * 1000 for name, spent in clocks().items()}


async def _open(port: int, phones: Sequence[PairedPhone]) -> tuple[list[_Line], int]:
    """Open a stream each, in one moment; give those that are open, and how many were refused."""
    loop = asyncio.get_running_loop()

    async def opened(phone: PairedPhone) -> _Line | None:
        _, line = await loop.create_connection(lambda: _Line(phone.token), HOST, port)
        async with asyncio.timeout(_OPEN_S):
            if await line.answer:
                return line
        line.transport.close()
        return None

    lines = [line for line in await asyncio.gather(*(opened(phone) for phone in phones)) if line is not None]
    return lines, len(phones) - len(lines)


async def _close(lines: Sequence[_Line]) -> None:
    for line in lines:
        line.transport.close()
    await asyncio.sleep(0.2)
