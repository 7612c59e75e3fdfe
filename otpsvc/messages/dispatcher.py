"""Takes one leased message to a sender and records what became of it.

The order of things is the safety of it: nothing is sent that may have been sent before, but by the route's own rule
and with a word about it, nothing is sent with too little life left, nothing is forgotten. Which sender is called, and
whether, is decided in `walk`; what is not recorded comes back when its lease ends, with the name of the sender that may
have it.

Texts and numbers live in here for the length of one call: they appear in no log line, reason or exception.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from otpsvc.clock import Clock
from otpsvc.crypto import Keyring, UnknownMasterError, UnsealError
from otpsvc.errors import ConfigurationError
from otpsvc.messages.breaker import Turns
from otpsvc.messages.handover import Handover
from otpsvc.messages.lease import Ended, Kept, Lease, Sent, TakeReceipts, Verdict
from otpsvc.messages.model import ClaimedMessage, Content, MessageStatus
from otpsvc.messages.permits import Permits
from otpsvc.messages.ports import HandoverObserver, MessageQueue, ReceiptBook, SenderGates
from otpsvc.messages.router import Router
from otpsvc.messages.telling import outbound
from otpsvc.messages.waits import MIN_LIFE_S
from otpsvc.messages.walk import Walk
from otpsvc.senders.contract import Sender

_LEASE_MARGIN_S = 2.0
_UNKNOWN_MASTER_PAUSE_S = 1.0

UNREADABLE = "unreadable"
WORKER_STOPPING = "worker_stopping"

_decode_content = msgspec.msgpack.Decoder(Content).decode
_log = logging.getLogger(__name__)


def check_lease(router: Router, *, lease_s: float, step_timeout_s: float) -> None:
    """Raise ConfigurationError if a message could outlive its lease in one call of a sender."""
    longest_s = router.longest_timeout_s(step_timeout_s)
    if step_timeout_s <= 0 or lease_s < longest_s + _LEASE_MARGIN_S:
        raise ConfigurationError(
            f"delivery.lease_s: a lease of {lease_s:g} s is too short for a call of a sender that may take "
            f"{longest_s:g} s: it must be at least {longest_s + _LEASE_MARGIN_S:g} s"
        )


class Dispatcher:
    """Delivers messages through the senders that `router` chooses; `senders` are all there are, by name.

    `step_timeout_s` bounds one sender's call where its route says nothing else, `lease_s` is what messages are claimed
    for; `longest_call_s` is what any one call may take. `gates` say when a sender may be called, `book` notes whose
    receipts are to come, and `take_receipts` is given those that came too early. `mirrors` get a copy of what was
    accepted, and what they make of it is ignored; only dev-only senders may be mirrors. `observer` is told of every
    call and every end. Raises ConfigurationError if the longest call could outlive a lease.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        router: Router,
        senders: Mapping[str, Sender[Any]],
        gates: SenderGates,
        book: ReceiptBook,
        take_receipts: TakeReceipts,
        clock: Clock,
        lease_s: float,
        step_timeout_s: float,
        mirrors: Sequence[Sender[Any]] = (),
        observer: HandoverObserver | None = None,
    ) -> None:
        check_lease(router, lease_s=lease_s, step_timeout_s=step_timeout_s)
        for mirror in mirrors:
            if not mirror.is_dev_only:
                raise ConfigurationError(f"sender {mirror.name!r} cannot mirror messages: it is not dev-only")
        self.lease_s = lease_s
        self.longest_call_s = router.longest_timeout_s(step_timeout_s)
        self._keyring = keyring
        self._router = router
        self._senders = senders
        self._gates = gates
        self._book = book
        self._take_receipts = take_receipts
        self._mirrors = tuple(mirrors)
        self._clock = clock
        self._step_timeout_s = step_timeout_s
        self._observer = observer
        self._handover = Handover()
        self._turns = Turns(clock)

    async def deliver(self, claimed: ClaimedMessage, *, queue: MessageQueue, lease_ends_at: float) -> None:
        """Bring one claimed message to an end, or to its next due time, and record it in `queue`.

        `lease_ends_at` is on the monotonic clock, counted from before the claim was asked for. Cancelled, it gives the
        message back, with the sender that was being called; if that fails too, the lease runs out.
        """
        lease = Lease(
            claimed,
            queue,
            book=self._book,
            receipts=self._take_receipts,
            clock=self._clock,
            lease_s=self.lease_s,
            ends_at=lease_ends_at,
        )
        content = self._open(claimed)
        if isinstance(content, UnsealError):
            await self._record(lease, _unopened(lease, content))
            return
        walk = self._walk(lease, content)
        try:
            verdict = await self._run(walk, lease)
            await self._record(lease, verdict)
        except asyncio.CancelledError:
            await walk.permits.leave()
            raise
        await walk.permits.give_back()
        if isinstance(verdict, Sent):
            await self._mirror(lease, content)

    async def _run(self, walk: Walk, lease: Lease) -> Verdict:
        try:
            return await walk.run()
        except asyncio.CancelledError:
            await lease.leave(walk.verdict or lease.later(0.0, WORKER_STOPPING))
            raise

    async def _record(self, lease: Lease, verdict: Verdict) -> None:
        if isinstance(verdict, Ended) and verdict.status is MessageStatus.FAILED:
            _log.warning("message %s failed: %s", lease.claimed.message_id, verdict.reason)
        try:
            is_recorded = await lease.record(verdict)
        except asyncio.CancelledError:
            await lease.leave(verdict)
            raise
        if is_recorded:
            self._observe(lease, verdict)

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
        # A number counts once in a row of missing receipts; its sign is in the store until that row is over.
        number = self._keyring.index("missed", content.to).hex()[:8]
        return Walk(
            lease,
            content,
            self._router.steps(lease.claimed, content, self._clock.time()),
            senders=self._senders,
            handover=self._handover,
            permits=Permits(self._gates, self._turns, lease, number),
            clock=self._clock,
            step_timeout_s=self._step_timeout_s,
            observer=self._observer,
        )

    def _observe(self, lease: Lease, verdict: Verdict) -> None:
        if self._observer is None:
            return
        if isinstance(verdict, Ended):
            self._observer.ended(verdict.status.value, verdict.reason)
        elif isinstance(verdict, Sent) and not lease.claimed.awaiting:
            self._observer.ended(MessageStatus.SENT.value, "")

    async def _mirror(self, lease: Lease, content: Content) -> None:
        for mirror in self._mirrors:
            await self._handover.call(mirror, outbound(lease, content), self._step_timeout_s)


def _unopened(lease: Lease, error: UnsealError) -> Verdict:
    _log.error("message %s cannot be opened: %s", lease.claimed.message_id, error)
    if lease.claimed.awaiting:
        return Kept()
    if isinstance(error, UnknownMasterError) and lease.life_s() - _UNKNOWN_MASTER_PAUSE_S >= MIN_LIFE_S:
        # A master that others have already: this process was not restarted yet, another worker may be.
        return lease.later(_UNKNOWN_MASTER_PAUSE_S, UNREADABLE)
    return Ended(MessageStatus.FAILED, UNREADABLE)
