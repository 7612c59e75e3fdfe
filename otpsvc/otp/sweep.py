"""The loop that tells of OTPs whose life is over. Expiring does not need it: every script looks at the time itself.

It asks each partition when its next life ends, and looks again then. Any number of processes may run it: the store
tells each end once.
"""

import asyncio
import contextlib
import logging
import random

from otpsvc.faults import described
from otpsvc.otp.ports import LifeStore

BATCH = 500
MAX_WAIT_S = 1.0
MIN_WAIT_S = 0.05
_MAX_BACKOFF_S = 5.0

_log = logging.getLogger(__name__)
_random = random.SystemRandom()


async def run_sweep(store: LifeStore, partitions: int, *, stop: asyncio.Event) -> None:
    """Sweep every partition until `stop` is set; an outage of the store is waited out."""
    failures = 0
    while not stop.is_set():
        try:
            pause_s = await _sweep_all(store, partitions, stop)
        except Exception as error:  # noqa: BLE001 - it outlives whatever the store does, one line per outage
            if failures == 0:
                _log.warning("cannot tell of expired codes, trying on: %s", described(error))
            failures += 1
            pause_s = min(MAX_WAIT_S * 2 ** min(failures, 8), _MAX_BACKOFF_S) * _random.uniform(0.5, 1.0)
        else:
            if failures:
                _log.warning("telling of expired codes again")
            failures = 0
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)


async def _sweep_all(store: LifeStore, partitions: int, stop: asyncio.Event) -> float:
    """Bring every partition up to now; give how long nothing is due, in seconds."""
    pause_s = MAX_WAIT_S
    for partition in range(partitions):
        swept = await store.sweep(partition, limit=BATCH)
        while swept.n_seen == BATCH and not stop.is_set():
            swept = await store.sweep(partition, limit=BATCH)
        if swept.next_in_ms is not None:
            pause_s = min(pause_s, swept.next_in_ms / 1000)
    return max(pause_s, MIN_WAIT_S)
