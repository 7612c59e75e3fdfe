"""Registration as an attacker would use it: guess, hurry, come back, wear out."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from otpsvc.devices.model import DeviceStatus, Pairing, Registered, Registration
from otpsvc.devices.tokens import code_tag
from otpsvc.errors import ApiError
from otpsvc.testing import ManualClock
from tests.devices.house import ADDRESS, PIXEL, STRANGER, TENANT, TEST_TENANT, DeviceHouse, code_of


def others_than(*codes: str) -> list[str]:
    """Codes that are none of these."""
    return [code for n in range(100) if (code := f"{n:06d}") not in codes]


async def guess(house: DeviceHouse, code: str, address: str = ADDRESS) -> str:
    """Try a code; empty if it was right."""
    try:
        await house.pairing.register_by_code(code, PIXEL, address)
    except ApiError as refused:
        return refused.code
    return ""


async def test_of_many_phones_with_one_code_exactly_one_gets_in(house: DeviceHouse) -> None:
    pairing = await house.opened()
    tries = [guess(house, pairing.code, f"192.0.2.{n}") for n in range(20)]
    outcomes = await asyncio.gather(*tries)
    assert sorted(outcomes) == ["", *["PAIRING_REFUSED"] * 19]
    assert len(await house.records.list_devices(TENANT)) == 1


async def test_a_code_and_the_password_at_the_same_time_make_one_device(house: DeviceHouse) -> None:
    for _ in range(8):
        pairing = await house.opened()
        outcomes = await asyncio.gather(
            house.pairing.register_by_code(pairing.code, PIXEL, ADDRESS), house.login(pairing), return_exceptions=True
        )
        registered = [one for one in outcomes if isinstance(one, Registered)]
        assert [one.code for one in outcomes if isinstance(one, ApiError)] == ["PAIRING_REFUSED"] * (
            2 - len(registered)
        )
        assert len({one.device.id for one in registered}) == 1
    assert len(await house.records.list_devices(TENANT)) == 8


async def test_a_used_code_is_worth_nothing_even_if_no_device_came_of_it(house: DeviceHouse) -> None:
    full = house.pairing_service(most_per_client=1)
    await house.paired()
    pairing = await house.opened()
    assert await code_of(full.register_by_code(pairing.code, PIXEL, ADDRESS)) == "CONFLICT"
    assert await code_of(house.pairing.register_by_code(pairing.code, PIXEL, ADDRESS)) == "PAIRING_REFUSED"
    assert await code_of(house.pairing.renew_code(pairing.login, pairing.password, ADDRESS)) == "PAIRING_REFUSED"
    assert (await house.login(pairing)).device.status is DeviceStatus.PENDING


async def test_ten_wrong_codes_close_every_open_enrolment_and_the_passwords_go_on(house: DeviceHouse) -> None:
    ours, theirs = await house.opened(), await house.opened(STRANGER)
    wrong = others_than(ours.code, theirs.code)
    for n in range(9):
        assert await guess(house, wrong[n], f"198.51.100.{n}") == "PAIRING_REFUSED"
    late = await house.opened()
    assert await guess(house, next(c for c in others_than(ours.code, theirs.code, late.code)), "198.51.100.99") != ""
    for closed in (ours, theirs):
        assert await guess(house, closed.code, "203.0.113.1") == "PAIRING_REFUSED"
        assert (
            await code_of(house.pairing.renew_code(closed.login, closed.password, "203.0.113.2")) == "PAIRING_REFUSED"
        )
    # One that was opened later has its own count, and two of the wrong ones above were its first.
    assert await guess(house, late.code, "203.0.113.3") == ""
    assert (await house.login(ours)).device.tenant == TENANT
    assert (await house.login(theirs)).device.tenant == STRANGER


async def test_of_many_wrong_codes_at_once_none_escapes_the_count(house: DeviceHouse) -> None:
    pairing = await house.opened()
    wrong = others_than(pairing.code)[:40]
    await asyncio.gather(*(guess(house, code, f"198.51.100.{n}") for n, code in enumerate(wrong)))
    (row,) = await house.sql("select wrong_codes, code_status, code_tag from device_pairings")
    assert dict(row) == {"wrong_codes": 10, "code_status": "closed", "code_tag": None}


async def test_a_new_code_does_not_begin_the_count_again(house: DeviceHouse) -> None:
    pairing = await house.opened()
    for n, code in enumerate(others_than(pairing.code)[:9]):
        await guess(house, code, f"198.51.100.{n}")
    code, _ = await house.pairing.renew_code(pairing.login, pairing.password, ADDRESS)
    assert await guess(house, next(iter(others_than(code))), "198.51.100.50") == "PAIRING_REFUSED"
    assert await guess(house, code, "198.51.100.51") == "PAIRING_REFUSED"


async def test_malformed_codes_are_nobodys_wrong_codes(house: DeviceHouse) -> None:
    await house.opened()
    for n, code in enumerate(["", "12345", "abcdef", "1234567", "\0", "\udc80", "١٢٣٤٥٦", "' or 1=1", "12345\0"]):
        assert await guess(house, code, f"198.51.100.{n}") == "PAIRING_REFUSED"
    (row,) = await house.sql("select wrong_codes from device_pairings")
    assert row["wrong_codes"] == 0


async def test_no_two_open_enrolments_ever_share_a_code(house: DeviceHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await house.opened()
    codes = iter([first.code, first.code, *others_than(first.code)])
    monkeypatch.setattr("otpsvc.devices.tokens.new_code", lambda: next(codes))
    second = await house.opened()
    assert second.code != first.code
    codes = iter([first.code, *others_than(first.code, second.code)])
    renewed, _ = await house.pairing.renew_code(second.login, second.password, ADDRESS)
    assert renewed not in {first.code, second.code}
    # Once it has expired it is free again, and names the new pairing alone.
    await house.sql("update device_pairings set code_expires_at = now() where login = $1", first.login)
    codes = iter([first.code])
    third = await house.opened(STRANGER)
    assert third.code == first.code
    registered = await house.pairing.register_by_code(third.code, PIXEL, ADDRESS)
    assert registered.login == third.login


async def test_an_expired_code_opens_nothing_and_the_password_still_does(house: DeviceHouse) -> None:
    pairing = await house.opened()
    await house.sql("update device_pairings set code_expires_at = now()")
    await house.opened()
    assert await guess(house, pairing.code) == "PAIRING_REFUSED"
    await house.login(pairing)


async def test_an_expired_pairing_opens_nothing_and_a_used_one_lasts(house: DeviceHouse) -> None:
    unused, (used, registered) = await house.opened(), await house.paired()
    await house.sql("update device_pairings set expires_at = now()")
    await house.opened()
    assert await guess(house, unused.code) == "PAIRING_REFUSED"
    assert await code_of(house.login(unused)) == "PAIRING_REFUSED"
    assert await code_of(house.pairing.renew_code(unused.login, unused.password, ADDRESS)) == "PAIRING_REFUSED"
    assert (await house.login(used)).device.id == registered.device.id


async def test_all_that_is_not_good_looks_the_same(house: DeviceHouse) -> None:
    open_one, (used, registered) = await house.opened(), await house.paired()
    gone, gone_device = await house.paired()
    await house.service.delete(TENANT, gone_device.device.id)
    wrong = others_than(open_one.code)[0]
    refusals = []
    calls: list[Callable[[str], Awaitable[object]]] = [
        lambda a: house.pairing.register_by_login("phone-abcdef", "x", PIXEL, a),
        lambda a: house.pairing.register_by_login("", "", PIXEL, a),
        lambda a: house.pairing.register_by_login("\0\udc80", "\0\udc80", PIXEL, a),
        lambda a: house.pairing.register_by_login("x" * 100_000, "x" * 100_000, PIXEL, a),
        lambda a: house.pairing.register_by_login(open_one.login, "wrong", PIXEL, a),
        lambda a: house.pairing.register_by_login(used.login, open_one.password, PIXEL, a),
        lambda a: house.pairing.register_by_login(gone.login, gone.password, PIXEL, a),
        lambda a: house.pairing.register_by_login(gone.login, "", PIXEL, a),
        lambda a: house.pairing.register_by_code(wrong, PIXEL, a),
        lambda a: house.pairing.register_by_code(used.code, PIXEL, a),
        lambda a: house.pairing.renew_code(open_one.login, "wrong", a),
        lambda a: house.pairing.change_password(registered.device, "wrong", "long enough", a),
    ]
    for n, call in enumerate(calls):
        with pytest.raises(ApiError) as caught:
            await call(f"198.51.100.{n}")
        refused = caught.value
        refusals.append((refused.code, str(refused), refused.details, refused.retry_after_s, refused.reason))
    assert set(map(str, refusals)) == {str(("PAIRING_REFUSED", "PAIRING_REFUSED", {}, None, None))}


async def test_an_unknown_login_costs_what_a_wrong_password_costs(
    house: DeviceHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairing = await house.opened()
    gone, gone_device = await house.paired()
    await house.service.delete(TENANT, gone_device.device.id)
    runs: list[str] = []
    fits = house.passwords._fits

    def counted(against: str, password: str) -> bool:
        runs.append(against.rsplit("$", 2)[0])
        return fits(against, password)

    monkeypatch.setattr(house.passwords, "_fits", counted)
    for login in (pairing.login, "phone-abcdef", "no login at all", gone.login):
        assert await code_of(house.pairing.register_by_login(login, "wrong", PIXEL, ADDRESS)) == "PAIRING_REFUSED"
    assert runs == ["$argon2id$v=19$m=19456,t=2,p=1"] * 4


async def test_tries_are_counted_by_address_and_by_login(house: DeviceHouse) -> None:
    clock = ManualClock()
    service = house.pairing_service(clock=clock)
    pairing = await house.opened()
    for n in range(10):
        wrong = service.register_by_login(pairing.login, "wrong", PIXEL, f"198.51.100.{n}")
        assert await code_of(wrong) == "PAIRING_REFUSED"
    with pytest.raises(ApiError) as caught:
        await service.register_by_login(pairing.login, pairing.password, PIXEL, "203.0.113.1")
    assert (caught.value.code, caught.value.retry_after_s) == ("RATE_LIMIT_EXCEEDED", 60)
    # Another login from an address that has tried once is not hurt.
    await service.register_by_login((other := await house.opened()).login, other.password, PIXEL, "198.51.100.1")
    clock.advance(60)
    await service.register_by_login(pairing.login, pairing.password, PIXEL, "203.0.113.1")
    for _ in range(10):
        assert await code_of(service.register_by_code("000000", PIXEL, "203.0.113.2")) == "PAIRING_REFUSED"
    later: list[Awaitable[object]] = [
        service.register_by_code("000000", PIXEL, "203.0.113.2"),
        service.register_by_login(other.login, other.password, PIXEL, "203.0.113.2"),
        service.renew_code(other.login, other.password, "203.0.113.2"),
    ]
    for call in later:
        assert await code_of(call) == "RATE_LIMIT_EXCEEDED"


async def test_a_hundred_phones_behind_one_address_all_come_back(house: DeviceHouse) -> None:
    pairing, _ = await house.paired()
    for _ in range(15):
        await house.login(pairing)


async def test_a_guess_beyond_the_limit_is_no_wrong_code(house: DeviceHouse) -> None:
    pairing = await house.opened()
    wrong = others_than(pairing.code)
    answers = [await guess(house, code) for code in [*wrong[:9], "12345", *wrong[10:20]]]
    assert answers == ["PAIRING_REFUSED"] * 10 + ["RATE_LIMIT_EXCEEDED"] * 10
    (row,) = await house.sql("select wrong_codes from device_pairings")
    assert row["wrong_codes"] == 9
    assert await guess(house, pairing.code, "203.0.113.1") == ""


@pytest.mark.parametrize("end", ["disable", "delete"])
async def test_a_login_whose_device_is_out_lets_nobody_in(house: DeviceHouse, end: str) -> None:
    pairing, registered = await house.paired()
    await getattr(house.service, end)(TENANT, registered.device.id)
    before = await house.sql("select * from devices")
    assert await code_of(house.login(pairing)) == "PAIRING_REFUSED"
    assert await code_of(house.pairing.renew_code(pairing.login, pairing.password, ADDRESS)) == "PAIRING_REFUSED"
    call = house.pairing.change_password(registered.device, pairing.password, "long enough", ADDRESS)
    assert await code_of(call) == "PAIRING_REFUSED"
    assert await code_of(house.comes_in(registered.token)) == "DEVICE_UNAUTHORISED"
    assert await house.sql("select * from devices") == before


@pytest.mark.parametrize("end", ["disable", "delete"])
async def test_a_stolen_phone_that_registers_again_and_again_stays_out(house: DeviceHouse, end: str) -> None:
    """While it hurries, its device is switched off; whatever token it got by then is worth nothing."""
    for _ in range(2):
        pairing, registered = await house.paired()
        got: list[Registered] = [registered]

        async def hurry(address: str, pairing: Pairing = pairing, got: list[Registered] = got) -> str:
            while True:
                try:
                    got.append(await house.login(pairing, address=address))
                except ApiError as refused:
                    return refused.code

        thieves = [asyncio.create_task(hurry(f"198.51.100.{n}")) for n in range(4)]
        await asyncio.sleep(0.05)
        await getattr(house.service, end)(TENANT, registered.device.id)
        assert set(await asyncio.gather(*thieves)) == {"PAIRING_REFUSED"}
        for access in (house.access, house.another_process()):
            for one in got:
                assert await code_of(house.comes_in(one.token, access=access)) == "DEVICE_UNAUTHORISED"


async def test_a_password_that_was_replaced_meanwhile_opens_nothing(house: DeviceHouse) -> None:
    """Who proved an old password before it was replaced, and registers after that."""
    pairing = await house.opened()
    account = await house.records.account(pairing.login)
    assert account is not None
    await house.pairing.register_by_code(pairing.code, PIXEL, ADDRESS)
    assert await code_of(house.pairing._register(account, PIXEL, None)) == "PAIRING_REFUSED"
    current = await house.records.account(pairing.login)
    assert current is not None
    assert (await house.pairing._register(current, PIXEL, None)).device.id == current.device_id


async def test_never_more_devices_than_a_client_may_have(house: DeviceHouse) -> None:
    service = house.pairing_service(most_per_client=3)
    pairings = [await house.opened() for _ in range(8)]
    outcomes = await asyncio.gather(
        *(service.register_by_login(one.login, one.password, PIXEL, ADDRESS) for one in pairings),
        return_exceptions=True,
    )
    codes = [one.code if isinstance(one, ApiError) else "" for one in outcomes]
    assert sorted(codes) == [""] * 3 + ["CONFLICT"] * 5
    # Neither another client nor the other mode is hurt, one that is there comes again, and a deleted one makes room.
    for tenant in (STRANGER, TEST_TENANT):
        other = await house.opened(tenant)
        await service.register_by_login(other.login, other.password, PIXEL, ADDRESS)
    let_in, left_out = codes.index(""), codes.index("CONFLICT")
    there = outcomes[let_in]
    assert isinstance(there, Registered)
    await service.register_by_login(there.login, pairings[let_in].password, PIXEL, ADDRESS)
    await house.service.delete(there.device.tenant, there.device.id)
    waiting = pairings[left_out]
    await service.register_by_login(waiting.login, waiting.password, PIXEL, ADDRESS)


async def test_a_suspended_client_gets_no_new_phone(house: DeviceHouse) -> None:
    pairing = await house.opened()
    await house.sql("update clients set status = 'suspended'")
    assert await code_of(house.login(pairing)) == "PAIRING_REFUSED"


async def test_secrets_are_nowhere_at_rest_nor_in_logs_and_reprs(
    house: DeviceHouse, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pairing = await house.opened()
    by_code = await house.pairing.register_by_code(pairing.code, PIXEL, ADDRESS)
    other = await house.opened()
    by_login = await house.login(other)
    waiting = await house.opened()
    for registered in (by_code, by_login):
        await house.service.confirm(TENANT, registered.device.id)
        await house.service.set_passphrase(TENANT, registered.device.id, "plain passphrase")
        await house.comes_in(registered.token)
    account, record = await house.records.account(other.login), await house.records.find_token(by_login.device.id)
    assert account is not None
    assert record is not None
    reprs = repr([pairing, by_code, other, by_login, account, record, await house.device(by_login)])
    at_rest = await house.everything()
    assert by_code.password is not None
    secrets = [pairing.password, by_code.password, by_code.token, other.password, waiting.password]
    secrets += [by_login.token, by_login.token[29:55], "plain passphrase"]
    for place in (at_rest, reprs, caplog.text):
        assert not [secret for secret in secrets if secret in place]
        # A time in microseconds may hold six such digits among others.
        codes = (pairing.code, other.code, waiting.code)
        assert not [code for code in codes if re.search(rf"(?<!\d){code}(?!\d)", place)]
    tag = code_tag(waiting.code, house.keyring)
    assert tag is not None
    assert str(tag) in at_rest  # the look was at the right places
    assert account.password_hash not in reprs
    assert record.token_tag.hex() not in reprs


async def test_a_deleted_device_leaves_nothing_of_what_it_said(house: DeviceHouse) -> None:
    pairing, registered = await house.paired()
    await house.service.rename(TENANT, registered.device.id, "Kitchen")
    await house.service.set_passphrase(TENANT, registered.device.id, "plain passphrase")
    await house.service.delete(TENANT, registered.device.id)
    (device,) = await house.sql("select * from devices")
    left = (device["phone_name"], device["given_name"], device["token_tag"], device["passphrase_sealed"])
    assert left == ("", None, None, None)
    assert await house.sql("select * from device_sims") == []
    (account,) = await house.sql("select * from device_pairings")
    assert (account["password_hash"], account["code_tag"]) == ("", None)
    assert await house.records.list_devices(TENANT) == await house.records.list_all() == []
    assert (await house.records.account(pairing.login)) is not None


async def test_odd_registrations_fail_in_words_or_not_at_all(house: DeviceHouse) -> None:
    pairing = await house.opened()
    odd = Registration(name="'); drop table devices; --" + "\u202e" * 10, sims=())
    assert (await house.login(pairing, odd)).device.name == odd.name
    assert await house.sql("select id from devices") != []


async def test_a_code_registration_beside_a_wrong_login_goes_on(house: DeviceHouse) -> None:
    """The limit by login holds nobody else up."""
    pairing = await house.opened()
    for n in range(12):
        with pytest.raises(ApiError):
            await house.pairing.register_by_login(pairing.login, "wrong", PIXEL, f"198.51.100.{n}")
    registered = await house.pairing.register_by_code(pairing.code, PIXEL, "203.0.113.1")
    assert registered.password is not None
    mine = msgspec.structs.replace(pairing, password=registered.password)
    assert await code_of(house.login(mine)) == "RATE_LIMIT_EXCEEDED"
