"""API keys move under the current master as they are used, never back, and never to anybody's harm."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from otpsvc.clients import retag
from otpsvc.clients.auth import KNOWN_FOR_S, Authenticator
from otpsvc.clients.keys import tag_of
from otpsvc.clients.model import KeyRecord, NewApiKey
from otpsvc.clients.service import ClientService
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError, problem
from otpsvc.otp.policy import Policy
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.masters import PostgresMasters
from otpsvc.postgres.pool import open_database
from otpsvc.testing import ManualClock

ROOT, OLD, NEW = b"r" * 32, b"o" * 32, b"n" * 32
BEFORE = Keyring.from_masters({"old": OLD, "new": NEW, "root": ROOT})
AFTER = Keyring.from_masters({"new": NEW, "old": OLD, "root": ROOT})
WITHOUT_OLD = Keyring.from_masters({"new": NEW, "root": ROOT})

Process = Callable[[Keyring], Awaitable[Authenticator]]


@pytest.fixture
def keyring() -> Keyring:
    """The operator's: keys are made under the old master."""
    return BEFORE


@pytest.fixture
async def masters(database_url: str) -> AsyncIterator[PostgresMasters]:
    database = await open_database(database_url)
    yield PostgresMasters(database)
    await database.close()


@pytest.fixture
async def process(store: PostgresClients, masters: PostgresMasters, clock: ManualClock) -> AsyncIterator[Process]:
    """Start a process with a keyring, as far as API keys go."""
    started: list[Authenticator] = []

    async def start(keyring: Keyring) -> Authenticator:
        await masters.note_current(keyring.current.slot)
        started.append(Authenticator(store, keyring, Policy(), clock))
        return started[-1]

    yield start
    for authenticator in started:
        await authenticator.close()


async def settled(authenticator: Authenticator) -> None:
    """Let the moves under way end."""
    await asyncio.gather(*authenticator._retagger._moves, return_exceptions=True)


async def test_a_key_moves_at_its_first_use_and_then_needs_the_old_master_no_more(
    process: Process, store: PostgresClients, clock: ManualClock, shop: NewApiKey, masters: PostgresMasters
) -> None:
    client_id = shop.key.client_id
    await process(BEFORE)
    current = await process(AFTER)
    await current.authenticate(shop.text, client_id)
    await settled(current)
    record = await store.find_key(shop.key.public_id)
    assert record is not None
    assert (record.auth_key_id, record.tag) == (AFTER.current.slot, tag_of(shop.text, AFTER.current))
    assert (await masters.uses())[BEFORE.current.slot].living_keys == 0
    # Known under the old tag, looked up again, and new in a process that has the old master no more.
    assert current.authenticate_cached(shop.text, client_id) is not None
    clock.advance(KNOWN_FOR_S)
    for authenticator in (current, await process(BEFORE), await process(WITHOUT_OLD)):
        assert (await authenticator.authenticate(shop.text, client_id)).key_id == shop.key.public_id


async def test_a_process_with_the_older_keyring_takes_no_key_back(
    process: Process, store: PostgresClients, shop: NewApiKey, service: ClientService, clock: ManualClock
) -> None:
    behind, current = await process(BEFORE), await process(AFTER)
    client_id = shop.key.client_id
    made_later = await ClientService(store, AFTER, Policy(), clock).create_key(client_id, "live")
    await current.authenticate(shop.text, client_id)
    await settled(current)
    for _ in range(3):
        for key in (shop, made_later):
            await behind.authenticate(key.text, client_id)
            await settled(behind)
            record = await store.find_key(key.key.public_id)
            assert record is not None
            assert record.auth_key_id == AFTER.current.slot
        clock.advance(KNOWN_FOR_S)


async def test_a_key_made_under_a_master_that_no_process_had_first_yet_is_left_alone(
    process: Process, store: PostgresClients, shop: NewApiKey, clock: ManualClock
) -> None:
    """The command line may have the new keyring before the first process is restarted with it."""
    behind = await process(BEFORE)
    key = await ClientService(store, AFTER, Policy(), clock).create_key(shop.key.client_id, "live")
    await behind.authenticate(key.text, shop.key.client_id)
    await settled(behind)
    record = await store.find_key(key.key.public_id)
    assert record is not None
    assert record.auth_key_id == AFTER.current.slot


async def test_a_promotion_of_the_old_master_turns_the_way_round(
    process: Process, store: PostgresClients, shop: NewApiKey, masters: PostgresMasters, clock: ManualClock
) -> None:
    client_id = shop.key.client_id
    await process(BEFORE)
    current = await process(AFTER)
    await current.authenticate(shop.text, client_id)
    await settled(current)
    await masters.promote(BEFORE.current.slot)
    back = await process(BEFORE)
    for authenticator in (back, current, back):
        clock.advance(KNOWN_FOR_S)
        await authenticator.authenticate(shop.text, client_id)
        await settled(authenticator)
        record = await store.find_key(shop.key.public_id)
        assert record is not None
        assert record.auth_key_id == BEFORE.current.slot


async def test_processes_of_both_keyrings_at_once_serve_every_request_and_end_under_the_new_master(
    process: Process, store: PostgresClients, service: ClientService, shop: NewApiKey, clock: ManualClock
) -> None:
    client_id = shop.key.client_id
    keys = [shop, *[await service.create_key(client_id, "live") for _ in range(20)]]
    processes = [await process(ring) for ring in (BEFORE, AFTER, BEFORE, AFTER)]
    for _ in range(6):
        calls = [one.authenticate(key.text, client_id) for key in keys for one in processes]
        principals = await asyncio.gather(*calls)
        assert [principal.key_id for principal in principals] == [key.key.public_id for key in keys for _ in processes]
        for one in processes:
            for key in keys[::3]:
                one.invalidate(key.key.public_id)
        clock.advance(KNOWN_FOR_S / 3)
    for one in processes:
        await settled(one)
    for key in keys:
        record = await store.find_key(key.key.public_id)
        assert record is not None
        assert (record.auth_key_id, record.tag) == (AFTER.current.slot, tag_of(key.text, AFTER.current))


