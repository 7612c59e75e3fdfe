"""One call of one sender, made safe: whatever a sender does, exactly one answer comes back in bounded time.

A sender is somebody else's code. It may raise, hang, ignore its cancellation, end the process, or answer nonsense: each
of these is Unknown, because the request may have left. Its words are never logged before `scrubbed` has looked at them.
"""

import asyncio
import logging
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from otpsvc.faults import described, hidden
from otpsvc.senders.contract import (
    Accepted,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Sender,
    SentMessage,
    Unknown,
)

MAX_RETRY_AFTER_S = 3600.0
_MIN_RETRY_AFTER_S = 0.1
_MAX_DETAIL_LENGTH = 200
_MAX_PROVIDER_ID_LENGTH = 255
_TELLING_DIGITS = 7  # the end of a number that still points to a person

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class Handover:
    """Calls senders; keeps hold of calls that outlive their time-out until they end."""

    def __init__(self) -> None:
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def call(self, sender: Sender[Any], message: OutboundMessage, timeout_s: float) -> Outcome:
        """Hand over a message and return what became of it, at the latest after `timeout_s`.

        The send runs as a task of its own, so that neither a swallowed cancellation nor one that the sender raises
        itself can be mistaken for ours.
        """
        task = asyncio.create_task(_send(sender, message))
        if not await self._is_done(task, timeout_s):
            return Unknown(f"no answer within {timeout_s:g} s")
        if task.cancelled():
            return Unknown("the sender cancelled itself")
        if (error := task.exception()) is not None:
            return Unknown(described(error))
        return _checked(task.result(), message)

    async def cancel(self, sender: Sender[Any], message: SentMessage, timeout_s: float) -> bool:
        """Ask a sender to take a message back; True only if it has said in time that it will not go out."""
        task = asyncio.create_task(_kept_in(lambda: sender.cancel(message)))
        if not await self._is_done(task, timeout_s) or task.cancelled():
            return False
        if (error := task.exception()) is not None:
            _log.info("message %s: not taken back: %s", message.message_id, described(error))
            return False
        return task.result() is True

    async def _is_done(self, task: "asyncio.Task[Any]", timeout_s: float) -> bool:
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not task.done():
            self._abandon(task)
        return task.done()

    def _abandon(self, task: "asyncio.Task[Any]") -> None:
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("an abandoned call ended: %s", described(error))


async def _send(sender: Sender[Any], message: OutboundMessage) -> Outcome:
    hidden.set((message.text, *_telling(message)))
    return await _kept_in(lambda: sender.send(message))


async def _kept_in(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Let a sender end its call only: a library that ends the process would take every worker with it, one by one."""
    try:
        return await call()
    except SystemExit:
        raise RuntimeError("a sender must not end the process") from None


def _checked(answer: object, message: OutboundMessage) -> Outcome:
    """Believe only what the contract allows; structs do not check their fields by themselves."""
    match answer:
        case Accepted(provider_id, parts):
            return Accepted(_provider_id(provider_id, message), parts if isinstance(parts, int) else None)
        case Rejected(kind, detail, is_unmapped):
            return Rejected(_kind(kind), scrubbed(detail, message), is_unmapped is True)
        case RetryLater(after_s, detail, is_fault):
            return RetryLater(_pause_s(after_s), scrubbed(detail, message), is_fault is True)
        case Unknown(detail):
            return Unknown(scrubbed(detail, message))
        case _:
            return Unknown(f"the sender answered with {type(answer).__name__}")


def _kind(value: object) -> RejectionKind:
    return value if isinstance(value, RejectionKind) else RejectionKind.GATEWAY_ERROR


def _provider_id(value: object, message: OutboundMessage) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_PROVIDER_ID_LENGTH or not value.isprintable():
        return None
    # A long id of digits may hold those of a code by chance. Where they stand alone, the gateway echoes.
    echoes_code = not _codes(message).isdisjoint(re.findall(r"\d+", value))
    return None if echoes_code or message.to.lstrip("+") in value else value


def _pause_s(value: object) -> float:
    if not isinstance(value, int | float) or math.isnan(value):
        return _MIN_RETRY_AFTER_S
    return min(max(float(value), _MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)


def scrubbed(detail: object, message: OutboundMessage) -> str:
    """Return a sender's detail if it can be logged: one short line without the number or any digits of the text."""
    if not isinstance(detail, str):
        return ""
    line = "".join(letter if letter.isprintable() else " " for letter in detail)[:_MAX_DETAIL_LENGTH]
    digits = re.sub(r"\D", "", line)
    return "" if any(run in digits for run in _telling(message)) or message.text in line else line


def _telling(message: OutboundMessage) -> set[str]:
    """Give the digits that would tell who was sent what."""
    return {message.to.lstrip("+")[-_TELLING_DIGITS:], *_codes(message)}


def _codes(message: OutboundMessage) -> set[str]:
    """Give whatever could be the code in the text."""
    return set(re.findall(r"\d{4,}", message.text))
