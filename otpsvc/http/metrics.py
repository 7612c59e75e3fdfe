"""`GET /metrics`: what all processes of this machine count, for whoever scrapes it.

It asks for no key: a gateway must not forward it (docs/metrics.md).
"""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import HttpMethod, Request, Response, Router, route

Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]


def metrics_router(scrape: Scrape) -> Router:
    """Make the route over `scrape`, which gives the text and its media type for an `Accept` header."""

    @route(
        "/metrics",
        http_method=(HttpMethod.GET, HttpMethod.HEAD),
        summary="Metrics of all processes",
        include_in_schema=False,
    )
    async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        text, media_type = await scrape(request.headers.get("accept", ""))
        # As a header: as its `media_type` the framework would add a second charset to it.
        return Response(text, headers={"content-type": media_type})

    return Router("/", route_handlers=[metrics])
