"""What PostgreSQL knows of the masters: the index master of the first key or start, and the order of the others."""

import asyncio

import pytest

from otpsvc.crypto import Keyring
from otpsvc.errors import ConfigurationError
from otpsvc.postgres.installation import check_installation
from otpsvc.postgres.masters import MasterUse, PostgresMasters
from otpsvc.postgres.pool import Database

A, B = b"a" * 32, b"b" * 32
ONLY_A, ONLY_B = Keyring.from_masters({"a": A}), Keyring.from_masters({"b": B})
A_THEN_B, B_THEN_A = Keyring.from_masters({"a": A, "b": B}), Keyring.from_masters({"b": B, "a": A})


@pytest.fixture
def masters(database: Database) -> PostgresMasters:
    return PostgresMasters(database)


async def test_the_first_to_settle_decides_on_the_index_master(masters: PostgresMasters, database: Database) -> None:
    assert (await masters.indexed(A_THEN_B, is_index_named=False)).index_master.name == "b"
    assert (await masters.settle(ONLY_A, is_index_named=False)).index_master.name == "a"
    for ring in (A_THEN_B, B_THEN_A):
        for choose in (masters.settle, masters.indexed):
            assert (await choose(ring, is_index_named=False)).index_master.name == "a"
    await check_installation(database, partitions=4, index_key_id=ONLY_A.index_key_id)
    await check_installation(database, partitions=4, index_key_id=ONLY_A.index_key_id)
    with pytest.raises(ConfigurationError, match=r"redis.partitions is 8, but .* set up with 4"):
        await check_installation(database, partitions=8, index_key_id=ONLY_A.index_key_id)


async def test_another_index_master_is_refused(masters: PostgresMasters, database: Database) -> None:
    await check_installation(database, partitions=1, index_key_id=ONLY_A.index_key_id)
    for ring, is_named in ((ONLY_B, False), (ONLY_B, True), (A_THEN_B, True)):
        for choose in (masters.settle, masters.indexed):
            with pytest.raises(ConfigurationError, match="the index key"):
                await choose(ring, is_index_named=is_named)
    named = Keyring.from_masters({"b": B, "a": A}, index_master="a")
    assert await masters.settle(named, is_index_named=True) is named


async def test_two_that_settle_at_the_same_time_agree(masters: PostgresMasters) -> None:
    rings = await asyncio.gather(*(masters.settle(ring, is_index_named=False) for ring in (A_THEN_B, B_THEN_A) * 4))
    assert len({ring.index_key_id for ring in rings}) == 1


async def test_uses_are_known_by_slot(masters: PostgresMasters) -> None:
    assert await masters.uses() == {}
    await masters.note_current(ONLY_A.current.slot)
    await masters.note_current(ONLY_A.current.slot)
    await masters.promote(ONLY_B.current.slot)
    unused = MasterUse(was_current=True, living_keys=0)
    assert await masters.uses() == {ONLY_A.current.slot: unused, ONLY_B.current.slot: unused}
