"""Passwords at their strength, and how often anybody may try one."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator

import pytest

from otpsvc.devices.passwords import MAX_PASSWORD_LENGTH, MOST_OPENED, Openings, Passwords, Tries
from otpsvc.errors import ApiError
from otpsvc.testing import ManualClock


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    passwords = Passwords()
    yield passwords
    passwords.close()


async def test_a_password_is_kept_at_full_strength_and_salted(passwords: Passwords) -> None:
    first, second = await passwords.hash("correct horse"), await passwords.hash("correct horse")
    assert re.match(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$", first)
    assert first != second
    assert await passwords.verify("correct horse", first)
    assert not await passwords.verify("Correct horse", first)


async def test_where_nothing_is_stored_the_same_work_is_done_and_nothing_fits(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await passwords.hash("x")
    nobodys = passwords._nobodys
    assert nobodys.rsplit("$", 2)[0] == stored.rsplit("$", 2)[0]
    assert [len(part) for part in nobodys.split("$")] == [len(part) for part in stored.split("$")]
    runs: list[str] = []
    fits = passwords._fits

    def counted(against: str, password: str) -> bool:
        runs.append(against)
        return fits(against, password)

    monkeypatch.setattr(passwords, "_fits", counted)
    assert not await passwords.verify("x", "")
    assert not await passwords.verify("x" * (MAX_PASSWORD_LENGTH + 1), stored)
    assert not await passwords.verify("wrong", stored)
    assert runs == [nobodys, nobodys, stored]


@pytest.mark.parametrize("odd", ["", "\0", "\udc80", "é" * MAX_PASSWORD_LENGTH, "x" * 1_000_000])
async def test_odd_passwords_are_wrong_ones_and_no_faults(passwords: Passwords, odd: str) -> None:
    assert not await passwords.verify(odd, await passwords.hash("x"))
    assert not await passwords.verify(odd, "")
    assert not await passwords.verify(odd, "no stored form")


async def test_so_many_wait_and_no_more() -> None:
    passwords = Passwords(threads=1, most_waiting=3)
    gate = threading.Event()
    try:
        waiting = [asyncio.create_task(passwords._run(gate.wait, passwords._logins)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="SERVICE_UNAVAILABLE"):
            await passwords.verify("x", "")
        new = asyncio.create_task(passwords.hash_new("x"))
        await asyncio.sleep(0)
        assert not new.done()
        gate.set()
        await asyncio.gather(new, *waiting)
        assert not await passwords.verify("x", "")
    finally:
        gate.set()
        passwords.close()


async def test_pairings_never_take_the_places_of_logins() -> None:
    passwords = Passwords(threads=1, most_waiting=1, most_new_waiting=2)
    gate = threading.Event()
    try:
        opening = [asyncio.create_task(passwords._run(gate.wait, passwords._pairings)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="SERVICE_UNAVAILABLE"):
            await passwords.hash_new("x")
        login = asyncio.create_task(passwords.verify("x", ""))
        await asyncio.sleep(0)
        gate.set()
        assert await login is False
        await asyncio.gather(*opening)
    finally:
        gate.set()
        passwords.close()


def test_so_many_pairings_a_minute_for_each_client() -> None:
    clock = ManualClock()
    openings = Openings(clock)
    for _ in range(MOST_OPENED):
        openings.take("client_1")
    clock.advance(20)
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            openings.take("client_1")
        assert (caught.value.code, caught.value.retry_after_s) == ("RATE_LIMIT_EXCEEDED", 40)
    openings.take("client_2")
    clock.advance(40)
    openings.take("client_1")


def is_full(tries: Tries, address: str, login: str = "") -> bool:
    try:
        tries.take(address, login)
    except ApiError as refused:
        if refused.code != "RATE_LIMIT_EXCEEDED":
            raise
        return True
    return False


def test_ten_tries_a_minute_and_then_the_time_to_wait() -> None:
    clock = ManualClock()
    tries = Tries(clock)
    for _ in range(10):
        tries.take("192.0.2.1")
        clock.advance(1)
    with pytest.raises(ApiError) as caught:
        tries.take("192.0.2.1")
    assert caught.value.retry_after_s == 50
    clock.advance(49.9)
    assert is_full(tries, "192.0.2.1")
    clock.advance(0.1)
    tries.take("192.0.2.1")
    assert is_full(tries, "192.0.2.1")


def test_a_refused_try_counts_nowhere() -> None:
    tries = Tries(ManualClock())
    for _ in range(10):
        tries.take("192.0.2.1")
    for _ in range(100):
        assert is_full(tries, "192.0.2.1", "phone-abcdef")
    assert not is_full(tries, "192.0.2.2", "phone-abcdef")


def test_one_login_from_many_addresses_is_one_login() -> None:
    tries = Tries(ManualClock())
    for number in range(10):
        tries.take(f"192.0.2.{number}", "phone-abcdef")
    assert is_full(tries, "192.0.2.99", "phone-abcdef")
    assert not is_full(tries, "192.0.2.99", "phone-bcdefg")


def test_an_ipv6_network_is_one_address_and_a_mapped_one_is_ipv4() -> None:
    tries = Tries(ManualClock())
    for number in range(10):
        tries.take(f"2001:db8:0:1::{number:x}")
    assert is_full(tries, "2001:db8:0:1:ffff:ffff:ffff:ffff")
    assert is_full(tries, "2001:0db8:0000:0001::1%eth0")
    assert not is_full(tries, "2001:db8:0:2::1")
    for _ in range(10):
        tries.take("::ffff:192.0.2.1")
    assert is_full(tries, "192.0.2.1")
    assert not is_full(tries, "::ffff:192.0.2.2")


@pytest.mark.parametrize("address", ["", "testclient", "x" * 10_000, "\udc80"])
def test_what_is_no_address_is_counted_as_it_is(address: str) -> None:
    tries = Tries(ManualClock())
    for _ in range(10):
        tries.take(address)
    assert is_full(tries, address)


def test_right_tries_do_not_count_and_wrong_ones_beside_them_do() -> None:
    tries = Tries(ManualClock())
    for _ in range(100):
        tries.take("192.0.2.1", "phone-abcdef")
        tries.give_back("192.0.2.1", "phone-abcdef")
    for _ in range(10):
        tries.take("192.0.2.1", "phone-abcdef")
    assert is_full(tries, "192.0.2.1")
    tries.give_back("192.0.2.200", "phone-zzzzzz")


def test_what_is_remembered_is_bounded() -> None:
    tries = Tries(ManualClock(), most_kept=50)
    for number in range(1000):
        tries.take(f"10.0.{number // 250}.{number % 250}", f"phone-{number}")
    assert len(tries._addresses._times) == 50
    assert len(tries._logins._times) == 50
