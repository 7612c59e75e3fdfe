"""Keys that there was news of serve no more without an answer of PostgreSQL; merely aged ones serve a while longer."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from otpsvc.clients import cache
from otpsvc.clients.auth import KNOWN_FOR_S, LATE_FOR_S, PROBE_EVERY_S, Authenticator
from otpsvc.clients.model import KeyRecord, NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError, problem
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.testing import ManualClock
from tests.clients.conftest import CountingSource

PATIENCE_S = 30
HOUR_S = 3600.0


class FailingSource(CountingSource):
    """The real store, which can be away, or keep what it read to itself until it is let go."""

    def __init__(self, store: PostgresClients, asked: list[str]) -> None:
        super().__init__(store, asked)
        self.is_away = False
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    def hold(self) -> None:
        """Answer nobody until `may_answer` is set."""
        self.has_read.clear()
        self.may_answer.clear()

    async def find_key(self, public_id: str) -> KeyRecord | None:
        record = await super().find_key(public_id)
        self.has_read.set()
        await self.may_answer.wait()
        if self.is_away:
            raise problem("SERVICE_UNAVAILABLE")
        return record


@pytest.fixture
async def source(store: PostgresClients, asked: list[str]) -> FailingSource:
    return FailingSource(store, asked)


@pytest.fixture
async def patient(source: FailingSource, keyring: Keyring, clock: ManualClock) -> AsyncIterator[Authenticator]:
    """It waits for as long as the test does, but a moment only for the refresh of a key that is merely aged."""
    authenticator = Authenticator(source, keyring, Policy(), clock, answer_timeout_s=PATIENCE_S, refresh_wait_s=0.01)
    yield authenticator
    await authenticator.close()


async def outcome(authenticator: Authenticator, key: NewApiKey) -> str:
    """What a request with this key meets: `accepted`, or the code of a refusal."""
    cached = authenticator.authenticate_cached(key.text, key.key.client_id)
    try:
        cached or await authenticator.authenticate(key.text, key.key.client_id)
    except ApiError as refusal:
        return refusal.code
    return "accepted"


async def settled(authenticator: Authenticator) -> None:
    """Let the look-ups under way end."""
    await asyncio.gather(*authenticator._lookups.values(), return_exceptions=True)


NEWS: list[Callable[[Authenticator, NewApiKey], None]] = [
    lambda authenticator, key: authenticator.invalidate(key.key.public_id),
    lambda authenticator, key: authenticator.invalidate_client(key.key.client_id),
]


@pytest.mark.parametrize("tell", NEWS)
async def test_a_key_revoked_just_before_postgresql_goes_away_is_never_accepted_again(
    patient: Authenticator,
    source: FailingSource,
    service: ClientService,
    clock: ManualClock,
    shop: NewApiKey,
    asked: list[str],
    tell: Callable[[Authenticator, NewApiKey], None],
) -> None:
    other = await service.create_key((await service.create_client("Other")).id, "live")
    assert [await outcome(patient, key) for key in (shop, other)] == ["accepted"] * 2
    await service.revoke_key(shop.key.client_id, shop.key.public_id)
    source.is_away = True
    tell(patient, shop)
    for _ in range(5):
        assert await outcome(patient, shop) == "SERVICE_UNAVAILABLE"
        # Who is refused costs a query a second, whoever was not told of goes on.
        asked.clear()
        assert [await outcome(patient, shop) for _ in range(20)] == ["SERVICE_UNAVAILABLE"] * 20
        assert asked == []
        clock.advance(HOUR_S)
        assert await outcome(patient, other) == "accepted"
        await settled(patient)
        clock.advance(PROBE_EVERY_S)
    # News of nobody in particular, as after a connection made anew, does not take the mark off.
    patient.invalidate_all()
    assert await outcome(patient, shop) == "SERVICE_UNAVAILABLE"
    source.is_away = False
    clock.advance(PROBE_EVERY_S)
    assert await outcome(patient, shop) == "INVALID_API_KEY"


@pytest.mark.parametrize("tell", NEWS)
async def test_a_key_that_was_only_changed_works_again_after_one_look_up(
    patient: Authenticator,
    source: FailingSource,
    clock: ManualClock,
    shop: NewApiKey,
    tell: Callable[[Authenticator, NewApiKey], None],
) -> None:
    assert await outcome(patient, shop) == "accepted"
    source.is_away = True
    tell(patient, shop)
    assert await outcome(patient, shop) == "SERVICE_UNAVAILABLE"
    source.is_away = False
    clock.advance(PROBE_EVERY_S)
    assert await outcome(patient, shop) == "accepted"
    # The mark is off: age alone does not stop it.
    source.is_away = True
    clock.advance(HOUR_S)
    assert await outcome(patient, shop) == "accepted"


@pytest.mark.parametrize("tell", NEWS)
@pytest.mark.parametrize("is_away_after", [True, False])
async def test_news_during_a_look_up_is_not_undone_by_its_answer(
    patient: Authenticator,
    source: FailingSource,
    service: ClientService,
    clock: ManualClock,
    shop: NewApiKey,
    tell: Callable[[Authenticator, NewApiKey], None],
    *,
    is_away_after: bool,
) -> None:
    assert await outcome(patient, shop) == "accepted"
    clock.advance(KNOWN_FOR_S)
    source.hold()
    request = asyncio.create_task(outcome(patient, shop))
    await asyncio.wait_for(source.has_read.wait(), PATIENCE_S)
    # Slow: this one is served with what was known, and the look-up is still under way.
    assert await request == "accepted"
    await service.revoke_key(shop.key.client_id, shop.key.public_id)
    tell(patient, shop)
    requests = [asyncio.create_task(outcome(patient, shop)) for _ in range(3)]
    await asyncio.sleep(0)
    source.is_away = is_away_after
    source.may_answer.set()
    wanted = "SERVICE_UNAVAILABLE" if is_away_after else "INVALID_API_KEY"
    assert await asyncio.gather(*requests) == [wanted] * 3
    clock.advance(HOUR_S)
    assert await outcome(patient, shop) == wanted


async def test_news_reaches_who_waits_for_the_refresh_of_an_aged_key(
    source: FailingSource, keyring: Keyring, service: ClientService, clock: ManualClock, shop: NewApiKey
) -> None:
    patient = Authenticator(source, keyring, Policy(), clock, answer_timeout_s=0.05, refresh_wait_s=0.05)
    assert await outcome(patient, shop) == "accepted"
    clock.advance(KNOWN_FOR_S)
    source.hold()
    request = asyncio.create_task(outcome(patient, shop))
    await asyncio.wait_for(source.has_read.wait(), PATIENCE_S)
    await service.revoke_key(shop.key.client_id, shop.key.public_id)
    patient.invalidate(shop.key.public_id)
    # Neither the short wait nor the long one brought an answer.
    assert await request == "SERVICE_UNAVAILABLE"
    await patient.close()


async def test_news_of_a_key_that_is_dropped_meanwhile_counts_too(
    patient: Authenticator,
    source: FailingSource,
    service: ClientService,
    clock: ManualClock,
    shop: NewApiKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "MAX_KNOWN", 1)
    other = await service.create_key(shop.key.client_id, "live")
    assert await outcome(patient, shop) == "accepted"
    patient.invalidate(shop.key.public_id)
    assert await outcome(patient, other) == "accepted"
    source.is_away = True
    assert await outcome(patient, shop) == "SERVICE_UNAVAILABLE"


async def test_news_without_end_leaves_the_mark(
    patient: Authenticator, source: FailingSource, shop: NewApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last answer serves who waits for it; it is older than the last news, so it is no proof for anybody later."""
    find = source.find_key

    async def find_and_tell(public_id: str) -> KeyRecord | None:
        record = await find(public_id)
        patient.invalidate(public_id)
        return record

    monkeypatch.setattr(source, "find_key", find_and_tell)
    assert await outcome(patient, shop) == "accepted"
    source.is_away = True
    assert await outcome(patient, shop) == "SERVICE_UNAVAILABLE"


