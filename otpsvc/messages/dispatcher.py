"""Takes one leased message to a sender and records what became of it.

The order of things is the safety of it: nothing is sent that may have been sent before, nothing is sent with too little
life left, nothing is forgotten. Which sender is called, and whether, is decided in `walk`; what is not recorded comes
back when its lease ends, with the name of the sender that may have it.

Texts and numbers live in here for the length of one call: they appear in no log line, reason or exception.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from otpsvc.clock import Clock
from otpsvc.crypto import Keyring, UnknownMasterError, UnsealError
from otpsvc.errors import ConfigurationError
from otpsvc.messages.handover import Handover
from otpsvc.messages.lease import Ended, Lease, Postponed, Sent, Verdict
from otpsvc.messages.model import ClaimedMessage, Content, MessageStatus
from otpsvc.messages.ports import HandoverObserver, MessageQueue
from otpsvc.messages.walk import MIN_LIFE_S, Walk, outbound
from otpsvc.senders.contract import Sender

_LEASE_MARGIN_S = 2.0
_UNKNOWN_MASTER_PAUSE_S = 1.0

UNREADABLE = "unreadable"
WORKER_STOPPING = "worker_stopping"

_decode_content = msgspec.msgpack.Decoder(Content).decode
_log = logging.getLogger(__name__)


class Dispatcher:
    """Delivers messages through an ordered list of senders.

    `step_timeout_s` bounds one sender's call, `lease_s` is what messages are claimed for. `mirrors` get a copy of what
    was accepted, and what they make of it is ignored; only dev-only senders may be mirrors. `observer` is told of every
    call and every end. Raises ConfigurationError if a message could outlive its lease on the way through all senders.
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
        observer: HandoverObserver | None = None,
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
        self._observer = observer
        self._handover = Handover()

    async def deliver(self, claimed: ClaimedMessage, *, queue: MessageQueue, lease_ends_at: float) -> None:
        """Bring one claimed message to an end, or to its next due time, and record it in `queue`.

        `lease_ends_at` is on the monotonic clock, counted from before the claim was asked for. Cancelled, it gives the
        message back, with the sender that was being called; if that fails too, the lease runs out.
        """
        lease = Lease(claimed, queue, clock=self._clock, lease_s=self.lease_s, ends_at=lease_ends_at)
        content = self._open(claimed)
        verdict: Verdict | None = None
        try:
            if isinstance(content, UnsealError):
                verdict = _unopened(lease, content)
            else:
                verdict = await self._walk(lease, content).run()
            if isinstance(verdict, Ended) and verdict.status is MessageStatus.FAILED:
                _log.warning("message %s failed: %s", claimed.message_id, verdict.reason)
            is_recorded = await lease.record(verdict)
        except asyncio.CancelledError:
            await lease.leave(verdict or lease.later(0.0, WORKER_STOPPING))
            raise
        if is_recorded:
            self._observe(verdict)
        if isinstance(content, Content) and isinstance(verdict, Sent):
            await self._mirror(lease, content)

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

    def _walk(self, lease: Lease, content: Content) -> Walk:
        return Walk(
            lease,
            content,
            self._senders,
            handover=self._handover,
            clock=self._clock,
            step_timeout_s=self._step_timeout_s,
            observer=self._observer,
        )

    def _observe(self, verdict: Verdict) -> None:
        if self._observer is None:
            return
        match verdict:
            case Sent():
                self._observer.ended(MessageStatus.SENT.value, "")
            case Ended(status, reason):
                self._observer.ended(status.value, reason)
            case Postponed():
                pass

    async def _mirror(self, lease: Lease, content: Content) -> None:
        for mirror in self._mirrors:
            await self._handover.call(mirror, outbound(lease, content), self._step_timeout_s)


def _unopened(lease: Lease, error: UnsealError) -> Verdict:
    _log.error("message %s cannot be opened: %s", lease.claimed.message_id, error)
    if isinstance(error, UnknownMasterError) and lease.life_s() - _UNKNOWN_MASTER_PAUSE_S >= MIN_LIFE_S:
        # A master that others have already: this process was not restarted yet, another worker may be.
        return lease.later(_UNKNOWN_MASTER_PAUSE_S, UNREADABLE)
    return Ended(MessageStatus.FAILED, UNREADABLE)
