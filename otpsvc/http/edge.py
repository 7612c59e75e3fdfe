"""The outermost layer: every answer, also that of a wrong path, carries a request id and the headers of an API."""

import re
from typing import Any, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from otpsvc.ids import new_request_id

_SCOPE_KEY = "otpsvc.request_id"  # ASGI lets a scope carry more than its types say

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")


def request_id_of(scope: Scope) -> str:
    """Give the id of the request whose scope this is; every request that came through `Edge` has one."""
    return str(cast("dict[str, Any]", scope)[_SCOPE_KEY])


class Edge:
    """Wraps an ASGI application. A caller's `X-Request-ID` is kept if it is well-formed, otherwise one is made."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = next(
            (
                value.decode()
                for name, value in scope["headers"]
                if name == b"x-request-id" and _REQUEST_ID.match(value)
            ),
            None,
        )
        if request_id is None:
            request_id = new_request_id()
        cast("dict[str, Any]", scope)[_SCOPE_KEY] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)
