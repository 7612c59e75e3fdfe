"""OTPs whose code a gateway made: the rules stay ours, the comparison is the gateway's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from otpsvc.otp.model import VerifiedOtp, WrongGuess
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


async def test_the_gateways_code_verifies_once(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    answer = await house.verify(otp_id, THEIR_CODE)
    assert isinstance(answer, VerifiedOtp)
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE))).code == "OTP_NOT_FOUND"
    assert verifier.asked == [THEIR_CODE]
    told = await names(house)
    assert (told["otp.verified"], told["otp.rejected"]) == (1, 0)


async def test_our_own_code_needs_no_gateway(house: House, verifier: Verifier) -> None:
    """Another sender may have carried it."""
    otp_id, code = await delegated(house)
    assert isinstance(await house.verify(otp_id, code), VerifiedOtp)
    assert verifier.asked == []


async def test_three_guesses_and_no_more_are_put_to_the_gateway(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    left = [(await house.verify(otp_id, guess)) for guess in WRONG[:3]]
    assert [one.attempts_remaining for one in left if isinstance(one, WrongGuess)] == [2, 1, 0]
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE))).code == "OTP_MAX_ATTEMPTS"
    assert verifier.asked == list(WRONG[:3])
    told = await names(house)
    assert (told["otp.rejected"], told["otp.locked"], told["otp.verified"]) == (3, 1, 0)


async def test_parallel_guesses_are_counted_before_anybody_is_asked(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    guesses = [asyncio.create_task(house.verify(otp_id, guess)) for guess in (*WRONG, THEIR_CODE) * 4]
    await asyncio.sleep(0.3)
    verifier.gate.set()
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert len(verifier.asked) == 3
    assert sum(isinstance(answer, VerifiedOtp) for answer in answers) == verifier.asked.count(THEIR_CODE)


async def test_of_parallel_right_guesses_exactly_one_wins(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    guesses = [asyncio.create_task(house.verify(otp_id, THEIR_CODE)) for _ in range(12)]
    await asyncio.sleep(0.3)
    verifier.gate.set()
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(answer, VerifiedOtp) for answer in answers) == 1
    assert len(verifier.asked) == 3
    assert (await names(house))["otp.verified"] == 1


@pytest.mark.parametrize("answer", [CheckOutcome.UNKNOWN, RuntimeError(THEIR_CODE), SystemExit(THEIR_CODE)])
async def test_no_answer_costs_an_attempt_and_the_same_operation_asks_again(
    house: House, verifier: Verifier, answer: CheckOutcome | BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [answer]
    silent = await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
    assert (silent.code, silent.retry_after_s) == ("SERVICE_UNAVAILABLE", 10)
    assert (await refusal_of(house.verify(otp_id, WRONG[0], key="k"))).code == "IDEMPOTENCY_CONFLICT"
    await house.age(8)
    early = await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))
    assert (early.code, early.reason, early.retry_after_s) == ("SERVICE_UNAVAILABLE", "undecided", 2)
    assert verifier.asked == [THEIR_CODE]
    await house.age(2)
    assert isinstance(await house.verify(otp_id, THEIR_CODE, key="k"), VerifiedOtp)
    again = await house.verify(otp_id, THEIR_CODE, key="k")
    assert isinstance(again, VerifiedOtp)
    assert again.is_replay
    assert verifier.asked == [THEIR_CODE] * 2
    assert THEIR_CODE not in caplog.text


@pytest.mark.parametrize("how", ["swallows its cancellation", "cancels itself"])
async def test_no_sender_holds_up_who_guesses(house: House, verifier: Verifier, how: str) -> None:
    house.checks._timeout_s = 0.05
    otp_id, _ = await delegated(house)
    done = asyncio.Event()

    async def check(message: SentMessage, code: str) -> CheckOutcome:
        if how == "cancels itself":
            raise asyncio.CancelledError
        while not done.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()
        return CheckOutcome.RIGHT

    verifier.check = check  # type: ignore[method-assign]  # one odd sender
    house.checks.use({verifier.name: verifier})
    try:
        async with asyncio.timeout(10):
            assert (await refusal_of(house.verify(otp_id, WRONG[0]))).code == "SERVICE_UNAVAILABLE"
    finally:
        done.set()


async def test_a_session_that_ended_over_there_is_a_wrong_guess(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.ENDED]
    assert isinstance(await house.verify(otp_id, THEIR_CODE), WrongGuess)


async def test_a_session_that_the_same_guess_may_have_ended_calls_it_wrong_for_nobody(
    house: House, verifier: Verifier
) -> None:
    """A caller that gave up waiting repeats its call while the gateway's first answer is under way."""
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    verifier.answers = [CheckOutcome.ENDED]
    first = asyncio.create_task(house.verify(otp_id, THEIR_CODE, key="k"))
    await until_asked(verifier)
    held, verifier.gate = verifier.gate, asyncio.Event()
    verifier.gate.set()
    await house.age(10)
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE, key="k"))).code == "SERVICE_UNAVAILABLE"
    held.set()
    assert isinstance(await first, VerifiedOtp)
    assert isinstance(await house.verify(otp_id, THEIR_CODE, key="k"), VerifiedOtp)
    assert (await names(house))["otp.rejected"] == 0


