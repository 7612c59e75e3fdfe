"""Looks after what phones were given and did not take care of, and after phones that went away without a word.

What is due is claimed in the store, so that any number of processes may do this. Each look decides in one step there;
what it comes to is told to the message afterwards, and stays due until it was. So a minder may die anywhere.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from otpsvc.clock import Clock
from otpsvc.devices.pool import Pool
from otpsvc.devices.ports import DeviceOffers, DevicePresence
from otpsvc.faults import described

BATCH = 100
EVERY_S = 0.5
AGAIN_IN_MS = 5000  # longer than a batch of looks takes on a good day
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 5.0

_log = logging.getLogger(__name__)
_random = random.SystemRandom()


async def run_minder(
    pool: Pool, offers: DeviceOffers, presence: DevicePresence, *, stop: asyncio.Event, clock: Clock
) -> None:
    """Look at due offers and lapsed devices until `stop` is set; outages of the store are waited out.

    Cancelled, it ends at once and leaves no task behind; what was under way is looked at again by another.
    """

    async def look_at_offers() -> None:
        while await _look_at_some(pool, offers) == BATCH and not stop.is_set():
            pass

    async def look_at_devices() -> None:
        while await presence.lapsed(limit=BATCH) == BATCH and not stop.is_set():
            pass

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_again_and_again("offers to phones", look_at_offers, stop, clock))
        tasks.create_task(_again_and_again("phones", look_at_devices, stop, clock))


async def _look_at_some(pool: Pool, offers: DeviceOffers) -> int:
    """Look at a batch of what is due, all at once; raises the first fault once each has been looked at."""
    due = await offers.due(limit=BATCH, again_in_ms=AGAIN_IN_MS)

    async def look(name: str) -> Exception | None:
        try:
            told = await offers.look(name)
            await pool.settle(told, told.message_id)
        except Exception as error:  # noqa: BLE001 - one offer's fault must not keep the others waiting
            return error
        return None

    async with asyncio.TaskGroup() as tasks:
        looks = [tasks.create_task(look(name)) for name in due]
    if error := next((error for one in looks if (error := one.result())), None):
        raise error
    return len(due)


async def _again_and_again(what: str, look: Callable[[], Awaitable[None]], stop: asyncio.Event, clock: Clock) -> None:
    """Look every half second, less often while the store fails; one line when that begins, one when it ends."""
    n_failures = 0
    while not stop.is_set():
        began_at = clock.monotonic()
        try:
            await look()
        except Exception as error:  # noqa: BLE001 - it outlives whatever the store does, one line per outage
            if n_failures == 0:
                _log.warning("cannot look after %s, trying on: %s", what, described(error))
            n_failures += 1
            pause_s = min(EVERY_S * 2.0 ** min(n_failures, 8), _MAX_PAUSE_S) * _random.uniform(0.5, 1.0)
        else:
            if n_failures:
                _log.warning("looking after %s again", what)
            n_failures = 0
            pause_s = max(_MIN_PAUSE_S, EVERY_S - (clock.monotonic() - began_at))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await stop.wait()
