"""Many phones at once that nobody knows yet: all have their turn, and none waits for long where that does not come."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from otpsvc import ids
from otpsvc.clock import SystemClock
from otpsvc.devices import access as access_module
from otpsvc.devices.access import MAX_LOOKUPS, DeviceAccess
from otpsvc.devices.model import Device, Registration, TokenRecord
from otpsvc.devices.tokens import new_token
from otpsvc.errors import ApiError, problem
from tests.devices.house import code_of, refusal_of
from tests.devices.pool_doubles import KEYRING, ToldPresence, device

PHONES = 1000


class Records:
    """Devices by id. Answers when `may_answer` is set; notes how many were asked for, and how many at once."""

    def __init__(self) -> None:
        self.of: dict[str, TokenRecord] = {}
        self.may_answer = asyncio.Event()
        self.n_asked = self.most = 0
        self.is_away = False
        self._under_way = 0

    def token(self) -> str:
        """Make a phone that is known here; give its token."""
        known = device(id=ids.new_device_id())
        token = new_token(known.id, KEYRING)
        self.of[known.id] = TokenRecord(device=known, token_tag=token.tag, auth_key_id=token.auth_key_id)
        return token.text

    async def find_token(self, device_id: str) -> TokenRecord | None:
        self.n_asked += 1
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await self.may_answer.wait()
            await asyncio.sleep(0)
            if self.is_away:
                raise problem("SERVICE_UNAVAILABLE")
            return self.of.get(device_id)
        finally:
            self._under_way -= 1

    async def set_sims(self, device_id: str, registration: Registration) -> Device | None:
        raise AssertionError

    async def note_seen(self, device_id: str) -> None:
        raise AssertionError

    async def retag_token(self, record: TokenRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        raise AssertionError

    async def reseal_passphrase(self, device: Device, sealed: bytes) -> bool:
        raise AssertionError


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
async def access(records: Records) -> AsyncIterator[DeviceAccess]:
    opened = DeviceAccess(records=records, presence=ToldPresence(), keyring=KEYRING, clock=SystemClock(), online_s=60.0)
    yield opened
    records.may_answer.set()
    await opened.close()


def calls(access: DeviceAccess, tokens: list[str]) -> list[asyncio.Task[Device]]:
    return [asyncio.create_task(access.device_of(f"Bearer {token}")) for token in tokens]


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_thousand_phones_at_once_all_come_in(access: DeviceAccess, records: Records) -> None:
    tokens = [records.token() for _ in range(PHONES)]
    coming = calls(access, tokens)
    await turns()
    assert records.n_asked == MAX_LOOKUPS
    records.may_answer.set()
    assert [one.id for one in await asyncio.gather(*coming)] == list(records.of)
    assert (records.n_asked, records.most) == (PHONES, MAX_LOOKUPS)


async def test_known_ones_are_refreshed_before_all_that_wait(access: DeviceAccess, records: Records) -> None:
    known = records.token()
    records.may_answer.set()
    await access.device_of(f"Bearer {known}")
    records.may_answer.clear()
    waiting = calls(access, [records.token() for _ in range(MAX_LOOKUPS + 1)])
    await turns()
    access._known[next(iter(records.of))].fresh_until = 0.0
    (refreshed,) = calls(access, [known])
    await turns()
    assert records.n_asked == 1 + MAX_LOOKUPS + 1
    records.may_answer.set()
    assert (await refreshed).id in records.of
    await asyncio.gather(*waiting)


async def test_who_gets_no_turn_is_sent_away_after_a_while(
    access: DeviceAccess, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "PLACE_WAIT_S", 0.01)
    first = calls(access, [records.token() for _ in range(MAX_LOOKUPS)])
    await turns()
    for _ in range(3):
        assert (await refusal_of(access.device_of(f"Bearer {records.token()}"))).reason == "lookups_busy"
    assert records.n_asked == MAX_LOOKUPS
    records.may_answer.set()
    await asyncio.gather(*first)
    await access.device_of(f"Bearer {records.token()}")


async def test_who_comes_when_too_many_wait_is_sent_away_at_once(
    access: DeviceAccess, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "MAX_WAITING", 10)
    coming = calls(access, [records.token() for _ in range(MAX_LOOKUPS)])
    await turns()
    coming += calls(access, [records.token() for _ in range(10)])
    await turns()
    assert (await refusal_of(access.device_of(f"Bearer {records.token()}"))).reason == "lookups_busy"
    records.may_answer.set()
    await asyncio.gather(*coming)


async def test_who_goes_away_while_waiting_takes_no_place_with_him(access: DeviceAccess, records: Records) -> None:
    coming = calls(access, [records.token() for _ in range(2 * MAX_LOOKUPS)])
    await turns()
    for one in coming[::2]:
        one.cancel()
    records.may_answer.set()
    outcomes = await asyncio.gather(*coming, return_exceptions=True)
    assert [isinstance(one, Device) for one in outcomes] == [False, True] * MAX_LOOKUPS
    assert (access._places._value, access._n_waiting) == (MAX_LOOKUPS, 0)


async def test_those_who_wait_hear_at_once_that_nobody_answers(access: DeviceAccess, records: Records) -> None:
    coming = calls(access, [records.token() for _ in range(2 * MAX_LOOKUPS)])
    await turns()
    records.is_away = True
    records.may_answer.set()
    outcomes = await asyncio.gather(*coming, return_exceptions=True)
    assert {one.code for one in outcomes if isinstance(one, ApiError)} == {"SERVICE_UNAVAILABLE"}
    assert len(outcomes) == 2 * MAX_LOOKUPS
    assert records.n_asked == MAX_LOOKUPS


async def test_a_flood_of_one_dead_token_is_asked_for_once_and_buried_within_bounds(
    access: DeviceAccess, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "MAX_DEAD", 10)
    dead = new_token(ids.new_device_id(), KEYRING).text
    flood = calls(access, [dead] * (3 * MAX_LOOKUPS))
    await turns()
    records.may_answer.set()
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    assert {one.code for one in outcomes if isinstance(one, ApiError)} == {"DEVICE_UNAUTHORISED"}
    assert records.n_asked <= 2  # who joined asks once more: the question may have been older than the token
    for _ in range(20):
        assert await code_of(access.device_of(f"Bearer {new_token(ids.new_device_id(), KEYRING).text}"))
    assert len(access._dead) == 10