# -- merely aged, and PostgreSQL slow


async def test_a_slow_refresh_is_waited_for_once_and_then_goes_on_in_the_background(
    patient: Authenticator, source: FailingSource, clock: ManualClock, shop: NewApiKey, asked: list[str]
) -> None:
    assert await outcome(patient, shop) == "accepted"
    clock.advance(KNOWN_FOR_S)
    source.hold()
    asked.clear()
    assert await asyncio.gather(*(outcome(patient, shop) for _ in range(50))) == ["accepted"] * 50
    (lookup,) = patient._lookups.values()
    assert patient._slow == {lookup}
    # Served without waiting for anything.
    request = patient.authenticate(shop.text, shop.key.client_id)
    with pytest.raises(StopIteration):
        request.send(None)
    source.may_answer.set()
    await settled(patient)
    assert patient.authenticate_cached(shop.text, shop.key.client_id) is not None
    assert asked == [shop.key.public_id]
    await asyncio.sleep(0)
    assert not patient._slow


async def test_without_news_a_revoked_key_stops_when_the_slow_look_up_ends(
    patient: Authenticator, source: FailingSource, service: ClientService, clock: ManualClock, shop: NewApiKey
) -> None:
    assert await outcome(patient, shop) == "accepted"
    await service.revoke_key(shop.key.client_id, shop.key.public_id)
    clock.advance(KNOWN_FOR_S)
    source.hold()
    assert await outcome(patient, shop) == "accepted"
    source.may_answer.set()
    await settled(patient)
    assert await outcome(patient, shop) == "INVALID_API_KEY"


@pytest.mark.parametrize("age", ["long unused", "all stale"])
async def test_who_was_not_asked_about_for_long_waits_for_the_answer(
    patient: Authenticator,
    source: FailingSource,
    service: ClientService,
    clock: ManualClock,
    shop: NewApiKey,
    age: str,
) -> None:
    assert await outcome(patient, shop) == "accepted"
    await service.revoke_key(shop.key.client_id, shop.key.public_id)
    if age == "all stale":
        patient.invalidate_all()
    else:
        clock.advance(KNOWN_FOR_S + LATE_FOR_S)
    source.hold()
    request = asyncio.create_task(outcome(patient, shop))
    await asyncio.wait_for(source.has_read.wait(), PATIENCE_S)
    done, _ = await asyncio.wait({request}, timeout=0.1)
    assert not done
    source.may_answer.set()
    assert await request == "INVALID_API_KEY"
