"""Which phone calls. Every call with a token asks the store too: a device that was retired a moment ago is out now."""

from typing import Any

from litestar import Request

from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.model import Device

Call = Request[Any, Any, Any]


def authorization_of(request: Call) -> str | None:
    """Give the `Authorization` header."""
    return request.headers.get("authorization")


def address_of(request: Call) -> str:
    """Give the address that the caller is seen under; empty where there is none."""
    return request.client.host if request.client is not None else ""


async def device_of(request: Call, access: DeviceAccess, *, is_pull: bool = False) -> Device:
    """Give the device whose token this is, and note that it was here.

    Raises ApiError DEVICE_UNAUTHORISED, SERVICE_UNAVAILABLE.
    """
    device = await access.device_of(authorization_of(request))
    return (await access.heard(device, is_pull=is_pull)).device
