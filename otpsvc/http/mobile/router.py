"""All calls of the app under `/mobile/v1`, put together. No rules in here: the services behind decide."""

import asyncio
import time

from litestar import Router, get
from litestar.types import ASGIApp

from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.inbox import DeviceInbox
from otpsvc.devices.pairing import PairingService
from otpsvc.devices.policy import DeviceSettings
from otpsvc.devices.ports import Calls, DevicePresence
from otpsvc.errors import ApiError
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter
from otpsvc.http.mobile.account import account_routes
from otpsvc.http.mobile.callers import Call, authorization_of, device_of
from otpsvc.http.mobile.messages import message_routes
from otpsvc.http.mobile.stream import EventStream, Streams
from otpsvc.http.v1.uncounted import Uncounted

# A phone that was away reports on everything at once.
MAX_BODY_BYTES = 131_072


def mobile_router(
    pairing: PairingService,
    access: DeviceAccess,
    inbox: DeviceInbox,
    presence: DevicePresence,
    calls: Calls,
    *,
    settings: DeviceSettings,
    closing: asyncio.Event,
    bodies: BodyReader,
    metrics: CallMeter | None = None,
) -> Router:
    """Make the routes. `closing` ends all streams: set it no later than the server is told to stop."""
    meter = metrics or Uncounted()
    streams = Streams(access, presence, calls, keep_alive_s=settings.keep_alive_s, closing=closing, meter=meter)

    @get("/events", include_in_schema=False)
    async def events(request: Call) -> ASGIApp:
        """Open a stream; it is counted when it ends, a refused one at once."""
        began_at = time.perf_counter()
        try:
            device = await device_of(request, access)
        except ApiError as error:
            meter.called("mobile_stream", error.reason or error.code.lower(), time.perf_counter() - began_at)
            raise
        return EventStream(streams, device, authorization_of(request))

    routes = [*account_routes(pairing, access, bodies, meter), *message_routes(inbox, access, bodies, meter), events]
    return Router("/mobile/v1", route_handlers=routes)
