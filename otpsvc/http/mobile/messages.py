"""The calls by which a phone takes its messages and says what became of them.

Bodies and answers hold texts and numbers: never log one.
"""

import msgspec
from litestar import Response, get, patch
from litestar.handlers import HTTPRouteHandler

from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.inbox import MOST_REPORTS, DeviceInbox
from otpsvc.errors import problem
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter, ended_as, metered
from otpsvc.http.mobile import wire
from otpsvc.http.mobile.callers import Call, device_of
from otpsvc.http.problems import JSON

_encode = msgspec.json.Encoder().encode
_REPORTS = msgspec.json.Decoder(list[wire.ReportBody])

# The app's newer spelling and its older one.
_PATHS = ["/messages", "/message"]


def message_routes(
    inbox: DeviceInbox, access: DeviceAccess, bodies: BodyReader, meter: CallMeter
) -> list[HTTPRouteHandler]:
    """Make the routes over the inbox of the phones."""

    @get(_PATHS, include_in_schema=False)
    @metered(meter, "mobile_pull", "pulled")
    async def pull(request: Call) -> Response[bytes]:
        """Give a phone what it may send now. What is in the answer counts as pulled, whether it arrives or not."""
        device = await device_of(request, access, is_pull=True)
        messages = await inbox.pull(device)
        if messages is None:
            raise problem("DEVICE_UNAUTHORISED")
        if not messages:
            ended_as(request, "empty")
        answers = [wire.MessageAnswer.of(message) for message in messages]
        if request.query_params.get("order") == "lifo":
            answers.reverse()
        return Response(_encode(answers), media_type=JSON)

    @patch(_PATHS, status_code=204, include_in_schema=False)
    @metered(meter, "mobile_report", "taken")
    async def report(request: Call) -> Response[None]:
        """Take what a phone says of its messages; what is unknown, foreign, old or twice changes nothing."""
        device = await device_of(request, access)
        reports = await bodies.read(request, _REPORTS)  # type: ignore[type-var]  # a list is decoded like a struct
        for start in range(0, len(reports), MOST_REPORTS):
            some = [each.to_report() for each in reports[start : start + MOST_REPORTS]]
            if not await inbox.report(device, some):
                raise problem("DEVICE_UNAUTHORISED")
        return Response(None, status_code=204)

    return [pull, report]
