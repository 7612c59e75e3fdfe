"""Forgetting a number: in which order, at whom, and that a call which broke off is mended by the same call again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError, problem
from otpsvc.events.ports import SentTo
from otpsvc.otp.erasure import Forgotten, NumberEraser
from otpsvc.otp.ports import Tenant
from tests.otp.house import CLIENT, MASTERS, NUMBER, OTHER_CLIENT, OTHER_NUMBER

KEYRING = Keyring.from_masters(MASTERS)
INDEX = KEYRING.index("number", NUMBER).hex()
MINE = Tenant(CLIENT, "live")
EVERYONE = [Tenant(client_id, mode) for client_id in (CLIENT, OTHER_CLIENT) for mode in ("live", "test")]


@dataclass
class TwoStores:
    """Both stores and the list of clients, as a journal: which step ran, and at which one everything breaks.

    `older` is what the living store has and finds by a message's id alone.
    """

    living: dict[Tenant, dict[str, tuple[int, int]]] = field(default_factory=dict)
    older: set[str] = field(default_factory=set)
    history: dict[str, int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    partitions: set[int] = field(default_factory=set)
    breaks_at: int | None = None

    def step(self, name: str) -> None:
        if len(self.steps) == self.breaks_at:
            raise problem("SERVICE_UNAVAILABLE")
        self.steps.append(name)

    async def client_ids(self) -> list[str]:
        self.step("clients")
        return [CLIENT, OTHER_CLIENT]

    def eraser(self, partitions: int = 1) -> NumberEraser:
        return NumberEraser(
            living=Living(self),
            history=History(self),
            client_ids=self.client_ids,
            keyring=KEYRING,
            partitions=partitions,
        )


@dataclass
class Living:
    stores: TwoStores

    async def forget(
        self, tenant: Tenant, *, partition: int, to_index: str, message_ids: Sequence[str] = ()
    ) -> tuple[int, int]:
        self.stores.step(f"living {tenant.client_id} {tenant.mode}")
        assert all(message_id == f"msg {tenant.client_id} {tenant.mode}" for message_id in message_ids)
        self.stores.partitions.add(partition)
        self.stores.older -= set(message_ids)
        return self.stores.living.get(tenant, {}).pop(to_index, (0, 0))


@dataclass
class History:
    stores: TwoStores

    async def mark_forgotten(self, to_index: str, *, client_id: str | None, mode: str | None) -> list[SentTo]:
        self.stores.step(f"mark {client_id} {mode}")
        asked = (client_id, mode)
        return [SentTo(*one, f"msg {one.client_id} {one.mode}") for one in EVERYONE
                if to_index in self.stores.history and asked in (one, (None, None))]  # fmt: skip

    async def forget(self, to_index: str, *, client_id: str | None, mode: str | None) -> int:
        self.stores.step(f"history {client_id} {mode}")
        return self.stores.history.pop(to_index, 0)


@pytest.fixture
def stores() -> TwoStores:
    older = {f"msg {one.client_id} {one.mode}" for one in EVERYONE}
    return TwoStores(living={tenant: {INDEX: (1, 2)} for tenant in EVERYONE}, older=older, history={INDEX: 9})


async def test_the_history_is_asked_first_and_erased_last(stores: TwoStores) -> None:
    assert await stores.eraser().forget(NUMBER, tenant=MINE) == Forgotten(1, 9)
    assert stores.steps == [f"mark {CLIENT} live", f"living {CLIENT} live", f"history {CLIENT} live"]
    assert set(stores.living[MINE]) == set()
    assert stores.older == {f"msg {one.client_id} {one.mode}" for one in EVERYONE if one != MINE}
    assert all(INDEX in stores.living[tenant] for tenant in EVERYONE if tenant != MINE)


async def test_without_a_tenant_every_client_and_both_modes_forget(stores: TwoStores) -> None:
    assert await stores.eraser().forget(NUMBER, tenant=None) == Forgotten(4, 9)
    living = [f"living {tenant.client_id} {tenant.mode}" for tenant in EVERYONE]
    assert stores.steps == ["clients", "mark None None", *living, "history None None"]
    assert stores.older == set()


async def test_messages_that_no_history_has_yet_count_too(stores: TwoStores) -> None:
    stores.history.clear()
    assert await stores.eraser().forget(NUMBER, tenant=None) == Forgotten(4, 8)


async def test_every_spelling_is_the_same_number(stores: TwoStores) -> None:
    assert await stores.eraser().forget("00 33 6 12-34-56-78", tenant=MINE) == Forgotten(1, 9)


async def test_an_unknown_number_gives_zeros(stores: TwoStores) -> None:
    for tenant in (MINE, None):
        assert await stores.eraser().forget(OTHER_NUMBER, tenant=tenant) == Forgotten(0, 0)
    assert stores.history == {INDEX: 9}


async def test_the_partition_is_the_one_that_a_send_chose(stores: TwoStores) -> None:
    await stores.eraser(partitions=256).forget(NUMBER, tenant=None)
    assert stores.partitions == {KEYRING.partition(NUMBER, 256)}
    assert KEYRING.partition(NUMBER, 256) != 0


@pytest.mark.parametrize(
    "number", ["", "+33", "0612345678", f"{NUMBER} {NUMBER}", f"{NUMBER}\n{OTHER_NUMBER}", "x" * 99]
)
async def test_what_is_no_number_touches_nothing_and_is_not_repeated(stores: TwoStores, number: str) -> None:
    with pytest.raises(ApiError) as caught:
        await stores.eraser().forget(number, tenant=None)
    assert caught.value.code == "INVALID_PHONE_NUMBER"
    assert stores.steps == []
    assert NUMBER[1:] not in f"{caught.value!r} {caught.value.details}"


@pytest.mark.parametrize(
    ("tenant", "breaks_at"), [*((MINE, step) for step in range(3)), *((None, step) for step in range(7))]
)
async def test_a_call_that_broke_off_anywhere_is_mended_by_the_same_call(
    stores: TwoStores, tenant: Tenant | None, breaks_at: int
) -> None:
    stores.breaks_at = breaks_at
    with pytest.raises(ApiError) as caught:
        await stores.eraser().forget(NUMBER, tenant=tenant)
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    assert stores.history == {INDEX: 9}
    if not any(step.startswith("mark") for step in stores.steps):
        assert all(stores.living[each] == {INDEX: (1, 2)} for each in EVERYONE)
    stores.breaks_at = None
    await stores.eraser().forget(NUMBER, tenant=tenant)
    assert stores.history == {}
    assert not any(stores.living[each] for each in EVERYONE if tenant in (each, None))
    assert all(stores.living[each] for each in EVERYONE if tenant not in (each, None))
    assert stores.older == {f"msg {one.client_id} {one.mode}" for one in EVERYONE if tenant not in (one, None)}
