"""A sender's gate: who is let in, and what no parallelism, crash or clock changes. The breaker: test_gates_breaker."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from otpsvc.embedded import RunningStores
from otpsvc.errors import ApiError
from otpsvc.messages.policy import SenderLimits
from otpsvc.redis.client import RedisClient
from otpsvc.redis.gates import GateState, RedisGates
from otpsvc.redis.keys import Keys
from tests.otp.house import HOUR_S, House
from tests.redis.gate import IN, LAPSE_S, Gate
from tests.redis.gate_racers import GateRacers, start_gate_racers


@pytest.fixture(scope="module")
def racers(stores: RunningStores) -> Iterator[GateRacers]:
    with start_gate_racers(stores.redis_url, 4) as running:
        yield running


# Concurrency


async def test_so_many_are_let_in_and_each_that_ends_makes_room(house: House) -> None:
    gate = Gate(house, concurrency=2)
    first, _ = await gate.admit()
    assert (await gate.admit())[1] == IN
    _, crowded = await gate.admit()
    assert crowded.held == "crowd"
    assert 0 < crowded.after_s <= 5
    await gate.gates.report(gate.name, first, "works")
    assert (await gate.admit())[1] == IN
    assert (await gate.admit())[1].held == "crowd"
    assert (await gate.state()).calls == 2


async def test_a_permit_asked_for_again_is_the_same_permit(house: House) -> None:
    gate = Gate(house, concurrency=1, rate_per_s=1)
    for _ in range(5):
        assert (await gate.admit("mine"))[1] == IN
    assert (await gate.state()).calls == 1
    assert (await gate.admit("other"))[1].held == "crowd"
    await gate.gates.report(gate.name, "mine", "works")
    assert (await gate.admit("other"))[1].held == "rate", "asked for five times, paid for once"


async def test_concurrency_is_never_exceeded_whoever_asks(house: House, racers: GateRacers) -> None:
    told = racers.race("works", {"concurrency": 5}, sender="s", workers=25, rounds=4)
    assert max(most for most, _ in told) == 5
    assert sum(refused for _, refused in told) > 50, "it was crowded"
    assert (await Gate(house, "s", concurrency=5).state()).calls == 0


async def test_a_crowd_at_one_moment_gets_as_many_permits_as_there_are(house: House, racers: GateRacers) -> None:
    told = racers.race("admits", {"concurrency": 7}, sender="s", calls=50, lapses_in_s=60)
    assert Counter(word for words in told for word in words) == {"admitted": 7, "crowd": 193}


async def test_a_crowded_sender_is_no_other_senders_matter(house: House) -> None:
    limits = {"hung": SenderLimits(concurrency=1), "well": SenderLimits(concurrency=1)}
    gates = RedisGates(house.client, house.keys, limits)
    assert await gates.admit("hung", "a", lapses_in_s=60) == IN
    await gates.report("hung", "", "fails", hold_s=60)
    assert (await gates.admit("hung", "b", lapses_in_s=60)).held
    assert await gates.admit("well", "c", lapses_in_s=60) == IN


async def test_the_permits_of_a_killed_worker_lapse(house: House, stores: RunningStores) -> None:
    gate = Gate(house, concurrency=3)
    with start_gate_racers(stores.redis_url, 1) as mortal:
        words = mortal.race("admits", {"concurrency": 3}, sender=gate.name, calls=3, lapses_in_s=LAPSE_S)
        mortal.kill()
    assert words == [["admitted"] * 3]
    assert await gate.held() == "crowd"
    await house.age(LAPSE_S - 5)
    assert await gate.held() == "crowd"
    await house.age(5)
    assert await gate.held() == ""
    assert (await gate.state()).calls == 0
    assert await house.raw.zcard(house.keys.calls(gate.name)) == 0


async def test_no_permit_counts_for_longer_than_five_minutes(house: House) -> None:
    gate = Gate(house, concurrency=1)
    await gate.admit(lapses_in_s=86_400)
    await house.age(299)
    assert await gate.held() == "crowd"
    await house.age(1)
    assert await gate.held() == ""


async def test_a_call_without_a_permit_is_a_mistake(house: House) -> None:
    with pytest.raises(ValueError, match="permit"):
        await RedisGates(house.client, house.keys, {}).admit("s", "", lapses_in_s=1)
    assert await house.names() == []


async def test_a_sender_that_nobody_bounded_has_the_bounds_of_all(house: House) -> None:
    gates = RedisGates(house.client, house.keys, {})
    most = SenderLimits().concurrency
    answers = [await gates.admit("s", f"p{n}", lapses_in_s=60) for n in range(most + 1)]
    assert [answer.held for answer in answers] == [""] * most + ["crowd"]


# Rate


async def test_after_a_rest_a_second_worth_of_calls_begins_then_they_come_at_their_rate(house: House) -> None:
    gate = Gate(house, concurrency=1000, rate_per_s=0.5)
    await gate.call("works")
    _, held = await gate.admit()
    assert held.held == "rate"
    assert 1 < held.after_s <= 2
    for _ in range(3):
        await house.age(2)
        await gate.call("works")
        assert await gate.held() == "rate"
    await house.age(HOUR_S / 2)
    await gate.call("works")
    assert await gate.held() == "rate", "a long rest saves up no more than one"


async def test_a_refusal_by_the_rate_costs_nothing(house: House) -> None:
    gate = Gate(house, rate_per_s=0.01)
    await gate.call("works")
    before = await house.snapshot()
    for _ in range(20):
        assert (await gate.admit())[1].held == "rate"
    assert await house.snapshot() == before


async def test_the_rate_is_never_exceeded_whoever_asks(house: House, racers: GateRacers) -> None:
    rate, admitted = 40, 0
    began = await server_time(house)
    for n in range(6):
        told = racers.race(
            "admits", {"concurrency": 1000, "rate_per_s": rate}, sender="s", calls=30, lapses_in_s=60 + n
        )
        admitted += sum(words.count("admitted") for words in told)
        await house.raw.delete(house.keys.calls("s"))  # the racers' permits have the same names each time
    took_s = await server_time(house) - began
    assert rate <= admitted <= rate + rate * took_s + 1


async def server_time(house: House) -> float:
    seconds, micros = await house.raw.time()
    return float(seconds + micros / 1_000_000)


# Left alone


async def test_a_gateway_that_asks_for_it_is_left_alone_for_so_long(house: House) -> None:
    gate = Gate(house)
    await gate.call("unclear", hold_s=7)
    _, held = await gate.admit()
    assert held.held == "rate"
    assert 5 < held.after_s <= 7
    assert 5 < (await gate.state()).held_for_s <= 7
    await gate.gates.report(gate.name, "", "unclear", hold_s=2)
    assert 5 < (await gate.state()).held_for_s <= 7, "a shorter wish takes nothing from a longer one"
    await gate.gates.report(gate.name, "", "unclear", hold_s=10)
    await house.age(8)
    assert await gate.held() == "rate"
    await house.age(2)
    assert await gate.held() == ""


async def test_it_is_left_alone_in_any_state_and_for_an_hour_at_most(house: House) -> None:
    gate = Gate(house, breaker_failures=1)
    await gate.open(1)
    await gate.gates.report(gate.name, "", "unclear", hold_s=1e9)
    await house.age(30)
    assert (await gate.state()).state == "half_open"
    _, held = await gate.admit()
    assert held.held == "rate"
    assert HOUR_S - 40 < held.after_s <= HOUR_S
    await house.age(HOUR_S - 30)
    assert await gate.held() == ""


# The store


@pytest.mark.parametrize("back_s", [60, HOUR_S, 400 * 86_400])
async def test_a_clock_set_back_locks_nobody_out(house: House, back_s: float) -> None:
    gates = [
        Gate(house, "open", breaker_failures=1),
        Gate(house, "held"),
        Gate(house, "fast", rate_per_s=0.1),
        Gate(house, "full", concurrency=1),
        Gate(house, "tried", breaker_failures=1),
    ]
    opened, held, fast, full, tried = gates
    await opened.open(1)
    await held.call("unclear", hold_s=30)
    await fast.call("works")
    await full.admit()
    await tried.open(1)
    await house.age(30)
    await tried.admit()
    for gate in (opened, held):
        await gate.gates.report(gate.name, "", "unclear", hold_s=30)
    await house.age(-back_s)
    # Scores within five minutes cannot be told from true ones.
    waits_s = 0 if back_s > 300 else back_s + LAPSE_S
    for gate in (opened, held, fast):
        assert await gate.held() == ""
    await house.age(waits_s)
    for gate in (full, tried):
        assert await gate.held() == ""


async def test_every_key_ends_by_itself(house: House) -> None:
    gate = Gate(house, breaker_failures=1, rate_per_s=1)
    await gate.call("fails", hold_s=60)
    await gate.admit()
    await house.age(60)
    await gate.admit()
    names = await house.names()
    assert {name.decode() for name in names} == {house.keys.gate(gate.name), house.keys.calls(gate.name)}
    for name in names:
        assert 0 < await house.raw.pttl(name) <= 2 * HOUR_S * 1000


async def test_states_are_told_of_all_senders(house: House) -> None:
    limits = {"a": SenderLimits(breaker_failures=1), "b": SenderLimits()}
    gates = RedisGates(house.client, house.keys, limits)
    await gates.report("a", "", "fails")
    await gates.admit("b", "p", lapses_in_s=60)
    states = await gates.states()
    assert {name: state.state for name, state in states.items()} == {"a": "open", "b": "closed"}
    assert states["b"] == GateState("closed", 0, 0.0, 0.0, 1)


async def test_without_the_store_asking_is_refused_and_reporting_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="otpsvc.redis.gates")
    client = RedisClient("redis://127.0.0.1:1", timeout_s=0.2, max_connections=1)
    gates = RedisGates(client, Keys("test", 1), {"s": SenderLimits()})
    try:
        with pytest.raises(ApiError) as caught:
            await gates.admit("s", "p", lapses_in_s=1)
        assert caught.value.code == "SERVICE_UNAVAILABLE"
        await asyncio.gather(gates.report("s", "p", "works"), gates.report("s", "", "fails", hold_s=3))
        assert [record.getMessage() for record in caplog.records if record.name == "otpsvc.redis.gates"] == [
            "sender s: a call's end was not reported: ApiError"
        ] * 2
        with pytest.raises(ApiError):
            await gates.states()
    finally:
        await client.close()
