"""The way of one message through its senders, one after the other, until it is known what became of it.

The rule that must never be broken: at any time there is at most one open question, a sender that may have the message
without our knowing, and its name is in the store before it is called (`begin`). It is asked again only if its gateway
recognises our message id. Another sender is called while the question is open only by the route's own rule
(`on_unknown`), only after the receipt was waited for, and the same `begin` that names the new sender says of the old
one that it was silent and that the message may arrive twice. One that took the message and sent no receipt in time is
passed by the same rule. A pool of phones is asked before to take back what no phone has pulled: where it did, it has
failed, and nobody is passed. Never are there more of them than the route allows (`max_senders`), and nobody is called
for a code with under 30 s of life.

Who surely was not called is passed at once. One whose receipts do not come (`demoted`) is asked after all others. One
that is at its bound is waited for where the route says so (`on_full`), for a while.

What settles an open question: Accepted, a Rejected that is about the message itself, and a receipt. Every other answer
a gateway gives without having looked for our id (a refused connection, a throttle, an outdated token, an empty
balance), so it is true of that call and silent about the one before. A pool of phones is our own and looks for our id
first: what it refuses or puts off, none of them has.
"""

from collections.abc import Mapping
from typing import Any

from otpsvc.clock import Clock
from otpsvc.errors import ApiError
from otpsvc.messages.asked import ACCEPTED, BEGUN, DELIVERED, SENT, Asked
from otpsvc.messages.handover import Handover
from otpsvc.messages.lease import SILENT, Ended, Kept, Lease, Postponed, Sent, Verdict
from otpsvc.messages.model import UNKNOWN_OUTCOME, Content, MessageStatus, Tried
from otpsvc.messages.permits import Permits
from otpsvc.messages.ports import Admission, HandoverObserver
from otpsvc.messages.router import Step, Way
from otpsvc.messages.telling import log_may_have, log_outcome, outbound, taken, word_of
from otpsvc.messages.waits import DUE_MARGIN_S, MIN_LIFE_S, Waits
from otpsvc.senders.contract import (
    RULES,
    Accepted,
    Outcome,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    Unknown,
)

_REPEAT_PAUSE_S, _MAX_REPEAT_PAUSE_S = 0.5, 15.0

LEASE_TOO_SHORT = "lease_too_short"
NO_SENDER = "no_sender"
NO_TIME_LEFT = "no_time_left"
STORE_AWAY = "store_away"
UNWANTED = "code_ended"

_ABOUT_THE_MESSAGE = frozenset({RejectionKind.INVALID_NUMBER, RejectionKind.BLOCKED, RejectionKind.UNDELIVERABLE})


