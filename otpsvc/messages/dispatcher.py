"""Takes one leased message to a sender and records what became of it.

The order of things is the safety of it: nothing is sent that may have been sent before, nothing is sent with too little
life left, nothing is forgotten. What is not recorded comes back when its lease ends, marked uncertain.

An uncertain message (a sender may already have it) goes out again only where that cannot make two: the route has one
sender for its channel, and that gateway recognises our message id. The record does not yet say which sender was being
called, so with two senders a repeat could reach the wrong one; such a message ends `failed`, `unknown_outcome`, and its
code stays valid for whoever received it.

Texts and numbers live in here for the length of one call: they appear in no log line, reason or exception.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from otpsvc.clock import Clock
from otpsvc.crypto import Keyring, UnknownMasterError, UnsealError
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.messages.handover import Handover
from otpsvc.messages.model import ClaimedMessage, Content, MessageStatus
from otpsvc.messages.ports import MessageQueue
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
_LEASE_MARGIN_S = 2.0
_RECORD_PAUSE_S = 0.05
_MAX_RECORD_PAUSE_S = 1.0
_REPEAT_PAUSE_S = 0.5
_MAX_REPEAT_PAUSE_S = 15.0

_UNKNOWN_MASTER_PAUSE_S = 1.0

NO_SENDER = "no_sender"
NO_TIME_LEFT = "no_time_left"
UNKNOWN_OUTCOME = "unknown_outcome"
UNREADABLE = "unreadable"
UNWANTED = "code_ended"

_decode_content = msgspec.msgpack.Decoder(Content).decode
_log = logging.getLogger(__name__)


class Sent(NamedTuple):
    """A sender took it."""

    sender: str
    provider_id: str | None


class Ended(NamedTuple):
    """It will not be sent."""

    status: MessageStatus
    reason: str


class Postponed(NamedTuple):
    """It was surely not sent, or may safely be repeated, and is due again later."""

    due_in_s: float
    reason: str


Verdict = Sent | Ended | Postponed


class Dispatcher:
    """Delivers messages through an ordered list of senders.

    `step_timeout_s` bounds one sender's call, `lease_s` is what messages are claimed for. `mirrors` get a copy of what
    was accepted, and what they make of it is ignored; only dev-only senders may be mirrors. Raises ConfigurationError
    if a message could outlive its lease on the way through all senders.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        senders: Sequence[Sender[Any]],
        clock: Clock,
        lease_s: float,
        step_timeout_s: float,
        mirrors: Sequence[Sender[Any]] = (),
    ) -> None:
        needed_s = len(senders) * step_timeout_s + _LEASE_MARGIN_S
        if step_timeout_s <= 0 or lease_s < needed_s:
            raise ConfigurationError(
                f"a lease of {lease_s:g} s is too short for {len(senders)} senders with {step_timeout_s:g} s each: "
                f"it must be at least {needed_s:g} s"
            )
        for mirror in mirrors:
            if not mirror.is_dev_only:
                raise ConfigurationError(f"sender {mirror.name!r} cannot mirror messages: it is not dev-only")
        self.lease_s = lease_s
        self._keyring = keyring
        self._senders = tuple(senders)
        self._mirrors = tuple(mirrors)
        self._clock = clock
        self._step_timeout_s = step_timeout_s
        self._handover = Handover()

    async def deliver(self, claimed: ClaimedMessage, *, queue: MessageQueue, lease_ends_at: float) -> None:
        """Bring one claimed message to an end, or to its next due time, and record it in `queue`.

        `lease_ends_at` is on the monotonic clock, counted from before the claim was asked for. Cancelled in the middle
        of a send it records nothing: the lease runs out and the message comes back as uncertain.
        """
        content = self._open(claimed)
        if isinstance(content, UnsealError):
            verdict = self._unopened(claimed, content, lease_ends_at)
        else:
            verdict = await self._decide(queue, claimed, content, lease_ends_at)
        if isinstance(verdict, Ended) and verdict.status is MessageStatus.FAILED:
            _log.warning("message %s failed: %s", claimed.message_id, verdict.reason)
        await self._record(queue, claimed, verdict, lease_ends_at)
        if isinstance(content, Content) and isinstance(verdict, Sent):
            await self._mirror(claimed, content, lease_ends_at)

    def _open(self, claimed: ClaimedMessage) -> Content | UnsealError:
        try:
            plain = self._keyring.unseal(
                claimed.sealed,
                record_id=claimed.message_id,
                count=0,
                bound_to=(claimed.client_id, claimed.mode, claimed.message_id, claimed.channel),
            )
            return _decode_content(plain)
        except UnsealError as error:
            return error
        except msgspec.MsgspecError:
            return UnsealError("sealed text is not a message")

    def _unopened(self, claimed: ClaimedMessage, error: UnsealError, lease_ends_at: float) -> Verdict:
        _log.error("message %s cannot be opened: %s", claimed.message_id, error)
        if isinstance(error, UnknownMasterError):
            # A master that others have already: this process was not restarted yet, another worker may be.
            later = Postponed(_UNKNOWN_MASTER_PAUSE_S, UNREADABLE)
            return self._if_in_time(claimed, lease_ends_at, later, otherwise=UNREADABLE)
        return Ended(MessageStatus.FAILED, UNREADABLE)

    async def _decide(
        self, queue: MessageQueue, claimed: ClaimedMessage, content: Content, lease_ends_at: float
    ) -> Verdict:
        route = [s for s in self._senders if claimed.channel in s.capabilities.channels]
        if not route:
            return Ended(MessageStatus.FAILED, NO_SENDER)
        if claimed.is_uncertain and not _is_repeatable(route):
            _log.warning("message %s may have been sent before its lease ended", claimed.message_id)
            return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
        return await self._walk(queue, claimed, content, route, lease_ends_at)

    async def _walk(
        self,
        queue: MessageQueue,
        claimed: ClaimedMessage,
        content: Content,
        route: Sequence[Sender[Any]],
        lease_ends_at: float,
    ) -> Verdict:
        """Ask sender after sender, until one takes it, one may have taken it, or none can."""
        reason = ""
        soonest: Postponed | None = None
        for step, sender in enumerate(route):
            if hindrance := self._hindrance(claimed, lease_ends_at):
                return hindrance
            # The claim has just looked for the first step; while a sender took its time the code may have ended.
            if step and not await self._is_wanted(queue, claimed):
                return Ended(MessageStatus.CANCELLED, UNWANTED)
            outcome = await self._hand_over(sender, claimed, content, lease_ends_at)
            match outcome:
                case Accepted(provider_id):
                    return Sent(sender.name, provider_id)
                case Rejected(kind):
                    reason = kind.value
                    if not RULES[kind].next_may_try:
                        return Ended(MessageStatus.FAILED, reason)
                case RetryLater(after_s):
                    if soonest is None or after_s < soonest.due_in_s:
                        soonest = Postponed(after_s, "retry_later")
                case Unknown():
                    return self._after_unknown(claimed, route, lease_ends_at)
        if soonest is None:
            return Ended(MessageStatus.FAILED, reason)
        return self._if_in_time(claimed, lease_ends_at, soonest, otherwise=NO_TIME_LEFT)

    async def _is_wanted(self, queue: MessageQueue, claimed: ClaimedMessage) -> bool:
        try:
            return await queue.is_wanted(claimed.message_id, claimed.token)
        except ApiError:
            # Nobody can say. The code will not verify if it has ended; a message that is missing locks a person out.
            return True

    def _hindrance(self, claimed: ClaimedMessage, lease_ends_at: float) -> Verdict | None:
        if self._life_s(claimed, lease_ends_at) < MIN_LIFE_S:
            return Ended(MessageStatus.EXPIRED, NO_TIME_LEFT)
        if self._clock.monotonic() + self._step_timeout_s >= lease_ends_at:
            # A stalled process: another worker may be about to hold this message.
            return Postponed(0.0, "lease_too_short")
        return None

    async def _hand_over(
        self, sender: Sender[Any], claimed: ClaimedMessage, content: Content, lease_ends_at: float
    ) -> Outcome:
        longest = sender.capabilities.longest_text
        if longest is not None and len(content.text) > longest:
            return Rejected(RejectionKind.TOO_LONG)
        outcome = await self._handover.call(
            sender, self._outbound(claimed, content, lease_ends_at), self._step_timeout_s
        )
        _report(sender, claimed, outcome)
        return outcome

    def _after_unknown(self, claimed: ClaimedMessage, route: Sequence[Sender[Any]], lease_ends_at: float) -> Verdict:
        if not _is_repeatable(route):
            return Ended(MessageStatus.FAILED, UNKNOWN_OUTCOME)
        pause_s = min(_REPEAT_PAUSE_S * 2 ** min(claimed.tries, 10), _MAX_REPEAT_PAUSE_S)
        return self._if_in_time(claimed, lease_ends_at, Postponed(pause_s, UNKNOWN_OUTCOME), otherwise=UNKNOWN_OUTCOME)

    def _if_in_time(
        self, claimed: ClaimedMessage, lease_ends_at: float, later: Postponed, *, otherwise: str
    ) -> Verdict:
        if self._life_s(claimed, lease_ends_at) - later.due_in_s < MIN_LIFE_S:
            return Ended(MessageStatus.FAILED, otherwise)
        return later

    def _life_s(self, claimed: ClaimedMessage, lease_ends_at: float) -> float:
        claimed_for_s = self._clock.monotonic() - (lease_ends_at - self.lease_s)
        return claimed.life_ms / 1000 - claimed_for_s

    def _outbound(self, claimed: ClaimedMessage, content: Content, lease_ends_at: float) -> OutboundMessage:
        return OutboundMessage(
            message_id=claimed.message_id,
            client_id=claimed.client_id,
            mode=claimed.mode,
            channel=Channel(claimed.channel),
            to=content.to,
            text=content.text,
            expires_at=claimed.expires_at_ms / 1000,
            life_s=self._life_s(claimed, lease_ends_at),
            try_number=claimed.tries,
        )

    async def _record(
        self, queue: MessageQueue, claimed: ClaimedMessage, verdict: Verdict, lease_ends_at: float
    ) -> None:
        """Write the verdict down, again and again while the lease lasts if the store is away."""
        pause_s = _RECORD_PAUSE_S
        while True:
            try:
                is_held = await _write(queue, claimed, verdict)
            except ApiError as error:
                if self._clock.monotonic() + pause_s >= lease_ends_at:
                    _log.error("message %s: %s not recorded: %s", claimed.message_id, _name(verdict), error)
                    return
            else:
                if not is_held:
                    _log.warning("message %s: %s after its lease was lost", claimed.message_id, _name(verdict))
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_RECORD_PAUSE_S)

    async def _mirror(self, claimed: ClaimedMessage, content: Content, lease_ends_at: float) -> None:
        message = self._outbound(claimed, content, lease_ends_at)
        for mirror in self._mirrors:
            await self._handover.call(mirror, message, self._step_timeout_s)


