"""The OpenAPI description. Handlers read their own bodies, so each operation says here what it takes and gives.

A test calls every operation and holds its answers against what this file says of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Responses,
    Schema,
    SecurityScheme,
)

from otpsvc import __version__
from otpsvc.errors import CATALOGUE
from otpsvc.http.auth import API_KEY_HEADER, CLIENT_ID_HEADER, DEVICE_ID_HEADER
from otpsvc.http.problems import JSON, PROBLEM_JSON
from otpsvc.http.v1 import wire, wire_devices, wire_messages, wire_numbers

BODY_ERRORS = ("VALIDATION_ERROR", "INVALID_JSON", "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
_COMMON_ERRORS = ("MISSING_AUTH_HEADERS", "INVALID_API_KEY", "INVALID_CLIENT_ID", "SERVICE_UNAVAILABLE")
_SECURITY: dict[str, list[str]] = {"key": [], "client": []}
_REF = "#/components/schemas/{name}"
_SHARED_PROPERTIES: dict[str, Any] = {
    "code": {"type": "string", "enum": sorted(CATALOGUE)},
    "details": {"type": "object"},
    "retryable": {"type": "boolean"},
    "retry_after": {"type": "integer", "description": "seconds"},
    "request_id": {"type": "string"},
}
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["success", "error"],
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "required": ["code", "message", "details", "retryable", "request_id"],
            "properties": {"message": {"type": "string"}, **_SHARED_PROPERTIES},
        },
    },
}
_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "details", "retryable", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        **_SHARED_PROPERTIES,
    },
}
_STRUCTS = (
    wire.SendBody,
    wire.VerifyBody,
    wire.VerifyOtpBody,
    wire.ResendBody,
    wire.SendAnswer,
    wire.VerifiedAnswer,
    wire.WrongAnswer,
    wire.OtpAnswer,
    wire.OtpHistoryAnswer,
    wire_messages.MessageAnswer,
    wire_numbers.ForgetBody,
    wire_numbers.ForgetAnswer,
    wire_devices.PairBody,
    wire_devices.PairingAnswer,
    wire_devices.PairingListAnswer,
    wire_devices.ClosedPairingAnswer,
    wire_devices.ConfirmBody,
    wire_devices.DevicePatch,
    wire_devices.DeviceAnswer,
    wire_devices.DeviceListAnswer,
    wire_devices.DeletedDeviceAnswer,
)


def described(
    *,
    answers: Sequence[type[msgspec.Struct]],
    errors: Sequence[str] = (),
    body: type[msgspec.Struct] | None = None,
    is_body_required: bool = True,
    takes_idempotency_key: bool = False,
    takes_device_id: bool = False,
    status: int = 200,
) -> type[Operation]:
    """Make the operation class of a handler: its body, its answers (with `status`), the catalogue codes it can meet."""
    request_body = (
        RequestBody(content={JSON: _media_type(_ref(body))}, required=is_body_required) if body is not None else None
    )
    headers = [
        (takes_idempotency_key, "Idempotency-Key", "The same key and request again gives the same answer."),
        (takes_device_id, DEVICE_ID_HEADER, "The one phone of yours that may send it."),
    ]
    parameters = [_header(name, words) for is_taken, name, words in headers if is_taken]
    responses: Responses = {str(status): _response("Done", [_ref(answer) for answer in answers])}
    by_status: dict[int, list[str]] = {}
    for code in (*errors, *_COMMON_ERRORS):
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    for refused, codes in sorted(by_status.items()):
        responses[str(refused)] = _error_response(" or ".join(codes))

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.security = [_SECURITY]
            self.request_body = request_body
            self.responses = responses
            if parameters:
                self.parameters = [*(self.parameters or ()), *parameters]

    return Described


def openapi_config(page: OpenAPIRenderPlugin, router: Router) -> OpenAPIConfig:
    """Describe the API as a whole; `page` shows it and `router` holds what belongs to the page."""
    return OpenAPIConfig(
        title="otpsvc",
        version=__version__,
        summary="Phone verification that a team runs itself: send a code, verify a code.",
        openapi_router=router,
        render_plugins=[page, _Description()],
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "key": SecurityScheme(type="apiKey", name=API_KEY_HEADER, security_scheme_in="header"),
                "client": SecurityScheme(type="apiKey", name=CLIENT_ID_HEADER, security_scheme_in="header"),
            },
        ),
    )


class _Description(JsonRenderPlugin):
    """The description with our schemas in it: the library keeps only those that it made itself."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.json")
        schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)[1]
        self._schemas = {**schemas, "Error": _ERROR_SCHEMA, "Problem": _PROBLEM_SCHEMA}

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Write it as JSON."""
        components = {**openapi_schema["components"], "schemas": self._schemas}
        # The library's order of the paths is another one in each process.
        paths = dict(sorted(openapi_schema["paths"].items()))
        return super().render(request, {**openapi_schema, "paths": paths, "components": components})


def _ref(struct: type[msgspec.Struct]) -> Reference:
    return Reference(ref=_REF.format(name=struct.__name__))


def _media_type(schema: Reference | Schema) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=schema)


def _response(description: str, schemas: list[Reference]) -> OpenAPIResponse:
    schema = schemas[0] if len(schemas) == 1 else Schema(one_of=list(schemas))
    return OpenAPIResponse(
        description=description,
        content={JSON: _media_type(schema)},
        headers={"X-Request-ID": OpenAPIHeader(schema=Schema(), description="The id of this request.")},
    )


def _error_response(description: str) -> OpenAPIResponse:
    return OpenAPIResponse(
        description=description,
        content={
            JSON: _media_type(Reference(ref=_REF.format(name="Error"))),
            PROBLEM_JSON: _media_type(Reference(ref=_REF.format(name="Problem"))),
        },
    )


def _header(name: str, description: str) -> Parameter:
    return Parameter(name=name, param_in="header", required=False, description=description, schema=Schema())
