"""When a message goes on that nobody could be called for: how long it waits, and for whom.

Who is held is passed, and the message comes back for the one that can be called first. One at its bound may be waited
for by the route's rule. Of many messages that wait for one sender each has its own moment to ask again, so that a place
that becomes free is taken soon, and a crowd costs no more than the sender could take. Where a crowd waits for one, its
next moment may be later than another's, so moments are compared, not bounds.
"""

from math import inf
from typing import Any

from otpsvc.messages.lease import Lease, Postponed
from otpsvc.messages.model import Tried
from otpsvc.messages.permits import Permits
from otpsvc.messages.policy import Route
from otpsvc.messages.ports import Admission
from otpsvc.senders.contract import Sender

MIN_LIFE_S = 30.0
DUE_MARGIN_S = 0.05  # the store counts in whole ms; a message must not come back just before its deadline

RETRY_LATER = "retry_later"
_DEMOTED = "demoted"

_AT_ITS_BOUND = frozenset({"rate", "crowd"})
_TOLD_TRIES = 5  # a message may be held back without end while its code lives; the first times are worth telling
_LEAST_PAUSE_S = 0.05
_FOR_THE_NEXT_S = 5.0  # who waits for a full sender leaves the next one so much of the time in which it may be asked
_RETRY_PAUSE_S, _MAX_RETRY_PAUSE_S = 0.1, 1.0


class Waits:
    """The waits of one leased message. `demoted` names those whose receipts do not come, passed while others can go."""

    def __init__(self, lease: Lease, route: Route, permits: Permits) -> None:
        self.demoted: set[str] = set()
        self._lease = lease
        self._route = route
        self._permits = permits
        self._passed: list[tuple[float, str, str]] = []

    def held(self, name: str, admission: Admission) -> Postponed | None:
        """Take note that a sender is held; return until when the message waits for it, None where the next may go."""
        word = f"held_{admission.held}"
        if self._lease.claimed.tries <= _TOLD_TRIES:
            self._lease.tried.append(Tried(name, word))
        if admission.held == _DEMOTED:
            self.demoted.add(name)
            return None
        pause_s = max(admission.after_s, _LEAST_PAUSE_S)
        if admission.held in _AT_ITS_BOUND and pause_s <= (left_s := self._full_wait_left_s()):
            return self._in_turn(name, pause_s, word, most_s=left_s)
        self._passed.append((pause_s, word, name))
        return None

    def put_off(self, sender: Sender[Any], after_s: float) -> None:
        """Take note that a sender was called and does not take the message yet.

        A gateway's very short pause must not become a storm of calls. A pool knows when to ask it again.
        """
        self._lease.tried.append(Tried(sender.name, RETRY_LATER))
        if sender.capabilities.is_pool:
            self._passed.append((after_s, RETRY_LATER, ""))
        else:
            least_s = self._lease.pause_s(_RETRY_PAUSE_S, _MAX_RETRY_PAUSE_S)
            self._passed.append((max(after_s, least_s), RETRY_LATER, sender.name))

    def soonest(self) -> Postponed | None:
        """Return when the first of those that were passed may be called; None if nobody was."""
        if not self._passed:
            return None
        after_s, reason, name = min(self._passed, key=lambda one: self._next_turn_s(one[2], one[0]))
        return self._in_turn(name, after_s, reason) if name else self._lease.later(after_s, reason)

    def _next_turn_s(self, name: str, after_s: float) -> float:
        return self._permits.next_turn(name, after_s) if name else after_s

    def _in_turn(self, name: str, after_s: float, reason: str, *, most_s: float = inf) -> Postponed:
        useful_s = min(self._lease.life_s() - MIN_LIFE_S - DUE_MARGIN_S, most_s)
        return self._lease.later(max(after_s, min(self._permits.turn(name, after_s), useful_s)), reason)

    def _full_wait_left_s(self) -> float:
        """Return for how long the message is still to wait for a sender at its bound."""
        if self._route.on_full != "wait":
            return 0.0
        claimed, life_s = self._lease.claimed, self._lease.life_s()
        age_s = (claimed.expires_at_ms - claimed.created_at_ms) / 1000 - life_s
        return min(self._route.full_wait_s - age_s, life_s - MIN_LIFE_S - _FOR_THE_NEXT_S)
