"""What the clients' own phones cost: the store, the whole way of a code, and the streams that are open for nothing.

Run it with `python -m benchmarks.phones`; `--only store`, `way` or `streams` for a part. It takes under three minutes,
on stores of its own and the loopback, and ends what it started. Every figure is to be read beside its ceiling or its
parts in the same run; one wrong outcome and there is no result.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from benchmarks.phones_pool import PER_STRETCH, STRETCHES, UNDER_WAY, Row
from benchmarks.phones_stand import PhoneStand, open_phone_stand
from benchmarks.phones_store import measure_store
from benchmarks.phones_streams import N_STREAMS, StreamsCost, measure_streams
from benchmarks.phones_way import (
    N_BACKLOG,
    N_PHONES,
    PER_S,
    PER_WINDOW,
    WINDOWS,
    Waits,
    Way,
    measure_one_process,
    measure_two_services,
)
from benchmarks.stand import StandError
from otpsvc.app import settle_memory
from otpsvc.embedded import EmbeddedError
from otpsvc.errors import ConfigurationError
from otpsvc.phone_encryption import encrypted

_PARTS = ("store", "way", "streams")
_MOST_S = 90  # for one of them

T = TypeVar("T")


def main(arguments: list[str]) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phones", description=__doc__)
    parser.add_argument("--only", choices=_PARTS, action="append", help="this part; may be given more than once")
    parts = parser.parse_args(arguments).only or _PARTS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with open_phone_stand() as stand:
            for part in parts:
                for text in _MEASURED[part](stand):
                    print(text, flush=True)
    except (StandError, EmbeddedError, ConfigurationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _store(stand: PhoneStand) -> list[str]:
    settle_memory()
    rows = _run(measure_store(stand.stores.redis_url))
    return [_store_table(rows), f"one field encrypted for a phone with a passphrase: {_encryption_ms():.0f} ms of CPU"]


def _encryption_ms() -> float:
    def once() -> float:
        began_at = time.process_time()
        encrypted("+33612345678", "a phone's own passphrase")
        return time.process_time() - began_at

    return min(once() for _ in range(5)) * 1000


def _way(stand: PhoneStand) -> list[str]:
    return [_way_table([_run(measure(stand)) for measure in (measure_one_process, measure_two_services)])]


def _streams(stand: PhoneStand) -> list[str]:
    return [_streams_words(_run(measure_streams(stand)))]


_MEASURED: dict[str, Callable[[PhoneStand], list[str]]] = {"store": _store, "way": _way, "streams": _streams}


def _run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        try:
            async with asyncio.timeout(_MOST_S):
                return await work
        except TimeoutError:
            raise StandError(f"something did not come in time, at most {_MOST_S} s: no result") from None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


def _store_table(rows: list[Row]) -> str:
    head = (
        f"one call, µs of CPU ({UNDER_WAY} under way, best of {STRETCHES} stretches of at most {PER_STRETCH}); "
        "a bare call writes as many keys"
    )
    titles = f"{'':<58}{'keys':>5}{'Valkey':>9}{'in bare':>9}{'caller':>9}{'in bare':>9}"
    lines = (
        f"{row.name:<58}{row.n_keys:>5}{row.ours.store_us:>9.0f}{row.ours.store_us / row.bare.store_us:>9.1f}"
        f"{row.ours.own_us:>9.0f}{row.ours.own_us / row.bare.own_us:>9.1f}"
        for row in rows
    )
    return "\n".join(("", head, titles, *lines))


def _way_table(ways: list[Way]) -> str:
    head = (
        f"{N_PHONES} phones in one process; a backlog of {N_BACKLOG} messages, then through the API {PER_WINDOW} codes "
        f"at {PER_S:g} a second and {PER_WINDOW} in one moment (each the best of {WINDOWS})"
    )
    return "\n".join(("", head, *(line for way in ways for line in _way_lines(way))))


def _way_lines(way: Way) -> list[str]:
    busy = f", {way.busy / (os.cpu_count() or 1):.0%} of all cores busy" if way.busy is not None else ""
    spent = ", ".join(f"{name} {ms:.2f}" for name, ms in way.cpu_ms.items())
    calls = f"{way.pulls:.2f} pulls, {way.reports:.2f} reports, {way.holds:.2f} times held at the sender's gate"
    return [
        way.name,
        f"  backlog      {way.per_s:.0f} messages/s{busy}",
        f"  per message  ms of CPU: {spent} (all: {sum(way.cpu_ms.values()):.2f})",
        f"               {calls}",
        f"  steady       {_waits_words(way.light)}",
        f"  burst        {_waits_words(way.burst)}",
    ]


def _waits_words(waits: Waits) -> str:
    p50, p99, told = (f"{seconds * 1000:.0f} ms" for seconds in waits)
    return f"accepted to sent: p50 {p50}, p99 {p99}; to the phone's word in the store, mean: {told}"


def _streams_words(cost: StreamsCost) -> str:
    spent = "; ".join(f"{name} {ms:.0f} (idle {cost.idle_ms[name]:.0f})" for name, ms in cost.open_ms.items())
    opening = f"{cost.opening_ms:.2f} ms of the service's CPU each"
    storm = f"all in one moment at a new process: {cost.storm_s:.1f} s, {cost.n_refused} refused"
    return "\n".join(
        (
            "",
            f"{N_STREAMS} open streams at one service",
            f"  memory       {cost.kb:.0f} kB per stream",
            f"  keep-alives  ms of CPU per second: {spent}; {cost.n_signs} in the time watched",
            f"  opening      {opening}; {storm}",
        )
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(130)
