"""The drain over a stream with faults: each event written once and acknowledged after it, whatever fails or dies.

The stream is one in memory that fails on demand, the history a list that knows what it has; `test_drain_postgres.py`
runs the same on the real history.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpsvc.errors import problem
from otpsvc.events import drain
from otpsvc.events.drain import run_drain, run_housekeeping
from otpsvc.events.model import Event
from otpsvc.testing import ManualClock
from tests.events.samples import event, lives
from tests.events.stream import MemoryStream, Partition


class MemoryLog:
    """A history that is as idempotent as the real one. `faults` are calls that fail next; `lost`: after the commit."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.n_writes = self.n_kept = 0
        self.faults: list[str] = []

    async def write(self, events: Sequence[Event]) -> int:
        self.n_writes += 1
        await self._answer("write")
        known = len(self.events)
        self.events |= {one.event_id: one for one in events}
        await self._answer("write lost")
        return len(self.events) - known

    async def keep_house(self) -> None:
        self.n_kept += 1
        await self._answer("keep_house")

    async def of_otp(self, client_id: str, mode: str, otp_id: str, *, since_ms: int | None = None) -> list[Event]:
        raise NotImplementedError

    async def recent(self, **given: object) -> object:
        raise NotImplementedError

    async def _answer(self, step: str) -> None:
        await asyncio.sleep(0)
        if step in self.faults:
            self.faults.remove(step)
            raise problem("SERVICE_UNAVAILABLE")


class Observer:
    def __init__(self) -> None:
        self.n_new = self.n_repeated = 0
        self.outages: list[str] = []

    def drained(self, n_new: int, n_repeated: int) -> None:
        self.n_new, self.n_repeated = self.n_new + n_new, self.n_repeated + n_repeated

    def outage(self, store: str) -> None:
        self.outages.append(store)


