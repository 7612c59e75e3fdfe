"""A crowd of simulated phones in a process of its own, and what arrived from them; started by `benchmarks.phones_way`.

The phones are those of `otpsvc device simulate`, with a radio that takes no time: all waiting is the service's. The
first line on standard input says who they are, each further one how many SMS to wait for; a line answers each.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import uvloop

from otpsvc.app import settle_memory
from otpsvc.handset.air import Air
from otpsvc.handset.journal import Credentials, MemoryJournal
from otpsvc.handset.simulated import SimulatedPhone

_CONNECT_S = 30.0
_KEPT = 100_000


class Place(NamedTuple):
    """One phone: the service it talks to, its id and its token."""

    url: str
    id: str
    token: str


class Wanted(msgspec.Struct, frozen=True):
    """How many SMS are to be there in all, and how long that may take."""

    count: int
    timeout_s: float


class Arrived(msgspec.Struct, frozen=True):
    """What there is: when each message was sent by its phone, in seconds since 1970; and how often one came twice."""

    sent_at: dict[str, float]
    doubles: int


async def _live(places: Sequence[Place]) -> None:
    air, stop = Air(kept=_KEPT), asyncio.Event()
    phones = [_phone(place, air, number) for number, place in enumerate(places)]
    lives = [asyncio.create_task(phone.run(stop)) for phone in phones]
    try:
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.gather(*(phone.connected() for phone in phones))
        settle_memory()
        _say({"connected": len(phones)})
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(await _collected(air, msgspec.json.decode(line, type=Wanted)))
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)


def _phone(place: Place, air: Air, number: int) -> SimulatedPhone:
    journal = MemoryJournal()
    journal.identify(Credentials(server=place.url, id=place.id, token=place.token))
    return SimulatedPhone(place.url, name=f"phone {number}", air=air, journal=journal)


async def _collected(air: Air, wanted: Wanted) -> Arrived:
    """Wait until so many have arrived; gives what there is when the time is over."""
    with contextlib.suppress(TimeoutError), air.subscribe() as arriving:
        async with asyncio.timeout(wanted.timeout_s):
            while len(air.list()) < wanted.count:
                await anext(arriving)
    arrived = air.list()
    sent_at = {sms.message_id: sms.sent_at.timestamp() for sms in arrived}
    return Arrived(sent_at, len(arrived) - len(sent_at))


def _say(fact: object) -> None:
    sys.stdout.write(msgspec.json.encode(fact).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    places = msgspec.json.decode(sys.stdin.readline(), type=list[Place])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(places))


if __name__ == "__main__":
    main()
