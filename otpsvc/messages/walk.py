"""The way of one message through its senders, one after the other, until it is known what became of it.

The rule that must never be broken: at any time at most one sender may have the message without our knowing, and its
name is in the store before it is called (`begin`). No other sender is called until that one has said what became of
it, and it is asked again only if its gateway recognises our message id.

What settles an open question: Accepted, and a Rejected that is about the message itself. Every other answer a gateway
gives without having looked for our id (a refused connection, a throttle, an outdated token, an empty balance), so it
is true of that call and silent about the one before.
"""

import logging
from collections.abc import Sequence
from typing import Any

from otpsvc.clock import Clock
from otpsvc.errors import ApiError
from otpsvc.messages.handover import Handover
from otpsvc.messages.lease import Ended, Lease, Postponed, Sent, Verdict
from otpsvc.messages.model import Content, MessageStatus
from otpsvc.messages.ports import HandoverObserver
from otpsvc.senders.contract import (
    RULES,
    Accepted,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    Unknown,
)

MIN_LIFE_S = 30.0
_REPEAT_PAUSE_S = 0.5
_MAX_REPEAT_PAUSE_S = 15.0

LEASE_TOO_SHORT = "lease_too_short"
NO_SENDER = "no_sender"
NO_TIME_LEFT = "no_time_left"
RETRY_LATER = "retry_later"
STORE_AWAY = "store_away"
UNKNOWN_OUTCOME = "unknown_outcome"
UNWANTED = "code_ended"

_ABOUT_THE_MESSAGE = frozenset({RejectionKind.INVALID_NUMBER, RejectionKind.BLOCKED, RejectionKind.UNDELIVERABLE})

_log = logging.getLogger(__name__)