class House:
    """Drains over one partition into one history; every drain has its own view of the stream."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.partition = Partition(self.clock)
        self.log = MemoryLog()
        self.observer = Observer()
        self.stop = asyncio.Event()
        self.drains: list[asyncio.Task[None]] = []

    def start(self, stream: MemoryStream | None = None, batch: int = 10) -> "asyncio.Task[None]":
        task = asyncio.create_task(
            run_drain(
                stream or MemoryStream(self.partition),
                self.log,  # type: ignore[arg-type]  # reading it is not the drain's business
                stop=self.stop,
                clock=self.clock,
                batch=batch,
                observer=self.observer,
            )
        )
        self.drains.append(task)
        return task

    async def until_done(self) -> None:
        """Wait until nothing is unread or unacknowledged; time passes for those who wait for idle entries."""
        for _ in range(20_000):
            if self.partition.is_done:
                return
            self.clock.advance(1.0)
            await asyncio.sleep(0.0005)
        pytest.fail("it never got done")

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(*self.drains, return_exceptions=True)

    def holds_exactly(self, events: Sequence[Event]) -> None:
        assert sorted(self.log.events) == sorted(one.event_id for one in events)
        assert self.partition.is_done
        assert len(self.partition.acknowledged) == len(events)


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if is_so():
            return
        await asyncio.sleep(0)
    pytest.fail("it did not come about")


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_FIRST_PAUSE_S", 0.0001)
    monkeypatch.setattr(drain, "_MAX_PAUSE_S", 0.001)
    monkeypatch.setattr(drain, "READ_WAIT_S", 0.005)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.end()


async def test_everything_is_moved_once(house: House) -> None:
    events = lives(20)
    house.partition.add(events)
    house.start()
    await house.until_done()
    await house.end()
    house.holds_exactly(events)
    assert set(house.partition.acknowledged.values()) == {1}
    assert (house.observer.n_new, house.observer.n_repeated, house.observer.outages) == (100, 0, [])


STEPS = ["prepare", "read", "read lost", "write", "write lost", "acknowledge", "acknowledge lost", "reclaim"]


@pytest.mark.parametrize("step", STEPS)
async def test_any_step_may_fail(house: House, step: str, caplog: pytest.LogCaptureFixture) -> None:
    """Three times in a row: one line when it begins, one when it is over."""
    caplog.set_level(logging.INFO)
    events = lives(5)
    stream = MemoryStream(house.partition)
    (house.log if "write" in step else stream).faults += [step] * 3
    house.partition.add(events)
    house.start(stream)
    await house.until_done()
    await house.end()
    house.holds_exactly(events)
    store = "history" if "write" in step else "stream"
    assert set(house.observer.outages) == {store}
    if "lost" not in step:
        assert house.observer.outages == [store]
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    # What was written and then not known to be written is written again, and known again.
    assert house.observer.n_repeated == (10 if step == "write lost" else 0)


async def test_nothing_is_acknowledged_that_was_not_written(house: House) -> None:
    house.partition.add(lives(4))
    house.log.faults += ["write"] * 100
    house.start()
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert house.partition.acknowledged == {}
    assert house.log.events == {}
    house.log.faults.clear()
    await house.until_done()


async def test_a_drain_that_is_killed_is_replaced(house: House) -> None:
    """At any of its turns: what it had read is taken over after a while by another."""
    events: list[Event] = []
    for turns in range(40):
        more = lives(2)
        events += more
        house.partition.add(more)
        doomed = house.start(MemoryStream(house.partition, f"doomed {turns}"), batch=3)
        for _ in range(turns):
            await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
    house.start(MemoryStream(house.partition, "heir"))
    await house.until_done()
    house.holds_exactly(events)


async def test_what_another_is_busy_with_is_left_to_him(house: House) -> None:
    slow = MemoryStream(house.partition, "slow")
    house.partition.add(lives(1))
    await slow.prepare()
    taken = await slow.read(limit=10, wait_s=0)
    house.start()
    for _ in range(20):
        house.clock.advance(1.0)
        await asyncio.sleep(0.002)
    assert house.log.n_writes == 0
    house.clock.advance(15.0)
    await house.until_done()
    await slow.acknowledge(taken)
    assert len(house.log.events) == 5


async def test_many_leftovers_come_before_what_is_new(house: House) -> None:
    gone = MemoryStream(house.partition, "gone")
    left, new = lives(10), lives(1)
    house.partition.add(left)
    await gone.prepare()
    await gone.read(limit=1000, wait_s=0)
    house.clock.advance(60.0)
    house.partition.add(new)
    house.start(batch=7)
    await house.until_done()
    assert [*house.log.events] == [one.event_id for one in left + new]


async def test_groups_that_are_gone_are_made_again(house: House) -> None:
    house.start()
    await house.until_done()
    house.partition.is_prepared = False
    events = lives(2)
    house.partition.add(events)
    await house.until_done()
    house.holds_exactly(events)


@pytest.mark.parametrize("fault", [None, "write", "acknowledge"])
async def test_stop_finishes_what_is_in_hand(house: House, fault: str | None) -> None:
    """Read before `stop`, written and acknowledged after it, also where the first try fails; nothing more is read."""
    gate = asyncio.Event()
    stream, real_write = MemoryStream(house.partition), house.log.write

    async def write(events: Sequence[Event]) -> int:
        await gate.wait()
        return await real_write(events)

    house.log.write = write  # type: ignore[method-assign]  # a slower one
    if fault:
        (house.log if fault == "write" else stream).faults.append(fault)
    events, more = lives(2), lives(2)
    house.partition.add(events)
    draining = house.start(stream)
    await until(lambda: not house.partition.unread)
    house.stop.set()
    house.partition.add(more)
    gate.set()
    await asyncio.wait_for(draining, 10)
    assert sorted(house.log.events) == sorted(one.event_id for one in events)
    assert len(house.partition.acknowledged) == len(events)
    assert [entry.event for entry in house.partition.unread] == more


@pytest.mark.parametrize("step", ["read", "write", "acknowledge"])
async def test_stop_does_not_wait_for_a_store_that_is_away(house: House, step: str) -> None:
    stream = MemoryStream(house.partition)
    (house.log if step == "write" else stream).faults += [step] * 1_000_000
    house.partition.add(lives(1))
    draining = house.start(stream)
    await asyncio.sleep(0.01)
    house.stop.set()
    await asyncio.wait_for(draining, 10)
    assert house.partition.acknowledged == {}


async def test_stop_does_not_wait_for_a_store_that_hangs(house: House) -> None:
    is_cut_off = False

    async def write(events: Sequence[Event]) -> int:
        nonlocal is_cut_off
        try:
            return await asyncio.Event().wait()
        finally:
            is_cut_off = True

    house.log.write = write  # type: ignore[method-assign]  # one that never answers
    house.partition.add(lives(1))
    house.stop.set()
    stop = asyncio.Event()
    draining = asyncio.create_task(
        run_drain(MemoryStream(house.partition), house.log, stop=stop, clock=house.clock, finish_s=0.01)  # type: ignore[arg-type]  # as above
    )
    await until(lambda: bool(house.partition.pending))
    stop.set()
    await asyncio.wait_for(draining, 10)
    assert is_cut_off


async def test_a_fault_of_another_kind_is_waited_out_and_says_nothing_of_what_it_holds(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    real_write, n_tries = house.log.write, 0

    async def write(events: Sequence[Event]) -> int:
        nonlocal n_tries
        n_tries += 1
        if n_tries < 4:
            raise RuntimeError("hush")
        return await real_write(events)

    house.log.write = write  # type: ignore[method-assign]  # one with a bug
    events = lives(1)
    house.partition.add(events)
    house.start()
    await house.until_done()
    house.holds_exactly(events)
    assert "hush" not in caplog.text
    assert caplog.text.count("the history fails") == 1


FAULTS = st.lists(st.sampled_from([*STEPS, "reclaim lost", "kill"]), max_size=25)


@settings(max_examples=60, deadline=None)
@given(faults=FAULTS, seed=st.integers(0, 10_000))
def test_exactly_once_whatever_happens(faults: list[str], seed: int) -> None:
    """Three drains, faults and kills drawn at will: in the end the history holds each event, and the stream none."""

    async def run() -> None:
        house, chance = House(), random.Random(seed)
        streams = [MemoryStream(house.partition, f"drain {n}") for n in range(3)]
        running = [house.start(stream, batch=chance.randint(1, 8)) for stream in streams]
        events: list[Event] = []
        try:
            for fault in faults:
                more = [event("otp.expired") for _ in range(chance.randint(0, 6))]
                events += more
                house.partition.add(more)
                n = chance.randrange(3)
                if fault == "kill":
                    running[n].cancel()
                    running[n] = house.start(streams[n], batch=chance.randint(1, 8))
                else:
                    (house.log if "write" in fault else streams[n]).faults.append(fault)
                for _ in range(chance.randint(0, 12)):
                    await asyncio.sleep(0)
                house.clock.advance(chance.choice([0, 1, 40]))
            await house.until_done()
        finally:
            await house.end()
        house.holds_exactly(events)

    pause_s, drain._FIRST_PAUSE_S = drain._FIRST_PAUSE_S, 0.0001
    try:
        asyncio.run(run())
    finally:
        drain._FIRST_PAUSE_S = pause_s


async def test_a_batch_has_at_least_one(house: House) -> None:
    with pytest.raises(ValueError, match="batch"):
        await house.start(batch=0)


async def test_the_house_is_kept_at_once_and_then_by_the_hour() -> None:
    log, clock, stop = MemoryLog(), ManualClock(), asyncio.Event()
    keeping = asyncio.create_task(run_housekeeping(log, stop=stop, clock=clock, every_s=3600))  # type: ignore[arg-type]  # as above
    kept_at: list[float] = []
    for _ in range(10_000):
        if log.n_kept > len(kept_at):
            kept_at.append(clock.monotonic())
        if len(kept_at) == 3:
            break
        clock.advance(10)
        await asyncio.sleep(0.001)
    assert len(kept_at) == 3
    assert kept_at[0] <= 10
    assert all(later - earlier >= 3600 for earlier, later in itertools.pairwise(kept_at))
    stop.set()
    await asyncio.wait_for(keeping, 10)


async def test_a_house_that_could_not_be_kept_is_kept_sooner() -> None:
    log, clock, stop = MemoryLog(), ManualClock(), asyncio.Event()
    log.faults.append("keep_house")
    keeping = asyncio.create_task(run_housekeeping(log, stop=stop, clock=clock, every_s=3600))  # type: ignore[arg-type]  # as above
    for _ in range(10_000):
        if log.n_kept == 2:
            break
        clock.advance(0.1)
        await asyncio.sleep(0.001)
    assert log.n_kept == 2
    assert 60 <= clock.monotonic() < 3600
    stop.set()
    await asyncio.wait_for(keeping, 10)
