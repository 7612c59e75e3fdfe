"""The call on a number: forget it. The number comes in the body, because addresses end up in logs."""

from typing import Any

import msgspec
from litestar import Request, Response, Router, post

from otpsvc.clients.auth import Authenticator
from otpsvc.http.auth import caller_of
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter, metered
from otpsvc.http.openapi import BODY_ERRORS, described
from otpsvc.http.problems import JSON
from otpsvc.http.v1.uncounted import Uncounted
from otpsvc.http.v1.wire_numbers import ForgetAnswer, ForgetBody
from otpsvc.otp.erasure import NumberEraser
from otpsvc.otp.ports import Tenant

_encode = msgspec.json.Encoder().encode
_FORGET = msgspec.json.Decoder(ForgetBody)


def numbers_router(
    eraser: NumberEraser, authenticator: Authenticator, bodies: BodyReader, metrics: CallMeter | None = None
) -> Router:
    """Make the routes over the eraser; what they need is handed in, nothing is looked up."""
    meter = metrics or Uncounted()

    @post(
        "/numbers/forget",
        status_code=200,
        operation_class=described(
            body=ForgetBody, answers=[ForgetAnswer], errors=[*BODY_ERRORS, "INVALID_PHONE_NUMBER"]
        ),
        summary="Forget a number",
    )
    @metered(meter, "forget", "forgotten")
    async def forget(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Erase a number from this client's records in this mode; pending codes to it end as cancelled.

        It can be called again, and after a 503 it has to be.
        """
        caller = await caller_of(request, authenticator)
        body = await bodies.read(request, _FORGET)
        forgotten = await eraser.forget(body.to, tenant=Tenant(caller.client_id, caller.mode))
        return Response(_encode(ForgetAnswer.of(forgotten)), media_type=JSON)

    return Router("/v1", route_handlers=[forget], tags=["numbers"])
