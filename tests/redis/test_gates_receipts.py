"""A sender whose receipts do not come: when others go before it, who may bring that about, and how it comes back."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from otpsvc.embedded import RunningStores
from otpsvc.redis.gates import GateState, RedisGates
from otpsvc.testing import ManualClock
from tests.otp.house import HOUR_S, House
from tests.redis.gate import IN, Gate
from tests.redis.gate_racers import GateRacers, start_gate_racers

ROW: dict[str, Any] = {"missed_receipts": 3, "missed_for_s": 60.0, "demoted_probe_s": 60.0}


@pytest.fixture(scope="module")
def racers(stores: RunningStores) -> Iterator[GateRacers]:
    with start_gate_racers(stores.redis_url, 2) as running:
        yield running


@pytest.fixture
def gate(house: House) -> Gate:
    return Gate(house, **ROW)


async def test_a_row_that_is_long_and_lasts_lets_others_go_first(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await gate.miss(1, 2)
    await gate.house.age(59)
    await gate.miss(3)
    assert (await gate.state())[5:] == (3, False)
    assert await gate.held(has_others=True) == ""
    await gate.house.age(1)
    await gate.miss(3)
    assert await gate.state() == GateState("closed", 0, 0.0, 0.0, 0, 3, True)
    assert await gate.held(has_others=True) == "demoted"
    assert await gate.held() == "", "where nobody else can be asked"
    await gate.hear()
    assert await gate.state() == GateState("closed", 0, 0.0, 0.0, 0, 0, False)
    assert await gate.held(has_others=True) == ""
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "gates" in record.name]
    assert told == [
        ("ERROR", "sender vonage-eu takes messages, 3 receipts are missing: others go before it"),
        ("WARNING", "sender vonage-eu: its receipts come again"),
    ]


async def test_what_the_gateway_answers_does_not_end_the_row(gate: Gate) -> None:
    """It takes every message, and none arrives: that is the case this is for."""
    for number in range(3):
        await gate.call("works")
        await gate.miss(number)
        await gate.house.age(30)
    await gate.call("works")
    await gate.miss(3)
    state = await gate.state()
    assert (state.state, state.failures, state.is_demoted) == ("closed", 0, True)


async def test_one_number_counts_once_however_long(gate: Gate) -> None:
    for _ in range(20):
        await gate.miss(7, 8)
        await gate.house.age(30)
    assert (await gate.state())[5:] == (2, False)


async def test_one_receipt_ends_the_row(gate: Gate) -> None:
    for n in range(10):
        await gate.miss(2 * n, 2 * n + 1)
        await gate.house.age(61)
        await gate.hear()
    assert (await gate.state())[5:] == (0, False)
    await gate.miss(1, 2, 3)
    assert not (await gate.state()).is_demoted, "its time begins anew as well"


async def test_many_at_one_moment_are_no_row_that_lasts(house: House, racers: GateRacers) -> None:
    gate = Gate(house, "s", **ROW)
    racers.race("misses", ROW, sender="s", calls=50)
    assert (await gate.state())[5:] == (3, False)
    await house.age(60)
    racers.race("misses", ROW, sender="s", calls=5)
    assert (await gate.state()).is_demoted


async def test_one_message_now_and_then_goes_first(house: House, racers: GateRacers) -> None:
    gate = Gate(house, "s", **ROW)
    await gate.demote()
    assert await gate.held(has_others=True) == "demoted"
    for _ in range(3):
        await house.age(60)
        told = racers.race("admits", ROW, sender="s", calls=20, lapses_in_s=5, has_others=True)
        assert Counter(word for words in told for word in words) == {"admitted": 1, "demoted": 39}
        await house.age(30)
        assert await gate.held() == "", "one that had no other way"
        await house.age(30)
        assert await gate.held(has_others=True) == "demoted", "and was a try as well"


async def test_what_says_nothing_of_the_sender_takes_no_try_from_others(gate: Gate) -> None:
    """Messages of test keys, to numbers that are made up: with many of them nothing else would ever be tried."""
    await gate.demote()
    await gate.house.age(60)
    assert await gate.held(has_others=True, may_probe=False) == "demoted"
    assert await gate.held(may_probe=False) == "", "where nobody else can be asked"
    assert await gate.held(has_others=True) == ""
    assert await gate.held(has_others=True) == "demoted"


@pytest.mark.parametrize("bound", ["hold", "crowd", "rate"])
async def test_whoever_could_go_with_others_does_not_wait_for_it(bound: str, house: House) -> None:
    """Nor where it is its turn to be tried: a route may let messages wait at a bound."""
    limits: dict[str, Any] = {"crowd": {"concurrency": 1}, "rate": {"rate_per_s": 0.01}}
    gate = Gate(house, **ROW, **limits.get(bound, {}))
    await gate.demote()
    _, admission = await gate.admit(lapses_in_s=90)
    assert admission == IN
    if bound == "hold":
        await gate.gates.report(gate.name, "", "unclear", hold_s=90)
    await house.age(61)
    assert await gate.held() == ("rate" if bound == "hold" else bound)
    assert await gate.held(has_others=True) == "demoted"


async def test_whose_receipts_were_missing_is_kept_no_longer_than_it_counts(gate: Gate) -> None:
    await gate.miss(0xABCD)
    assert "0000abcd" in str(await gate.house.snapshot())
    await gate.house.age(60)
    await gate.miss(1, 2, 3)
    assert await gate.state() == GateState("closed", 0, 0.0, 0.0, 0, 3, True)
    assert "0000abcd" not in str(await gate.house.snapshot())


async def test_a_breaker_that_is_open_and_a_bound_go_before_it(house: House) -> None:
    gate = Gate(house, **ROW, breaker_failures=1, concurrency=1)
    await gate.demote()
    _, admission = await gate.admit()
    assert admission == IN
    assert await gate.held() == "crowd"
    assert await gate.held(has_others=True) == "demoted"
    await gate.gates.report(gate.name, "", "fails")
    assert await gate.held(has_others=True) == "open"


async def test_nobody_is_demoted_where_that_is_switched_off(house: House, gate: Gate) -> None:
    off = Gate(house, missed_receipts=0, missed_for_s=1)
    before = await house.snapshot()
    await off.miss(*range(50))
    await off.hear()
    assert await house.snapshot() == before
    await gate.demote()
    assert await off.held(has_others=True) == "", "nor who was so before"
    assert not (await off.state()).is_demoted


async def test_it_is_forgotten_when_nothing_is_heard_of_it_for_hours(gate: Gate) -> None:
    await gate.miss(1, 2)
    (name,) = await gate.house.names()
    assert 0 < await gate.house.raw.pttl(name) <= HOUR_S * 1000
    await gate.demote()
    await gate.house.age(2 * HOUR_S)
    assert await gate.house.names() == []
    assert await gate.held(has_others=True) == ""


async def test_a_hold_and_a_pause_outlive_what_is_noted_of_receipts(house: House) -> None:
    gate = Gate(house, **ROW, breaker_failures=1, breaker_pause_s=3000)
    await gate.call("fails", hold_s=HOUR_S)
    await gate.miss(1)
    await house.age(2000)
    state = await gate.state()
    assert state.state == "open"
    assert state.held_for_s > 1500


@pytest.mark.parametrize("back_s", [60, HOUR_S])
async def test_a_clock_set_back_begins_the_row_anew(gate: Gate, back_s: float) -> None:
    await gate.miss(1, 2)
    await gate.house.age(-back_s)
    await gate.miss(3)
    assert (await gate.state())[5:] == (1, False)
    await gate.demote(2)
    await gate.house.age(-back_s)
    assert await gate.held(has_others=True) == "", "nobody waits for the old time to come"


async def test_what_is_heard_costs_the_store_little(house: House) -> None:
    clock = ManualClock()
    gates = RedisGates(house.client, house.keys, {}, clock=clock)
    gate = Gate(house, **ROW)
    await gates.heard(gate.name)
    assert await house.names() == [], "where nothing is missing, nothing is written"
    await gate.demote()
    await gates.heard(gate.name)
    assert (await gate.state()).is_demoted, "heard of just now"
    clock.advance(0.5)
    await gates.heard(gate.name)
    assert not (await gate.state()).is_demoted
