"""What holds whatever comes at the same moment, from several processes with connections of their own."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from otpsvc.embedded import RunningStores
from tests.otp.house import HOUR_S, NUMBER, House, wrong
from tests.otp.racers import Call, Racers, start_racers


@pytest.fixture(scope="module")
def racers(stores: RunningStores) -> Iterator[Racers]:
    with start_racers(stores.redis_url, 4) as running:
        yield running


def kinds(outcomes: list[list[object]]) -> Counter[object]:
    return Counter(str(outcome) for outcome in outcomes)


async def test_of_200_parallel_wrong_guesses_exactly_three_are_compared(house: House, racers: Racers) -> None:
    sent, code = await house.send_with_code()
    guesses = [guess for n in range(201) if (guess := f"{n:06d}") != code][:200]
    outcomes = racers.share([("verify", {"otp_id": sent.otp_id, "code": guess}) for guess in guesses])
    assert kinds(outcomes) == {
        "['wrong', 2]": 1,
        "['wrong', 1]": 1,
        "['wrong', 0]": 1,
        "['refused', 'OTP_MAX_ATTEMPTS']": 197,
    }
    record = await house.record(sent.otp_id)
    assert (record["attempts"], record["status"]) == ("3", "locked")
    kept = {name: value for name, value in record.items() if name.startswith("guess_")}
    assert sorted(kept) == ["guess_1", "guess_2", "guess_3"]
    assert len({value.split()[1] for value in kept.values()}) == 3
    assert Counter(name for name, _ in await house.events()) == {"otp.sent": 1, "otp.rejected": 3, "otp.locked": 1}
    (fails,) = await house.raw.keys("*:fails:*")
    assert await house.raw.zcard(fails) == 3
    await house.refused(house.verify(sent.otp_id, code), "OTP_MAX_ATTEMPTS")


async def test_of_50_parallel_right_guesses_one_wins(house: House, racers: Racers) -> None:
    sent, code = await house.send_with_code()
    outcomes = racers.share([("verify", {"otp_id": sent.otp_id, "code": code})] * 50)
    assert kinds(outcomes) == {f"['right', '{sent.otp_id}']": 1, "['refused', 'OTP_NOT_FOUND']": 49}
    record = await house.record(sent.otp_id)
    assert (record["attempts"], record["status"]) == ("1", "verified")
    assert [name for name, _ in await house.events()] == ["otp.sent", "otp.verified"]


async def test_of_three_parallel_guesses_the_right_one_wins_every_time(house: House, racers: Racers) -> None:
    lanes: list[list[Call]] = [[], [], []]
    for n in range(100):
        sent, code = await house.send_with_code(to=f"+336123{n:05d}")
        guesses = [wrong(code), wrong(code, wrong(code))]
        guesses.insert(n % 3, code)
        for lane, guess in zip(lanes, guesses, strict=True):
            lane.append(("verify", {"otp_id": sent.otp_id, "code": guess}))
    for lane in lanes:
        random.Random(7).shuffle(lane)  # the same order in each, so that the three of one OTP meet
    outcomes = racers.race(*lanes)
    winners = [otp_id for kind, otp_id in outcomes if kind == "right"]
    assert len(winners) == len(set(winners)) == 100
    assert {code for kind, code in outcomes if kind == "refused"} <= {"OTP_NOT_FOUND"}


async def test_a_right_guess_is_never_refused_while_attempts_are_left(house: House, racers: Racers) -> None:
    lanes: list[list[Call]] = [[], []]
    for n in range(50):
        sent, code = await house.send_with_code(to=f"+336123{n:05d}")
        await house.verify(sent.otp_id, wrong(code))
        lanes[n % 2].append(("verify", {"otp_id": sent.otp_id, "code": code}))
        lanes[1 - n % 2].append(("verify", {"otp_id": sent.otp_id, "code": wrong(code)}))
    outcomes = racers.race(*lanes)
    assert sum(kind == "right" for kind, _ in outcomes) == 50


async def test_of_100_parallel_sends_over_12_purposes_exactly_ten_pass(house: House, racers: Racers) -> None:
    calls: list[Call] = [("send", {"to": NUMBER, "purpose": f"p{n % 12}"}) for n in range(100)]
    outcomes = racers.share(calls)
    assert Counter(kind for kind, _ in outcomes) == {"sent": 10, "refused": 90}
    assert {code for kind, code in outcomes if kind == "refused"} == {"OTP_RATE_LIMIT"}
    (window,) = await house.raw.keys("*:sends:*")
    assert await house.raw.zcard(window) == 10
    assert len(await house.raw.keys("*:otp:*")) == 10
    await house.refused(house.send(purpose="p99"), "OTP_RATE_LIMIT")
    await house.age(HOUR_S)
    assert Counter(kind for kind, _ in racers.share(calls)) == {"sent": 10, "refused": 90}


async def test_sends_and_resends_in_parallel_share_the_ten(house: House, racers: Racers) -> None:
    living = [await house.send(purpose=f"p{n}") for n in range(4)]
    calls: list[Call] = [("resend", {"otp_id": sent.otp_id}) for sent in living for _ in range(6)]
    calls += [("send", {"purpose": f"q{n}"}) for n in range(24)]
    random.Random(3).shuffle(calls)
    outcomes = racers.share(calls)
    assert sum(kind == "sent" for kind, _ in outcomes) == 6
    (window,) = await house.raw.keys("*:sends:*")
    assert await house.raw.zcard(window) == 10


async def test_parallel_sends_of_one_purpose_leave_one_living_code(house: House, racers: Racers) -> None:
    outcomes = racers.share([("send", {})] * 10)
    sent = [otp_id for kind, otp_id in outcomes if kind == "sent"]
    assert len(sent) == 10
    statuses = Counter([await house.status(otp_id) for otp_id in sent])
    assert statuses == {"superseded": 9, "pending": 1}
    assert len(await house.waiting()) == 1


async def test_parallel_resend_verify_and_cancel_have_one_winner(house: House, racers: Racers) -> None:
    lanes: list[list[Call]] = [[], [], [], []]
    made = []
    for n in range(60):
        sent, code = await house.send_with_code(to=f"+336123{n:05d}")
        made.append(sent.otp_id)
        steps: list[Call] = [
            ("verify", {"otp_id": sent.otp_id, "code": code}),
            ("cancel", {"otp_id": sent.otp_id}),
            ("resend", {"otp_id": sent.otp_id}),
            ("verify", {"otp_id": sent.otp_id, "code": code}),
        ]
        for place, step in enumerate(steps):
            lanes[(place + n) % 4].append(step)
    outcomes = racers.race(*lanes)
    winners = Counter(otp_id for kind, otp_id in outcomes if kind in {"right", "cancelled"})
    assert winners == dict.fromkeys(made, 1)
    ended = {otp_id: kind for kind, otp_id in outcomes if kind in {"right", "cancelled"}}
    refused = {code for kind, code in outcomes if kind == "refused"}
    assert refused <= {"OTP_NOT_FOUND", "OTP_NOT_PENDING"}
    for otp_id in made:
        assert await house.status(otp_id) == {"right": "verified", "cancelled": "cancelled"}[ended[otp_id]]


async def test_send_and_verify_of_the_code_it_supersedes_have_one_winner(house: House, racers: Racers) -> None:
    lanes: list[list[Call]] = [[], []]
    first: dict[str, str] = {}
    for n in range(60):
        number = f"+336123{n:05d}"
        sent, code = await house.send_with_code(to=number)
        first[sent.otp_id] = number
        lanes[n % 2].append(("verify", {"otp_id": sent.otp_id, "code": code}))
        lanes[1 - n % 2].append(("send", {"to": number}))
    outcomes = racers.race(*lanes)
    verified = {otp_id for kind, otp_id in outcomes if kind == "right"}
    for otp_id in first:
        assert await house.status(otp_id) == ("verified" if otp_id in verified else "superseded")


async def test_two_workers_never_hold_the_same_message(house: House, racers: Racers) -> None:
    made = {(await house.send(to=f"+336123{n:05d}")).message_id for n in range(120)}
    outcomes = racers.share([("claim", {"limit": 7, "lease_s": 60})] * 40)
    held = [message_id for _, batch in outcomes for message_id in batch]
    assert len(held) == len(set(held)) == 120
    assert set(held) == made
