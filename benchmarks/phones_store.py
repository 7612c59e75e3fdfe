"""What the pool of phones costs the store and its caller, against bare calls of a script that write as many keys.

Every case has phones and messages of its own: real codes that a worker has begun to send. What is timed is the one
call that the row names; an outcome that is not the expected one ends the run, because a refusal is fast.
"""

import asyncio
from functools import partial
from typing import NamedTuple

from benchmarks.phones_pool import CALLER, ONE_SIM, PER_STRETCH, SLOTS, STRETCHES, Pool, Row, open_pools, some_at_a_time
from benchmarks.stand import StandError
from otpsvc.devices.model import Device, OfferStatus, PhoneReport, Sim
from otpsvc.devices.operators import operator_word
from otpsvc.devices.policy import MESSAGES_PER_WINDOW, RECIPIENTS_PER_DAY

_N_OFFERS = STRETCHES * PER_STRETCH
_N_DEAR = STRETCHES * 10  # offers that take milliseconds each
_MANY = 400
_OPERATOR = "Free Mobile"
_TWO_SIMS = (Sim(slot=0, number=1), Sim(slot=1, number=2))
_OF_OPERATOR = (Sim(slot=0, number=1), Sim(slot=1, number=2, carrier=_OPERATOR))
# So near that each phone may take what comes to it in the run, and not much more.
_NEARLY = (MESSAGES_PER_WINDOW - 6, RECIPIENTS_PER_DAY - 6)
# By recipients, which is found out last.
_USED_UP = (MESSAGES_PER_WINDOW - 6, RECIPIENTS_PER_DAY)


class Case(NamedTuple):
    """Phones that are online before messages are offered. `used`: messages and recipients in each SIM's windows."""

    name: str
    n_phones: int
    used: tuple[int, int] = (0, 0)
    sims: tuple[Sim, ...] = ONE_SIM
    n_roomy: int = 0
    operator: str = ""


_CHOICES = (
    *(Case(f"offer, {count} online", count) for count in (1, 10, 100, _MANY)),
    Case(f"offer, {_MANY} online, of a known operator", _MANY, sims=_OF_OPERATOR, operator=operator_word(_OPERATOR)),
    *(Case(f"offer, {count} online, all nearly used up", count, _NEARLY) for count in (100, _MANY)),
    *(
        Case(f"offer, {count} online with two SIMs, all but one used up", count, _USED_UP, _TWO_SIMS, n_roomy=1)
        for count in (100, _MANY)
    ),
)
_REFUSALS = tuple(Case(f"offer, {n} online with two SIMs, all used up", n, _USED_UP, _TWO_SIMS) for n in (100, _MANY))


async def measure_store(redis_url: str) -> list[Row]:
    """Measure offers, pulls, reports and looks on a store that nobody else uses; it is emptied."""
    async with open_pools(redis_url) as make:
        rows = [await _offers(await make(), case) for case in _CHOICES]
        for case in _REFUSALS:
            rows += await _refusals(await make(), case)
        rows += [await _pulls(await make(), size) for size in (1, 10, 100)]
        rows += await _reports(await make())
        rows += await _looks(await make())
        return rows


async def _offers(pool: Pool, case: Case) -> Row:
    await pool.phones(case.n_phones, sims=case.sims, used=case.used, n_roomy=case.n_roomy)
    messages = await pool.messages(_N_OFFERS)
    return await pool.timed(case.name, 8, [partial(pool.offer, one, operator=case.operator) for one in messages])


async def _refusals(pool: Pool, case: Case) -> list[Row]:
    """Offer where nobody has room: looking at all phones, and while it is remembered that this was in vain."""
    await pool.phones(case.n_phones, sims=case.sims, used=case.used)
    messages = await pool.messages(_N_OFFERS)

    async def first(message: str) -> None:
        await pool.forget_spent()
        await pool.offer(message, comes_to="budget")

    firsts = [partial(first, message) for message in messages[:_N_DEAR]]
    again = [partial(pool.offer, message, comes_to="budget") for message in messages]
    return [
        await pool.timed(case.name, 1, firsts, under_way=1),
        await pool.timed("  the same within a second", 0, again),
    ]


async def _pulls(pool: Pool, size: int) -> Row:
    count = {1: 200, 10: 40, 100: 8}[size]
    devices = await pool.phones(count)
    messages = await pool.messages(count * size)
    await some_at_a_time(
        [partial(pool.offer, message, pinned=devices[place // size].id) for place, message in enumerate(messages)]
    )

    async def pull(device: Device) -> None:
        if len(await pool.offers.pull(device, limit=100, slots=SLOTS) or ()) != size:
            raise StandError("a pull did not bring what was offered: no result")

    return await pool.timed(f"pull of {size}", size + 4, [partial(pull, device) for device in devices])


async def _reports(pool: Pool) -> list[Row]:
    devices = await pool.phones(100)
    messages = await pool.messages(2 * _N_OFFERS)
    whose = {message: devices[place % len(devices)] for place, message in enumerate(messages)}
    await some_at_a_time([partial(pool.offer, message, pinned=device.id) for message, device in whose.items()])
    await some_at_a_time([partial(pool.offers.pull, device, limit=100, slots=SLOTS) for device in devices])

    async def report(message: str, status: OfferStatus, expected: str) -> None:
        told = await pool.offers.report(whose[message], PhoneReport(message_id=message, status=status))
        if told.outcome != expected:
            raise StandError(f"a report of {status} came to {told.outcome}: no result")

    processed = [partial(report, message, OfferStatus.PROCESSED, "waiting") for message in messages]
    sent = [partial(report, message, OfferStatus.SENT, "told") for message in messages]
    heard = [partial(pool.seen, device, is_pull=True) for device in devices * STRETCHES]
    return [
        await pool.timed("report that it is with the radio", 3, processed),
        await pool.timed("report that it was sent", 4, sent),
        await pool.timed("a phone is heard of (with every call)", 3, heard),
    ]


async def _looks(pool: Pool) -> list[Row]:
    await pool.phones(_MANY)
    messages = await pool.messages(2 * _MANY)
    resting, late = messages[:_MANY], messages[_MANY:]
    await some_at_a_time([partial(pool.offer, message) for message in resting])

    async def look(message: str, expected: str) -> None:
        told = await pool.offers.look(f"{CALLER.client_id} {message}")
        if told.outcome != expected:
            raise StandError(f"a look came to {told.outcome}, not {expected}: no result")

    rests = await pool.timed("look, nothing to do", 2, [partial(look, message, "waiting") for message in resting])
    await some_at_a_time([partial(pool.offer, message, pull_ms=1) for message in late])
    await asyncio.sleep(0.01)
    moves = [partial(look, message, "moved") for message in late]
    return [rests, await pool.timed(f"look that gives it to another of {_MANY}", 11, moves)]