async def test_wrong_guesses_there_lock_the_number_out_here(house: House, verifier: Verifier) -> None:
    for _ in range(4):
        otp_id, _ = await delegated(house)
        for guess in WRONG[:3]:
            await house.verify(otp_id, guess)
            if len(verifier.asked) == 10:
                break
        if len(verifier.asked) == 10:
            break
    assert (await refusal_of(house.send())).code == "OTP_LOCKED_OUT"


async def test_a_right_guess_is_no_failure_of_the_number(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    await house.verify(otp_id, WRONG[0])
    await house.verify(otp_id, THEIR_CODE)
    (window,) = [key async for key in house.raw.scan_iter("*:fails:*")]
    assert await house.raw.zcard(window) == 1


async def test_after_a_resend_through_another_sender_the_old_gateway_is_not_asked(
    house: House, verifier: Verifier
) -> None:
    otp_id, _ = await delegated(house)
    await house.resend(otp_id)
    await carried(house, "another")
    assert isinstance(await house.verify(otp_id, THEIR_CODE), WrongGuess)
    assert verifier.asked == []


async def test_a_gateway_that_this_process_does_not_know_costs_no_wrong_answer(house: House) -> None:
    otp_id, _ = await delegated(house)
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE))).code == "SERVICE_UNAVAILABLE"


async def test_a_guess_of_another_length_goes_to_nobody(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    assert (await refusal_of(house.verify(otp_id, THEIR_CODE + "1"))).code == "INVALID_OTP_FORMAT"
    assert verifier.asked == []


async def test_an_otp_that_ends_while_the_gateway_thinks_is_not_verified(house: House, verifier: Verifier) -> None:
    otp_id, _ = await delegated(house)
    verifier.gate.clear()
    guess = asyncio.create_task(house.verify(otp_id, THEIR_CODE))
    await until_asked(verifier)
    await house.service.cancel(house.caller(), otp_id)
    verifier.gate.set()
    assert (await refusal_of(guess)).code == "OTP_NOT_FOUND"
    assert (await names(house))["otp.verified"] == 0


async def test_an_outage_of_the_gateway_locks_nobody_out(house: House, verifier: Verifier) -> None:
    for _ in range(5):
        otp_id, _ = await delegated(house)
        verifier.answers = [CheckOutcome.UNKNOWN] * 3
        for _ in range(3):
            assert (await refusal_of(house.verify(otp_id, THEIR_CODE))).code == "SERVICE_UNAVAILABLE"
    assert (await house.send()).status == "pending"


async def test_a_wrong_guess_of_our_own_code_ends_nothing_while_another_is_with_the_gateway(
    house: House, verifier: Verifier
) -> None:
    """The newest code went out through another sender; the guess before is still being looked at."""
    otp_id, _ = await delegated(house)
    verifier.answers = [CheckOutcome.WRONG]
    await house.verify(otp_id, WRONG[0])
    verifier.gate.clear()
    asked = asyncio.create_task(house.verify(otp_id, THEIR_CODE))
    await until_asked(verifier, 2)
    await house.resend(otp_id)
    await carried(house, "another")
    assert isinstance(await house.verify(otp_id, WRONG[1]), WrongGuess)
    verifier.gate.set()
    assert isinstance(await asked, VerifiedOtp)
