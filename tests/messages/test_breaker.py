"""What an outcome says about a gateway, and how much of a worker one gateway may take."""

import asyncio

import pytest

from otpsvc.errors import ApiError, problem
from otpsvc.messages.breaker import LocalGates, fair_share, verdict_of
from otpsvc.messages.ports import Admission, Verdict
from otpsvc.senders.contract import Accepted, Outcome, Rejected, RejectionKind, RetryLater, Unknown
from otpsvc.testing.clocks import ManualClock

IN = Admission()


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Accepted("g-1"), ("works", 0)),
        (Unknown("no answer"), ("fails", 0)),
        (RetryLater(0.1), ("unclear", 0)),
        (RetryLater(0.99), ("unclear", 0)),
        (RetryLater(1), ("unclear", 1)),
        (RetryLater(3600), ("unclear", 3600)),
    ],
)
def test_an_outcome_tells_of_the_gateway(outcome: Outcome, told: tuple[Verdict, float]) -> None:
    assert verdict_of(outcome) == told


@pytest.mark.parametrize("kind", RejectionKind)
def test_a_rejection_tells_of_the_gateway_or_of_the_message(kind: RejectionKind) -> None:
    verdicts: dict[RejectionKind, Verdict] = {
        RejectionKind.UNAVAILABLE: "fails",
        RejectionKind.UNAUTHORISED: "fails",
        RejectionKind.NO_CREDIT: "fails",
        RejectionKind.MISCONFIGURED: "fails",
        RejectionKind.GATEWAY_ERROR: "unclear",
    }
    assert verdict_of(Rejected(kind)) == (verdicts.get(kind, "works"), 0)


@pytest.mark.parametrize(
    ("slots", "n_senders", "share"), [(16, 1, 16), (16, 2, 8), (16, 5, 8), (3, 2, 1), (1, 2, 1), (1, 1, 1)]
)
def test_one_of_several_senders_may_take_half_of_a_worker(slots: int, n_senders: int, share: int) -> None:
    assert fair_share(slots, n_senders) == share


class Inner:
    """Gates that answer as they are told and remember what they were asked."""

    def __init__(self) -> None:
        self.answer = IN
        self.fault: ApiError | None = None
        self.block: asyncio.Event | None = None
        self.asked: list[tuple[str, str, float]] = []
        self.had_others: list[bool] = []
        self.might_probe: list[bool] = []
        self.reported: list[tuple[str, str, str, float]] = []
        self.missing: list[tuple[str, str]] = []

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
        self.asked.append((sender, permit, lapses_in_s))
        self.had_others.append(has_others)
        self.might_probe.append(may_probe)
        if self.block:
            await self.block.wait()
        if self.fault:
            raise self.fault
        return self.answer

    async def report(self, sender: str, permit: str, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        self.reported.append((sender, permit, verdict, hold_s))

    async def missed(self, sender: str, number: str) -> None:
        self.missing.append((sender, number))

    def apart_s(self, sender: str) -> float:
        return 1.0 if sender == "slow" else 0.001


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gates(inner: Inner, clock: ManualClock) -> LocalGates:
    return LocalGates(inner, 2, clock=clock)


async def ask(gates: LocalGates, permit: str, sender: str = "hung") -> str:
    return (await gates.admit(sender, permit, lapses_in_s=20)).held


async def test_one_sender_gets_its_share_and_no_more(gates: LocalGates, inner: Inner) -> None:
    assert [await ask(gates, f"p{n}") for n in range(4)] == ["", "", "crowd", "crowd"]
    assert inner.asked == [("hung", "p0", 20), ("hung", "p1", 20)], "who is not let in here is not counted for all"
    assert await ask(gates, "p9", "well") == ""
    await gates.report("hung", "p0", "fails", hold_s=3)
    assert inner.reported == [("hung", "p0", "fails", 3)]
    assert await ask(gates, "p2") == ""
    assert await ask(gates, "p3") == "crowd"
    assert (await gates.admit("hung", "p3", lapses_in_s=20)).after_s > 0


async def test_a_permit_asked_for_again_takes_no_more_room(gates: LocalGates) -> None:
    assert [await ask(gates, "p0"), await ask(gates, "p0"), await ask(gates, "p1")] == ["", "", ""]
    assert [await ask(gates, "p1"), await ask(gates, "p2")] == ["", "crowd"]


async def test_who_is_held_inside_takes_no_room(gates: LocalGates, inner: Inner) -> None:
    inner.answer = Admission("open", 12.0)
    for n in range(5):
        assert await gates.admit("hung", f"p{n}", lapses_in_s=20) == inner.answer
    inner.answer = IN
    assert await ask(gates, "p9") == ""


async def test_who_gets_no_answer_takes_no_room(gates: LocalGates, inner: Inner) -> None:
    inner.fault = problem("SERVICE_UNAVAILABLE")
    for n in range(5):
        with pytest.raises(ApiError):
            await ask(gates, f"p{n}")
    inner.fault = None
    assert [await ask(gates, "p8"), await ask(gates, "p9")] == ["", ""]


async def test_who_waits_for_the_answer_counts_and_leaves_with_it(gates: LocalGates, inner: Inner) -> None:
    inner.block = asyncio.Event()
    waiting = [asyncio.create_task(ask(gates, f"p{n}")) for n in range(3)]
    await asyncio.sleep(0)
    assert await waiting[2] == "crowd"
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    inner.block.set()
    assert await waiting[1] == ""
    assert await ask(gates, "p3") == ""
    assert await ask(gates, "p4") == "crowd"


async def test_what_is_never_reported_lapses(gates: LocalGates, clock: ManualClock) -> None:
    assert [await ask(gates, f"p{n}") for n in range(3)] == ["", "", "crowd"]
    clock.advance(19.9)
    assert await ask(gates, "p3") == "crowd"
    clock.advance(0.1)
    assert await ask(gates, "p3") == ""


async def test_a_report_about_no_call_goes_through(gates: LocalGates, inner: Inner) -> None:
    await gates.report("hung", "", "fails")
    await gates.report("other", "unknown", "works")
    assert inner.reported == [("hung", "", "fails", 0.0), ("other", "unknown", "works", 0.0)]


async def test_what_is_about_receipts_and_turns_is_decided_inside(gates: LocalGates, inner: Inner) -> None:
    await gates.missed("a", "0badc0de")
    assert inner.missing == [("a", "0badc0de")]
    assert gates.apart_s("slow") == 1.0
    assert gates.apart_s("a") == pytest.approx(0.05), "no more than this process could take"
    inner.answer = Admission("demoted")
    assert (await gates.admit("a", "p0", lapses_in_s=20, has_others=True, may_probe=False)).held == "demoted"
    assert (inner.had_others, inner.might_probe) == ([True], [False])


def test_gates_that_let_nobody_in_are_refused(inner: Inner) -> None:
    with pytest.raises(ValueError, match="at least one"):
        LocalGates(inner, 0)


def test_a_gateway_that_cannot_be_reached_counts_against_it_and_a_busy_one_does_not() -> None:
    assert verdict_of(RetryLater(2.0, is_fault=True)) == ("fails", 0.0)
    assert verdict_of(RetryLater(2.0)) == ("unclear", 2.0)
