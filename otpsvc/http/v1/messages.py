"""The message call: `/v1/messages/{message_id}` and, on the same handler, ZimSend's spelling under `/v1/sms`."""

from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.params import FromPath

from otpsvc.clients.auth import Authenticator
from otpsvc.http.auth import caller_of
from otpsvc.http.metered import CallMeter, metered
from otpsvc.http.openapi import described
from otpsvc.http.problems import JSON
from otpsvc.http.v1.uncounted import Uncounted
from otpsvc.http.v1.wire_messages import MessageAnswer
from otpsvc.messages.service import MessageService

_encode = msgspec.json.Encoder().encode


def messages_router(service: MessageService, authenticator: Authenticator, metrics: CallMeter | None = None) -> Router:
    """Make the routes over a service; what they need is handed in, nothing is looked up."""
    meter = metrics or Uncounted()

    @get(
        ["/messages/{message_id:str}", "/sms/status/{message_id:str}"],
        operation_class=described(answers=[MessageAnswer], errors=["MESSAGE_NOT_FOUND"]),
        summary="Look at a message",
    )
    @metered(meter, "status", "found")
    async def status(request: Request[Any, Any, Any], message_id: FromPath[str]) -> Response[bytes]:
        """Give the status, the times and the masked text of one message."""
        caller = await caller_of(request, authenticator)
        return Response(_encode(MessageAnswer.of(await service.status(caller, message_id))), media_type=JSON)

    return Router("/v1", route_handlers=[status], tags=["messages"])
