"""Verify: what each case answers, and that nothing but the right code of the right owner ever verifies."""

from typing import Any

import pytest

from otpsvc.clients.model import Mode
from otpsvc.ids import encode_base32, new_otp_id, parse_otp_id
from otpsvc.otp.model import VerifiedOtp, WrongGuess
from tests.otp.house import (
    MASTERS,
    NUMBER,
    OTHER_CLIENT,
    OTHER_NUMBER,
    RECORD_S,
    House,
    open_house,
    refusal_of,
    wrong,
)


async def test_right_code_verifies_once(house: House) -> None:
    sent, code = await house.send_with_code(metadata={"user": 7}, purpose="login")
    answer = await house.verify(sent.otp_id, code)
    assert isinstance(answer, VerifiedOtp)
    assert (answer.otp_id, answer.to, answer.purpose) == (sent.otp_id, "+336****5678", "login")
    assert answer.metadata == {"user": 7}
    view = await house.get(sent.otp_id)
    assert (view.status, view.ended_at) == ("verified", answer.verified_at)
    assert view.created_at <= answer.verified_at < view.expires_at
    await house.refused(house.verify(sent.otp_id, code), "OTP_NOT_FOUND")


async def test_three_wrong_guesses_lock(house: House) -> None:
    sent, code = await house.send_with_code()
    for left in (2, 1, 0):
        answer = await house.verify(sent.otp_id, wrong(code))
        assert answer == WrongGuess(otp_id=sent.otp_id, attempts_remaining=left)
    assert await house.status(sent.otp_id) == "locked"
    for guess in (code, wrong(code)):
        error = await house.refused(house.verify(sent.otp_id, guess), "OTP_MAX_ATTEMPTS")
        assert error.retry_after_s is None


