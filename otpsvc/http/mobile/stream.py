"""`GET /events`: the open line on which a phone hears that something waits for it. Nothing secret goes over it.

A stream is also what makes a phone present, so it must end when the phone is gone, and must not end for anything else:
a store that is away for a moment costs it nothing. Whatever it writes may wait for ever for a phone that does not
read; so no state of it grows meanwhile, presence is told only by a stream that can be written to, and the connection
itself ends those that are not read (`http/connections.py`).
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from enum import StrEnum
from typing import Any, cast

import msgspec
from litestar.types import Receive, Scope, Send

from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.model import Device, Gone
from otpsvc.devices.ports import Calls, DevicePresence
from otpsvc.errors import ApiError
from otpsvc.faults import described
from otpsvc.http.connections import PEER_ENDED
from otpsvc.http.metered import CallMeter

MOST_PER_DEVICE = 3
# When the store did not answer, the phone's presence runs out: ask again soon.
ASK_AGAIN_S = 1.0
FAREWELL_S = 1.0

HEADERS = [
    (b"content-type", b"text/event-stream"),
    # Proxies must neither hold events back nor compress them.
    (b"cache-control", b"no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"connection", b"close"),
]
KEEP_ALIVE = b":keepalive\n\n"

_log = logging.getLogger(__name__)


class Ending(StrEnum):
    """How a stream ended, as it is counted."""

    CLOSED = "closed"  # by the phone, in good order
    BROKEN = "broken"
    REPLACED = "replaced"  # the phone opened others
    RETIRED = "retired"
    STOPPED = "stopped"  # we are going away
    FAILED = "internal_error"


# Of a stream that ends because we go nothing is said: the phone comes back to another process, or its time runs out.
_SAID = {
    Ending.CLOSED: Gone.APP_CLOSED,
    Ending.BROKEN: Gone.CONNECTION_LOST,
    Ending.REPLACED: Gone.UNKNOWN,
    Ending.RETIRED: Gone.USER_LOGOUT,
    Ending.FAILED: Gone.UNKNOWN,
}


def event(name: str, data: object = None) -> bytes:
    """Write one event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


ENQUEUED = event("MessageEnqueued")
SETTINGS = event("SettingsUpdated")


class Streams:
    """The streams that this process holds. At most three per device: the oldest goes."""

    def __init__(
        self,
        access: DeviceAccess,
        presence: DevicePresence,
        calls: Calls,
        *,
        keep_alive_s: float,
        closing: asyncio.Event,
        meter: CallMeter,
    ) -> None:
        self.access = access
        self.presence = presence
        self.calls = calls
        self.keep_alive_s = keep_alive_s
        self.closing = closing
        self.meter = meter
        self._open: dict[str, list[EventStream]] = {}

    def take_in(self, stream: "EventStream") -> None:
        """Hold a stream; ends the oldest of its device if that has too many."""
        held = self._open.setdefault(stream.device.id, [])
        held.append(stream)
        if len(held) > MOST_PER_DEVICE:
            held.pop(0).replaced.set()

    def let_go(self, stream: "EventStream") -> None:
        """Forget a stream that has ended."""
        held = self._open.get(stream.device.id, [])
        if stream in held:
            held.remove(stream)
        if not held:
            self._open.pop(stream.device.id, None)


class EventStream:
    """One stream of one phone: an answer that goes on until either side ends it. An ASGI application."""

    def __init__(self, streams: Streams, device: Device, authorization: str | None) -> None:
        self.device = device
        self.replaced = asyncio.Event()
        self._streams = streams
        self._authorization = authorization
        self._id = secrets.token_hex(8)
        self._is_due = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the line; when it ends, say why."""
        began_at = time.perf_counter()
        ending = Ending.STOPPED
        self._streams.take_in(self)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            ending = await self._first_ending(scope, receive, send)
        finally:
            self._streams.let_go(self)
            self._streams.meter.called("mobile_stream", ending.value, time.perf_counter() - began_at)
        if ending not in (Ending.CLOSED, Ending.BROKEN):
            await _bid_farewell(send)
        if ending in _SAID:
            with contextlib.suppress(ApiError):
                await self._streams.presence.left(self.device, self._id, _SAID[ending])

    async def _first_ending(self, scope: Scope, receive: Receive, send: Send) -> Ending:
        # Listen first: what comes between that and the first look at the inbox is heard of twice, not never.
        words = self._streams.calls.listen(self.device.id)
        parts: list[Coroutine[Any, Any, Ending]] = [
            self._pass_on(words, send),
            _gone(scope, receive),
            _after(self._streams.closing, Ending.STOPPED),
            _after(self.replaced, Ending.REPLACED),
            self._stay_present(send),
        ]
        tasks = [asyncio.create_task(part, name="event stream") for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        except Exception as error:  # noqa: BLE001 - the answer has begun: nobody else could make one of it
            _log.error("an event stream failed: %s", described(error))
            return Ending.FAILED
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, words: AsyncIterator[str], send: Send) -> Ending:
        async for word in words:
            what, _, message_id = word.partition(" ")
            if what == "enqueued":
                await _say(send, ENQUEUED)
            elif what == "cancelled":
                await _say(send, event("MessageCancelled", {"messageId": message_id}))
            elif what == "settings":
                await _say(send, SETTINGS)
            elif what == "gone":
                # The word may be late or wrong: the store decides.
                self._is_due.set()
        return Ending.STOPPED

    async def _stay_present(self, send: Send) -> Ending:
        """Tell the store, then the phone, that the line is open, in this order: a store that is away delays neither."""
        while True:
            self._is_due.clear()
            waiting, pause_s = 0, self._streams.keep_alive_s
            try:
                device = await self._streams.access.device_of(self._authorization)
                self.device, waiting = await self._streams.access.heard(device, stream=self._id)
            except ApiError as error:
                if error.code == "DEVICE_UNAUTHORISED":
                    return Ending.RETIRED
                pause_s = min(pause_s, ASK_AGAIN_S)
            # Words may be lost: what still waits is said again.
            await _say(send, ENQUEUED if waiting else KEEP_ALIVE)
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_due.wait()


async def _gone(scope: Scope, receive: Receive) -> Ending:
    while (await receive())["type"] != "http.disconnect":
        pass
    return Ending.CLOSED if cast("dict[str, Any]", scope).get(PEER_ENDED) else Ending.BROKEN


async def _after(happening: asyncio.Event, ending: Ending) -> Ending:
    await happening.wait()
    return ending


async def _say(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _bid_farewell(send: Send) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
