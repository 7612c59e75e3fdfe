"""kill -9 of every process of the service, at every named step and at random: nothing is lost, doubled or told wrong.

The short forms run with the ordinary suite; the long ones are `make chaos`.
"""

import asyncio
import random
import signal

import pytest

from tests.chaos.accounts import faults
from tests.chaos.killpoints import (
    DELIVERY_STEPS,
    DRAIN_STEPS,
    GATEWAY_STEPS,
    RECEIPT_STEPS,
    SERVE_STEPS,
    SWEEP_STEPS,
)
from tests.chaos.rows import Reader
from tests.chaos.stand import MakeStand, Stand
from tests.chaos.storms import MIXED, MIXED_FLOWS, account, storm, under
from tests.chaos.traffic import FLOWS

# Most people whose message's worker dies have not used their code when the message comes back.
PATIENT = ("abandoned", "abandoned", "abandoned", "verified")


@pytest.mark.parametrize(
    ("command", "steps", "flows"),
    [("serve", SERVE_STEPS, FLOWS), ("worker", DELIVERY_STEPS, PATIENT), ("worker", DRAIN_STEPS, FLOWS)],
    ids=["serve", "delivery", "drain"],
)
async def test_killed_at_every_named_step(
    make_stand: MakeStand, command: str, steps: tuple[str, ...], flows: tuple[str, ...]
) -> None:
    async with make_stand() as stand:
        other = "worker" if command == "serve" else "serve"
        doomed = [stand.start(command, CHAOS_KILL=f"{step}:1") for step in steps]
        await stand.started(other)
        async with under(stand.traffic(seed=1, flows=flows, patience_s=10), callers=6) as traffic:
            statuses = [await process.ended() for process in doomed]
            await stand.started(command)
            await asyncio.sleep(1)
        assert statuses == [-signal.SIGKILL] * len(steps), [process.said for process in doomed]
        await account(stand, traffic)


async def test_killed_at_every_step_with_a_gateway(make_stand: MakeStand) -> None:
    """Whoever takes a receipt dies of it, and whoever calls a gateway, before and after each word to the store."""
    async with make_stand(**MIXED) as stand:
        steps = [("serve", step) for step in RECEIPT_STEPS] + [("worker", step) for step in GATEWAY_STEPS]
        doomed = [stand.start(command, CHAOS_KILL=f"{step}:1") for command, step in steps]
        await stand.started("serve", "worker")
        async with stand.gateways(seed=4) as gateways:
            async with under(stand.traffic(seed=4, flows=MIXED_FLOWS, patience_s=10), callers=8) as traffic:
                statuses = [await process.ended() for process in doomed]
            await stand.quiet()
        assert statuses == [-signal.SIGKILL] * len(steps), [process.said for process in doomed]
        await account(stand, traffic, gateways=[gateways])


async def test_killed_while_it_sweeps(make_stand: MakeStand) -> None:
    """The lives of some codes are over when a worker comes that dies of it."""
    async with make_stand() as stand:
        await stand.started("serve")
        traffic = stand.traffic(seed=2)
        line = traffic.line()
        for step in SWEEP_STEPS:
            sends = [await traffic.send(line) for _ in range(5)]
            await aged(stand, [send.otp_id for send in sends])
            assert await stand.start("worker", CHAOS_KILL=f"{step}:1").ended() == -signal.SIGKILL
        line.close()
        await stand.started("worker")
        evidence = await stand.evidence(traffic.journal)
        assert faults(evidence) == []
        assert [row.event for row in evidence.events].count("otp.expired") == 5 * len(SWEEP_STEPS)


async def aged(stand: Stand, otp_ids: list[str]) -> None:
    reader = Reader(stand.settings, stand.client_id)
    try:
        await reader.age(otp_ids)
    finally:
        await reader.close()


async def test_killed_at_random(make_stand: MakeStand) -> None:
    async with make_stand(**MIXED) as stand:
        await storm(stand, rounds=7, seed=random.SystemRandom().randrange(10**6), callers=8)


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(8))
async def test_killed_at_random_for_long(make_stand: MakeStand, part: int) -> None:
    """Two hundred rounds, accounted for every 25."""
    async with make_stand(**MIXED, CHAOS_RECLAIM_S="") as stand:
        await storm(stand, rounds=25, seed=part, callers=16)


async def test_a_graceful_stop_leaves_nothing_uncertain(make_stand: MakeStand) -> None:
    """TERM, as a deployment sends it: what is with a sender ends, what is not goes back."""
    async with make_stand(OTPSVC_SENDERS_ONCE_DELAY_S="0.2") as stand:
        _, *workers = await stand.started("serve", "worker", "worker")
        async with under(stand.traffic(seed=3, patience_s=10), callers=8) as traffic:
            for worker in workers:
                await asyncio.sleep(0.5)
                stand.start("worker")
                worker.ask_to_end()
                assert await worker.ended() == 0
        evidence = await stand.evidence(traffic.journal)
        assert faults(evidence) == []
        assert [message for message in evidence.messages if message.reason == "unknown_outcome"] == []
