"""What an outcome says about a gateway, the share of one worker that a slow gateway may take, and who waits how long.

The state itself is behind `SenderGates`, one for all workers. Nothing in here counts failures.
"""

from collections.abc import Collection

from otpsvc.clock import Clock, SystemClock
from otpsvc.messages.policy import best_pace_s
from otpsvc.messages.ports import Admission, SenderGates, Verdict
from otpsvc.senders.contract import Accepted, Outcome, Rejected, RejectionKind, RetryLater, Unknown

_FAULTS = frozenset(
    {
        RejectionKind.UNAVAILABLE,
        RejectionKind.UNAUTHORISED,
        RejectionKind.NO_CREDIT,
        RejectionKind.MISCONFIGURED,
    }
)
_SHORTEST_HOLD_S = 1.0  # a shorter pause is that message's own
_CROWD_S = 0.5
_LONGEST_TURN_S = 60.0


def verdict_of(outcome: Outcome, *, is_pool: bool = False) -> tuple[Verdict, float]:
    """Say how a call went for the breaker, and for how many seconds the gateway asked to be left alone (0: it did not).

    A gateway that rejects a message works. One whose answer is in no table says nothing about itself. What a pool has
    for one client says nothing about what it has for others, so it neither fails nor holds anybody back.
    """
    if is_pool:
        return ("works" if isinstance(outcome, Accepted) else "unclear"), 0.0
    match outcome:
        case Accepted():
            return "works", 0.0
        case Unknown():
            return "fails", 0.0
        case RetryLater(is_fault=True):
            return "fails", 0.0
        case RetryLater(after_s):
            return "unclear", after_s if after_s >= _SHORTEST_HOLD_S else 0.0
        case Rejected(RejectionKind.GATEWAY_ERROR):
            return "unclear", 0.0
        case Rejected(kind):
            return "fails" if kind in _FAULTS else "works", 0.0


def fair_share(slots: int, n_senders: int) -> int:
    """Return how many of a worker's slots one sender may take: half of them, where there is another sender."""
    return max(1, slots // 2) if n_senders > 1 else slots


class Turns:
    """Spreads those who wait over time, one after the other for each sender.

    Without that they would all come at the same moment, one of them be let in, and the place that becomes free a little
    later be nobody's. Where more wait than fit into a minute, the minute begins again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def next(self, sender: str, after_s: float, apart_s: float) -> float:
        """Give away the next turn: return in how many seconds to ask again, not before `after_s`."""
        turn_s = self.look(sender, after_s, apart_s)
        self._last[sender] = self._clock.monotonic() + turn_s
        return turn_s

    def look(self, sender: str, after_s: float, apart_s: float) -> float:
        """Return in how many seconds the next turn is, and give it to nobody."""
        now = self._clock.monotonic()
        turn = first = now + after_s
        if sender in self._last:
            turn = max(first, self._last[sender] + apart_s)
        if turn > first + _LONGEST_TURN_S:
            turn = first
        return turn - now


class LocalGates:
    """Gates that also keep the calls of one sender in this process to `most`, so that others have room when it hangs.

    Those named in `unbounded` hang on nobody. What has lapsed counts no more here either. Raises ValueError for a
    `most` that would let nobody in.
    """

    def __init__(
        self, inner: SenderGates, most: int, *, unbounded: Collection[str] = (), clock: Clock | None = None
    ) -> None:
        if most < 1:
            raise ValueError("at least one call must be let in")
        self._inner = inner
        self._most = most
        self._unbounded = frozenset(unbounded)
        self._clock = clock or SystemClock()
        self._under_way: dict[str, dict[str, float]] = {}

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
        """Ask here first, then inside. Raises ApiError SERVICE_UNAVAILABLE."""
        now = self._clock.monotonic()
        calls = {one: lapses_at for one, lapses_at in self._under_way.get(sender, {}).items() if lapses_at > now}
        self._under_way[sender] = calls
        if sender not in self._unbounded and permit not in calls and len(calls) >= self._most:
            return Admission("crowd", _CROWD_S)
        calls[permit] = now + lapses_in_s
        is_admitted = False
        try:
            admission = await self._inner.admit(
                sender, permit, lapses_in_s=lapses_in_s, has_others=has_others, may_probe=may_probe
            )
            is_admitted = not admission.held
        finally:
            if not is_admitted:
                self._forget(sender, permit)
        return admission

    async def report(self, sender: str, permit: str, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        """Give the permit back here and inside."""
        self._forget(sender, permit)
        await self._inner.report(sender, permit, verdict, hold_s=hold_s)

    async def missed(self, sender: str, number: str) -> None:
        """Tell it inside."""
        await self._inner.missed(sender, number)

    def apart_s(self, sender: str) -> float:
        """Return what this process could take, or what all could, whichever is less often."""
        return max(best_pace_s(self._most), self._inner.apart_s(sender))

    def _forget(self, sender: str, permit: str) -> None:
        self._under_way.get(sender, {}).pop(permit, None)
