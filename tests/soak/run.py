"""One long run: stores, one or more services and workers as real processes, load, samples, and what it all came to."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import redis.asyncio as redis_asyncio

from tests.chaos.rows import Reader
from tests.chaos.stand import Stand
from tests.soak.load import Arrivals, Load
from tests.soak.measure import Ager, Meter, what_stays
from tests.soak.verdict import Comparison, Sample, compared, shown

CALLERS = 48
PIPE = "messages.pipe"
_SAMPLE_EVERY_S = 1.0
_SAY_EVERY_S = 10.0
_QUIET_WITHIN_S = 120.0
# Whatever is left on a stand that went quiet: PostgreSQL's own words for a message that is done.
_FINAL = frozenset({"sent", "delivered", "failed", "expired", "cancelled"})


class Result(NamedTuple):
    """What a run came to: it went well if there are no faults."""

    n_codes: int
    seconds: float
    comparisons: list[Comparison]
    faults: list[str]


async def soak(
    stand: Stand, *, n_codes: int, n_serve: int, n_workers: int, seed: int, say: Callable[[str], None]
) -> Result:
    """Run `n_codes` through a stand whose sender writes to the pipe `PIPE` in its directory."""
    async with contextlib.AsyncExitStack() as stack:
        arrivals = Arrivals(stand.directory / PIPE)
        stack.callback(arrivals.close)
        await stand.started(*["serve"] * n_serve, *["worker"] * n_workers)
        client: Any = await stack.enter_async_context(redis_asyncio.Redis.from_url(stand.pair.redis_url))
        ager = Ager(client)
        meter = Meter(stand, client, ager)
        await meter.open()
        stack.push_async_callback(meter.close)
        load = Load(lambda: stand.line(timeout_s=15), arrivals, n_codes=n_codes, seed=seed)
        seconds = await _loaded(load, ager, meter, n_codes, say)
        say("load is over: waiting until all is quiet")
        faults = [f"{count} x {what}" for what, count in load.unexpected.items()]
        faults += await _counted(stand, load.told)
        faults += await what_stays(client, ager, stand)
        faults += stand.complaints()
        faults += [f"{process.name} ended" for process in stand.running if not process.is_alive]
        comparisons = compared(meter.samples, n_codes)
        faults += [f"not flat: {one}" for one in comparisons if not one.is_flat]
        return Result(n_codes, seconds, comparisons, faults)


async def _loaded(load: Load, ager: Ager, meter: Meter, n_codes: int, say: Callable[[str], None]) -> float:
    began_at, said_at = time.monotonic(), time.monotonic()
    aging = asyncio.create_task(ager.run())
    running = asyncio.create_task(load.run(callers=CALLERS))
    try:
        while not running.done():
            sample = await meter.take(time.monotonic() - began_at, load.n_done)
            if time.monotonic() - said_at > _SAY_EVERY_S:
                said_at = time.monotonic()
                say(_line(sample, n_codes))
            if aging.done():
                aging.result()
            await asyncio.wait({running}, timeout=_SAMPLE_EVERY_S)
        running.result()
        await meter.take(time.monotonic() - began_at, load.n_done)
        return time.monotonic() - began_at
    finally:
        ager.stop()
        running.cancel()
        await asyncio.gather(aging, running, return_exceptions=True)


def _line(sample: Sample, n_codes: int) -> str:
    sizes = ", ".join(f"{name} {shown(name, size)}" for name, size in sorted(sample.sizes.items()))
    rate = sample.n_codes / max(sample.at_s, 1)
    return f"{sample.n_codes} of {n_codes} codes, {rate:.0f}/s: {sizes}"


async def _counted(stand: Stand, told: Counter[str]) -> list[str]:
    """Hold what callers were told against PostgreSQL, once every life is over and everything is written."""
    reader = Reader(stand.settings, stand.client_id)
    try:
        await reader.age()
        await reader.quiet(_QUIET_WITHIN_S)
        faults = [f"{await reader.unwritten()} events unwritten"] if await reader.unwritten() else []
        faults += [f"{await reader.waiting()} messages wait"] if await reader.waiting() else []
    finally:
        await reader.close()
    connection = await asyncpg.connect(stand.settings.database.url.reveal())
    try:
        events = await _counts(connection, "SELECT name, count(*) FROM events GROUP BY name")
        messages = await _counts(connection, "SELECT status, count(*) FROM messages GROUP BY status")
    finally:
        await connection.close()
    faults += [f"{name}: {count} told, {events.get(name, 0)} recorded" for name, count in told.items()
               if events.get(name, 0) != count]  # fmt: skip
    ends = sum(events.get(f"otp.{word}", 0) for word in ("verified", "locked", "superseded", "expired", "cancelled"))
    if ends != told["otp.sent"]:
        faults.append(f"{told['otp.sent']} OTPs, {ends} ends")
    if sum(messages.values()) != told["otp.sent"] + told["otp.resent"]:
        faults.append(f"{told['otp.sent'] + told['otp.resent']} messages told, {sum(messages.values())} recorded")
    faults += [f"{count} messages are {status}" for status, count in messages.items() if status not in _FINAL]
    return faults


async def _counts(connection: asyncpg.Connection, query: str) -> dict[str, int]:
    return {str(name): int(count) for name, count in await connection.fetch(query)}


def sender_variables(directory: Path) -> dict[str, str]:
    """What makes the stand's sender write to the pipe."""
    return {"OTPSVC_SENDERS_ONCE_PATH": str(directory / PIPE)}
