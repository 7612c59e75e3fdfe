"""Who calls: right keys pass from memory, wrong ones never, revoked ones stop in time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from otpsvc.clients import auth, cache
from otpsvc.clients.auth import KNOWN_FOR_S, UNKNOWN_FOR_S, Authenticator
from otpsvc.clients.keys import make_key, tag_of
from otpsvc.clients.model import NewApiKey, Principal
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.ids import random_base32
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.testing import ManualClock
from tests.clients.conftest import with_check

Refused = Callable[[str | None, str | None], Awaitable[str]]


async def test_a_right_key_is_answered_from_memory_after_the_first_time(
    authenticator: Authenticator, shop: NewApiKey, asked: list[str]
) -> None:
    client_id = shop.key.client_id
    assert authenticator.authenticate_cached(shop.text, client_id) is None
    principal = await authenticator.authenticate(shop.text, client_id)
    assert principal == Principal(client_id, "live", shop.key.public_id, Policy(ttl_s=120))
    for _ in range(100):
        assert authenticator.authenticate_cached(shop.text, client_id) is principal
        assert await authenticator.authenticate(shop.text, client_id) is principal
    assert asked == [shop.key.public_id]


async def test_many_cold_requests_cause_one_query(
    authenticator: Authenticator, shop: NewApiKey, wrong_text: str, asked: list[str]
) -> None:
    calls = [authenticator.authenticate(shop.text, shop.key.client_id) for _ in range(200)]
    wrong_calls = [authenticator.authenticate(wrong_text, shop.key.client_id) for _ in range(200)]
    outcomes = await asyncio.gather(*calls, *wrong_calls, return_exceptions=True)
    assert all(isinstance(outcome, Principal) for outcome in outcomes[:200])
    assert all(isinstance(outcome, ApiError) for outcome in outcomes[200:])
    assert asked == [shop.key.public_id]


async def test_a_caller_that_goes_away_does_not_take_the_others_with_it(
    authenticator: Authenticator, shop: NewApiKey, asked: list[str]
) -> None:
    calls = [asyncio.create_task(authenticator.authenticate(shop.text, shop.key.client_id)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(outcome, Principal) for outcome in outcomes[1:])
    assert len(asked) == 1


async def test_changes_of_the_policy_arrive_with_the_refresh(
    authenticator: Authenticator, service: ClientService, clock: ManualClock, shop: NewApiKey
) -> None:
    await authenticator.authenticate(shop.text, shop.key.client_id)
    await service.set_policy(shop.key.client_id, {"purposes": ["login"]})
    clock.advance(KNOWN_FOR_S)
    assert authenticator.authenticate_cached(shop.text, shop.key.client_id) is None
    principal = await authenticator.authenticate(shop.text, shop.key.client_id)
    assert principal.policy == Policy(purposes=("login",))
    assert authenticator.authenticate_cached(shop.text, shop.key.client_id) is principal


async def test_keys_of_an_older_master_go_on(
    authenticator: Authenticator, service: ClientService, clock: ManualClock, store: PostgresClients
) -> None:
    before = Keyring.from_masters({"old": b"o" * 32})
    client = await service.create_client("Shop")
    key = await ClientService(store, before, Policy(), clock).create_key(client.id, "test")
    assert (await authenticator.authenticate(key.text, client.id)).mode == "test"


async def test_a_key_of_a_master_that_is_gone_is_refused_and_logged(
    refused: Refused,
    service: ClientService,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    store: PostgresClients,
) -> None:
    other = Keyring.from_masters({"gone": b"g" * 32, "old": b"o" * 32})
    client = await service.create_client("Shop")
    key = await ClientService(store, other, Policy(), clock).create_key(client.id, "live")
    for _ in range(3):
        assert await refused(key.text, client.id) == "INVALID_API_KEY"
    # Once for each look-up: whoever has such a key could fill a disk otherwise.
    assert caplog.text.count(f"API key {key.key.public_id} was made under a master that is not in the keyring") == 1
    clock.advance(KNOWN_FOR_S)
    assert await refused(key.text, client.id) == "INVALID_API_KEY"
    assert caplog.text.count("a master that is not in the keyring") == 2


async def test_each_refusal_of_a_key_is_counted_by_its_own_word(
    authenticator: Authenticator,
    service: ClientService,
    store: PostgresClients,
    clock: ManualClock,
    keyring: Keyring,
    shop: NewApiKey,
    wrong_text: str,
) -> None:
    client_id = shop.key.client_id
    expires_at = datetime.fromtimestamp(clock.time() + 60, UTC)
    expired = await service.create_key(client_id, "live", expires_at=expires_at)
    revoked = await service.create_key(client_id, "live")
    await service.revoke_key(client_id, revoked.key.public_id)
    suspended = await service.create_key((await service.create_client("Late")).id, "live")
    await service.suspend_client(suspended.key.client_id)
    odd = await service.create_key((await service.create_client("Odd")).id, "live")
    await store.set_policy(odd.key.client_id, {"ttl_s": 10**9})
    clock.advance(61)
    expected = {
        ("zs_live_x", client_id): None,
        (shop.text, "client_000000000000"): None,
        (make_key("live", keyring), client_id): "key_unknown",
        (wrong_text, client_id): "key_wrong",
        (revoked.text, client_id): "key_revoked",
        (expired.text, client_id): "key_expired",
        (suspended.text, suspended.key.client_id): "client_suspended",
        (odd.text, odd.key.client_id): "client_policy",
    }
    reasons = {}
    for key, of in expected:
        with pytest.raises(ApiError) as caught:
            await authenticator.authenticate(key, of)
        reasons[key, of] = caught.value.reason
    assert reasons == expected


# -- wrong keys


@pytest.mark.parametrize(
    ("key", "client_id"), [(None, "client_1"), ("", "client_1"), ("x", None), ("x", ""), (None, None)]
)
async def test_missing_headers(refused: Refused, key: str | None, client_id: str | None, asked: list[str]) -> None:
    assert await refused(key, client_id) == "MISSING_AUTH_HEADERS"
    assert asked == []


@pytest.mark.parametrize(
    "key", ["x", "zs_live_", "zs_live_" + "u" * 73, "zs_live_" + "0" * 74, "é" * 81, "\udc80" * 81]
)
async def test_malformed_keys_never_touch_the_database(
    refused: Refused, authenticator: Authenticator, shop: NewApiKey, key: str, asked: list[str]
) -> None:
    await authenticator.authenticate(shop.text, shop.key.client_id)
    assert await refused(key, shop.key.client_id) == "INVALID_API_KEY"
    changed = shop.text[:21] + key[:60].ljust(60, "!")
    assert await refused(changed, shop.key.client_id) == "INVALID_API_KEY"
    assert asked == [shop.key.public_id]


async def test_a_wrong_secret_never_passes_and_disturbs_nobody(
    refused: Refused,
    authenticator: Authenticator,
    clock: ManualClock,
    shop: NewApiKey,
    wrong_text: str,
    asked: list[str],
) -> None:
    client_id = shop.key.client_id
    assert await refused(wrong_text, client_id) == "INVALID_API_KEY"
    principal = await authenticator.authenticate(shop.text, client_id)
    for _ in range(50):
        assert await refused(wrong_text, client_id) == "INVALID_API_KEY"
        assert authenticator.authenticate_cached(shop.text, client_id) is principal
    # The wrong one arrives first after the refresh is due: the right one still needs no second look.
    clock.advance(KNOWN_FOR_S)
    assert await refused(wrong_text, client_id) == "INVALID_API_KEY"
    assert authenticator.authenticate_cached(shop.text, client_id) == principal
    assert len(asked) == 2


async def test_the_mode_in_the_text_is_part_of_the_key(
    refused: Refused, authenticator: Authenticator, shop: NewApiKey, keyring: Keyring
) -> None:
    as_test = with_check(shop.text.replace("zs_live_", "zs_test_"), keyring)
    assert await refused(as_test, shop.key.client_id) == "INVALID_API_KEY"
    await authenticator.authenticate(shop.text, shop.key.client_id)
    assert await refused(as_test, shop.key.client_id) == "INVALID_API_KEY"


async def test_a_key_of_one_client_is_none_of_another(
    refused: Refused, authenticator: Authenticator, service: ClientService, shop: NewApiKey, keyring: Keyring
) -> None:
    other = await service.create_client("Other")
    other_key = await service.create_key(other.id, "live")
    await authenticator.authenticate(shop.text, shop.key.client_id)
    await authenticator.authenticate(other_key.text, other.id)
    assert await refused(shop.text, other.id) == "INVALID_CLIENT_ID"
    assert await refused(other_key.text, shop.key.client_id) == "INVALID_CLIENT_ID"
    assert await refused(shop.text, "client_000000000000") == "INVALID_CLIENT_ID"
    # The secret of one under the public id of the other.
    mixed = with_check(shop.text[:21] + other_key.text[21:], keyring)
    assert await refused(mixed, shop.key.client_id) == "INVALID_API_KEY"
    assert await refused(mixed, other.id) == "INVALID_API_KEY"


async def test_unknown_keys_are_remembered_as_unknown_for_a_while(
    refused: Refused,
    authenticator: Authenticator,
    clock: ManualClock,
    shop: NewApiKey,
    keyring: Keyring,
    store: PostgresClients,
    asked: list[str],
) -> None:
    key = make_key("live", keyring)
    for _ in range(20):
        assert await refused(key, shop.key.client_id) == "INVALID_API_KEY"
    assert len(asked) == 1
    await store.insert_key(
        public_id=key[8:21],
        client_id=shop.key.client_id,
        mode="live",
        name="",
        auth_key_id=keyring.current.slot,
        tag=tag_of(key, keyring.current),
        expires_at=None,
    )
    assert await refused(key, shop.key.client_id) == "INVALID_API_KEY"
    clock.advance(UNKNOWN_FOR_S)
    assert (await authenticator.authenticate(key, shop.key.client_id)).key_id == key[8:21]
    assert len(asked) == 2


async def test_twenty_thousand_invented_keys_cost_no_query(
    authenticator: Authenticator, shop: NewApiKey, asked: list[str]
) -> None:
    await authenticator.authenticate(shop.text, shop.key.client_id)
    shapes = ("zs_live_", "zs_test_", shop.text[:21])
    for number in range(20_000):
        shape = shapes[number % 3]
        invented = shape + random_base32(51)[: 81 - len(shape)]
        assert authenticator.authenticate_cached(invented, shop.key.client_id) is None
        with pytest.raises(ApiError, match="INVALID_API_KEY"):
            await authenticator.authenticate(invented, shop.key.client_id)
    assert asked == [shop.key.public_id]
    assert not authenticator._cache.unknown


async def test_a_key_of_another_installation_costs_no_query(
    refused: Refused, service: ClientService, shop: NewApiKey, asked: list[str]
) -> None:
    stranger = Keyring.from_masters({"new": b"n" * 32, "old": b"x" * 32})
    assert await refused(make_key("live", stranger), shop.key.client_id) == "INVALID_API_KEY"
    assert await refused(with_check(shop.text, stranger), shop.key.client_id) == "INVALID_API_KEY"
    assert asked == []


async def test_a_flood_of_unknown_keys_is_bounded_and_evicts_no_known_one(
    authenticator: Authenticator,
    shop: NewApiKey,
    keyring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
) -> None:
    monkeypatch.setattr(cache, "MAX_UNKNOWN", 10)
    monkeypatch.setattr(auth, "MAX_LOOKUPS", 20)
    principal = await authenticator.authenticate(shop.text, shop.key.client_id)
    calls = [authenticator.authenticate(make_key("live", keyring), shop.key.client_id) for _ in range(50)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, ApiError)]
    assert sorted(codes) == ["INVALID_API_KEY"] * 20 + ["SERVICE_UNAVAILABLE"] * 30
    assert len(authenticator._cache.unknown) == 10
    assert len(asked) == 21
    assert authenticator.authenticate_cached(shop.text, shop.key.client_id) is principal


async def test_the_memory_of_known_keys_is_bounded(
    authenticator: Authenticator, service: ClientService, shop: NewApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_KNOWN", 3)
    keys = [await service.create_key(shop.key.client_id, "live") for _ in range(5)]
    for key in (*keys, shop, *keys):
        assert (await authenticator.authenticate(key.text, shop.key.client_id)).key_id == key.key.public_id
    assert len(authenticator._cache.known) == 3


# -- keys that stop


async def test_a_revoked_key_stops_within_the_refresh_where_no_news_comes(
    refused: Refused, authenticator: Authenticator, service: ClientService, clock: ManualClock, shop: NewApiKey
) -> None:
    client_id = shop.key.client_id
    await authenticator.authenticate(shop.text, client_id)
    await service.revoke_key(client_id, shop.key.public_id)
    clock.advance(KNOWN_FOR_S - 0.001)
    assert authenticator.authenticate_cached(shop.text, client_id) is not None
    clock.advance(0.002)
    assert await refused(shop.text, client_id) == "INVALID_API_KEY"


async def test_a_suspended_client_stops_and_resumes(
    refused: Refused,
    authenticator: Authenticator,
    service: ClientService,
    clock: ManualClock,
    shop: NewApiKey,
    wrong_text: str,
) -> None:
    client_id = shop.key.client_id
    await authenticator.authenticate(shop.text, client_id)
    await service.suspend_client(client_id)
    clock.advance(KNOWN_FOR_S)
    assert await refused(shop.text, client_id) == "INVALID_CLIENT_ID"
    assert await refused(wrong_text, client_id) == "INVALID_API_KEY"
    await service.resume_client(client_id)
    clock.advance(KNOWN_FOR_S)
    assert (await authenticator.authenticate(shop.text, client_id)).client_id == shop.key.client_id


async def test_a_key_expires_to_the_second_without_a_lookup(
    refused: Refused,
    authenticator: Authenticator,
    service: ClientService,
    clock: ManualClock,
    shop: NewApiKey,
    asked: list[str],
) -> None:
    expires_at = datetime.fromtimestamp(clock.time(), UTC) + timedelta(seconds=5)
    key = await service.create_key(shop.key.client_id, "live", expires_at=expires_at)
    await authenticator.authenticate(key.text, shop.key.client_id)
    clock.advance(4.9)
    assert authenticator.authenticate_cached(key.text, shop.key.client_id) is not None
    clock.advance(0.2)
    assert await refused(key.text, shop.key.client_id) == "INVALID_API_KEY"
    assert len(asked) == 1


async def test_a_deleted_key_stops(
    refused: Refused, authenticator: Authenticator, clock: ManualClock, shop: NewApiKey, database_url: str
) -> None:
    await authenticator.authenticate(shop.text, shop.key.client_id)
    connection = await asyncpg.connect(database_url)
    await connection.execute("delete from api_keys")
    await connection.close()
    clock.advance(KNOWN_FOR_S)
    assert await refused(shop.text, shop.key.client_id) == "INVALID_API_KEY"


async def test_a_stored_policy_that_is_out_of_bounds_is_not_used(
    refused: Refused, shop: NewApiKey, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("""update clients set policy = '{"max_attempts": 99}'""")
    await connection.close()
    assert await refused(shop.text, shop.key.client_id) == "INTERNAL_ERROR"
    assert f"the stored policy of {shop.key.client_id} is invalid" in caplog.text
    assert "max_attempts" in caplog.text


# -- secrets


async def test_no_key_is_kept_logged_or_shown(
    authenticator: Authenticator, shop: NewApiKey, caplog: pytest.LogCaptureFixture, wrong_text: str
) -> None:
    secret = shop.text[21:73]
    with caplog.at_level(logging.DEBUG):
        principal = await authenticator.authenticate(shop.text, shop.key.client_id)
        failures = []
        for key in (wrong_text, shop.text + "x"):
            with pytest.raises(ApiError) as caught:
                await authenticator.authenticate(key, shop.key.client_id)
            failures.append(repr(caught.value) + repr(caught.value.details))
    known = authenticator._cache.known[shop.key.public_id]
    shown = f"{principal!r} {known!r} {failures} {caplog.text} {vars(authenticator)}"
    assert secret[:-1] not in shown
    assert known.record.tag.hex() not in shown
