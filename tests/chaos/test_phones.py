"""Phones that die and come back under services and workers that are killed: every message ends, none is lost.

A hundred phones and two thousand messages are `make chaos`; the ordinary suite has a small park.
"""

import asyncio
import random
import time

import pytest

from tests.chaos.phones import PHONES, Park, park_faults, read_account, send_many
from tests.chaos.processes import Process
from tests.chaos.rows import Reader
from tests.chaos.stand import MakeStand, Stand
from tests.programs import PATIENCE_S


async def phone_storm(stand: Stand, *, n_phones: int, n_messages: int, seed: int) -> None:
    """Kill services, workers and phones at random while messages are sent; then let all heal, and account."""
    dice = random.Random(seed)
    processes: list[Process] = await stand.started("serve", "serve", "worker", "worker")
    park = Park(stand, seed=seed)
    line = stand.line(timeout_s=10)
    try:
        await park.pair(n_phones, line)
    finally:
        line.close()
    async with park.running():
        sending = asyncio.create_task(send_many(stand, n_messages, callers=8))
        trouble = asyncio.create_task(park.trouble())
        try:
            while not sending.done():
                await asyncio.wait({sending}, timeout=dice.uniform(0.5, 2.0))
                place = dice.randrange(len(processes))
                processes[place].kill()
                processes[place] = stand.start(processes[place].command)
                await processes[place].ready()
            sent = sending.result()
        finally:
            for task in (sending, trouble):
                task.cancel()
            await asyncio.gather(sending, trouble, return_exceptions=True)
            park.heal()
        await settled(stand, [one.message_id for one in sent])
    account = await read_account(stand)
    found = [*park_faults(sent, account, park), *stand.complaints()]
    assert not found, "\n".join([f"{len(found)} faults:", *found[:50]])
    # The storm must have been one: messages went from phone to phone, and most arrived all the same.
    outcomes = {fact.outcome for fact in account.facts if fact.name == "message.taken_over"}
    assert outcomes, "no message was ever taken over"
    arrived = {sms.message_id for sms in park.air.list()}
    assert len(arrived) >= 0.9 * len(sent), f"{len(arrived)} of {len(sent)} arrived"


async def settled(stand: Stand, message_ids: list[str]) -> None:
    """Wait until every message has come to rest: delivered, over, or as long sent as a phone may be silent."""
    reader = Reader(stand.settings, stand.client_id)
    give_up_at = time.monotonic() + 3 * PATIENCE_S
    try:
        await reader.quiet(PATIENCE_S)
        while time.monotonic() < give_up_at:
            await reader.quiet(PATIENCE_S)
            status_of = (await read_account(stand)).status_of
            open_ones = [one for one in message_ids if status_of.get(one, ("", ""))[0] not in {"delivered", "failed"}]
            if not open_ones or not await reader.offers_due():
                return
            await asyncio.sleep(0.5)
    finally:
        await reader.close()


async def test_phones_and_processes_die_at_random(make_stand: MakeStand) -> None:
    async with make_stand(**PHONES) as stand:
        await phone_storm(stand, n_phones=12, n_messages=120, seed=random.SystemRandom().randrange(10**6))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(3))
async def test_a_hundred_phones(make_stand: MakeStand, seed: int) -> None:
    """Two thousand messages over a hundred phones, two services, two workers."""
    async with make_stand(**PHONES) as stand:
        await phone_storm(stand, n_phones=100, n_messages=2000, seed=seed)
