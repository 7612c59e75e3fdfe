"""The calls on pairings, under `/v1/devices/pairings`: open one, see which wait for their phone, close one.

What opens a door is in the answer to the first call and nowhere else.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from otpsvc.devices.model import Tenant
from otpsvc.devices.pairing import PairingService
from otpsvc.errors import problem
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter, metered
from otpsvc.http.openapi import BODY_ERRORS, described
from otpsvc.http.problems import JSON
from otpsvc.http.v1.wire_devices import (
    ClosedPairingAnswer,
    OpenPairingEntry,
    PairBody,
    PairingAnswer,
    PairingListAnswer,
)

_TenantOf: TypeAlias = Callable[[Request[Any, Any, Any]], Awaitable[Tenant]]

_encode = msgspec.json.Encoder().encode
_PAIR = msgspec.json.Decoder(PairBody)
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?")


def pairing_routes(
    pairing: PairingService, tenant_of: _TenantOf, bodies: BodyReader, meter: CallMeter, *, public_url: str | None
) -> list[HTTPRouteHandler]:
    """Make the routes; `public_url` is where phones reach us, by default where the caller did."""

    @post(
        "/pairings",
        status_code=201,
        operation_class=described(
            body=PairBody,
            is_body_required=False,
            answers=[PairingAnswer],
            errors=[*BODY_ERRORS, "CONFLICT", "RATE_LIMIT_EXCEEDED"],
            status=201,
        ),
        summary="Pair a phone",
    )
    @metered(meter, "device_pair", "paired")
    async def pair(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Open a pairing for one phone. What it registers with is in this answer only."""
        tenant = await tenant_of(request)
        body = await bodies.read_optional(request, _PAIR, PairBody())
        opened = await pairing.open(
            tenant, public_url or _address_of(request), is_confirmed_by_itself=body.confirms_by_itself
        )
        return _answer(PairingAnswer.of(opened), status_code=201)

    @get("/pairings", operation_class=described(answers=[PairingListAnswer]), summary="List the open pairings")
    @metered(meter, "device_list", "done")
    async def list_pairings(request: Request[Any, Any, Any]) -> Response[bytes]:
        """List the client's pairings of this mode that wait for their phone, oldest first."""
        opened = await pairing.open_pairings(await tenant_of(request))
        return _answer(PairingListAnswer(pairings=[OpenPairingEntry.of(one) for one in opened]))

    @delete(
        "/pairings/{login:str}",
        status_code=200,
        operation_class=described(answers=[ClosedPairingAnswer], errors=["RESOURCE_NOT_FOUND"]),
        summary="Close a pairing",
    )
    @metered(meter, "device_delete", "deleted")
    async def close(request: Request[Any, Any, Any], login: FromPath[str]) -> Response[bytes]:
        """End a pairing that waits for its phone: its code, login and password open nothing any more."""
        await pairing.close(await tenant_of(request), login)
        return _answer(ClosedPairingAnswer(login=login))

    return [pair, list_pairings, close]


def _answer(struct: msgspec.Struct, *, status_code: int = 200) -> Response[bytes]:
    return Response(_encode(struct), media_type=JSON, status_code=status_code)


def _address_of(request: Request[Any, Any, Any]) -> str:
    """Give the address that the caller wrote; raises ApiError VALIDATION_ERROR where that is none."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise problem("VALIDATION_ERROR", details={"field": "Host", "reason": "not a host name"})
    return f"{request.scope['scheme']}://{host}"
