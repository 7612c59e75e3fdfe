"""`/dev/inbox`: the last messages, for whoever develops against the service. It exists under `dev` only.

It shows plain codes, so its guard lets no web page on the internet read it through the developer's browser.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from typing import Annotated, Protocol

import msgspec
from litestar import Response, Router, get
from litestar.params import QueryParameter

from otpsvc import phone
from otpsvc.errors import problem
from otpsvc.pages.guards import refuse_foreign_names
from otpsvc.pages.html import HTML, SECURITY_HEADERS, html

_STYLE = (
    "<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "article{border:1px solid #ccc;border-radius:.5rem;margin:1rem 0;padding:.6rem 1rem}"
    "article p{font-size:1.2rem;margin:.3rem 0;white-space:pre-wrap}small{color:#666}</style>"
)
_REFRESH = '<meta http-equiv="refresh" content="2">'

_To = Annotated[str | None, QueryParameter(name="to", required=False)]


class InboxEntry(Protocol):
    """One message as a developer reads it; its JSON has these fields and no others."""

    @property
    def message_id(self) -> str:
        """Our id of the message."""
        ...

    @property
    def to(self) -> str:
        """The number, E.164."""
        ...

    @property
    def text(self) -> str:
        """The words, with the code in them."""
        ...

    @property
    def sent_at(self) -> datetime:
        """When it was handed over, UTC."""
        ...


def inbox_router(entries: Callable[[str | None], Sequence[InboxEntry]]) -> Router:
    """Make the inbox over `entries`, which gives the messages to a number (or all), newest first."""

    @get("/inbox.json", include_in_schema=False, sync_to_thread=False)
    def as_json(to: _To = None) -> Response[bytes]:
        return Response(msgspec.json.encode(entries(_number(to))), media_type="application/json")

    @get("/inbox", include_in_schema=False, sync_to_thread=False)
    def as_page(to: _To = None) -> Response[str]:
        articles = "".join(
            f"<article><small>{escape(entry.to)} · {entry.sent_at:%H:%M:%S} UTC · {escape(entry.message_id)}</small>"
            f"<p>{escape(entry.text)}</p></article>"
            for entry in entries(_number(to))
        )
        hint = "<p>Nothing yet: send a code and it appears here.</p>"
        content = html("otpsvc inbox", f"<h1>Inbox</h1>{articles or hint}", head=_STYLE + _REFRESH)
        return Response(content, media_type=HTML)

    return Router(
        "/dev",
        route_handlers=[as_json, as_page],
        guards=[refuse_foreign_names],
        response_headers=SECURITY_HEADERS,
    )


def _number(to: str | None) -> str | None:
    if to is None:
        return None
    # A plus that a caller forgot to escape arrives as a space.
    bare = to.strip()
    try:
        return phone.normalise("+" + bare if bare[:1].isdecimal() and not bare.startswith("00") else bare)
    except phone.InvalidNumber as error:
        raise problem("INVALID_PHONE_NUMBER", details={"field": "to", "reason": error.reason}) from None
