"""The calls by which a phone registers, shows and changes what it is: `/device`, `/user`, and what the app asks for."""

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler

from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.pairing import PairingService
from otpsvc.errors import problem
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter, metered
from otpsvc.http.mobile import dates, wire
from otpsvc.http.mobile.callers import Call, address_of, authorization_of, device_of
from otpsvc.http.mobile.credentials import Code, credentials_of, login_of
from otpsvc.http.problems import JSON

_encode = msgspec.json.Encoder().encode
_REGISTRATION = msgspec.json.Decoder(wire.RegistrationBody)
_UPDATE = msgspec.json.Decoder(wire.UpdateBody)
_PASSWORD = msgspec.json.Decoder(wire.PasswordBody)


def account_routes(
    pairing: PairingService, access: DeviceAccess, bodies: BodyReader, meter: CallMeter
) -> list[HTTPRouteHandler]:
    """Make the routes over the services."""

    @post("/device", status_code=201, include_in_schema=False)
    @metered(meter, "mobile_register", "registered")
    async def register(request: Call) -> Response[bytes]:
        """Let a phone in that has a login and its password, or an enrolment code; nobody else."""
        given = credentials_of(authorization_of(request))
        registration = (await bodies.read(request, _REGISTRATION)).to_registration()
        address = address_of(request)
        if isinstance(given, Code):
            registered = await pairing.register_by_code(given.text, registration, address)
        else:
            registered = await pairing.register_by_login(given.login, given.password, registration, address)
        return _answer(wire.RegisteredAnswer.of(registered), 201)

    @get("/device", include_in_schema=False)
    @metered(meter, "mobile_look")
    async def look(request: Call) -> Response[bytes]:
        """Tell a phone which address it is seen under, and itself where it shows its token."""
        answer = wire.AddressAnswer(external_ip=address_of(request))
        if authorization_of(request) is not None:
            answer.device = wire.DeviceAnswer.of(await device_of(request, access))
        return _answer(answer)

    @patch("/device", status_code=204, include_in_schema=False)
    @metered(meter, "mobile_update")
    async def update(request: Call) -> Response[None]:
        """Take the SIMs that a phone has now."""
        device = await device_of(request, access)
        body = await bodies.read(request, _UPDATE)
        if body.id != device.id:
            raise problem("INSUFFICIENT_SCOPE")
        registration = body.to_registration(device.name)
        if registration is not None:
            await access.update(device, registration)
        return _done()

    @get("/webhooks", include_in_schema=False)
    @metered(meter, "mobile_webhooks")
    async def webhooks(request: Call) -> Response[bytes]:
        """Tell a phone that nobody asks it to call anybody: what it receives is not our business."""
        await device_of(request, access)
        return Response(b"[]", media_type=JSON)

    @get("/settings", include_in_schema=False)
    @metered(meter, "mobile_settings")
    async def settings(request: Call) -> Response[bytes]:
        """Leave the app's settings to its owner."""
        await device_of(request, access)
        return Response(b"{}", media_type=JSON)

    @get("/user/code", include_in_schema=False)
    @metered(meter, "mobile_code")
    async def code(request: Call) -> Response[bytes]:
        """Give an enrolment code for a pairing that no phone has used yet."""
        given = login_of(authorization_of(request))
        text, until = await pairing.renew_code(given.login, given.password, address_of(request))
        return _answer(wire.CodeAnswer(code=text, valid_until=dates.written(until)))

    @patch("/user/password", status_code=204, include_in_schema=False)
    @metered(meter, "mobile_password")
    async def password(request: Call) -> Response[None]:
        """Change the password that a phone registers with."""
        device = await device_of(request, access)
        body = await bodies.read(request, _PASSWORD)
        await pairing.change_password(device, body.current_password, body.new_password, address_of(request))
        return _done()

    return [register, look, update, webhooks, settings, code, password]


def _answer(body: msgspec.Struct, status: int = 200) -> Response[bytes]:
    return Response(_encode(body), status_code=status, media_type=JSON)


def _done() -> Response[None]:
    return Response(None, status_code=204)
