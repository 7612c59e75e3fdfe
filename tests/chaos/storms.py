"""What the fault tests do with a stand: traffic on it, kills in it, and the account at the end."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence

from tests.chaos.accounts import faults
from tests.chaos.evidence import Evidence
from tests.chaos.gateways import Gateways
from tests.chaos.processes import Process
from tests.chaos.rows import Reader
from tests.chaos.stand import Stand, with_receipts
from tests.chaos.traffic import FLOWS, Traffic
from tests.programs import PATIENCE_S

# Two senders: one that would ring twice if it were asked twice, and one that knows our ids. Both bring receipts.
MIXED = {
    "OTPSVC_DELIVERY_SENDERS": "once,often",
    "OTPSVC_SENDERS_ONCE_ANSWERS": ",".join(["accepted"] * 16 + ["rejected", "retry_later", "unknown", "hang"]),
    "OTPSVC_SENDERS_ONCE_DELAY_S": "0.05",
    "OTPSVC_SENDERS_ONCE_BREAKER_FAILURES": "4",
    "OTPSVC_SENDERS_ONCE_BREAKER_PAUSE_S": "1",
    "OTPSVC_SENDERS_OFTEN_ANSWERS": ",".join(["accepted"] * 16 + ["unknown", "unknown", "hang"]),
    "OTPSVC_SENDERS_OFTEN_DELAY_S": "0.05",
    "OTPSVC_SENDERS_OFTEN_BREAKER_PAUSE_S": "1",
    **with_receipts("once"),
    **with_receipts("often"),
}
# Many codes must go unused, for nobody is asked to carry one that was.
MIXED_FLOWS = (*FLOWS, "abandoned", "abandoned", "abandoned", "abandoned", "abandoned", "abandoned")


@contextlib.asynccontextmanager
async def under(traffic: Traffic, *, callers: int) -> AsyncIterator[Traffic]:
    """Let callers call for the body of an `async with`, and let them finish what they began."""
    running = asyncio.create_task(traffic.run(callers=callers))
    try:
        yield traffic
    finally:
        traffic.stop()
        await running


async def account(stand: Stand, *traffics: Traffic, gateways: Sequence[Gateways] = ()) -> None:
    """Everything must add up, and no process may have said that it broke."""
    evidence = await stand.evidence(
        *(traffic.journal for traffic in traffics),
        tellings=[telling for each in gateways for telling in each.tellings],
        idempotent=("often",),
    )
    found = [*faults(evidence), *stand.complaints()]
    assert not found, "\n".join([f"{len(found)} faults:", *found[:50], *_story(evidence, found)])
    assert len(evidence.messages) > len(traffics), "nothing happened"


def _story(evidence: Evidence, found: Sequence[str]) -> list[str]:
    """All that is known of the first messages that something is wrong with."""
    named = list(dict.fromkeys(line.partition(":")[0] for line in found))
    return [
        str(fact)
        for message_id in [name for name in named if name.startswith("msg_")][:3]
        for facts in (evidence.ledger, evidence.tellings, evidence.events, evidence.messages, evidence.living_messages)
        for fact in facts
        if fact.message_id == message_id
    ]


async def storm(stand: Stand, *, rounds: int, seed: int, callers: int) -> None:
    """Kill one of two services or two workers at random, again and again, under traffic and receipts; then account.

    Now and then the first sender is out of order for a while.
    """
    dice = random.Random(seed)
    processes: list[Process] = await stand.started("serve", "serve", "worker", "worker")
    async with stand.gateways(seed=seed) as gateways:
        traffic = stand.traffic(seed=seed, flows=MIXED_FLOWS, patience_s=10)
        async with under(traffic, callers=callers):
            for number in range(rounds):
                if number % 4 == 2:
                    stand.down.touch()
                await asyncio.sleep(dice.uniform(0.1, 0.8))
                place = dice.randrange(len(processes))
                processes[place].kill()
                processes[place] = stand.start(processes[place].command)
                await processes[place].ready()
                stand.down.unlink(missing_ok=True)
            await healed(stand, traffic)
        await stand.quiet()
    assert "sender once fails" in (stand.directory / "worker.log").read_text(), "no breaker ever opened"
    await account(stand, traffic, gateways=[gateways])


async def healed(stand: Stand, traffic: Traffic) -> None:
    """Codes are asked for until every breaker has closed again, also one whose probe died with its worker."""
    reader = Reader(stand.settings, stand.client_id)
    line = traffic.line()
    # A breaker's pause grows to sixteen times of what it begins with.
    give_up_at = time.monotonic() + 2 * PATIENCE_S
    try:
        while broken := await reader.broken():
            assert time.monotonic() < give_up_at, f"the breaker of {', '.join(broken)} never heals"
            await traffic.send(line)
            await asyncio.sleep(0.1)
    finally:
        line.close()
        await reader.close()
