"""Four processes offer, pull, report and look at the same messages at once."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from otpsvc.devices.model import Device
from otpsvc.devices.policy import Budget
from tests.otp.house import House
from tests.redis.phones import PULL_S, REPORT_S, Phones
from tests.redis.pool_racers import PoolRacers, start_pool_racers

MESSAGES, PHONES = 60, 8


@pytest.fixture(scope="module")
def racers(stores: Any) -> Iterator[PoolRacers]:
    with start_pool_racers(stores.redis_url, 4) as started:
        yield started


@pytest.fixture
def phones(house: House) -> Phones:
    return Phones(house)


async def team_of(phones: Phones, number: int = PHONES, **budget: Any) -> list[Device]:
    return [await phones.phone(budget=Budget(**budget)) for _ in range(number)]


async def messages_of(phones: Phones, number: int = MESSAGES) -> dict[str, int]:
    """Messages that a worker has begun with, and when their codes end."""
    ids = [await phones.message() for _ in range(number)]
    return {message_id: int((await phones.house.message(message_id))["expires_at"]) for message_id in ids}


def outcomes(answers: list[dict[str, Any]]) -> Counter[str]:
    return sum((Counter(answer["outcomes"]) for answer in answers), Counter())


async def test_each_message_goes_to_one_phone_and_no_phone_over_its_budget(racers: PoolRacers, phones: Phones) -> None:
    team = await team_of(phones, messages_per_window=5)
    answers = outcomes(racers.race({"offer": await messages_of(phones), "rounds": 3}))
    given = {tuple(answer.split()[1:]) for answer in answers if answer.startswith("offered")}
    assert len(given) == len({message_id for message_id, _ in given}) == 5 * PHONES
    assert [len((await phones.counted(phone))[0]) for phone in team] == [5] * PHONES
    assert {answer.split()[0] for answer in answers} == {"offered", "budget"}
    offered = [event for event in await phones.house.all_events() if event.name == "message.offered"]
    assert len(offered) == 5 * PHONES


async def test_nobody_pulls_what_another_has_pulled(racers: PoolRacers, phones: Phones) -> None:
    """All that is offered is overdue: it may be taken over at the very moment of its pull."""
    team = await team_of(phones, messages_per_window=100)
    messages = await messages_of(phones)
    racers.race({"offer": messages})
    await phones.house.age(PULL_S)
    for phone in team:
        await phones.come(phone)
    pull = {"pull": [phone.id for phone in team], "rounds": 2}
    answers = racers.race(pull, {"look": list(messages), "rounds": 3})
    answers += racers.race(pull, {"look": list(messages)})
    holders = defaultdict(set)
    for answer in answers:
        for device_id, message_id in answer["pulled"]:
            holders[message_id].add(device_id)
    assert {message_id: len(found) for message_id, found in holders.items()} == dict.fromkeys(messages, 1)
    passed = [event for event in await phones.house.all_events() if event.name == "message.taken_over"]
    assert {event.data["outcome"] for event in passed} <= {"not_pulled"}
    assert not [event for event in passed if "may_duplicate" in event.data]
    counted = [message for phone in team for message in (await phones.counted(phone))[0]]
    assert sorted(counted) == sorted(messages)


async def test_a_silent_phone_is_passed_once_whoever_looks(racers: PoolRacers, phones: Phones) -> None:
    team = await team_of(phones, messages_per_window=100)
    messages = await messages_of(phones)
    racers.race({"offer": messages})
    racers.race({"pull": [phone.id for phone in team]})
    await phones.house.age(REPORT_S)
    for phone in team:
        await phones.come(phone)
    answers = outcomes(racers.race({"look": list(messages), "rounds": 3}))
    assert {answer: n for answer, n in answers.items() if answer.startswith("moved")} == {
        f"moved {message_id}": 1 for message_id in messages
    }
    for message_id in messages:
        assert sorted((await phones.states(message_id)).values()) == ["offered", "silent"]


async def test_one_of_many_reports_of_a_failure_moves_the_message(racers: PoolRacers, phones: Phones) -> None:
    team = await team_of(phones, messages_per_window=100)
    messages = await messages_of(phones)
    racers.race({"offer": messages})
    racers.race({"pull": [phone.id for phone in team]})
    holder = {message_id: (await phones.record(message_id))["holder"] for message_id in messages}
    report: dict[str, dict[str, str]] = defaultdict(dict)
    for message_id, device_id in holder.items():
        report[device_id][message_id] = "failed"
    pull = {"pull": [phone.id for phone in team], "rounds": 2}
    answers = racers.race({"report": report, "rounds": 2}, {"report": report, "look": list(messages)}, pull)
    moved = {answer: n for answer, n in outcomes(answers).items() if answer.startswith("moved")}
    assert moved == {f"moved {message_id}": 1 for message_id in messages}
    answers += racers.race(pull)
    later: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        for device_id, message_id in answer["pulled"]:
            if device_id != holder[message_id]:
                later[message_id].add(device_id)
    assert {message_id: len(found) for message_id, found in later.items()} == dict.fromkeys(messages, 1)


async def test_what_was_sent_is_told_whoever_looks_meanwhile(racers: PoolRacers, phones: Phones) -> None:
    team = await team_of(phones, messages_per_window=100)
    messages = await messages_of(phones)
    racers.race({"offer": messages})
    racers.race({"pull": [phone.id for phone in team]})
    await phones.house.age(REPORT_S)
    for phone in team:
        await phones.come(phone)
    report: dict[str, dict[str, str]] = defaultdict(dict)
    for message_id in messages:
        report[(await phones.record(message_id))["holder"]][message_id] = "sent"
    racers.race({"report": report}, {"look": list(messages), "rounds": 2}, {"pull": [phone.id for phone in team]})
    await phones.house.age(4)
    told = {one.message_id: one.status for one in await phones.mind()}
    assert told == dict.fromkeys(messages, "sent")
    assert await phones.waiting() == {}
    for message_id in messages:
        assert "offered" not in (await phones.states(message_id)).values()