def _is_repeatable(route: Sequence[Sender[Any]]) -> bool:
    return len(route) == 1 and route[0].capabilities.is_idempotent


def _report(sender: Sender[Any], claimed: ClaimedMessage, outcome: Outcome) -> None:
    """Say in the log what did not go well; details were scrubbed on their way here."""
    match outcome:
        case Rejected(kind, detail):
            level = logging.ERROR if RULES[kind].needs_operator else logging.INFO
            word = kind.value
        case RetryLater(_, detail):
            level, word = logging.INFO, "retry_later"
        case Unknown(detail):
            level, word = logging.WARNING, UNKNOWN_OUTCOME
        case _:
            return
    _log.log(level, "message %s: sender %s: %s %s", claimed.message_id, sender.name, word, detail)


async def _write(queue: MessageQueue, claimed: ClaimedMessage, verdict: Verdict) -> bool:
    message_id, token = claimed.message_id, claimed.token
    match verdict:
        case Sent(sender, provider_id):
            return await queue.record_sent(message_id, token, sender=sender, provider_id=provider_id)
        case Ended(status, reason):
            return await queue.record_final(message_id, token, status, reason=reason)
        case Postponed(due_in_s, reason):
            return await queue.release(message_id, token, due_in_s=due_in_s, reason=reason)


def _name(verdict: Verdict) -> str:
    return type(verdict).__name__.lower()
