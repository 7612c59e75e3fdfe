"""Puts guesses to gateways that make their own codes: implements `otp.ports.CodeChecker`.

A guess may be the code: it goes to the gateway that owns it and into no log line, reason or exception.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from otpsvc.errors import problem
from otpsvc.faults import described, hidden
from otpsvc.otp.ports import Ask
from otpsvc.senders.contract import Channel, CheckOutcome, Sender, SentMessage

CHECK_TIMEOUT_S = 8.0
MOST_AT_ONCE = 100  # of one sender; a gateway that hangs would hold more and more callers
ASK_AGAIN_S = 10  # the store lets nobody ask about the same guess before that

_log = logging.getLogger(__name__)


class GatewayChecks:
    """Knows the senders that this process has opened (`use`). Without any it can answer nothing."""

    def __init__(self, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._senders: Mapping[str, Sender[Any]] = {}
        # Those that were given up too, till they end.
        self._under_way: defaultdict[str, set[asyncio.Task[CheckOutcome]]] = defaultdict(set)

    def use(self, senders: Mapping[str, Sender[Any]]) -> None:
        """Ask these from now on, by name."""
        self._senders = senders

    async def check(self, ask: Ask, code: str) -> bool:
        """Ask the gateway once; raises ApiError SERVICE_UNAVAILABLE where it gives no answer that can be read."""
        outcome = await self._asked(ask, code)
        # The answer before is under way or lost, and may have ended the session: these digits were right.
        is_open = outcome is CheckOutcome.ENDED and ask.is_repeat
        if is_open or outcome is CheckOutcome.UNKNOWN:
            raise problem("SERVICE_UNAVAILABLE", retry_after_s=ASK_AGAIN_S, reason="gateway_unreachable")
        return outcome is CheckOutcome.RIGHT

    async def _asked(self, ask: Ask, code: str) -> CheckOutcome:
        sender = self._senders.get(ask.sender)
        if sender is None or not sender.capabilities.owns_code:
            _log.error("sender %s has to check a guess, but is not set up here as one that can", ask.sender)
            return CheckOutcome.UNKNOWN
        sent = SentMessage(
            message_id=ask.message_id, provider_id=ask.provider_id, channel=Channel.SMS, sent_at=ask.sent_at / 1000
        )
        under_way = self._under_way[ask.sender]
        if len(under_way) >= MOST_AT_ONCE:
            _log.warning("sender %s: %d guesses are being checked, one more is not", ask.sender, len(under_way))
            return CheckOutcome.UNKNOWN
        # A task of its own: a stranger's code may swallow its cancellation, or raise one that is not ours.
        task = asyncio.create_task(_answer(sender, sent, code))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        finally:
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled():
            _log.warning("sender %s did not check a guess within %g s", ask.sender, self._timeout_s)
            return CheckOutcome.UNKNOWN
        return task.result()


async def _answer(sender: Sender[Any], sent: SentMessage, code: str) -> CheckOutcome:
    hidden.set((code,))
    try:
        outcome: object = await sender.check(sent, code)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code: whatever it raises is no answer
        _log.warning("sender %s did not check a guess: %s", sender.name, described(error))
        return CheckOutcome.UNKNOWN
    return outcome if isinstance(outcome, CheckOutcome) else CheckOutcome.UNKNOWN
