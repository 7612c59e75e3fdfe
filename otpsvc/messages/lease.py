"""One claimed message in the hands of its worker: the time that is left, what is known of it, how it is written down.

Every word about a message goes to the store through here, under the token of its lease. Nothing in here decides what
becomes of a message, and nothing in here opens one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from otpsvc.clock import Clock
from otpsvc.errors import ApiError
from otpsvc.messages.model import ClaimedMessage, MessageStatus, Tried
from otpsvc.messages.ports import MessageQueue, ReceiptBook
from otpsvc.senders.contract import Receipt, SentMessage

SILENT = "silent"
_RECORD_PAUSE_S = 0.05
_MAX_RECORD_PAUSE_S = 1.0
_LEAVE_TIMEOUT_S = 1.0

TakeReceipts = Callable[[str, Sequence[Receipt]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Sent(NamedTuple):
    """A sender took it. `expected` is given where its receipts are to be recognised, `poll_in_s` where it is polled.

    With `receipt_in_s` the text is kept that long: until then a receipt is to say that it left.
    """

    sender: str
    provider_id: str | None
    receipt_in_s: float | None = None
    expected: SentMessage | None = None
    poll_in_s: float | None = None


@dataclass(frozen=True)
class Kept:
    """It was sent earlier and stays so: nobody else is asked."""


class Ended(NamedTuple):
    """It will not be sent."""

    status: MessageStatus
    reason: str


class Postponed(NamedTuple):
    """It is due again later: surely not sent, or nobody but `begun_by` may have it without our knowing."""

    due_in_s: float
    reason: str
    begun_by: str


Verdict = Sent | Kept | Ended | Postponed


class Lease:
    """A claimed message while its lease lasts.

    `ends_at` is on the monotonic clock, counted from before the claim was asked for, `lease_s` earlier. `begun_by` is
    the sender that may have the message as far as its holder knows, empty where surely none has. `tried` are the steps
    that are over and not yet written down; they go with the next word to the store. `receipts` takes what a gateway
    said about the message before its id was known.
    """

    def __init__(
        self,
        claimed: ClaimedMessage,
        queue: MessageQueue,
        *,
        book: ReceiptBook,
        receipts: TakeReceipts,
        clock: Clock,
        lease_s: float,
        ends_at: float,
    ) -> None:
        self.claimed = claimed
        self.begun_by = claimed.begun_by
        self.tried: list[Tried] = []
        self._queue = queue
        self._book = book
        self._receipts = receipts
        self._clock = clock
        self._began_at = ends_at - lease_s
        self._ends_at = ends_at
        # From the claim's answer on, not from its call: nobody may be overtaken too early.
        self._begun_at = clock.monotonic() - claimed.begun_ms_ago / 1000

    def life_s(self) -> float:
        """Return how much of the code's life is left."""
        return self.claimed.life_ms / 1000 - (self._clock.monotonic() - self._began_at)

    def begun_s_ago(self) -> float:
        """Return how long ago the last call of `begun_by` began, as far as is known for sure."""
        return self._clock.monotonic() - self._begun_at

    def outlasts(self, seconds: float) -> bool:
        """Say whether the lease still holds after `seconds`."""
        return self._clock.monotonic() + seconds < self._ends_at

    def later(self, due_in_s: float, reason: str) -> Postponed:
        """Give it back for later, with what is known of it now."""
        return Postponed(due_in_s, reason, self.begun_by)

    def pause_s(self, first_s: float, longest_s: float) -> float:
        """Return a pause that grows with each lease of the message."""
        return min(first_s * 2.0 ** min(self.claimed.tries, 10), longest_s)

    async def begin(self, sender: str, *, overtaken: str = "", may_duplicate: bool = False) -> bool:
        """Ask for leave to call `sender`; False if the message is not ours or not wanted any more. Raises ApiError.

        `overtaken` is the sender that has been silent for too long and may have the message all the same.
        """
        tried = [*self.tried, Tried(overtaken, SILENT)] if overtaken else self.tried
        claimed = self.claimed
        is_wanted = await self._queue.begin(
            claimed.message_id, claimed.token, sender=sender, tried=tuple(tried), may_duplicate=may_duplicate
        )
        if is_wanted:
            self.tried = []
            if overtaken == self.begun_by:
                self.begun_by = ""
        return is_wanted

    async def tell(self, sender: str, receipt: Receipt) -> None:
        """Write down what is now known of a sender that was called before, as its receipt would. Raises ApiError."""
        await self._receipts(sender, [receipt])

    def called(self, sender: str) -> None:
        """Take note that `sender` is called now: from here on it may have the message."""
        self.begun_by = sender
        self._begun_at = self._clock.monotonic()

    async def record(self, verdict: Verdict) -> bool:
        """Write the verdict down, again and again while the lease lasts if the store is away; False if that failed."""
        pause_s = _RECORD_PAUSE_S
        while True:
            try:
                is_held = await self._write(verdict)
            except ApiError as error:
                if not self.outlasts(pause_s):
                    _log.error("message %s: %s not recorded: %s", self.claimed.message_id, _name(verdict), error)
                    return False
            else:
                if not is_held:
                    _log.warning("message %s: %s after its lease was lost", self.claimed.message_id, _name(verdict))
                return is_held
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_RECORD_PAUSE_S)

    async def leave(self, verdict: Verdict) -> None:
        """Write the verdict down once, in little time: its worker is going. Failing that, the lease runs out."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self._write(verdict)

    async def _write(self, verdict: Verdict) -> bool:
        message_id, token, tried = self.claimed.message_id, self.claimed.token, tuple(self.tried)
        queue = self._queue
        match verdict:
            case Sent(sender, provider_id, receipt_in_s):
                await self._expect(verdict)
                return await queue.record_sent(
                    message_id, token, sender=sender, provider_id=provider_id, tried=tried, receipt_in_s=receipt_in_s
                )
            case Kept():
                return await queue.record_kept(message_id, token, tried=tried)
            case Ended(status, reason):
                return await queue.record_final(message_id, token, status, reason=reason, tried=tried)
            case Postponed(due_in_s, reason, begun_by):
                return await queue.release(
                    message_id, token, due_in_s=due_in_s, reason=reason, begun_by=begun_by, tried=tried
                )

    async def _expect(self, sent: Sent) -> None:
        """Note the gateway's id before the message is recorded as sent, so that no crash leaves one without the other.

        What came too early is taken at once; the record made next obeys it.
        """
        if sent.expected is None:
            return
        early = await self._book.expect(
            sent.expected, sender=sent.sender, expires_at_ms=self.claimed.expires_at_ms, poll_in_s=sent.poll_in_s
        )
        if early:
            try:
                await self._receipts(sent.sender, early)
            except ApiError as error:
                _log.warning("message %s: %d early receipts were lost: %s", sent.expected.message_id, len(early), error)


def _name(verdict: Verdict) -> str:
    return type(verdict).__name__.lower()
