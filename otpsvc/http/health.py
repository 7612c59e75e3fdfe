"""Probes for whoever runs the service: is the process alive, and can it do its work.

They ask for no key, so what they cost may not grow with how often they are asked: the stores are never asked for one
request, only for all that wait.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from litestar import HttpMethod, Response, Router, route

from otpsvc.errors import ApiError, problem
from otpsvc.events.model import Backlog
from otpsvc.faults import described
from otpsvc.http.problems import JSON

Probe = Callable[[], Awaitable[None]]

BEHIND, REFUSING = "behind", "refusing"
# Events are written within a second or two; after this long nobody writes them.
MAX_EVENT_AGE_S = 60.0
PROBE_TIMEOUT_S = 2.0
KEPT_FOR_S = 1.0

# Load balancers probe with either; the server leaves the body of an answer to HEAD out.
_METHODS = (HttpMethod.GET, HttpMethod.HEAD)
# What the reason of a part's error says beyond that there was no answer.
_STATES = {BEHIND: BEHIND, "store_refused": REFUSING}

_log = logging.getLogger(__name__)


def events_probe(
    backlog: Callable[[], Awaitable[Backlog]], fullest: Callable[[], Awaitable[int]], *, limit: int
) -> Probe:
    """Make the probe of the events: as `behind` it refuses while there are too many or an old one waits to be written.

    `fullest` gives how many there are in the fullest partition, those included that living codes and messages still
    owe; `limit` is what one partition may have.
    """

    async def probe() -> None:
        waiting, most = await asyncio.gather(backlog(), fullest())
        if most >= limit or waiting.oldest_age_s > MAX_EVENT_AGE_S:
            raise problem("SERVICE_UNAVAILABLE", reason=BEHIND)

    return probe


def health_router(
    needed: Mapping[str, Probe], helpful: Mapping[str, Probe], *, now: Callable[[], float] = time.monotonic
) -> Router:
    """Make the probes. Without a `needed` part nothing works (503); without a `helpful` one the service is degraded.

    A part that raises, or says nothing for two seconds, is `unreachable`; `behind` if that is the error's reason, and
    `refusing` if it is a store that answers and takes nothing. Requests at one time share one look at the parts; an
    answer 200 serves for a second (`now` gives seconds that only grow), 503 for nobody who comes later, so that a
    return is seen at once.
    """
    look = _SharedLook(needed, helpful, now)

    @route("/live", http_method=_METHODS, summary="Is the process alive", include_in_schema=False)
    async def live() -> Response[bytes]:
        return _answer({"status": "alive"}, 200)

    @route("/ready", http_method=_METHODS, summary="Can it do its work", include_in_schema=False)
    async def ready() -> Response[bytes]:
        found = await look()
        status = ("ready" if found.is_whole else "degraded") if found.is_ready else "unavailable"
        return _answer({"status": status, "parts": found.parts}, 200 if found.is_ready else 503)

    return Router("/health", route_handlers=[live, ready])


class _Found(NamedTuple):
    """What a look found: the state of each part; `is_whole` if none is missing, `is_ready` if no needed one is."""

    parts: dict[str, str]
    is_ready: bool
    is_whole: bool


class _SharedLook:
    def __init__(self, needed: Mapping[str, Probe], helpful: Mapping[str, Probe], now: Callable[[], float]) -> None:
        self._needed = frozenset(needed)
        self._probes = {**needed, **helpful}
        self._now = now
        self._looking: asyncio.Task[_Found] | None = None
        self._kept: _Found | None = None
        self._kept_until = 0.0

    async def __call__(self) -> _Found:
        if self._kept is not None and self._now() < self._kept_until:
            return self._kept
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="readiness")
        # A caller that goes away must not take the others' answer with it.
        return await asyncio.shield(self._looking)

    async def _look(self) -> _Found:
        # Together, because each of them may take its whole time-out.
        states = await asyncio.gather(*(_state(name, probe) for name, probe in self._probes.items()))
        parts = dict(zip(self._probes, states, strict=True))
        missing = {name for name, state in parts.items() if state != "ok"}
        found = _Found(parts, is_ready=not missing & self._needed, is_whole=not missing)
        self._kept = found if found.is_ready else None
        self._kept_until = self._now() + KEPT_FOR_S
        return found


async def _state(name: str, probe: Probe) -> str:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe()
    except TimeoutError:
        return "unreachable"
    except ApiError as error:
        return _STATES.get(error.reason or "", "unreachable")
    except Exception as error:  # noqa: BLE001 - a right that was taken away, a table that is gone: it cannot be used
        _log.warning("%s cannot be asked: %s", name, described(error))
        return "unreachable"
    return "ok"


def _answer(body: dict[str, Any], status: int) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, media_type=JSON)
