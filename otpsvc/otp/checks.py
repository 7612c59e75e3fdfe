"""Puts guesses to gateways that make their own codes: implements `otp.ports.CodeChecker`.

A guess may be the code: it goes to the gateway that owns it and into no log line, reason or exception.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from otpsvc.errors import problem
from otpsvc.faults import described
from otpsvc.otp.ports import Ask
from otpsvc.senders.contract import Channel, CheckOutcome, Sender, SentMessage

CHECK_TIMEOUT_S = 8.0

_log = logging.getLogger(__name__)


class GatewayChecks:
    """Knows the senders that this process has opened (`use`). Without any it can answer nothing."""

    def __init__(self, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._senders: Mapping[str, Sender[Any]] = {}
        self._abandoned: set[asyncio.Task[CheckOutcome]] = set()

    def use(self, senders: Mapping[str, Sender[Any]]) -> None:
        """Ask these from now on, by name."""
        self._senders = senders

    async def check(self, ask: Ask, code: str) -> bool:
        """Ask the gateway once; raises ApiError SERVICE_UNAVAILABLE where it gives no answer that can be read."""
        outcome = await self._asked(ask, code)
        # The answer before is under way or lost, and may have ended the session: that it was right.
        is_open = outcome is CheckOutcome.ENDED and ask.is_repeat
        if is_open or outcome is CheckOutcome.UNKNOWN:
            raise problem("SERVICE_UNAVAILABLE")
        return outcome is CheckOutcome.RIGHT

    async def _asked(self, ask: Ask, code: str) -> CheckOutcome:
        sender = self._senders.get(ask.sender)
        if sender is None or not sender.capabilities.owns_code:
            _log.error("sender %s has to check a guess, but is not set up here as one that can", ask.sender)
            return CheckOutcome.UNKNOWN
        sent = SentMessage(
            message_id=ask.message_id, provider_id=ask.provider_id, channel=Channel.SMS, sent_at=ask.sent_at / 1000
        )
        # A task of its own: a stranger's code may swallow its cancellation, or raise one that is not ours.
        task = asyncio.create_task(_answer(sender, sent, code))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        finally:
            if not task.done():
                self._abandoned.add(task)
                task.add_done_callback(self._abandoned.discard)
                task.cancel()
        if not task.done() or task.cancelled():
            _log.warning("sender %s did not check a guess within %g s", ask.sender, self._timeout_s)
            return CheckOutcome.UNKNOWN
        return task.result()


async def _answer(sender: Sender[Any], sent: SentMessage, code: str) -> CheckOutcome:
    try:
        outcome: object = await sender.check(sent, code)
    except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is no answer
        _log.warning("sender %s did not check a guess: %s", sender.name, described(error))
        return CheckOutcome.UNKNOWN
    return outcome if isinstance(outcome, CheckOutcome) else CheckOutcome.UNKNOWN
