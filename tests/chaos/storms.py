"""What the fault tests do with a stand: traffic on it, kills in it, and the account at the end."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from tests.chaos.accounts import faults
from tests.chaos.processes import Process
from tests.chaos.stand import Stand
from tests.chaos.traffic import Traffic

# Two senders: one that would ring twice if it were asked twice, and one that knows our ids.
MIXED = {
    "OTPSVC_DELIVERY_SENDERS": "once,often",
    "OTPSVC_SENDERS_ONCE_ANSWERS": "accepted,accepted,accepted,accepted,rejected,retry_later,unknown,accepted",
    "OTPSVC_SENDERS_ONCE_DELAY_S": "0.02",
    "OTPSVC_SENDERS_OFTEN_ANSWERS": "accepted,accepted,unknown,hang",
}


@contextlib.asynccontextmanager
async def under(traffic: Traffic, *, callers: int) -> AsyncIterator[Traffic]:
    """Let callers call for the body of an `async with`, and let them finish what they began."""
    running = asyncio.create_task(traffic.run(callers=callers))
    try:
        yield traffic
    finally:
        traffic.stop()
        await running


async def account(stand: Stand, *traffics: Traffic) -> None:
    """Everything must add up, and no process may have said that it broke."""
    evidence = await stand.evidence(*(traffic.journal for traffic in traffics), idempotent=("often",))
    found = [*faults(evidence), *stand.complaints()]
    assert not found, "\n".join([f"{len(found)} faults:", *found[:50]])
    assert len(evidence.messages) > len(traffics), "nothing happened"


async def storm(stand: Stand, *, rounds: int, seed: int, callers: int) -> Traffic:
    """Kill one of two services or two workers at random, again and again, under traffic."""
    dice = random.Random(seed)
    processes: list[Process] = await stand.started("serve", "serve", "worker", "worker")
    async with under(stand.traffic(seed=seed, patience_s=10), callers=callers) as traffic:
        for _ in range(rounds):
            await asyncio.sleep(dice.uniform(0.1, 0.8))
            place = dice.randrange(len(processes))
            processes[place].kill()
            processes[place] = stand.start(processes[place].command)
            await processes[place].ready()
    return traffic