async def test_third_guess_may_be_right(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.verify(sent.otp_id, wrong(code))
    await house.verify(sent.otp_id, wrong(code))
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


@pytest.mark.parametrize("most", [1, 2])
async def test_a_policy_may_allow_fewer_attempts(house: House, most: int) -> None:
    sent, code = await house.send_with_code(house.caller(max_attempts=most))
    assert sent.attempts_remaining == most
    for left in range(most - 1, -1, -1):
        assert await house.verify(sent.otp_id, wrong(code)) == WrongGuess(otp_id=sent.otp_id, attempts_remaining=left)
    await house.refused(house.verify(sent.otp_id, code), "OTP_MAX_ATTEMPTS")


async def test_a_looser_policy_later_does_not_reach_an_otp_already_sent(house: House) -> None:
    sent, code = await house.send_with_code(house.caller(max_attempts=1))
    await house.verify(sent.otp_id, wrong(code), house.caller(max_attempts=3))
    await house.refused(house.verify(sent.otp_id, code, house.caller(max_attempts=3)), "OTP_MAX_ATTEMPTS")


@pytest.mark.parametrize("guess", ["", "12", "123", "12345a", "12.456", "１２３", "x" * 6, "1" * 11, "1" * 1000,
                                   "12345\x00", "1e5", "+12345", "½23456", "²34567"])  # fmt: skip
async def test_what_is_not_a_code_costs_nothing(house: House, guess: str) -> None:
    sent, _ = await house.send_with_code()
    await house.refused(house.verify(sent.otp_id, guess), "INVALID_OTP_FORMAT")
    assert (await house.get(sent.otp_id)).attempts_remaining == 3


@pytest.mark.parametrize("length", [4, 5, 7, 10])
async def test_a_guess_of_another_length_costs_nothing(house: House, length: int) -> None:
    sent, _ = await house.send_with_code()
    error = await house.refused(house.verify(sent.otp_id, "1" * length), "INVALID_OTP_FORMAT")
    assert error.details == {"code_length": 6}


async def test_leading_zeros_of_the_right_length_are_part_of_the_code(house: House) -> None:
    sent, code = await house.send_with_code(code_length=4)
    await house.refused(house.verify(sent.otp_id, "0" + code), "INVALID_OTP_FORMAT")
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


@pytest.mark.parametrize("spelling", ["{0} {1}", " {0}{1}\n", "{0}-{1}", "{0}\u2011{1}", "{0}\u00a0{1}"])
async def test_people_may_copy_spaces_and_hyphens(house: House, spelling: str) -> None:
    sent, code = await house.send_with_code()
    assert isinstance(await house.verify(sent.otp_id, spelling.format(code[:3], code[3:])), VerifiedOtp)


@pytest.mark.parametrize("zero", ["\u0660", "\u06f0", "\u0966", "\uff10", "\U0001d7ce"])
async def test_people_may_type_digits_of_their_own_script(house: House, zero: str) -> None:
    sent, code = await house.send_with_code()
    typed = "".join(chr(ord(zero) + int(digit)) for digit in code)
    assert isinstance(await house.verify(sent.otp_id, typed), VerifiedOtp)


async def test_an_expired_code_never_verifies(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    await house.age(50)
    await house.verify(sent.otp_id, wrong(code))
    await house.age(10)
    await house.refused(house.verify(sent.otp_id, code), "OTP_EXPIRED")
    view = await house.get(sent.otp_id)
    assert (view.status, view.attempts_remaining, view.ended_at) == ("expired", 2, None)


async def test_the_record_decides_about_expiry_not_the_life_of_its_key(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    name = house.keys.partitions[0].otp_base + sent.otp_id
    await house.raw.persist(name)
    await house.age(61)
    await house.refused(house.verify(sent.otp_id, code), "OTP_EXPIRED")


async def test_a_record_stays_a_quarter_of_an_hour_after_its_end(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=60)
    await house.age(60 + RECORD_S - 5)
    await house.refused(house.verify(sent.otp_id, code), "OTP_EXPIRED")
    await house.age(10)
    await house.refused(house.verify(sent.otp_id, code), "OTP_NOT_FOUND")
    assert (await refusal_of(house.get(sent.otp_id))).code == "OTP_NOT_FOUND"


async def test_a_locked_record_outlives_its_lock(house: House) -> None:
    sent, code = await house.send_with_code(ttl_s=1800)
    await house.lock(sent.otp_id, code)
    await house.age(RECORD_S - 5)
    await house.refused(house.verify(sent.otp_id, code), "OTP_MAX_ATTEMPTS")


async def test_a_superseded_code_never_verifies(house: House) -> None:
    first, code = await house.send_with_code()
    second, newer = await house.send_with_code()
    await house.refused(house.verify(first.otp_id, code), "OTP_NOT_FOUND")
    await house.refused(house.verify(first.otp_id, newer), "OTP_NOT_FOUND")
    assert isinstance(await house.verify(second.otp_id, newer), VerifiedOtp)


async def test_a_code_belongs_to_its_otp_alone(house: House) -> None:
    first, _ = await house.send_with_code(purpose="login")
    _, code = await house.send_with_code(purpose="transaction")
    assert isinstance(await house.verify(first.otp_id, code), WrongGuess) or code == house.codes[0]


async def not_found_cases(house: House) -> dict[str, Any]:
    """Every way to have no OTP, each as (id, code, caller, fields)."""
    mine = house.caller()
    sent, code = await house.send_with_code(session="s1", purpose="login")
    used, used_code = await house.send_with_code(purpose="used")
    await house.verify(used.otp_id, used_code)
    replaced, replaced_code = await house.send_with_code(purpose="replaced")
    await house.send(purpose="replaced")
    ended, ended_code = await house.send_with_code(purpose="ended")
    await house.cancel(ended.otp_id)
    parsed = parse_otp_id(sent.otp_id)
    return {
        "another client": (sent.otp_id, code, house.caller(OTHER_CLIENT), {}),
        "another mode": (sent.otp_id, code, house.caller(mode="live"), {}),
        "another number": (sent.otp_id, code, mine, {"to": OTHER_NUMBER}),
        "another purpose": (sent.otp_id, code, mine, {"purpose": "transaction"}),
        "no purpose at all": (sent.otp_id, code, mine, {"purpose": "x" * 5000}),
        "another session": (sent.otp_id, code, mine, {"session": "s2"}),
        "used": (used.otp_id, used_code, mine, {}),
        "superseded": (replaced.otp_id, replaced_code, mine, {}),
        "cancelled": (ended.otp_id, ended_code, mine, {}),
        "unknown": (new_otp_id(partition=0, slot=parsed.slot, profile=0).text, code, mine, {}),
        "unknown partition": (new_otp_id(partition=255, slot=parsed.slot, profile=0).text, code, mine, {}),
        "unknown slot": (new_otp_id(partition=0, slot=b"\xff\xff", profile=0).text, code, mine, {}),
        "unknown profile": (new_otp_id(partition=0, slot=parsed.slot, profile=255).text, code, mine, {}),
        "malformed": ("otp_" + "u" * 26, code, mine, {}),
        "empty": ("", code, mine, {}),
        "a message's id": (sent.message_id, code, mine, {}),
        "other case": (sent.otp_id.upper(), code, mine, {}),
        "blank around": (f" {sent.otp_id}", code, mine, {}),
        "a pattern": ("otp_*", code, mine, {}),
        "an injected name": (f"{sent.otp_id}:x", code, mine, {}),
        "surplus": (sent.otp_id + "0", code, mine, {}),
        "twin spelling": (sent.otp_id[:-1] + twin(sent.otp_id[-1]), code, mine, {}),
        "not ascii": ("otp_" + "\u0661" * 26, code, mine, {}),
        "very long": ("otp_" + "0" * 100_000, code, mine, {}),
    }


def twin(letter: str) -> str:
    """The letter that differs only in the two spare bits at the end of an id."""
    letters = "0123456789abcdefghjkmnpqrstvwxyz"
    return letters[letters.index(letter) ^ 1]


async def test_every_way_to_have_no_otp_looks_the_same(house: House) -> None:
    cases = await not_found_cases(house)
    otp_id = cases["another client"][0]
    assert len({case[0] for case in cases.values()}) > 15
    for name, (asked_id, code, caller, fields) in cases.items():
        error = await house.refused(house.verify(asked_id, code, caller, **fields), "OTP_NOT_FOUND")
        assert (name, error.details, error.retry_after_s, str(error)) == (name, {}, None, "OTP_NOT_FOUND")
        if not fields and name not in {"used", "superseded", "cancelled"}:
            for call in (house.get, house.cancel, house.resend):
                again = await house.refused(call(asked_id, caller), "OTP_NOT_FOUND")
                assert (name, again.details, again.retry_after_s) == (name, {}, None)
    view = await house.get(otp_id)
    assert (view.status, view.attempts_remaining) == ("pending", 3)


async def test_all_that_the_caller_sends_along_may_match(house: House) -> None:
    sent, code = await house.send_with_code(session="s1", purpose="login")
    answer = await house.verify(sent.otp_id, code, to="+33 6 12 34 56 78", purpose="login", session="s1")
    assert isinstance(answer, VerifiedOtp)


async def test_nothing_about_another_client_leaks_through_the_format(house: House) -> None:
    sent, _ = await house.send_with_code(code_length=8)
    error = await house.refused(house.verify(sent.otp_id, "1234", house.caller(OTHER_CLIENT)), "OTP_NOT_FOUND")
    assert error.details == {}


async def test_a_bad_number_sent_along_is_named(house: House) -> None:
    sent, code = await house.send_with_code()
    error = await house.refused(house.verify(sent.otp_id, code, to="12"), "INVALID_PHONE_NUMBER")
    assert error.details["field"] == "to"
    assert "12" not in error.details["reason"]


async def test_a_bad_session_sent_along_is_named(house: House) -> None:
    sent, code = await house.send_with_code()
    for session in ("", "s" * 129):
        error = await house.refused(house.verify(sent.otp_id, code, session=session), "VALIDATION_ERROR")
        assert error.details["field"] == "session"


async def test_another_installations_otp_is_unknown(house: House, redis_url: str) -> None:
    async with open_house(redis_url, masters={"else": b"\x07" * 32}) as other:
        sent, code = await other.send_with_code()
    await house.refused(house.verify(sent.otp_id, code), "OTP_NOT_FOUND")


async def test_codes_survive_a_rotation_of_the_pepper(house: House, redis_url: str) -> None:
    sent, code = await house.send_with_code()
    rotated = {"2026b": b"\x08" * 32, **MASTERS}
    async with open_house(redis_url, masters=rotated) as later:
        assert isinstance(await later.verify(sent.otp_id, wrong(code), to=NUMBER), WrongGuess)
        assert isinstance(await later.verify(sent.otp_id, code, to=NUMBER), VerifiedOtp)
        fresh, newer = await later.send_with_code()
    assert parse_otp_id(fresh.otp_id).slot != parse_otp_id(sent.otp_id).slot
    await house.refused(house.verify(fresh.otp_id, newer), "OTP_NOT_FOUND")


@pytest.mark.parametrize("profile", ["argon2id-64k", "argon2id-1m"])
async def test_codes_survive_a_change_of_the_hash_profile(house: House, redis_url: str, profile: str) -> None:
    sent, code = await house.send_with_code()
    async with open_house(redis_url, profile=profile, accepted=("hmac-sha256",)) as later:
        assert isinstance(await later.verify(sent.otp_id, wrong(code)), WrongGuess)
        assert isinstance(await later.verify(sent.otp_id, code), VerifiedOtp)


async def test_a_caller_cannot_choose_a_dearer_profile(house: House, redis_url: str) -> None:
    async with open_house(redis_url, profile="argon2id-1m") as dear:
        fresh, code = await dear.send_with_code()
    await house.refused(house.verify(fresh.otp_id, code), "OTP_NOT_FOUND")
    await house.refused(house.resend(fresh.otp_id), "OTP_NOT_FOUND")


@pytest.mark.parametrize("mode", ["live", "test"])
async def test_modes_have_nothing_in_common(house: House, mode: Mode) -> None:
    mine = house.caller(mode=mode)
    sent, code = await house.send_with_code(mine)
    other = house.caller(mode="test" if mode == "live" else "live")
    await house.refused(house.verify(sent.otp_id, code, other), "OTP_NOT_FOUND")
    await house.send(other)
    assert isinstance(await house.verify(sent.otp_id, code, mine), VerifiedOtp)


async def test_what_verify_tells_the_history(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.verify(sent.otp_id, wrong(code))
    await house.verify(sent.otp_id, code)
    locked, code = await house.send_with_code()
    await house.lock(locked.otp_id, code)
    assert await house.events() == [
        ("otp.sent", sent.otp_id),
        ("otp.rejected", sent.otp_id),
        ("otp.verified", sent.otp_id),
        ("otp.sent", locked.otp_id),
        *[("otp.rejected", locked.otp_id)] * 3,
        ("otp.locked", locked.otp_id),
    ]


async def test_ids_of_right_shape_but_any_bytes_never_break_anything(house: House) -> None:
    for byte in range(0, 256, 5):
        made = "otp_" + encode_base32(bytes([byte]) * 16)
        assert (await refusal_of(house.verify(made, "123456"))).code == "OTP_NOT_FOUND"
    assert await house.names() == []
