"""`/dev/phone`: the screen of the simulated phones, with every SMS as it arrives. It exists under `dev` only.

The page is whole as it is served, and its script keeps it so: `/dev/phone/events` begins with all that there is to see,
then tells of each change, so a connection that was lost costs nothing. It shows plain codes; its guards hold off every
page but our own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import escape
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from otpsvc.errors import problem
from otpsvc.pages.guards import refuse_foreign_names, refuse_foreign_pages
from otpsvc.pages.html import HTML, STRICT_HEADERS, asset_handler, html, page_part
from otpsvc.pages.ports import Bodies, Phones, Screen, ScreenEntry, Switch

SHOWN_MESSAGES = 50
MOST_STREAMS = 32
_LOOK_EVERY_S = 0.4  # at the phones, and at whether the service is to end
_LOOKS_UNTIL_KEPT_ALIVE = 35
_RECONNECT_MS = 1000

HEAD = (
    '<link rel="icon" href="/dev/assets/icon.svg"><link rel="stylesheet" href="/dev/assets/look.css">'
    '<link rel="stylesheet" href="/dev/assets/phone.css"><script type="module" src="/dev/assets/phone.js"></script>'
)
_WITHOUT_SCRIPTS = '<noscript><meta http-equiv="refresh" content="3"></noscript>'


class SwitchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /dev/phone/switch`."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    on: bool


class Arrived(msgspec.Struct):
    """One SMS as the page's script reads it."""

    message_id: str
    to: str
    text: str
    device_id: str
    sent_at: str

    @classmethod
    def of(cls, entry: ScreenEntry) -> "Arrived":
        """Write one entry."""
        return cls(entry.message_id, entry.to, entry.text, entry.device_id, entry.sent_at.isoformat())


_SWITCH = msgspec.json.Decoder(SwitchBody)


def phone_router(screen: Screen, *, phones: Phones, switch: Switch, bodies: Bodies, closing: asyncio.Event) -> Router:
    """Make the screen, its live events (until `closing` is set) and the switches of the phones.

    The pages' scripts and styles are here too, under `/dev/assets`: the demo takes them from there.
    """
    streams: set[object] = set()

    @get("/phone", include_in_schema=False, sync_to_thread=False)
    def page() -> Response[str]:
        body = page_part("screen.html").replace("<!-- phone -->", phone_part(screen))
        return Response(html("otpsvc phone", body, head=HEAD + _WITHOUT_SCRIPTS), media_type=HTML)

    @get("/phone/events", include_in_schema=False, sync_to_thread=False, guards=[refuse_foreign_pages])
    def events() -> ASGIApp:
        headers = {"X-Accel-Buffering": "no", **STRICT_HEADERS}
        told = _events(screen, phones, closing)
        return _Bounded(ASGIStreamingResponse(iterator=told, media_type="text/event-stream", headers=headers), streams)

    @post("/phone/switch", status_code=200, include_in_schema=False, guards=[refuse_foreign_pages])
    async def turn(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = await bodies.read(request, _SWITCH)
        if not await switch(body.name, body.on):
            raise problem("RESOURCE_NOT_FOUND")
        return Response(msgspec.json.encode(_states(phones)), media_type="application/json")

    return Router(
        "/dev",
        route_handlers=[page, events, turn, asset_handler()],
        guards=[refuse_foreign_names],
        response_headers=STRICT_HEADERS,
    )


def phone_part(screen: Screen | None = None) -> str:
    """Write the phone as HTML, with what is on its screen; its script fills one without."""
    entries = reversed(screen.list(None)[:SHOWN_MESSAGES]) if screen is not None else ()
    items = "".join(
        f'<li class="sms"><p class="sms-meta">To <bdi>{escape(entry.to)}</bdi> · '
        f'<time datetime="{entry.sent_at.isoformat()}">{entry.sent_at:%H:%M} UTC</time></p>'
        f'<p class="sms-text">{escape(entry.text)}</p></li>'
        for entry in entries
    )
    return page_part("phone.html").replace("<!-- messages -->", items)


@dataclass(frozen=True)
class _Bounded:
    """One stream among the few that there may be: its place is taken before anything is waited for."""

    answer: ASGIResponse
    streams: set[object]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.streams) >= MOST_STREAMS:
            raise problem("SERVICE_UNAVAILABLE")
        me = object()
        self.streams.add(me)
        try:
            await self.answer(scope, receive, send)
        finally:
            self.streams.discard(me)


async def _events(screen: Screen, phones: Phones, closing: asyncio.Event) -> AsyncIterator[bytes]:
    with contextlib.ExitStack() as stack:
        # Listening begins before the list is read: what comes meanwhile is told twice rather than never.
        entries = stack.enter_context(screen.subscribe())
        coming = asyncio.ensure_future(anext(entries))
        try:
            yield b"retry: %d\n\n" % _RECONNECT_MS
            yield _event("screen", [Arrived.of(entry) for entry in reversed(screen.list(None)[:SHOWN_MESSAGES])])
            told, n_looks = None, 0
            while not closing.is_set():
                states = _states(phones)
                if states != told:
                    told = states
                    yield _event("phones", states)
                await asyncio.wait({coming}, timeout=_LOOK_EVERY_S)
                n_looks += 1
                if coming.done():
                    entry = coming.result()
                    coming = asyncio.ensure_future(anext(entries))
                    yield _event("sms", Arrived.of(entry))
                elif n_looks % _LOOKS_UNTIL_KEPT_ALIVE == 0:
                    yield b": still here\n\n"
        finally:
            coming.cancel()


def _states(phones: Phones) -> list[dict[str, object]]:
    return [{"name": name, "is_online": is_online} for name, is_online in phones()]


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
