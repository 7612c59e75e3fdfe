"""A gateway that owns the code and gives no answer, or a late one: how often it is asked, and what that costs."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from otpsvc.errors import ApiError
from otpsvc.otp.model import VerifiedOtp, WrongGuess
from otpsvc.otp.ports import Ask, Refusal, VerifyCommand
from otpsvc.redaction import scrubbed
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.senders.contract import CheckOutcome, SentMessage
from tests.otp.house import House, open_house, refusal_of
from tests.otp.verifier import THEIR_CODE, WRONG, Verifier, carried, delegated, names, until_asked


@pytest.fixture
async def house(redis_url: str) -> AsyncIterator[House]:
    async with open_house(redis_url) as opened:
        opened.queue = RedisMessageQueue(opened.client, opened.keys.partitions[0], with_codes=["verifier"])
        yield opened


@pytest.fixture
def verifier(house: House) -> Verifier:
    made = Verifier()
    house.checks.use({made.name: made})
    return made


async def test_a_gateway_that_never_answers_is_asked_three_times_about_a_guess(
    house: House, verifier: Verifier
) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN] * 99
    ends_in = []
    for _ in range(8):
        silent = await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
        assert silent.code == "SERVICE_UNAVAILABLE"
        ends_in.append(silent.retry_after_s)
        await house.age(10)
    assert verifier.asked == [THEIR_CODE] * 3
    assert ends_in == [10, 10, 10, 270, 260, 250, 240, 230], "undecided until it ends"
    verifier.answers.clear()
    assert isinstance(await house.verify(otp_id, THEIR_CODE), VerifiedOtp), "two attempts are left"


async def test_what_nobody_decided_ends_with_the_code(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN] * 99
    for key in "abc":
        await refusal_of(house.verify(otp_id, THEIR_CODE, key=key))
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE))).code == "OTP_MAX_ATTEMPTS"
    await house.age(295)
    await refusal_of(house.verify(otp_id, THEIR_CODE, key="a"))
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE, key="a"))).retry_after_s == 5, "then it ends"
    await house.age(5)
    for key in "abc":
        assert (await refusal_of(house.verify(otp_id, THEIR_CODE, key=key))).code == "OTP_EXPIRED"
    told = await names(house)
    assert (told["otp.rejected"], told["otp.verified"]) == (0, 0)


@pytest.mark.parametrize(("end", "code"), [("verified", "OTP_NOT_FOUND"), ("cancelled", "OTP_NOT_FOUND")])
async def test_what_nobody_decided_is_wrong_for_nobody_once_the_otp_has_ended(
    house: House, verifier: Verifier, end: str, code: str
) -> None:
    otp_id, own = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN]
    await refusal_of(house.verify(otp_id, WRONG[0], key="k"))
    await (house.verify(otp_id, own) if end == "verified" else house.cancel(otp_id))
    await house.age(10)
    assert (await refusal_of(house.verify(otp_id, WRONG[0], key="k"))).code == code
    assert verifier.asked == [WRONG[0]]


async def test_a_storm_of_repeats_puts_one_question_at_a_time(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    verifier.answers = [CheckOutcome.UNKNOWN]
    first = asyncio.create_task(house.verify(otp_id, THEIR_CODE, key="k"))
    await until_asked(verifier)
    for _ in range(3):
        storm = [refusal_of(house.verify(otp_id, THEIR_CODE, key="k")) for _ in range(20)]
        assert {refusal.reason for refusal in await asyncio.gather(*storm)} == {"undecided"}
        await house.age(3)
    verifier.gate.set()
    await refusal_of(first)
    await house.age(1)
    storm_again = [house.verify(otp_id, THEIR_CODE, key="k") for _ in range(20)]
    answers = await asyncio.gather(*storm_again, return_exceptions=True)
    assert sum(isinstance(answer, VerifiedOtp) for answer in answers) >= 1
    assert verifier.asked == [THEIR_CODE] * 2


async def test_a_question_is_counted_before_it_is_put(house: House, verifier: Verifier) -> None:
    """Who dies between the count and the call, as often as it likes, buys no question."""
    otp_id, _ = await delegated(house)
    check = house.checks.check

    async def dies(ask: Ask, code: str) -> bool:
        raise ConnectionError

    house.checks.check = dies  # type: ignore[method-assign]  # the process ends here
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await house.verify(otp_id, THEIR_CODE, key="k")
        await house.age(10)
    house.checks.check = check  # type: ignore[method-assign]  # and another one goes on
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))).reason == "undecided"
    assert verifier.asked == []


async def test_a_lost_answer_of_the_store_is_the_same_question(
    house: House, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN]
    await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
    (command,) = [command for command in house.store.commands if isinstance(command, VerifyCommand)]
    await house.age(10)
    # A second run of one call bears the same event id.
    monkeypatch.setattr("otpsvc.redis.otp.new_event_id", lambda: "evt_" + "0" * 26)
    runs = [await house.store.verify(command) for _ in range(3)]
    assert [isinstance(run, Ask) and run.is_repeat for run in runs] == [True] * 3
    monkeypatch.undo()
    await house.age(10)
    assert isinstance(await house.store.verify(command), Ask), "all that was the second question; this is the third"
    await house.age(10)
    refused = await house.store.verify(command)
    assert isinstance(refused, Refusal)
    assert refused.status == "undecided"


@pytest.mark.parametrize("seed", range(4))
async def test_no_way_leads_to_a_fourth_comparison(house: House, verifier: Verifier, seed: int) -> None:
    """Fresh and repeated operations, alone and in parallel, silence, answers, deaths and new codes, in any order."""
    dice = random.Random(seed)
    otp_id, _ = await delegated(house)
    keys = {key: dice.choice(WRONG) for key in "abcdefg"}

    async def guess() -> object:
        key = dice.choice([*keys, None])
        calls = [
            house.verify(otp_id, keys[key] if key else dice.choice(WRONG), key=key) for _ in range(dice.randint(1, 4))
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    for _ in range(40):
        verifier.answers = dice.choices([CheckOutcome.UNKNOWN, CheckOutcome.WRONG, CheckOutcome.ENDED], k=8)
        await guess()
        await house.age(dice.choice([0, 4, 10]))
        if dice.random() < 0.1:
            with contextlib.suppress(ApiError):
                await house.resend(otp_id)
                await carried(house)
    assert len(set(verifier.asked)) <= 3
    assert len(verifier.asked) <= 9
    assert len(verifier.asked) >= 3
    assert int((await house.record(otp_id))["attempts"]) == 3
    assert not isinstance(await asyncio.gather(house.verify(otp_id, THEIR_CODE), return_exceptions=True), VerifiedOtp)


async def test_a_gateway_that_hangs_holds_a_bounded_number_of_callers(
    house: House, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otpsvc.otp.checks.MOST_AT_ONCE", 2)
    verifier.gate.clear()
    otp_ids = []
    for n in range(3):
        otp_ids.append((await house.send(purpose=f"p{n}")).otp_id)
        await carried(house)
    held = [asyncio.create_task(house.verify(otp_id, THEIR_CODE)) for otp_id in otp_ids[:2]]
    await until_asked(verifier, 2)
    assert (await refusal_of(house.verify(otp_ids[2], THEIR_CODE, key="k"))).code == "SERVICE_UNAVAILABLE"
    verifier.gate.set()
    await asyncio.gather(*held, return_exceptions=True)
    await house.age(10)
    assert isinstance(await house.verify(otp_ids[2], THEIR_CODE, key="k"), VerifiedOtp)
    assert len(verifier.asked) == 3


# -- answers that nobody waits for


async def test_who_hangs_up_while_the_gateway_thinks_loses_nothing(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    caller = asyncio.create_task(house.verify(otp_id, THEIR_CODE, key="k"))
    await until_asked(verifier)
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    verifier.gate.set()
    async with asyncio.timeout(10):
        while await house.status(otp_id) != "verified":  # noqa: ASYNC110 - the store says nothing by itself
            await asyncio.sleep(0.01)
    again = await house.verify(otp_id, THEIR_CODE, key="k")
    assert isinstance(again, VerifiedOtp)
    assert again.is_replay
    assert verifier.asked == [THEIR_CODE]


async def test_digits_whose_first_asking_ended_the_session_are_wrong_under_no_key(
    house: House, verifier: Verifier
) -> None:
    """Most people have no key: they type the same code again, and its first asking was right."""
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN, CheckOutcome.ENDED]
    await refusal_of(house.verify(otp_id, THEIR_CODE))
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE))).code == "SERVICE_UNAVAILABLE"
    verifier.answers = [CheckOutcome.ENDED]
    assert isinstance(await house.verify(otp_id, WRONG[0]), WrongGuess), "about others it says what it is asked"


async def test_a_guess_is_told_one_thing_though_a_new_code_is_on_its_way(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    first = asyncio.create_task(house.verify(otp_id, THEIR_CODE, key="k"))
    await until_asked(verifier)
    await house.resend(otp_id)
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))).reason == "undecided"
    verifier.gate.set()
    assert isinstance(await first, VerifiedOtp)
    assert isinstance(await house.verify(otp_id, THEIR_CODE, key="k"), VerifiedOtp)


async def test_after_a_new_code_a_guess_without_an_answer_is_wrong(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN]
    await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
    await house.resend(otp_id)
    await house.age(10)
    assert isinstance(await house.verify(otp_id, THEIR_CODE, key="k"), WrongGuess)
    assert verifier.asked == [THEIR_CODE]


async def test_what_was_called_wrong_after_a_new_code_stays_wrong(house: House, verifier: Verifier) -> None:
    """Also where that gateway carries the new one too, and makes the same code again."""
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN]
    await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
    await house.resend(otp_id)
    await house.age(10)
    for _ in range(2):
        assert isinstance(await house.verify(otp_id, THEIR_CODE, key="k"), WrongGuess)
        with contextlib.suppress(ValueError):
            await carried(house)
        await house.age(10)
    assert verifier.asked == [THEIR_CODE]
    assert (await names(house))["otp.rejected"] == 1
    assert isinstance(await house.verify(otp_id, THEIR_CODE), VerifiedOtp), "under another key it is put anew"


async def test_a_last_guess_that_is_called_wrong_after_a_new_code_locks(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.UNKNOWN]
    await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
    await house.resend(otp_id)
    for n in range(2):
        await house.verify(otp_id, WRONG[n])
    assert await house.status(otp_id) == "pending", "the first may yet be right"
    await house.age(10)
    last = await house.verify(otp_id, THEIR_CODE, key="k")
    assert isinstance(last, WrongGuess)
    assert last.attempts_remaining == 2
    assert await house.status(otp_id) == "locked"
    told = await names(house)
    assert (told["otp.rejected"], told["otp.locked"]) == (3, 1)


async def test_a_sender_that_writes_down_a_guess_is_not_read(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    written = []

    async def check(message: SentMessage, code: str) -> CheckOutcome:
        written.append(scrubbed(f"asked whether {code} is it"))
        return CheckOutcome.WRONG

    verifier.check = check  # type: ignore[method-assign]  # one odd sender
    await house.verify(otp_id, WRONG[0])
    assert written == ["asked whether [redacted] is it"]
