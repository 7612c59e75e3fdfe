"""Probes for whoever runs the service: is the process alive, and can it do its work."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import HttpMethod, Response, Router, route

from otpsvc.errors import ApiError, problem
from otpsvc.events.model import Backlog
from otpsvc.http.problems import JSON

Probe = Callable[[], Awaitable[None]]

BEHIND = "behind"
# Events are written within a second or two; after this long nobody writes them.
MAX_EVENT_AGE_S = 60.0

# Load balancers probe with either; the server leaves the body of an answer to HEAD out.
_METHODS = (HttpMethod.GET, HttpMethod.HEAD)


def events_probe(backlog: Callable[[], Awaitable[Backlog]], *, limit: int) -> Probe:
    """Make the probe of the events: it refuses, as `behind`, while `limit` of them or an old one wait to be written."""

    async def probe() -> None:
        waiting = await backlog()
        if waiting.unwritten >= limit or waiting.oldest_age_s > MAX_EVENT_AGE_S:
            raise problem("SERVICE_UNAVAILABLE", reason=BEHIND)

    return probe


def health_router(needed: Mapping[str, Probe], helpful: Mapping[str, Probe]) -> Router:
    """Make the probes. Without a `needed` part nothing works (503); without a `helpful` one the service is degraded.

    A part that raises ApiError is `unreachable`, or `behind` if that is the error's reason.
    """

    @route("/live", http_method=_METHODS, summary="Is the process alive", include_in_schema=False)
    async def live() -> Response[bytes]:
        return _answer({"status": "alive"}, 200)

    @route("/ready", http_method=_METHODS, summary="Can it do its work", include_in_schema=False)
    async def ready() -> Response[bytes]:
        probes = {**needed, **helpful}
        # Together, because each of them may take its whole time-out.
        states = await asyncio.gather(*(_state(probe) for probe in probes.values()))
        parts = dict(zip(probes, states, strict=True))
        missing = [name for name, state in parts.items() if state != "ok"]
        is_ready = not any(name in needed for name in missing)
        status = "ready" if not missing else "degraded" if is_ready else "unavailable"
        return _answer({"status": status, "parts": parts}, 200 if is_ready else 503)

    return Router("/health", route_handlers=[live, ready])


async def _state(probe: Probe) -> str:
    try:
        await probe()
    except ApiError as error:
        return BEHIND if error.reason == BEHIND else "unreachable"
    return "ok"


def _answer(body: dict[str, Any], status: int) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, media_type=JSON)
