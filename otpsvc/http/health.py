"""Probes for whoever runs the service: is the process alive, and can it do its work."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import HttpMethod, Response, Router, route

from otpsvc.errors import ApiError
from otpsvc.http.problems import JSON

Probe = Callable[[], Awaitable[None]]

# Load balancers probe with either; the server leaves the body of an answer to HEAD out.
_METHODS = (HttpMethod.GET, HttpMethod.HEAD)


def health_router(needed: Mapping[str, Probe], helpful: Mapping[str, Probe]) -> Router:
    """Make the probes. Without a `needed` part nothing works (503); without a `helpful` one the service is degraded."""

    @route("/live", http_method=_METHODS, summary="Is the process alive", include_in_schema=False)
    async def live() -> Response[bytes]:
        return _answer({"status": "alive"}, 200)

    @route("/ready", http_method=_METHODS, summary="Can it do its work", include_in_schema=False)
    async def ready() -> Response[bytes]:
        parts = {name: await _state(probe) for name, probe in {**needed, **helpful}.items()}
        missing = [name for name, state in parts.items() if state != "ok"]
        is_ready = not any(name in needed for name in missing)
        status = "ready" if not missing else "degraded" if is_ready else "unavailable"
        return _answer({"status": status, "parts": parts}, 200 if is_ready else 503)

    return Router("/health", route_handlers=[live, ready])


async def _state(probe: Probe) -> str:
    try:
        await probe()
    except ApiError:
        return "unreachable"
    return "ok"


def _answer(body: dict[str, Any], status: int) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, media_type=JSON)