class Walk:
    """Takes one opened message through `senders`, of which those for its channel are its route."""

    def __init__(
        self,
        lease: Lease,
        content: Content,
        senders: Sequence[Sender[Any]],
        *,
        handover: Handover,
        clock: Clock,
        step_timeout_s: float,
        observer: HandoverObserver | None,
    ) -> None:
        self._lease = lease
        self._content = content
        self._route = [s for s in senders if lease.claimed.channel in s.capabilities.channels]
        self._handover = handover
        self._clock = clock
        self._step_timeout_s = step_timeout_s
        self._observer = observer
        self._reason = NO_SENDER
        self._soonest_s: float | None = None

    async def run(self) -> Verdict:
        """Ask sender after sender, until one takes it, one may have taken it, or none can."""
        route = self._route
        if name := self._lease.begun_by:
            place = next((i for i, sender in enumerate(route) if sender.name == name), None)
            if place is None or not self._is_repeatable(route[place]):
                _log.warning("message %s may have been sent by %s", self._lease.claimed.message_id, name)
                return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
            # Those before it surely did not send: nobody comes to a sender past one that may have. So once this one is
            # settled they may be asked again; they may have said that later is better.
            route = route[place:] + route[:place]
        for sender in route:
            if verdict := await self._step(sender):
                return verdict
        if self._soonest_s is None:
            return Ended(MessageStatus.FAILED, self._reason)
        return self._if_in_time(self._lease.later(self._soonest_s, RETRY_LATER), otherwise=NO_TIME_LEFT)

    def _if_in_time(self, later: Postponed, *, otherwise: str) -> Verdict:
        """Return `later`, or the message's failure where its code will be too old by then."""
        if self._lease.life_s() - later.due_in_s < MIN_LIFE_S:
            return Ended(MessageStatus.FAILED, otherwise)
        return later

    async def _step(self, sender: Sender[Any]) -> Verdict | None:
        """Ask one sender; None where the next may be asked."""
        if not self._fits(sender):
            self._reason = RejectionKind.TOO_LONG.value
            return None
        if hindrance := self._hindrance():
            return hindrance
        try:
            is_wanted = await self._lease.begin(sender.name)
        except ApiError:
            later = self._lease.later(self._repeat_pause_s(), STORE_AWAY)
            return self._if_in_time(later, otherwise=UNKNOWN_OUTCOME if self._lease.begun_by else NO_TIME_LEFT)
        if not is_wanted:
            if self._lease.begun_by:
                return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
            return Ended(MessageStatus.CANCELLED, UNWANTED)
        # The store may have taken its time to answer.
        if hindrance := self._hindrance():
            return hindrance
        is_repeat = self._lease.begun_by == sender.name
        self._lease.begun_by = sender.name
        outcome = await self._hand_over(sender)
        return self._after_repeat(sender, outcome) if is_repeat else self._after(sender, outcome)

    def _after_repeat(self, sender: Sender[Any], outcome: Outcome) -> Verdict | None:
        match outcome:
            case RetryLater(after_s):
                return self._ask_again(after_s)
            case Rejected(kind) if kind not in _ABOUT_THE_MESSAGE:
                return self._ask_again()
        return self._after(sender, outcome)

    def _after(self, sender: Sender[Any], outcome: Outcome) -> Verdict | None:
        match outcome:
            case Accepted(provider_id):
                return Sent(sender.name, provider_id)
            case Unknown():
                if self._is_repeatable(sender):
                    return self._ask_again()
                return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
            case Rejected(kind):
                self._reason = kind.value
                if not RULES[kind].next_may_try:
                    return Ended(MessageStatus.FAILED, self._reason)
            case RetryLater(after_s):
                self._soonest_s = after_s if self._soonest_s is None else min(after_s, self._soonest_s)
        self._lease.begun_by = ""
        return None

    def _ask_again(self, after_s: float = 0.0) -> Verdict:
        """Leave the message to the sender that may have it, for as long as an answer can still help."""
        later = self._lease.later(max(after_s, self._repeat_pause_s()), UNKNOWN_OUTCOME)
        return self._if_in_time(later, otherwise=UNKNOWN_OUTCOME)

    def _hindrance(self) -> Verdict | None:
        if self._lease.life_s() < MIN_LIFE_S:
            if self._lease.begun_by:
                return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
            return Ended(MessageStatus.EXPIRED, NO_TIME_LEFT)
        if not self._lease.outlasts(self._step_timeout_s):
            # A stalled process: another worker may be about to hold this message.
            return self._lease.later(0.0, LEASE_TOO_SHORT)
        return None

    async def _hand_over(self, sender: Sender[Any]) -> Outcome:
        began_at = self._clock.monotonic()
        outcome = await self._handover.call(sender, outbound(self._lease, self._content), self._step_timeout_s)
        if self._observer is not None:
            self._observer.handed_over(sender.name, _word(outcome), self._clock.monotonic() - began_at)
        self._report(sender, outcome)
        return outcome

    def _report(self, sender: Sender[Any], outcome: Outcome) -> None:
        """Say in the log what did not go well; details were scrubbed on their way here."""
        if isinstance(outcome, Accepted):
            return
        level = logging.WARNING if isinstance(outcome, Unknown) else logging.INFO
        if isinstance(outcome, Rejected) and RULES[outcome.kind].needs_operator:
            level = logging.ERROR
        told = (self._lease.claimed.message_id, sender.name, _word(outcome), outcome.detail)
        _log.log(level, "message %s: sender %s: %s %s", *told)

    def _is_repeatable(self, sender: Sender[Any]) -> bool:
        return sender.capabilities.is_idempotent and self._fits(sender)

    def _fits(self, sender: Sender[Any]) -> bool:
        longest = sender.capabilities.longest_text
        return longest is None or len(self._content.text) <= longest

    def _repeat_pause_s(self) -> float:
        return min(_REPEAT_PAUSE_S * 2.0 ** min(self._lease.claimed.tries, 10), _MAX_REPEAT_PAUSE_S)


def outbound(lease: Lease, content: Content) -> OutboundMessage:
    """Return the message as a sender gets it now."""
    claimed = lease.claimed
    return OutboundMessage(
        message_id=claimed.message_id,
        client_id=claimed.client_id,
        mode=claimed.mode,
        channel=Channel(claimed.channel),
        to=content.to,
        text=content.text,
        expires_at=claimed.expires_at_ms / 1000,
        life_s=lease.life_s(),
        try_number=claimed.tries,
    )


def _word(outcome: Outcome) -> str:
    match outcome:
        case Accepted():
            return "accepted"
        case Rejected(kind):
            return kind.value
        case RetryLater():
            return "retry_later"
        case Unknown():
            return "unknown"