class Walk:
    """Takes one opened message along its `way`; `senders` are all there are, to know one that is on it no longer.

    `verdict` is set as soon as it is known what became of the message, before anything else is waited for. What
    `permits` owe is to be given back once that is recorded.
    """

    def __init__(
        self,
        lease: Lease,
        content: Content,
        way: Way,
        *,
        senders: Mapping[str, Sender[Any]],
        handover: Handover,
        permits: Permits,
        clock: Clock,
        step_timeout_s: float,
        observer: HandoverObserver | None,
    ) -> None:
        self.verdict: Verdict | None = None
        self._lease = lease
        self._content = content
        self._way = way
        self._senders = senders
        self._handover = handover
        self.permits = permits
        self._clock = clock
        self._step_timeout_s = step_timeout_s
        self._observer = observer
        self._asked = Asked(way, lease, content.text)
        reason = self._asked.last_reason()
        self._reason = reason.value if reason else NO_SENDER
        self._waits = Waits(lease, way.route, permits)
        # Who may have the message and was waited for long enough, until somebody else is called.
        self._overtaken = ""
        self._was_sent = False

    async def run(self) -> Verdict:
        """Ask sender after sender, until one takes it, one may have taken it, or none can."""
        for name, why in self._way.left_out:
            self._observe_held(name, why)
        asked_first = self._lease.begun_by
        verdict = await self._take_up()
        if verdict is None:
            verdict = await self._ask_others(asked_first)
        self.verdict = verdict or self._exhausted()
        return self.verdict

    async def _ask_others(self, asked_first: str) -> Verdict | None:
        for step in self._asked.others():
            # Who has just put it off is asked again with the next claim.
            if step.sender.name == asked_first:
                continue
            if verdict := await self._step(step, has_others=self._asked.has_other(step)):
                return verdict
        for step in self._asked.others():
            if step.sender.name in self._waits.demoted and (verdict := await self._step(step)):
                return verdict
        return None

    # -- what earlier claims left behind

    async def _take_up(self) -> Verdict | None:
        """Go on from where the message was left; None where others may be asked now."""
        if name := self._lease.begun_by:
            return await self._take_up_question(name)
        if name := self._lease.claimed.awaiting:
            if kind := self._asked.failure(name):
                return self._refused(kind)
            self._was_sent = True
            self._overtaken = name
            if self._asked.of(name) in {SENT, DELIVERED}:
                self._overtaken = ""
                return Kept()
            if self._way.route.on_unknown == "stop":
                return self._end(MessageStatus.FAILED, UNKNOWN_OUTCOME)
        return None

    async def _take_up_question(self, name: str) -> Verdict | None:
        if self._asked.of(name) in {ACCEPTED, SENT, DELIVERED}:
            # Its receipt was quicker than its answer, or than the worker that died waiting for that.
            return Sent(name, None)
        if kind := self._asked.failure(name):
            self._lease.begun_by = ""
            return self._refused(kind)
        step = self._asked.step(name)
        left_s = self._patience_left_s()
        if step is not None and self._is_repeatable(step) and (left_s > 0 or not self._may_go_past(left_s)):
            return await self._step(step)
        return self._unanswered()

    def _unanswered(self) -> Verdict | None:
        """Wait for the receipt of the one that may have it, then go past it: if the route allows that at all."""
        left_s = self._patience_left_s()
        if not self._may_go_past(left_s):
            return self._end(MessageStatus.FAILED, UNKNOWN_OUTCOME)
        if left_s > 0:
            return self._lease.later(left_s + DUE_MARGIN_S, UNKNOWN_OUTCOME)
        self._overtaken = self._lease.begun_by
        return None

    def _may_go_past(self, left_s: float) -> bool:
        """Say whether anybody could carry it when the open question has been waited for another `left_s`."""
        life_s = self._lease.life_s() - (left_s + DUE_MARGIN_S if left_s > 0 else 0.0)
        return self._way.route.on_unknown == "next" and life_s >= MIN_LIFE_S and self._asked.can_follow()

    def _patience_left_s(self) -> float:
        """Return for how long the receipt of the one that may have it is still to be waited for."""
        name = self._lease.begun_by
        return self._way.patience_s(name, self._senders.get(name)) - self._lease.begun_s_ago()

    # -- one step

    async def _step(self, step: Step, *, has_others: bool = False) -> Verdict | None:
        """Ask one sender; None where the next may be asked."""
        name = step.sender.name
        if not self._asked.fits(step):
            return self._rejected(name, RejectionKind.TOO_LONG)
        timeout_s = step.rule.timeout_s or self._step_timeout_s
        if hindrance := self._hindrance(timeout_s):
            return hindrance
        try:
            admission = await self.permits.ask(name, timeout_s=timeout_s, has_others=has_others)
        except ApiError:
            return self._store_away()
        if admission.held:
            return self._held(name, admission)
        is_repeat = self._lease.begun_by == name
        try:
            await self._take_back(timeout_s)
            is_wanted = await self._begin(name)
        except ApiError:
            return self._store_away()
        if not is_wanted:
            return self._unwanted()
        # The store may have taken its time to answer.
        if hindrance := self._hindrance(timeout_s):
            return hindrance
        self._lease.called(name)
        self._asked.note(name, BEGUN)
        outcome = await self._hand_over(step.sender, timeout_s)
        self.permits.ended(step.sender, outcome)
        verdict = self.verdict = self._after_repeat(step, outcome) if is_repeat else self._after(step, outcome)
        if verdict is None:
            await self.permits.give_back()
        return verdict

    async def _take_back(self, timeout_s: float) -> None:
        """Have a pool take back what no phone has pulled, and tell that it failed; raises ApiError."""
        name, kind = self._overtaken, RejectionKind.SEND_TIMEOUT
        pool = self._senders.get(name)
        if pool is None or not (pool.capabilities.is_pool and pool.capabilities.can_cancel):
            return
        message = taken(self._lease, None, self._lease.claimed.created_at_ms / 1000)
        if not await self._handover.cancel(pool, message, timeout_s):
            return
        await self._lease.tell(name, Receipt(status=ReceiptStatus.FAILED, message_id=message.message_id, kind=kind))
        self._asked.fail(name, kind)
        self._reason = kind.value
        self._overtaken, self._was_sent = "", False
        if self._lease.begun_by == name:
            self._lease.begun_by = ""
            self._lease.tried.append(Tried(name, kind.value))

    async def _begin(self, name: str) -> bool:
        """Write down who is called, and in the same word who is passed by that; raises ApiError."""
        may_duplicate = any(other != name for other in self._asked.in_doubt())
        # When the open question itself is asked again, nobody is passed.
        overtaken = self._overtaken if name != self._lease.begun_by else ""
        is_wanted = await self._lease.begin(name, overtaken=overtaken, may_duplicate=may_duplicate)
        if is_wanted and overtaken:
            is_news = self._asked.of(overtaken) != SILENT
            self._report_missed(overtaken)
            self._asked.note(overtaken, SILENT)
            self._overtaken = ""
            if is_news and self._observer is not None:
                self._observer.may_duplicate(overtaken)
        return is_wanted

    def _report_missed(self, name: str) -> None:
        """Tell that no receipt followed a sender's word. A call without an answer has counted already.

        One phone's silence is not held against the pool it is in, which others share.
        """
        sender = self._senders.get(name)
        is_pool = sender is not None and sender.capabilities.is_pool
        if self._asked.of(name) == ACCEPTED and not is_pool:
            self.permits.missed(name)

    def _after_repeat(self, step: Step, outcome: Outcome) -> Verdict | None:
        looks_for_our_id = step.sender.capabilities.is_pool
        match outcome:
            case RetryLater(after_s) if not looks_for_our_id:
                return self._ask_again(after_s)
            case Rejected(kind) if kind not in _ABOUT_THE_MESSAGE and not looks_for_our_id:
                return self._ask_again()
        return self._after(step, outcome)

    def _after(self, step: Step, outcome: Outcome) -> Verdict | None:
        name = step.sender.name
        match outcome:
            case Accepted(provider_id):
                self._asked.note(name, ACCEPTED)
                return self._sent(step, provider_id)
            case Unknown():
                return self._ask_again() if self._is_repeatable(step) else self._unanswered()
            case Rejected(kind):
                self._lease.begun_by = ""
                return self._rejected(name, kind)
            case RetryLater(after_s):
                self._lease.begun_by = ""
                self._asked.note(name, "")
                self._waits.put_off(step.sender, after_s)
                return None

    def _rejected(self, name: str, kind: RejectionKind) -> Verdict | None:
        self._asked.reject(name, kind)
        self._lease.tried.append(Tried(name, kind.value))
        return self._refused(kind)

    def _refused(self, kind: RejectionKind) -> Verdict | None:
        """Note why a sender will not carry it, now or by its receipt; None where the next may."""
        self._reason = kind.value
        return None if RULES[kind].next_may_try else self._end(MessageStatus.FAILED, self._reason)

    def _sent(self, step: Step, provider_id: str | None) -> Sent:
        able = step.sender.capabilities
        tells = able.has_receipts or able.polls_every_s is not None
        expected = None
        if tells and provider_id is not None:
            expected = taken(self._lease, provider_id, self._clock.time())
        receipt_in_s = step.rule.receipt_timeout_s or able.receipt_within_s
        # When nobody else could be asked any more, the text is of no use.
        useful_s = self._lease.life_s() - MIN_LIFE_S
        if not tells or receipt_in_s is None or useful_s <= 0 or not self._asked.can_follow():
            receipt_in_s = None
        else:
            receipt_in_s = min(receipt_in_s, useful_s + DUE_MARGIN_S)
        return Sent(step.sender.name, provider_id, receipt_in_s, expected, able.polls_every_s)

    def _ask_again(self, after_s: float = 0.0) -> Verdict | None:
        """Leave the message to the sender that may have it, until an answer cannot help or others may be asked."""
        left_s = self._patience_left_s()
        if not self._may_go_past(left_s):
            pause_s = max(after_s, self._lease.pause_s(_REPEAT_PAUSE_S, _MAX_REPEAT_PAUSE_S))
        elif left_s > 0:
            # The pauses grow until the next one would end at the deadline: then nobody asks it again.
            pause_s = max(after_s, self._lease.pause_s(_REPEAT_PAUSE_S, left_s + DUE_MARGIN_S))
            pause_s = min(pause_s, left_s + DUE_MARGIN_S)
        else:
            return self._unanswered()
        return self._if_in_time(self._lease.later(pause_s, UNKNOWN_OUTCOME), otherwise=UNKNOWN_OUTCOME)

    # -- why no call is made

    def _hindrance(self, timeout_s: float) -> Verdict | None:
        if self._lease.life_s() < MIN_LIFE_S:
            return self._end(MessageStatus.EXPIRED, NO_TIME_LEFT)
        if not self._lease.outlasts(timeout_s):
            # A stalled process, or slow senders before: another worker may be about to hold this message.
            return self._lease.later(0.0, LEASE_TOO_SHORT)
        return None

    def _held(self, name: str, admission: Admission) -> Verdict | None:
        self._observe_held(name, admission.held)
        if name == self._lease.begun_by:
            return self._ask_again(admission.after_s)
        later = self._waits.held(name, admission)
        return later and self._if_in_time(later, otherwise=NO_TIME_LEFT)

    def _store_away(self) -> Verdict:
        later = self._lease.later(self._lease.pause_s(_REPEAT_PAUSE_S, _MAX_REPEAT_PAUSE_S), STORE_AWAY)
        return self._if_in_time(later, otherwise=NO_TIME_LEFT)

    def _unwanted(self) -> Verdict:
        """Say what becomes of a message whose code has ended, or that a receipt has settled."""
        if self._was_sent:
            return Kept()
        if self._asked.in_doubt() or self._lease.claimed.awaiting:
            # The store knows which of the two it was, and ends the message as that with the next claim.
            return self._lease.later(self._lease.pause_s(_REPEAT_PAUSE_S, _MAX_REPEAT_PAUSE_S), UNWANTED)
        return Ended(MessageStatus.CANCELLED, UNWANTED)

    # -- the end

    def _exhausted(self) -> Verdict:
        if later := self._waits.soonest():
            return self._if_in_time(later, otherwise=NO_TIME_LEFT)
        return self._end(MessageStatus.FAILED, self._reason)

    def _if_in_time(self, later: Postponed, *, otherwise: str) -> Verdict:
        """Return `later`, or the message's end where its code will be too old by then."""
        if self._lease.life_s() - later.due_in_s < MIN_LIFE_S:
            return self._end(MessageStatus.FAILED, otherwise)
        return later

    def _end(self, status: MessageStatus, reason: str) -> Verdict:
        """End it as what is known of it: sent stays sent, and what may be on its way is never called unsent."""
        if silent := self._overtaken or self._lease.begun_by:
            self._report_missed(silent)
            self._lease.tried.append(Tried(silent, SILENT))
        if self._was_sent:
            return Kept()
        if doubtful := self._asked.in_doubt():
            log_may_have(self._lease.claimed, doubtful)
            return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
        if self._asked.has_failed():
            return Ended(MessageStatus.FAILED, self._reason)
        return Ended(status, reason)

    async def _hand_over(self, sender: Sender[Any], timeout_s: float) -> Outcome:
        began_at = self._clock.monotonic()
        outcome = await self._handover.call(sender, outbound(self._lease, self._content), timeout_s)
        if self._observer is not None:
            self._observer.handed_over(sender.name, word_of(outcome), self._clock.monotonic() - began_at)
        log_outcome(self._lease.claimed, sender.name, outcome)
        return outcome

    def _observe_held(self, name: str, why: str) -> None:
        if self._observer is not None:
            self._observer.held(name, why)

    def _is_repeatable(self, step: Step) -> bool:
        return step.sender.capabilities.is_idempotent and self._asked.fits(step)
