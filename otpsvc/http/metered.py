"""Counting calls: each exit of a handler under exactly one word, whichever way it ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from litestar import Request

from otpsvc.errors import ApiError

_OUTCOME = "otpsvc.outcome"
_Answer = TypeVar("_Answer")
_Handler = Callable[..., Awaitable[_Answer]]


class CallMeter(Protocol):
    """Where calls are counted. It must be quick and must not raise: it runs within every call."""

    def called(self, call: str, outcome: str, seconds: float) -> None:
        """Take note of one call, of the word for how it ended, and of how long it took."""
        ...


def metered(
    meter: CallMeter, call: str, success: str = "done"
) -> Callable[[_Handler[_Answer]], Callable[..., Awaitable[_Answer]]]:
    """Decorate a handler that takes `request`, below the route's own decorator.

    What it returns with counts as what it said to `ended_as`, else as `success`. What it raises counts as the error's
    own `reason` where it has one, else as its code in lower case; a fault of ours as `internal_error`; a call that was
    cancelled as `disconnected`.
    """

    def decorate(handler: _Handler[_Answer]) -> Callable[..., Awaitable[_Answer]]:
        @wraps(handler)
        async def counted(*, request: Request[Any, Any, Any], **parameters: Any) -> _Answer:
            began_at = time.perf_counter()
            outcome = "internal_error"
            try:
                answer = await handler(request=request, **parameters)
                outcome = _own(request).get(_OUTCOME, success)
            except ApiError as error:
                outcome = error.reason or error.code.lower()
                raise
            except asyncio.CancelledError:
                outcome = "disconnected"
                raise
            finally:
                meter.called(call, outcome, time.perf_counter() - began_at)
            return answer

        return counted

    return decorate


def ended_as(request: Request[Any, Any, Any], outcome: str) -> None:
    """Name how this call went: for handlers that can succeed in more ways than one."""
    _own(request)[_OUTCOME] = outcome


def _own(request: Request[Any, Any, Any]) -> dict[str, Any]:
    # ASGI lets a scope carry more than its types say.
    return cast("dict[str, Any]", request.scope)
