"""Send: what is accepted, what it writes, and what a request may not hold."""

from typing import Any

import msgspec
import pytest

from otpsvc.ids import parse_message_id, parse_otp_id
from otpsvc.otp.model import VerifiedOtp
from otpsvc.otp.policy import Limits, Policy
from tests.otp.house import NUMBER, OTHER_NUMBER, RECORD_S, House, open_house, refusal_of


async def test_the_answer_tells_a_user_interface_all_it_needs(house: House) -> None:
    sent = await house.send(house.caller(cooldown_s=30), metadata={"cart": [1, 2]})
    view = await house.get(sent.otp_id)
    assert (sent.to, sent.purpose, sent.status, sent.channel) == ("+336****5678", "verification", "pending", "sms")
    assert (sent.code_length, sent.attempts_remaining, sent.is_replay) == (6, 3, False)
    assert sent.expires_at - view.created_at == 300_000
    assert sent.resend_at - view.created_at == 30_000
    assert parse_otp_id(sent.otp_id).partition == parse_message_id(sent.message_id).partition == 0
    assert (view.message_id, view.message_status, view.status) == (sent.message_id, "queued", "pending")
    assert (view.resends_remaining, view.ended_at, view.metadata) == (5, None, {"cart": [1, 2]})
    assert await house.events() == [("otp.sent", sent.otp_id)]


async def test_requests_may_choose_within_the_bounds(house: House) -> None:
    sent, code = await house.send_with_code(purpose="a" * 32, code_length=10, ttl_s=1800, locale="fr-CA")
    assert len(code) == sent.code_length == 10
    assert sent.expires_at - (await house.get(sent.otp_id)).created_at == 1_800_000
    assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)


async def test_the_policy_gives_the_defaults(house: House) -> None:
    sent, code = await house.send_with_code(house.caller(code_length=4, ttl_s=60, purposes=("verification", "pay")))
    assert (len(code), sent.expires_at - (await house.get(sent.otp_id)).created_at) == (4, 60_000)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"purpose": ""}, "purpose"),
        ({"purpose": "Login"}, "purpose"),
        ({"purpose": "a" * 33}, "purpose"),
        ({"purpose": "9a"}, "purpose"),
        ({"purpose": "login\n"}, "purpose"),
        ({"purpose": "a:b"}, "purpose"),
        ({"code_length": 3}, "code_length"),
        ({"code_length": 11}, "code_length"),
        ({"code_length": -1}, "code_length"),
        ({"code_length": 10**30}, "code_length"),
        ({"ttl_s": 59}, "ttl_s"),
        ({"ttl_s": 1801}, "ttl_s"),
        ({"session": ""}, "session"),
        ({"session": "s" * 129}, "session"),
        ({"locale": ""}, "locale"),
        ({"locale": "fr_FR\n"}, "locale"),
        ({"locale": "x" * 200}, "locale"),
        ({"end_user_ip": ""}, "end_user_ip"),
        ({"end_user_ip": "1.2.3"}, "end_user_ip"),
        ({"end_user_ip": "10.0.0.0/8"}, "end_user_ip"),
        ({"metadata": {"a": "x" * 1024}}, "metadata"),
    ],
)
async def test_a_bad_field_is_named_and_its_value_is_not(house: House, fields: dict[str, Any], field: str) -> None:
    error = await house.refused(house.send(**fields), "VALIDATION_ERROR")
    assert set(error.details) == {"field", "reason"}
    assert error.details["field"] == field
    value = str(fields[field])
    assert len(value) < 2 or value not in str(error.details)


async def test_a_client_with_its_own_purposes_has_no_others(house: House) -> None:
    caller = house.caller(purposes=("pay",))
    for purpose in (None, "verification", "pay "):
        await house.refused(house.send(caller, purpose=purpose), "VALIDATION_ERROR")
    assert (await house.send(caller, purpose="pay")).purpose == "pay"


@pytest.mark.parametrize("number", ["", "0612345678", "+", "+1", "+33612", "abc", "+336123456789012345", "+33 6\x00"])
async def test_a_bad_number_is_refused_without_a_trace(house: House, number: str) -> None:
    error = await house.refused(house.send(to=number), "INVALID_PHONE_NUMBER")
    assert error.details["field"] == "to"
    assert await house.names() == []