async def test_of_two_moves_of_one_record_the_second_changes_nothing(
    process: Process, store: PostgresClients, shop: NewApiKey
) -> None:
    await process(BEFORE)
    await process(AFTER)
    record = await store.find_key(shop.key.public_id)
    assert record is not None
    slot, tag = AFTER.current.slot, tag_of(shop.text, AFTER.current)
    outcomes = await asyncio.gather(*(store.retag_key(record, auth_key_id=slot, tag=tag) for _ in range(8)))
    assert sorted(outcomes) == [False] * 7 + [True]
    assert await store.retag_key(record, auth_key_id=slot, tag=bytes(32)) is False
    moved = await store.find_key(shop.key.public_id)
    assert moved is not None
    assert moved.tag == tag


class BrokenSource:
    """Finds keys, and fails or waits where it should move one."""

    def __init__(self, store: PostgresClients) -> None:
        self._store = store
        self.moves: list[tuple[bytes, bytes]] = []
        self.fault: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def find_key(self, public_id: str) -> KeyRecord | None:
        return await self._store.find_key(public_id)

    async def retag_key(self, record: KeyRecord, *, auth_key_id: bytes, tag: bytes) -> bool:
        self.moves.append((auth_key_id, tag))
        await self.may_end.wait()
        if self.fault:
            raise self.fault
        return False


@pytest.fixture
def broken(store: PostgresClients) -> BrokenSource:
    return BrokenSource(store)


@pytest.fixture
async def suffering(broken: BrokenSource, clock: ManualClock) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(broken, AFTER, Policy(), clock)
    yield authenticator
    await authenticator.close()


@pytest.mark.parametrize("fault", [problem("SERVICE_UNAVAILABLE"), asyncpg.InsufficientPrivilegeError("no"), None])
async def test_a_move_that_fails_is_harmless_and_tried_again_after_the_next_lookup(
    suffering: Authenticator,
    broken: BrokenSource,
    clock: ManualClock,
    shop: NewApiKey,
    fault: Exception | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken.fault = fault
    for times in (1, 2):
        for _ in range(5):
            assert (await suffering.authenticate(shop.text, shop.key.client_id)).key_id == shop.key.public_id
            await settled(suffering)
        assert len(broken.moves) == times
        clock.advance(KNOWN_FOR_S)
    assert shop.text[21:73] not in caplog.text
    assert "Traceback" not in caplog.text
    assert ("stays under its master" in caplog.text) == isinstance(fault, asyncpg.PostgresError)


async def test_only_a_request_that_may_pass_moves_its_key(
    suffering: Authenticator,
    broken: BrokenSource,
    service: ClientService,
    shop: NewApiKey,
    wrong_text: str,
) -> None:
    client_id = shop.key.client_id
    other = await service.create_client("Other")
    revoked = await service.create_key(client_id, "live")
    await service.revoke_key(client_id, revoked.key.public_id)
    suspended = await service.create_key(other.id, "live")
    await service.suspend_client(other.id)
    for key, caller in (
        (wrong_text, client_id),
        (shop.text, other.id),
        (revoked.text, client_id),
        (suspended.text, other.id),
        (shop.text[:-1], client_id),
    ):
        with pytest.raises(ApiError):
            await suffering.authenticate(key, caller)
    assert broken.moves == []
    await suffering.authenticate(shop.text, client_id)
    await settled(suffering)
    assert broken.moves == [(AFTER.current.slot, tag_of(shop.text, AFTER.current))]


async def test_moves_are_few_at_a_time_and_nobody_waits_for_one(
    suffering: Authenticator,
    broken: BrokenSource,
    service: ClientService,
    shop: NewApiKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retag, "MAX_AT_ONCE", 2)
    broken.may_end.clear()
    client_id = shop.key.client_id
    keys = [await service.create_key(client_id, "live") for _ in range(5)]
    for key in keys:
        await suffering.authenticate(key.text, client_id)
    await asyncio.sleep(0)
    assert len(broken.moves) == 2
    broken.may_end.set()
    for _ in keys:
        await settled(suffering)
        for key in keys:
            await suffering.authenticate(key.text, client_id)
    await settled(suffering)
    assert len(broken.moves) == 5
    # And the end waits for none.
    broken.may_end.clear()
    suffering.invalidate(shop.key.public_id)
    await suffering.authenticate(shop.text, client_id)
    await suffering.close()
    assert not suffering._retagger._moves


async def test_a_key_under_the_current_master_is_not_touched(
    broken: BrokenSource, suffering: Authenticator, store: PostgresClients, clock: ManualClock, shop: NewApiKey
) -> None:
    key = await ClientService(store, AFTER, Policy(), clock).create_key(shop.key.client_id, "test")
    await suffering.authenticate(key.text, shop.key.client_id)
    await settled(suffering)
    assert broken.moves == []


async def test_a_move_keeps_and_logs_no_text(
    process: Process, shop: NewApiKey, caplog: pytest.LogCaptureFixture
) -> None:
    await process(BEFORE)
    current = await process(AFTER)
    with caplog.at_level(logging.DEBUG):
        await current.authenticate(shop.text, shop.key.client_id)
        shown = f"{current._retagger._moves!r} {vars(current._retagger)!r}"
        await settled(current)
    assert f"API key {shop.key.public_id} is now under the current master" in caplog.text
    assert shop.text[21:73] not in caplog.text + shown
