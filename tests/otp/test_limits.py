"""How often: cooldown, the ten codes of an hour, lockout, end-user addresses, the service-wide ceiling."""

from datetime import datetime

import pytest

from otpsvc.errors import ApiError
from otpsvc.otp.model import VerifiedOtp
from otpsvc.otp.policy import Limits
from tests.otp.house import HOUR_S, NUMBER, OTHER_CLIENT, OTHER_NUMBER, House, refusal_of, wrong


def retry_at_ms(error: ApiError) -> int:
    return round(datetime.fromisoformat(error.details["retry_at"]).timestamp() * 1000)


async def test_the_cooldown_names_when_and_the_resend_call(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    sent = await house.send(caller)
    error = await house.refused(house.send(caller), "OTP_COOLDOWN")
    assert error.details == {
        "limit": "cooldown",
        "retry_at": error.details["retry_at"],
        "otp_id": sent.otp_id,
        "resend": f"POST /v1/otp/{sent.otp_id}/resend",
    }
    assert retry_at_ms(error) == sent.resend_at
    assert error.retry_after_s in range(20, 31)
    await house.age(20)
    error = await house.refused(house.send(caller), "OTP_COOLDOWN")
    assert error.retry_after_s in range(1, 11)
    await house.age(error.retry_after_s or 0)
    await house.send(caller)


async def test_the_cooldown_advises_no_resend_of_what_has_ended(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    sent, code = await house.send_with_code(caller)
    await house.verify(sent.otp_id, code, caller)
    error = await house.refused(house.send(caller), "OTP_COOLDOWN")
    assert error.details.keys() == {"limit", "retry_at"}


async def test_the_cooldown_is_per_client_mode_purpose_number_and_session(house: House) -> None:
    caller = house.caller(cooldown_s=30)
    await house.send(caller)
    await house.send(house.caller(OTHER_CLIENT, cooldown_s=30))
    await house.send(house.caller(mode="live", cooldown_s=30))
    await house.send(caller, purpose="login")
    await house.send(caller, to=OTHER_NUMBER)
    await house.send(caller, session="s")
    for fields in ({}, {"purpose": "login"}, {"to": OTHER_NUMBER}, {"session": "s"}):
        await house.refused(house.send(caller, **fields), "OTP_COOLDOWN")


async def test_a_cooldown_of_another_length_counts_from_the_last_send(house: House) -> None:
    await house.send(house.caller(cooldown_s=60))
    await house.age(20)
    await house.refused(house.send(house.caller(cooldown_s=30)), "OTP_COOLDOWN")
    await house.age(10)
    await house.send(house.caller(cooldown_s=30))
    await house.send(house.caller(cooldown_s=0))


async def test_the_eleventh_code_of_an_hour_is_refused_over_all_purposes(house: House) -> None:
    for n in range(10):
        await house.send(purpose=f"p{n}")
    first = retry_at_ms(await house.refused(house.send(purpose="last"), "OTP_RATE_LIMIT"))
    error = await house.refused(house.send(), "OTP_RATE_LIMIT")
    assert error.details["limit"] == "number"
    assert error.retry_after_s in range(3580, 3601)
    assert retry_at_ms(error) == first
    for caller in (house.caller(OTHER_CLIENT), house.caller(mode="live")):
        await house.send(caller)
    await house.send(to=OTHER_NUMBER)


async def test_the_hour_slides_exactly(house: House) -> None:
    for _ in range(5):
        await house.send()
    await house.age(600)
    for _ in range(5):
        await house.send()
    await house.age(2990)
    error = await house.refused(house.send(), "OTP_RATE_LIMIT")
    assert error.retry_after_s in range(1, 11)
    await house.age(error.retry_after_s or 0)
    for _ in range(5):
        await house.send()
    error = await house.refused(house.send(), "OTP_RATE_LIMIT")
    assert error.retry_after_s in range(580, 601)


async def test_never_more_than_ten_in_any_hour(house: House) -> None:
    accepted: list[int] = []
    clock = 0
    for step in (0, 400, 400, 1000, 1, 1700, 150, 30, 2, 900, 3000, 600):
        clock += step
        await house.age(step)
        for _ in range(4):
            try:
                await house.send()
            except ApiError as error:
                assert error.code == "OTP_RATE_LIMIT"  # noqa: PT017  (both outcomes are right here, at different times)
            else:
                accepted.append(clock)
    assert all(sum(at <= later < at + HOUR_S for later in accepted) <= 10 for at in accepted)
    assert len(accepted) > 20


async def test_a_policy_may_allow_fewer(house: House) -> None:
    caller = house.caller(sends_per_hour=2)
    await house.send(caller)
    await house.send(caller)
    await house.refused(house.send(caller), "OTP_RATE_LIMIT")
    await house.send(house.caller(sends_per_hour=10))
    await house.age(HOUR_S)
    await house.send(caller)


async def test_a_lowered_limit_tells_when_enough_have_left_the_hour(house: House) -> None:
    for _ in range(5):
        await house.send()
        await house.age(100)
    lowered = house.caller(sends_per_hour=2)
    error = await house.refused(house.send(lowered), "OTP_RATE_LIMIT")
    assert error.retry_after_s in range(HOUR_S - 210, HOUR_S - 195)
    await house.age(error.retry_after_s or 0)
    await house.send(lowered)
    await house.refused(house.send(lowered), "OTP_RATE_LIMIT")


async def fail(house: House, times: int) -> None:
    """Leave so many wrong guesses on the number, over several OTPs."""
    while times > 0:
        sent, code = await house.send_with_code()
        for _ in range(min(times, 3)):
            await house.verify(sent.otp_id, wrong(code))
        times -= 3


async def test_ten_wrong_guesses_stop_new_otps_but_never_a_living_one(house: House) -> None:
    living, code = await house.send_with_code(purpose="living")
    await fail(house, 9)
    last, last_code = await house.send_with_code(purpose="last")
    await house.verify(last.otp_id, wrong(last_code))
    error = await house.refused(house.send(), "OTP_LOCKED_OUT")
    assert error.details["limit"] == "wrong_guesses"
    assert error.retry_after_s in range(3580, 3601)
    await house.refused(house.send(purpose="living"), "OTP_LOCKED_OUT")
    await house.resend(living.otp_id)
    assert isinstance(await house.verify(living.otp_id, code), VerifiedOtp)
    assert isinstance(await house.verify(last.otp_id, last_code), VerifiedOtp)
    await house.refused(house.send(), "OTP_LOCKED_OUT")


async def test_nine_wrong_guesses_do_not_stop_a_new_otp(house: House) -> None:
    await fail(house, 9)
    await house.send()


async def test_a_lockout_slides_and_is_per_client_mode_and_number(house: House) -> None:
    await fail(house, 5)
    await house.age(1000)
    await fail(house, 5)
    await house.refused(house.send(), "OTP_LOCKED_OUT")
    await house.send(house.caller(OTHER_CLIENT))
    await house.send(house.caller(mode="live"))
    await house.send(to=OTHER_NUMBER)
    await house.age(2590)
    error = await house.refused(house.send(), "OTP_LOCKED_OUT")
    await house.age(error.retry_after_s or 0)
    await house.send()


async def test_success_and_new_codes_do_not_reset_the_lockout(house: House) -> None:
    for _ in range(5):
        sent, code = await house.send_with_code()
        await house.verify(sent.otp_id, wrong(code))
        await house.verify(sent.otp_id, wrong(code))
        await house.verify(sent.otp_id, code)
    await house.refused(house.send(), "OTP_LOCKED_OUT")


async def test_what_is_not_compared_is_not_counted_for_a_lockout(house: House) -> None:
    sent, code = await house.send_with_code()
    await house.lock(sent.otp_id, code)
    for _ in range(20):
        await refusal_of(house.verify(sent.otp_id, wrong(code)))
        await refusal_of(house.verify(sent.otp_id, "1234"))
    (name,) = await house.raw.keys("*:fails:*")
    assert await house.raw.zcard(name) == 3


async def test_lockout_is_told_before_the_other_limits(house: House) -> None:
    caller = house.caller(cooldown_s=3600)
    await fail(house, 10)
    for n in range(6):
        await refusal_of(house.send(purpose=f"x{n}"))
    await house.refused(house.send(caller), "OTP_LOCKED_OUT")


@pytest.mark.parametrize("limits", [Limits(end_user_ip_sends_per_hour=4)])
async def test_one_address_may_ask_so_often(house: House) -> None:
    for n in range(4):
        await house.send(to=f"+3361234567{n}", end_user_ip="192.0.2.7")
    for spelling in ("192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"):
        error = await house.refused(house.send(end_user_ip=spelling), "RATE_LIMIT_EXCEEDED")
        assert error.details["limit"] == "end_user_ip"
        assert "192" not in str(error.details)
    await house.send(end_user_ip="192.0.2.8")
    await house.send(to=OTHER_NUMBER)
    for caller in (house.caller(OTHER_CLIENT), house.caller(mode="live")):
        await house.send(caller, end_user_ip="192.0.2.7")
    await house.age(HOUR_S)
    await house.send(end_user_ip="192.0.2.7")


@pytest.mark.parametrize("limits", [Limits(end_user_ip_sends_per_hour=3)])
async def test_an_ipv6_address_counts_by_its_first_64_bits(house: House) -> None:
    sent = await house.send(end_user_ip="2001:db8:1:2::1")
    await house.send(end_user_ip="2001:db8:1:2:ffff:ffff:ffff:ffff", to=OTHER_NUMBER)
    await house.resend(sent.otp_id, end_user_ip="2001:0DB8:0001:0002::77%eth0")
    await house.refused(house.send(end_user_ip="2001:db8:1:2::9"), "RATE_LIMIT_EXCEEDED")
    await house.refused(house.resend(sent.otp_id, end_user_ip="2001:db8:1:2::9"), "RATE_LIMIT_EXCEEDED")
    await house.send(end_user_ip="2001:db8:1:3::1")
    await house.send(end_user_ip="::1")


@pytest.mark.parametrize("limits", [Limits(service_sends_per_hour=3)])
async def test_a_ceiling_over_all_clients_does_not_tell_of_the_others(house: House) -> None:
    for client in ("client_100000000001", "client_200000000002", "client_300000000003"):
        await house.send(house.caller(client))
    error = await house.refused(house.send(), "OTP_RATE_LIMIT")
    own = await number_limit_details(house)
    assert error.details.keys() == own.keys()
    assert error.details["limit"] == own["limit"]
    assert error.retry_after_s == 3600
    await house.send(house.caller(mode="live"))
    await house.age(HOUR_S)
    await house.send()


async def number_limit_details(house: House) -> dict[str, object]:
    caller = house.caller(sends_per_hour=1)
    await house.send(caller, to=OTHER_NUMBER)
    return (await refusal_of(house.send(caller, to=OTHER_NUMBER))).details


async def test_the_ceiling_is_off_by_default(house: House) -> None:
    for n in range(30):
        await house.send(house.caller(f"client_{100000000000 + n}"))
    assert await house.raw.keys("*:ceiling:*") == []


async def test_what_lies_in_the_future_counts_as_now(house: House) -> None:
    """The clock was set back by a minute after ten sends and a cooldown."""
    caller = house.caller(cooldown_s=30)
    for n in range(9):
        await house.send(caller, purpose=f"p{n}")
    await house.send(caller)
    await house.age(-60)
    await house.refused(house.send(caller, purpose="fresh"), "OTP_RATE_LIMIT")
    error = await refusal_of(house.send(caller))
    assert (error.code, error.retry_after_s) == ("OTP_COOLDOWN", 30)
    error = await refusal_of(house.send(caller, purpose="fresh"))
    assert error.retry_after_s == HOUR_S


async def test_wrong_guesses_in_the_future_count_as_now(house: House) -> None:
    await fail(house, 10)
    await house.age(-60)
    error = await house.refused(house.send(purpose="fresh"), "OTP_LOCKED_OUT")
    assert error.retry_after_s == HOUR_S


async def test_refusals_never_name_the_number(house: House) -> None:
    for _ in range(10):
        await house.send()
    error = await refusal_of(house.send())
    assert NUMBER[1:] not in f"{error!r} {error.details}"