async def test_spellings_of_one_number_meet(house: House) -> None:
    first = await house.send(to="+33612345678")
    for spelling in ("0033612345678", "+33 6 12-34.56 78", "\uff0b33\u00a0612345678", "+33(0)612345678"):
        await house.send(to=spelling)
    assert await house.status(first.otp_id) == "superseded"
    assert len(await house.raw.keys("*:sends:*")) == 1


async def test_what_a_send_writes_ends_by_itself(house: House) -> None:
    sent = await house.send(ttl_s=60)
    await house.age(50)
    assert await house.has_text(sent.message_id)
    await house.age(11)
    assert not await house.has_text(sent.message_id)
    assert (await house.get(sent.otp_id)).status == "expired"
    await house.age(RECORD_S)
    assert (await refusal_of(house.get(sent.otp_id))).code == "OTP_NOT_FOUND"
    assert (await house.message(sent.message_id))["status"] == "queued"


async def test_a_send_supersedes_the_living_code_of_its_purpose_and_number_only(house: House) -> None:
    first = await house.send(purpose="login")
    others = [
        await house.send(purpose="transaction"),
        await house.send(purpose="login", to=OTHER_NUMBER),
        await house.send(house.caller("client_300000000003"), purpose="login"),
        await house.send(house.caller(mode="live"), purpose="login"),
        await house.send(purpose="login", session="s"),
    ]
    assert await house.status(first.otp_id) == "pending"
    second = await house.send(purpose="login")
    assert await house.status(first.otp_id) == "superseded"
    records = [(await house.record(sent.otp_id))["status"] for sent in (*others, second)]
    assert records == ["pending"] * 6
    assert ("otp.superseded", first.otp_id) in await house.events()
    assert (await house.message(first.message_id))["status"] == "cancelled"
    assert not await house.has_text(first.message_id)
    assert first.message_id not in await house.waiting()


async def test_a_send_after_the_end_of_a_code_supersedes_nothing(house: House) -> None:
    used, code = await house.send_with_code()
    await house.verify(used.otp_id, code)
    expired = await house.send(ttl_s=60)
    await house.age(61)
    await house.send()
    assert [await house.status(sent.otp_id) for sent in (used, expired)] == ["verified", "expired"]
    assert "otp.superseded" not in [name for name, _ in await house.events()]


@pytest.mark.parametrize("limits", [Limits(queue_limit=2)])
async def test_a_full_queue_refuses_until_it_moves(house: House) -> None:
    first, second = await house.send(), await house.send(to=OTHER_NUMBER)
    error = await house.refused(house.send(to="+33611111111"), "SERVICE_UNAVAILABLE")
    assert error.retry_after_s == 1
    await house.refused(house.resend(second.otp_id), "SERVICE_UNAVAILABLE")
    await house.cancel(first.otp_id)
    await house.send(to="+33611111111")


async def test_codes_are_spread_over_all_digits(house: House) -> None:
    for n in range(300):
        await house.send(to=f"+336123{n:05d}", code_length=4)
    assert {code[0] for code in house.codes} == set("0123456789")
    assert len(set(house.codes)) > 250
    assert {len(code) for code in house.codes} == {4}


async def test_numbers_are_spread_over_partitions_and_found_again(redis_url: str) -> None:
    async with open_house(redis_url, partitions=8) as house:
        seen = set()
        for n in range(40):
            sent, code = await house.send_with_code(to=f"+336123{n:05d}")
            seen.add(parse_otp_id(sent.otp_id).partition)
            assert parse_message_id(sent.message_id).partition == parse_otp_id(sent.otp_id).partition
            assert isinstance(await house.verify(sent.otp_id, code), VerifiedOtp)
        assert len(seen) > 4
        again = {parse_otp_id((await house.send(purpose=p)).otp_id).partition for p in ("a", "b", "c")}
        assert len(again) == 1


@pytest.mark.parametrize(
    "absurd",
    [
        {"max_attempts": 4},
        {"max_attempts": 0},
        {"sends_per_hour": 11},
        {"max_resends": 6},
        {"code_length": 3},
        {"ttl_s": 1801},
        {"grace_s": 301},
        {"purposes": ["Bad!"]},
        {"unknown": 1},
    ],
)
def test_no_policy_can_loosen_the_promise(absurd: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(absurd, Policy)


async def test_the_number_is_not_in_what_is_shown(house: House) -> None:
    sent = await house.send()
    assert NUMBER[4:] not in f"{sent!r} {await house.get(sent.otp_id)!r}"
