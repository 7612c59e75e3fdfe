"""The whole way of a code through phones: how many a second, and how long one takes from its acceptance to the radio.

A hundred simulated phones live in one process, the service in others, all on this machine and over its loopback. First
a backlog goes out as fast as it will. Then codes are sent through the API, at a steady pace far below that and in
bursts: what is timed is from the acceptance in the store to the moment at which the phone's radio has sent, by one
clock.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple

import httpx2
import msgspec

from benchmarks import machine
from benchmarks.phones_crowd import Arrived, Place, Wanted
from benchmarks.phones_stand import (
    HOST,
    Caller,
    PairedPhone,
    PhoneStand,
    Program,
    cpu_s,
    cpu_with_children_s,
    free_port,
)
from benchmarks.stand import StandError
from otpsvc.app import House
from otpsvc.otp.model import SendRequest

N_PHONES = 100
N_BACKLOG = 1000
WINDOWS, PER_WINDOW, PER_S = 3, 100, 25.0
_AT_ONCE_S = 1e9  # a pace by which all of a window are sent in one moment
_PATIENCE_S = 60.0
_LAST_WORDS_S = 1.0  # so long after the last SMS, phones still say that it was delivered
_AT_ONCE = 32
_FIRST_NUMBER = 33_620_000_000


class Waits(NamedTuple):
    """Seconds from the acceptance to the radio.

    `told_s`: to the phone's word in the store that it was sent, on average, by the service's own metric.
    """

    p50_s: float
    p99_s: float
    told_s: float

    def least(self, other: "Waits") -> "Waits":
        """Take the better of each."""
        return Waits(*map(min, self, other))


class Way(NamedTuple):
    """One arrangement: messages per second, CPU per message in ms by process, and waits at a pace and in a burst.

    `pulls` and `reports`: calls of phones per message. `busy`: how many cores anybody kept busy while the backlog went
    out. `holds`: how often a message was sent back because enough calls of the sender were under way.
    """

    name: str
    per_s: float
    cpu_ms: Mapping[str, float]
    pulls: float
    reports: float
    busy: float | None
    holds: float
    light: Waits
    burst: Waits


class _Scene:
    """One arrangement while it runs: the services' addresses, the processes by name, and the crowd."""

    def __init__(self, stand: PhoneStand, house: House, caller: Caller, urls: Sequence[str], crowd: Program) -> None:
        self.stand = stand
        self.house = house
        self.caller = caller
        self.urls = urls
        self.crowd = crowd
        self.programs: dict[str, list[Program]] = {"phones": [crowd]}
        self.n_sent = 0
        self._n_numbers = 0

    def number(self) -> str:
        self._n_numbers += 1
        return f"+{_FIRST_NUMBER + self._n_numbers}"

    def cpu(self) -> dict[str, float]:
        """Give the CPU time of everybody so far, in seconds."""
        pids = self.stand.stores.server_pids
        spent = {name: sum(one.cpu_s for one in programs) for name, programs in self.programs.items()}
        return spent | {"Valkey": cpu_s(pids["redis"]), "PostgreSQL": cpu_with_children_s(pids["postgres"])}

    async def arrived(self, count: int) -> Arrived:
        """Wait until so many more SMS have left their phones; raises StandError unless each did once."""
        self.n_sent += count
        self.crowd.tell(Wanted(self.n_sent, _PATIENCE_S))
        line = await asyncio.to_thread(self.crowd.heard, "sent_at", _PATIENCE_S + 5)
        arrived = msgspec.json.decode(line, type=Arrived)
        if len(arrived.sent_at) != self.n_sent or arrived.doubles:
            raise StandError(f"{len(arrived.sent_at)} of {self.n_sent} SMS arrived, {arrived.doubles} twice: no result")
        return arrived

    async def n_offers(self) -> int:
        """How many offers are not told of yet."""
        count: int = await self.house.redis.command("ZCARD", self.house.keys.offers)
        return count


async def measure_one_process(stand: PhoneStand) -> Way:
    """Measure with the service in one process, as `dev` has it."""
    port = free_port()
    with stand.program("benchmarks.phones_service", str(port)) as service:
        service.heard("serves")
        async with _scene(stand, [port]) as scene:
            scene.programs["service"] = [service]
            return await _measured("one process", scene, lambda: service.tell("go"))


async def measure_two_services(stand: PhoneStand) -> Way:
    """Measure with two services, which share the phones, and one worker."""
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(stand.served(port)) for port in ports]
        async with _scene(stand, ports) as scene:
            scene.programs["services"] = services

            def start_worker() -> None:
                scene.programs["worker"] = [stack.enter_context(stand.program("otpsvc", "worker"))]

            return await _measured("two services, one worker", scene, start_worker)


@contextlib.asynccontextmanager
async def _scene(stand: PhoneStand, ports: Sequence[int]) -> AsyncIterator[_Scene]:
    urls = [f"http://{HOST}:{port}" for port in ports]
    caller = await stand.caller()
    phones = await stand.phones(caller.client_id, N_PHONES)
    with stand.program("benchmarks.phones_crowd") as crowd:
        crowd.tell(_places(urls, phones))
        await asyncio.to_thread(crowd.heard, "connected")
        async with stand.house() as house:
            yield _Scene(stand, house, caller, urls, crowd)


