"""Many small questions for one poll: gateways tell of one message at a time.

Whoever polls cuts a sender off after 15 s and then has nothing of what it learnt, so the asking ends well before that.
Nothing here knows what an answer means.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime

from otpsvc.faults import described
from otpsvc.senders.contract import Receipt, SentMessage
from otpsvc.senders.http_client import GatewayAnswer, NoAnswer, NotSent

_QUESTIONS_AT_ONCE = 4
_POLL_TIMEOUT_S = 12.0

_log = logging.getLogger(__name__)


async def ask_each(
    messages: Sequence[SentMessage], ask: Callable[[SentMessage], Awaitable[Receipt | None]]
) -> list[Receipt]:
    """Ask about messages, a few at once, for at most 12 s; stop early where the gateway does not answer.

    `ask` raises NotSent to stop the others too; where it fails otherwise, one message is passed over. Returns what was
    learnt till then: who was not asked comes up at the next poll.
    """
    waiting = deque(messages)
    found: list[Receipt] = []

    async def work() -> None:
        while waiting:
            message = waiting.popleft()
            try:
                receipt = await ask(message)
            except (NotSent, NoAnswer):
                waiting.clear()
                return
            except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw must not cost what others said
                _log.warning("message %s: asking about it failed: %s", message.message_id, described(error))
                continue
            if receipt is not None:
                found.append(receipt)

    try:
        async with asyncio.timeout(_POLL_TIMEOUT_S), asyncio.TaskGroup() as group:
            for _ in range(min(_QUESTIONS_AT_ONCE, len(messages))):
                group.create_task(work())
    except TimeoutError:
        pass  # the rest is asked about next time
    return found


def gateway_time(answer: GatewayAnswer, otherwise: float) -> float:
    """Return the gateway's own time of an answer, so that a difference between the clocks falls out of ages."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return otherwise
