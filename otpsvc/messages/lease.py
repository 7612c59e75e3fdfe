"""One claimed message in the hands of its worker: the time that is left, what is known of it, how it is written down.

Every word about a message goes to the store through here, under the token of its lease. Nothing in here decides what
becomes of a message, and nothing in here opens one.
"""

import asyncio
import contextlib
import logging
from typing import NamedTuple

from otpsvc.clock import Clock
from otpsvc.errors import ApiError
from otpsvc.messages.model import ClaimedMessage, MessageStatus
from otpsvc.messages.ports import MessageQueue

_RECORD_PAUSE_S = 0.05
_MAX_RECORD_PAUSE_S = 1.0
_LEAVE_TIMEOUT_S = 1.0

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
    """It is due again later: surely not sent, or only `begun_by` may have it and can safely be asked again."""

    due_in_s: float
    reason: str
    begun_by: str


Verdict = Sent | Ended | Postponed


class Lease:
    """A claimed message while its lease lasts.

    `ends_at` is on the monotonic clock, counted from before the claim was asked for, `lease_s` earlier. `begun_by` is
    the sender that may have the message as far as its holder knows, empty where surely none has.
    """

    def __init__(
        self, claimed: ClaimedMessage, queue: MessageQueue, *, clock: Clock, lease_s: float, ends_at: float
    ) -> None:
        self.claimed = claimed
        self.begun_by = claimed.begun_by
        self._queue = queue
        self._clock = clock
        self._began_at = ends_at - lease_s
        self._ends_at = ends_at

    def life_s(self) -> float:
        """Return how much of the code's life is left."""
        return self.claimed.life_ms / 1000 - (self._clock.monotonic() - self._began_at)

    def outlasts(self, seconds: float) -> bool:
        """Say whether the lease still holds after `seconds`."""
        return self._clock.monotonic() + seconds < self._ends_at

    def later(self, due_in_s: float, reason: str) -> Postponed:
        """Give it back for later, with what is known of it now."""
        return Postponed(due_in_s, reason, self.begun_by)

    async def begin(self, sender: str) -> bool:
        """Ask for leave to call `sender`; False if the message is not ours or not wanted any more. Raises ApiError."""
        return await self._queue.begin(self.claimed.message_id, self.claimed.token, sender=sender)

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
        message_id, token = self.claimed.message_id, self.claimed.token
        match verdict:
            case Sent(sender, provider_id):
                return await self._queue.record_sent(message_id, token, sender=sender, provider_id=provider_id)
            case Ended(status, reason):
                return await self._queue.record_final(message_id, token, status, reason=reason)
            case Postponed(due_in_s, reason, begun_by):
                return await self._queue.release(message_id, token, due_in_s=due_in_s, reason=reason, begun_by=begun_by)


def _name(verdict: Verdict) -> str:
    return type(verdict).__name__.lower()