def _places(urls: Sequence[str], phones: Sequence[PairedPhone]) -> list[Place]:
    return [Place(urls[number % len(urls)], phone.id, phone.token) for number, phone in enumerate(phones)]


async def _measured(name: str, scene: _Scene, begin: Callable[[], None]) -> Way:
    await _queue_backlog(scene)
    told_from = await _told(scene)
    begin()
    while not await scene.n_offers():  # noqa: ASYNC110 - the store is what is measured, and it says nothing by itself
        await asyncio.sleep(0.005)
    began_at, spent_from, busy_from_s = time.perf_counter(), scene.cpu(), machine.busy_s()
    await scene.arrived(N_BACKLOG)
    while await scene.n_offers():  # noqa: ASYNC110 - as above: the store says nothing by itself
        await asyncio.sleep(0.005)
    seconds, busy_s = time.perf_counter() - began_at, machine.busy_s()
    await asyncio.sleep(_LAST_WORDS_S)
    spent, told = scene.cpu(), await _told(scene)
    light, burst = [], []
    for _ in range(WINDOWS):
        light.append(await _waits(scene, PER_S))
        burst.append(await _waits(scene, _AT_ONCE_S))
    return Way(
        name=name,
        per_s=N_BACKLOG / seconds,
        cpu_ms={part: (spent[part] - spent_from[part]) / N_BACKLOG * 1000 for part in spent},
        pulls=(told.pulls - told_from.pulls) / N_BACKLOG,
        reports=(told.reports - told_from.reports) / N_BACKLOG,
        busy=(busy_s - busy_from_s) / seconds if busy_s is not None and busy_from_s is not None else None,
        holds=(told.holds - told_from.holds) / N_BACKLOG,
        light=functools.reduce(Waits.least, light),
        burst=functools.reduce(Waits.least, burst),
    )


async def _queue_backlog(scene: _Scene) -> None:
    caller = await scene.house.authenticator.authenticate(scene.caller.api_key, scene.caller.client_id)
    waiting = iter(range(N_BACKLOG))

    async def send_some() -> None:
        for _ in waiting:
            await scene.house.otp.send(caller, SendRequest(to=scene.number()))

    await asyncio.gather(*(send_some() for _ in range(_AT_ONCE)))


class _Told(NamedTuple):
    """What the service has counted: messages that phones say they sent and their seconds, and calls of phones."""

    sent_s: float
    sent: float
    pulls: float
    reports: float
    holds: float


async def _waits(scene: _Scene, per_s: float) -> Waits:
    """Send codes through the API at a steady pace, and time each."""
    told_from = await _told(scene)
    async with httpx2.AsyncClient(headers=scene.caller.headers, trust_env=False, timeout=_PATIENCE_S) as http:

        async def send(number: int) -> str:
            await asyncio.sleep(number / per_s)
            url = scene.urls[number % len(scene.urls)]
            answer = await http.post(f"{url}/v1/otp", json={"to": scene.number()})
            if answer.status_code != 200:
                raise StandError(f"a send was answered with {answer.status_code}: no result")
            message_id: str = answer.json()["message_id"]
            return message_id

        sent = await asyncio.gather(*(send(number) for number in range(PER_WINDOW)))
    arrived = await scene.arrived(PER_WINDOW)
    while await scene.n_offers():  # noqa: ASYNC110 - as above: the store says nothing by itself
        await asyncio.sleep(0.005)
    told = await _told(scene)
    base = scene.house.keys.partitions[0].message_base
    accepted_ms = [await scene.house.redis.command("HGET", base + one, "created_at") for one in sent]
    waits = sorted(arrived.sent_at[one] - int(ms) / 1000 for one, ms in zip(sent, accepted_ms, strict=True))
    if told.sent - told_from.sent != PER_WINDOW:
        raise StandError(f"the service counted {told.sent - told_from.sent:g} SMS of {PER_WINDOW}: no result")
    told_s = (told.sent_s - told_from.sent_s) / PER_WINDOW
    return Waits(waits[PER_WINDOW // 2], waits[PER_WINDOW * 99 // 100 - 1], told_s)


async def _told(scene: _Scene) -> _Told:
    """Read the service's own metrics, which all of its processes write together."""
    async with httpx2.AsyncClient(trust_env=False, timeout=_PATIENCE_S) as http:
        text = (await http.get(f"{scene.urls[0]}/metrics")).text
    found = dict(line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#"))

    def value(name: str) -> float:
        return float(found.get(name, 0))

    return _Told(
        value('otpsvc_phone_sent_seconds_sum{sender="phones"}'),
        value('otpsvc_phone_sent_seconds_count{sender="phones"}'),
        value('otpsvc_call_seconds_count{call="mobile_pull"}'),
        value('otpsvc_call_seconds_count{call="mobile_report"}'),
        value('otpsvc_sender_holds_total{sender="phones",why="crowd"}'),
    )
