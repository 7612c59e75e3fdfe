"""The breaker of a sender: when it opens, who tries while it is half open, how it heals, whoever reports at once."""

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from otpsvc.embedded import RunningStores
from otpsvc.messages.ports import Verdict
from otpsvc.redis.gates import GateState
from tests.otp.house import HOUR_S, House
from tests.redis.gate import IN, LAPSE_S, Gate
from tests.redis.gate_racers import GateRacers, start_gate_racers


@pytest.fixture(scope="module")
def racers(stores: RunningStores) -> Iterator[GateRacers]:
    with start_gate_racers(stores.redis_url, 4) as running:
        yield running


async def test_failures_in_a_row_open_it_and_one_that_works_begins_the_row_anew(house: House) -> None:
    gate = Gate(house, breaker_failures=3)
    verdicts: list[Verdict] = ["fails", "fails", "works", "fails", "unclear", "fails"]
    for verdict in verdicts:
        await gate.call(verdict)
    assert (await gate.state()).state == "closed"
    assert (await gate.state()).failures == 2
    await gate.call("fails")
    told = await gate.state()
    assert (told.state, told.failures) == ("open", 3)
    assert 25 < told.open_for_s <= 30
    _, held = await gate.admit()
    assert held.held == "open"
    assert 25 < held.after_s <= 30


async def test_a_fault_that_is_no_calls_counts_as_well(house: House) -> None:
    gate = Gate(house, breaker_failures=2)
    await gate.gates.report(gate.name, "", "fails")
    assert await gate.held() == ""
    await gate.gates.report(gate.name, "", "fails")
    assert await gate.held() == "open"


async def test_what_works_closes_it(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate(house, breaker_failures=2)
    await gate.open(2)
    await house.age(30)
    assert (await gate.state()).state == "half_open"
    await gate.call("works")
    assert await gate.state() == GateState("closed", 0, 0.0, 0.0, 0)
    await gate.call("fails")
    assert await gate.held() == "", "its row begins anew"
    told = [record.getMessage() for record in caplog.records if record.name == "otpsvc.redis.gates"]
    assert told == ["sender vonage-eu fails: nobody calls it for 30 s", "sender vonage-eu works again"]


async def test_each_try_that_fails_doubles_the_pause_up_to_sixteen_times(house: House) -> None:
    gate = Gate(house, breaker_failures=1, breaker_pause_s=30)
    await gate.call("fails")
    for pause_s in (30, 60, 120, 240, 480, 480, 480):
        assert pause_s - 5 < (await gate.state()).open_for_s <= pause_s
        await house.age(pause_s - 5)
        assert await gate.held() == "open"
        await house.age(5)
        await gate.call("fails")
    await house.age(480)
    await gate.call("works")
    await gate.call("fails")
    assert 25 < (await gate.state()).open_for_s <= 30, "after it healed the pause is the first one again"


async def test_no_pause_is_longer_than_an_hour_and_none_is_forgotten_before_its_end(house: House) -> None:
    gate = Gate(house, breaker_failures=1, breaker_pause_s=3000)
    await gate.call("fails")
    for pause_s in (3000, HOUR_S, HOUR_S):
        assert pause_s - 5 < (await gate.state()).open_for_s <= pause_s
        await house.age(pause_s)
        assert (await gate.state()).state == "half_open"
        await gate.call("fails")
    await house.age(2 * HOUR_S)
    assert await house.names() == []
    assert await gate.held() == ""


async def test_while_one_tries_nobody_else_does(house: House) -> None:
    gate = Gate(house, breaker_failures=1)
    await gate.open(1)
    await house.age(30)
    probe, admission = await gate.admit()
    assert admission == IN
    assert await gate.held() == "open"
    assert (await gate.admit(probe))[1] == IN, "its own permit asked for again"
    assert (await gate.state()).state == "half_open"
    await gate.gates.report(gate.name, probe, "unclear")
    second, admission = await gate.admit()
    assert admission == IN, "nobody could tell, so another tries"
    await house.age(LAPSE_S)
    third, admission = await gate.admit()
    assert admission == IN, "the one that tried was never heard of again"
    await gate.gates.report(gate.name, second, "works")
    assert (await gate.state()).state == "half_open", "who has lapsed decides nothing"
    await gate.gates.report(gate.name, third, "works")
    assert (await gate.state()).state == "closed"


@pytest.mark.parametrize("verdict", ["works", "fails"])
async def test_what_began_before_it_opened_decides_nothing(house: House, verdict: Verdict) -> None:
    gate = Gate(house, breaker_failures=1)
    stragglers = [(await gate.admit())[0] for _ in range(3)]
    await gate.open(1)
    before = await gate.state()
    await gate.gates.report(gate.name, stragglers[0], verdict)
    await gate.gates.report(gate.name, "", verdict)
    after = await gate.state()
    assert (after.state, after.failures, after.calls) == ("open", 1, before.calls - 1)
    assert after.open_for_s <= before.open_for_s
    await house.age(30)
    await gate.gates.report(gate.name, stragglers[1], verdict)
    assert (await gate.state()).state == "half_open"


async def test_of_any_number_exactly_one_tries(house: House, racers: GateRacers) -> None:
    limits = {"breaker_failures": 1, "concurrency": 100}
    gate = Gate(house, "s", **limits)
    await gate.open(1)
    for pause_s in (30, 60, 120):
        await house.age(pause_s)
        told = racers.race("admits", limits, sender="s", calls=50, lapses_in_s=60)
        assert Counter(word for words in told for word in words) == {"admitted": 1, "open": 199}
        racers.race("reports", limits, sender="s", calls=50, verdict="fails")
        state = await gate.state()
        assert state.state == "open"
        assert state.open_for_s <= 2 * pause_s, "told by everybody, twice, and counted once"


async def test_failures_of_all_workers_count_together_and_each_once(house: House, racers: GateRacers) -> None:
    limits = {"breaker_failures": 60, "concurrency": 100}
    racers.race("admits", limits, sender="s", calls=15, lapses_in_s=60)
    gate = Gate(house, "s", **limits)
    assert (await gate.state()).calls == 60
    extra, _ = await gate.admit()
    racers.race("reports", limits, sender="s", calls=14, verdict="fails")
    assert (await gate.state())[:2] == ("closed", 56)
    await gate.gates.report("s", extra, "works")
    assert (await gate.state())[:2] == ("closed", 0)


@pytest.mark.parametrize("permit", ["never", "reported", "x" * 1000, "*"])
async def test_a_report_about_no_call_changes_nothing(house: House, permit: str) -> None:
    gate = Gate(house, breaker_failures=1)
    await gate.admit("reported")
    await gate.gates.report(gate.name, "reported", "works")
    await gate.admit("under way")
    before = await house.snapshot()
    await gate.gates.report(gate.name, permit, "fails", hold_s=60)
    assert await house.snapshot() == before
