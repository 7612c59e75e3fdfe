"""The calls on a client's phones, under `/v1/devices`: look, confirm, change, switch off, delete.

Each client sees and touches its own phones of its own mode only. Presence and budgets are read, never decided here.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from litestar import Request, Response, Router, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from otpsvc.clients.auth import Authenticator
from otpsvc.devices.model import Tenant
from otpsvc.devices.pairing import PairingService
from otpsvc.devices.service import DeviceService
from otpsvc.http.auth import caller_of
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter, metered
from otpsvc.http.openapi import BODY_ERRORS, described
from otpsvc.http.problems import JSON
from otpsvc.http.v1.pairings import pairing_routes
from otpsvc.http.v1.uncounted import Uncounted
from otpsvc.http.v1.wire_devices import (
    ConfirmBody,
    DeletedDeviceAnswer,
    DeviceAnswer,
    DeviceEntry,
    DeviceListAnswer,
    DevicePatch,
)

_Act: TypeAlias = Callable[[Tenant, str], Awaitable[object]]

_encode = msgspec.json.Encoder().encode
_CONFIRM = msgspec.json.Decoder(ConfirmBody)
_PATCH = msgspec.json.Decoder(DevicePatch)
_ON_ONE = described(answers=[DeviceAnswer], errors=["INVALID_DEVICE_ID"])


def devices_router(
    service: DeviceService,
    pairing: PairingService,
    authenticator: Authenticator,
    bodies: BodyReader,
    *,
    public_url: str | None = None,
    metrics: CallMeter | None = None,
) -> Router:
    """Make the routes over the services; `public_url` is where phones reach us, by default where the caller did."""
    meter = metrics or Uncounted()

    async def tenant_of(request: Request[Any, Any, Any]) -> Tenant:
        caller = await caller_of(request, authenticator)
        return Tenant(caller.client_id, caller.mode)

    async def shown(tenant: Tenant, device_id: str) -> Response[bytes]:
        return _answer(DeviceAnswer.of(await service.show(tenant, device_id)))

    @get("/", operation_class=described(answers=[DeviceListAnswer]), summary="List the phones")
    @metered(meter, "device_list", "done")
    async def list_devices(request: Request[Any, Any, Any]) -> Response[bytes]:
        """List the client's phones of this mode, oldest first, with presence, SIMs, used budget and last error."""
        views = await service.list_devices(await tenant_of(request))
        return _answer(DeviceListAnswer(devices=[DeviceEntry.of(view) for view in views]))

    @get("/{device_id:str}", operation_class=_ON_ONE, summary="Look at a phone")
    @metered(meter, "device_show", "found")
    async def show(request: Request[Any, Any, Any], device_id: FromPath[str]) -> Response[bytes]:
        """Give one phone."""
        return await shown(await tenant_of(request), device_id)

    @patch(
        "/{device_id:str}",
        operation_class=described(
            body=DevicePatch, answers=[DeviceAnswer], errors=[*BODY_ERRORS, "INVALID_DEVICE_ID", "CONFLICT"]
        ),
        summary="Change a phone",
    )
    @metered(meter, "device_change", "changed")
    async def change(request: Request[Any, Any, Any], device_id: FromPath[str]) -> Response[bytes]:
        """Change name, budget or passphrase. What is absent stays; `null` is the default budget, or no passphrase."""
        tenant = await tenant_of(request)
        await _change(service, tenant, device_id, await bodies.read(request, _PATCH))
        return await shown(tenant, device_id)

    @delete(
        "/{device_id:str}",
        status_code=200,
        operation_class=described(answers=[DeletedDeviceAnswer], errors=["INVALID_DEVICE_ID"]),
        summary="Delete a phone",
    )
    @metered(meter, "device_delete", "deleted")
    async def remove(request: Request[Any, Any, Any], device_id: FromPath[str]) -> Response[bytes]:
        """Delete a phone for good: its token and its login die at once, what it has not pulled goes to others."""
        await service.delete(await tenant_of(request), device_id)
        return _answer(DeletedDeviceAnswer(device_id=device_id))

    @post(
        "/{device_id:str}/confirm",
        status_code=200,
        operation_class=described(
            body=ConfirmBody,
            is_body_required=False,
            answers=[DeviceAnswer],
            errors=[*BODY_ERRORS, "INVALID_DEVICE_ID", "CONFLICT"],
        ),
        summary="Confirm a phone",
    )
    @metered(meter, "device_change", "changed")
    async def confirm(request: Request[Any, Any, Any], device_id: FromPath[str]) -> Response[bytes]:
        """Let a phone that has registered send; with `version`, only if it is still as it was at that version."""
        tenant = await tenant_of(request)
        body = await bodies.read_optional(request, _CONFIRM, ConfirmBody())
        await service.confirm(tenant, device_id, body.version)
        return await shown(tenant, device_id)

    def action(word: str, summary: str, act: _Act, description: str) -> HTTPRouteHandler:
        @post(
            f"/{{device_id:str}}/{word}",
            status_code=200,
            operation_class=_ON_ONE,
            summary=summary,
            description=description,
        )
        @metered(meter, "device_change", "changed")
        async def acted(request: Request[Any, Any, Any], device_id: FromPath[str]) -> Response[bytes]:
            tenant = await tenant_of(request)
            await act(tenant, device_id)
            return await shown(tenant, device_id)

        return acted

    actions = [
        action(
            "enable",
            "Switch a phone on",
            service.enable,
            "Let a phone that was switched off in again; one that nobody has confirmed yet waits for that.",
        ),
        action(
            "disable",
            "Switch a phone off",
            service.disable,
            "Turn a phone and its login away until it is enabled; what it has not pulled goes to others.",
        ),
        action(
            "rotate-token",
            "Make a token worthless",
            service.rotate_token,
            "Make the phone's token worthless: it is out until it registers again with its login.",
        ),
    ]
    pairings = pairing_routes(pairing, tenant_of, bodies, meter, public_url=public_url)
    handlers = [list_devices, show, confirm, change, remove]
    return Router("/v1/devices", route_handlers=[*pairings, *handlers, *actions], tags=["devices"])


async def _change(service: DeviceService, tenant: Tenant, device_id: str, body: DevicePatch) -> None:
    # First what can still be refused: a time zone. All else was looked at when the body was read.
    if (budget := body.budget_changes()) is not None:
        await service.set_budget(tenant, device_id, budget)
    if not isinstance(body.passphrase, msgspec.UnsetType):
        await service.set_passphrase(tenant, device_id, body.passphrase)
    if not isinstance(body.name, msgspec.UnsetType):
        await service.rename(tenant, device_id, body.name)


def _answer(struct: msgspec.Struct, *, status_code: int = 200) -> Response[bytes]:
    return Response(_encode(struct), media_type=JSON, status_code=status_code)
