"""A lost answer costs nothing: the same operation again gets the same outcome and changes nothing."""

import asyncio
from typing import Any

import msgspec
import pytest

from otpsvc.errors import ApiError
from otpsvc.otp.model import SentOtp, VerifiedOtp, WrongGuess
from otpsvc.otp.policy import Limits
from otpsvc.otp.ports import Accepted, Right, SendCommand, VerifyCommand, Wrong
from tests.otp.house import OTHER_CLIENT, OTHER_NUMBER, RECORD_S, House, refusal_of, wrong

DAY_S = 86_400


def answer_of(sent: SentOtp) -> tuple[Any, ...]:
    """What a replay must repeat."""
    return (sent.otp_id, sent.message_id, sent.to, sent.purpose, sent.channel, sent.code_length, sent.expires_at,
            sent.resend_at)  # fmt: skip


async def test_a_twin_of_a_send_gets_the_same_answer_and_changes_nothing(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    fields = {"purpose": "login", "metadata": {"b": 1, "a": 2}, "end_user_ip": "192.0.2.1", "session": "s"}
    sent = await house.send(caller, key="k1", **fields)
    before = await house.snapshot()
    again = await house.send(caller, key="k1", **(fields | {"metadata": {"a": 2, "b": 1}}))
    assert (again.is_replay, sent.is_replay) == (True, False)
    assert answer_of(again) == answer_of(sent)
    assert (again.status, again.attempts_remaining) == ("pending", 3)
    assert await house.snapshot() == before


async def test_a_replay_tells_the_present_status(house: House) -> None:
    sent, code = await house.send_with_code(key="k1")
    await house.verify(sent.otp_id, wrong(code))
    assert (await house.send(key="k1")).attempts_remaining == 2
    await house.verify(sent.otp_id, code)
    replay = await house.send(key="k1")
    assert (replay.status, replay.otp_id, replay.is_replay) == ("verified", sent.otp_id, True)
    ended = await house.send(key="k2")
    await house.cancel(ended.otp_id)
    assert (await house.send(key="k2")).status == "cancelled"
    replaced = await house.send(key="k3")
    await house.send(key="k4", ttl_s=60)
    assert (await house.send(key="k3")).status == "superseded"
    await house.age(61)
    assert (await house.send(key="k4", ttl_s=60)).status == "expired"
    await house.age(300 + RECORD_S + 10)
    purged = await house.send(key="k3")
    assert (purged.otp_id, purged.status, purged.attempts_remaining) == (replaced.otp_id, "expired", 0)


async def test_a_replay_is_answered_whatever_limit_was_reached_since(house: House) -> None:
    sent = await house.send(key="k1")
    for _ in range(9):
        await house.send()
    await house.refused(house.send(key="k2"), "OTP_RATE_LIMIT")
    assert (await house.send(key="k1")).otp_id == sent.otp_id
    assert (await house.send(house.caller(cooldown_s=30), key="k1")).is_replay


@pytest.mark.parametrize(
    "other",
    [{"to": OTHER_NUMBER}, {"purpose": "login"}, {"ttl_s": 299}, {"session": "s"}, {"metadata": {}}, {"locale": "fr"},
     {"template": "{{code}}"}, {"end_user_ip": "192.0.2.1"}, {"code_length": 7}],
)  # fmt: skip
async def test_another_request_under_the_same_key_is_a_conflict(house: House, other: dict[str, Any]) -> None:
    await house.send(key="k1")
    error = await house.refused(house.send(key="k1", **other), "IDEMPOTENCY_CONFLICT")
    assert error.details == {}


async def test_keys_are_per_client_and_mode(house: House) -> None:
    sent = await house.send(key="k1")
    for caller in (house.caller(OTHER_CLIENT), house.caller(mode="live")):
        other = await house.send(caller, key="k1", to=OTHER_NUMBER)
        assert (other.is_replay, other.otp_id == sent.otp_id) == (False, False)


async def test_a_refused_send_leaves_its_key_free(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    await house.send(caller)
    await house.refused(house.send(caller, key="k1"), "OTP_COOLDOWN")
    await house.age(30)
    assert not (await house.send(caller, key="k1")).is_replay


async def test_an_answer_is_kept_for_a_day(house: House) -> None:
    sent = await house.send(key="k1")
    await house.age(DAY_S - 5)
    assert (await house.send(key="k1")).otp_id == sent.otp_id
    await house.age(10)
    fresh = await house.send(key="k1")
    assert (fresh.is_replay, fresh.otp_id == sent.otp_id) == (False, False)


@pytest.mark.parametrize("limits", [Limits(idempotency_ttl_s=60)])
async def test_how_long_is_a_setting(house: House) -> None:
    await house.send(key="k1")
    await house.age(61)
    assert not (await house.send(key="k1")).is_replay


async def test_parallel_twins_make_one_otp(house: House) -> None:
    answers = await asyncio.gather(*(house.send(house.caller(cooldown_s=30), key="k1") for _ in range(20)))
    assert len({answer.otp_id for answer in answers}) == 1
    assert sum(not answer.is_replay for answer in answers) == 1
    assert len(await house.waiting()) == 1


async def test_a_twin_of_a_resend_gets_the_same_answer_and_changes_nothing(house: House) -> None:
    sent = await house.send()
    again = await house.resend(sent.otp_id, key="k1")
    before = await house.snapshot()
    twin = await house.resend(sent.otp_id, key="k1")
    assert answer_of(twin) == answer_of(again)
    assert twin.is_replay
    assert await house.snapshot() == before
    code = house.codes[1]
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)
    late = await house.resend(sent.otp_id, key="k1")
    assert (late.is_replay, late.status) == (True, "verified")


async def test_one_key_serves_one_call(house: House) -> None:
    sent = await house.send(key="k1")
    await house.refused(house.resend(sent.otp_id, key="k1"), "IDEMPOTENCY_CONFLICT")
    other = await house.send(purpose="login")
    await house.resend(sent.otp_id, key="k2")
    await house.refused(house.resend(other.otp_id, key="k2"), "IDEMPOTENCY_CONFLICT")
    await house.refused(house.send(key="k2"), "IDEMPOTENCY_CONFLICT")


def replayed(answer: VerifiedOtp | WrongGuess) -> VerifiedOtp | WrongGuess:
    """The same answer, given again."""
    return msgspec.structs.replace(answer, is_replay=True)


async def test_a_guess_made_again_costs_nothing(house: House) -> None:
    sent, code = await house.send_with_code()
    bad = wrong(code)
    first = await house.verify(sent.otp_id, bad, key="v1")
    before = await house.snapshot()
    for _ in range(5):
        assert await house.verify(sent.otp_id, bad, key="v1") == replayed(first)
    assert await house.snapshot() == before
    await house.refused(house.verify(sent.otp_id, code, key="v1"), "IDEMPOTENCY_CONFLICT")
    right = await house.verify(sent.otp_id, code, key="v2")
    assert isinstance(right, VerifiedOtp)
    before = await house.snapshot()
    assert await house.verify(sent.otp_id, code, key="v2") == replayed(right)
    assert await house.verify(sent.otp_id, bad, key="v1") == replayed(first)
    assert await house.snapshot() == before
    await house.refused(house.verify(sent.otp_id, bad, key="v2"), "IDEMPOTENCY_CONFLICT")
    await house.refused(house.verify(sent.otp_id, code, key="v3"), "OTP_NOT_FOUND")


async def test_the_locking_guess_can_be_replayed_too(house: House) -> None:
    sent, code = await house.send_with_code()
    bad = wrong(code)
    answers = [await house.verify(sent.otp_id, bad, key=f"v{n}") for n in range(3)]
    assert [await house.verify(sent.otp_id, bad, key=f"v{n}") for n in range(3)] == [
        replayed(answer) for answer in answers
    ]
    await house.refused(house.verify(sent.otp_id, bad, key="v3"), "OTP_MAX_ATTEMPTS")


async def test_a_replayed_guess_is_answered_after_a_resend_and_after_the_end(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    first = await house.verify(sent.otp_id, wrong(code), key="v1")
    await house.resend(sent.otp_id)
    assert await house.verify(sent.otp_id, wrong(code), key="v1") == replayed(first)
    await house.age(61)
    assert await house.verify(sent.otp_id, wrong(code), key="v1") == replayed(first)
    await house.refused(house.verify(sent.otp_id, code, key="v2"), "OTP_EXPIRED")


async def test_a_replay_passes_no_fence(house: House) -> None:
    sent, code = await house.send_with_code(session="s1")
    await house.verify(sent.otp_id, code, key="v1")
    for caller in (house.caller(OTHER_CLIENT), house.caller(mode="live")):
        await house.refused(house.verify(sent.otp_id, code, caller, key="v1"), "OTP_NOT_FOUND")
    await house.refused(house.verify(sent.otp_id, code, key="v1", session="s2"), "OTP_NOT_FOUND")
    await house.refused(house.verify(sent.otp_id, code, key="v1", to=OTHER_NUMBER), "OTP_NOT_FOUND")


async def test_spaces_in_a_replayed_guess_do_not_make_it_another(house: House) -> None:
    sent, code = await house.send_with_code()
    first = await house.verify(sent.otp_id, code, key="v1")
    assert await house.verify(sent.otp_id, f" {code[:3]}-{code[3:]} ", key="v1") == replayed(first)


async def test_parallel_twins_of_a_guess_count_once(house: House) -> None:
    sent, code = await house.send_with_code()
    answers = await asyncio.gather(*(house.verify(sent.otp_id, wrong(code), key="v1") for _ in range(20)))
    first = WrongGuess(otp_id=sent.otp_id, attempts_remaining=2)
    assert answers.count(first) == 1
    assert answers.count(replayed(first)) == 19
    assert (await house.get(sent.otp_id)).attempts_remaining == 2


async def test_keys_of_any_letters_are_opaque(house: House) -> None:
    for key in (" ", "a:b", "{c}", "k\x00", "x" * 10_000, "clé"):
        caller = house.caller(OTHER_CLIENT)
        sent = await house.send(caller, key=key)
        assert (await house.send(caller, key=key)).otp_id == sent.otp_id
    assert all(len(name) < 200 for name in await house.names())


@pytest.mark.parametrize("key", [None, "k1"])
async def test_our_own_clients_retry_of_a_send_makes_one_message(house: House, key: str | None) -> None:
    await house.send(house.caller(cooldown_s=30), key=key)
    command = house.store.commands[-1]
    assert isinstance(command, SendCommand)
    record = await house.record(command.otp_id.text)
    before = await house.snapshot()
    again = await house.store.again()
    assert again == Accepted(
        now=int(record["created_at"]),
        expires_at=int(record["expires_at"]),
        resend_at=int(record["resend_at"]),
        attempts_remaining=3,
    )
    assert await house.snapshot() == before
    assert await house.waiting() == [command.message_id.text]


@pytest.mark.parametrize("key", [None, "k1"])
async def test_our_own_clients_retry_of_a_resend_makes_one_message(house: House, key: str | None) -> None:
    caller = house.caller(cooldown_s=30)
    sent = await house.send(caller)
    await house.age(30)
    resent = await house.resend(sent.otp_id, caller, key=key)
    before = await house.snapshot()
    again = await house.store.again()
    assert isinstance(again, Accepted)
    assert (again.expires_at, again.resend_at, again.attempts_remaining) == (resent.expires_at, resent.resend_at, 3)
    assert await house.snapshot() == before


async def test_our_own_clients_retry_of_a_resend_stays_harmless_after_another_one(house: House) -> None:
    sent = await house.send()
    await house.resend(sent.otp_id)
    lost = house.store.commands[-1]
    await house.resend(sent.otp_id)
    before = await house.snapshot()
    house.store.commands.append(lost)
    assert isinstance(await house.store.again(), Accepted)
    assert await house.snapshot() == before


async def test_our_own_clients_retry_of_a_guess_counts_once(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.verify(sent.otp_id, wrong(code))
    before = await house.snapshot()
    assert await house.store.again() == Wrong(attempts_remaining=2, is_replay=True)
    assert await house.snapshot() == before
    right = await house.verify(sent.otp_id, code)
    before = await house.snapshot()
    again = await house.store.again()
    assert isinstance(right, VerifiedOtp)
    assert isinstance(again, Right)
    assert again.verified_at == right.verified_at
    assert await house.snapshot() == before


async def test_without_a_key_every_guess_is_an_operation_of_its_own(house: House) -> None:
    sent, code = await house.send_with_code()
    for _ in range(2):
        await house.verify(sent.otp_id, wrong(code))
    operations = {command.operation for command in house.store.commands if isinstance(command, VerifyCommand)}
    assert len(operations) == 2
    assert (await house.get(sent.otp_id)).attempts_remaining == 1


async def test_a_key_in_the_air_does_not_hide_an_error(house: House) -> None:
    error: ApiError = await refusal_of(house.send(key="k1", to="12"))
    assert error.code == "INVALID_PHONE_NUMBER"
    assert await house.names() == []
