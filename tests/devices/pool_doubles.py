"""What stands around the pool in its quick tests: offers that answer as they are told, and a house to tell."""

from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from otpsvc.crypto import Keyring
from otpsvc.devices.model import (
    Device,
    DeviceState,
    DeviceStatus,
    Gone,
    Offer,
    PhoneReport,
    Pulled,
    Seen,
    Sim,
    Tenant,
    Told,
)
from otpsvc.devices.policy import Budget
from otpsvc.devices.pool import Pool
from otpsvc.errors import ApiError, problem
from otpsvc.senders.contract import Receipt

T = TypeVar("T")

KEYRING = Keyring.from_masters({"a": b"k" * 32})
TENANT = Tenant("client_100000000001", "live")
DEVICE_ID = "dev_00000000000000000000000000"
AWAY = problem("SERVICE_UNAVAILABLE")


def device(**changes: Any) -> Device:
    facts: dict[str, Any] = {
        "id": DEVICE_ID,
        "client_id": TENANT.client_id,
        "mode": TENANT.mode,
        "name": "Pixel",
        "status": DeviceStatus.ACTIVE,
        "version": 3,
        "login": "phone-abcdef",
        "sims": (Sim(slot=0, number=1),),
        "budget": Budget(),
        "created_at": datetime(2026, 7, 1, tzinfo=UTC),
    }
    return Device(**(facts | changes))


class ToldOffers:
    """Answers each call with the next of `answers[<its name>]`, raises what is an exception; `calls` keeps all."""

    def __init__(self) -> None:
        self.answers: defaultdict[str, deque[Any]] = defaultdict(deque)
        self.calls: list[tuple[str, Any]] = []
        self.is_away = False

    def named(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]

    async def offer(self, **given: Any) -> Offer:
        return self._answer("offer", given, Offer("offered", DEVICE_ID))

    async def pull(self, one: Device, *, limit: int, slots: Collection[bytes]) -> Sequence[Pulled] | None:
        assert list(slots) == [master.slot for master in KEYRING.masters]
        nothing: Sequence[Pulled] | None = ()
        return self._answer("pull", (one.id, limit), nothing)

    async def report(self, one: Device, report: PhoneReport) -> Told:
        return self._answer("report", report, Told("ignored"))

    async def withdraw(self, tenant: Tenant, message_id: str) -> bool:
        return self._answer("withdraw", (tenant, message_id), True)

    async def due(self, *, limit: int, again_in_ms: int) -> Sequence[str]:
        nothing: Sequence[str] = ()
        return self._answer("due", (limit, again_in_ms), nothing)

    async def look(self, offer: str) -> Told:
        return self._answer("look", offer, Told("waiting"))

    async def done(self, client_id: str, message_id: str, status: str) -> None:
        self._answer("done", (client_id, message_id, status), None)

    async def reach(self, tenant: Tenant, pinned: str = "") -> str:
        return self._answer("reach", (tenant, pinned), "")

    def _answer(self, name: str, given: Any, otherwise: T) -> T:
        self.calls.append((name, given))
        if self.is_away:
            raise problem("SERVICE_UNAVAILABLE")
        answer = self.answers[name].popleft() if self.answers[name] else otherwise
        if isinstance(answer, Exception):
            raise answer
        return cast("T", answer)


class ToldPresence:
    """Knows no device; `lapsing` is how many looks find a full batch."""

    def __init__(self) -> None:
        self.answers: deque[int | Exception] = deque()
        self.n_looks = 0

    async def seen(self, one: Device, *, stream: str = "", is_pull: bool = False, online_s: float) -> Seen | None:
        return Seen(0, one.version)

    async def left(self, one: Device, stream: str, why: Gone) -> None:
        raise AssertionError

    async def retire(self, one: Device, why: Gone) -> None:
        raise AssertionError

    async def refresh(self, one: Device) -> None:
        raise AssertionError

    async def lapsed(self, *, limit: int) -> int:
        self.n_looks += 1
        answer = self.answers.popleft() if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def state(self, one: Device) -> DeviceState:
        return DeviceState()

    async def n_online(self) -> int:
        return 0


class Ledger:
    """Takes receipts, or fails to; and counts what the pool says it did."""

    def __init__(self) -> None:
        self.receipts: list[tuple[str, Receipt]] = []
        self.fault: ApiError | None = None
        self.offers: list[tuple[str, str]] = []
        self.takeovers: list[tuple[str, str, bool]] = []
        self.reports: list[tuple[str, str, float | None]] = []

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        if self.fault is not None:
            raise self.fault
        self.receipts += [(sender, one) for one in receipts]

    def offered(self, sender: str, outcome: str) -> None:
        self.offers.append((sender, outcome))

    def taken_over(self, sender: str, why: str, *, may_duplicate: bool) -> None:
        self.takeovers.append((sender, why, may_duplicate))

    def reported(self, sender: str, status: str, seconds: float | None) -> None:
        self.reports.append((sender, status, seconds))


def pool_of(offers: ToldOffers, ledger: Ledger) -> Pool:
    return Pool(offers=offers, receipts=ledger.take, keyring=KEYRING, observer=ledger)
