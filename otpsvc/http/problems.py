"""Errors as answers: our envelope, or RFC 9457 where the caller asks for it, in the caller's language.

    {"success": false, "error": {"code", "message", "details", "retryable", "retry_after"?, "request_id"}}

is what clients written for ZimSend, UniMsg and VoiceHire read; `Accept: application/problem+json` gives `type`,
`title`, `status`, `detail`, `instance`, `code` and the same extras.
"""

import logging
import re
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from otpsvc.errors import CATALOGUE, LANGUAGES, ApiError, problem
from otpsvc.faults import described
from otpsvc.http.edge import request_id_of

_log = logging.getLogger(__name__)

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
ERROR_PAGE = "/docs/errors"

_LONGEST_HEADER = 256
_WEIGHT = re.compile(r"q\s*=\s*([0-9.]+)\Z")
_BY_STATUS = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}


def language(request: Request[Any, Any, Any]) -> str:
    """Return the language of ours that `Accept-Language` likes best, English where it names none."""
    best, best_weight = LANGUAGES[0], 0.0
    for tag, weight in _preferences(request.headers.get("accept-language", "")):
        name = tag.split("-", 1)[0]
        if name in LANGUAGES and weight > best_weight:
            best, best_weight = name, weight
    return best


class ErrorAnswers:
    """Writes errors. A problem's `type` is an absolute address if `public_url` (no / at its end) says where we are."""

    def __init__(self, public_url: str | None) -> None:
        self._page = f"{public_url or ''}{ERROR_PAGE}"

    def api_error(self, request: Request[Any, Any, Any], error: ApiError) -> Response[bytes]:
        """Write a catalogue error."""
        kind = error.kind
        message = kind.message[language(request)]
        request_id = request_id_of(request.scope)
        common: dict[str, Any] = {"details": error.details, "retryable": kind.retryable}
        if error.retry_after_s is not None:
            common["retry_after"] = error.retry_after_s
        common["request_id"] = request_id
        if _wants_problem(request):
            body: dict[str, Any] = {
                "type": f"{self._page}#{kind.code}",
                "title": kind.message["en"],
                "status": kind.status,
                "detail": message,
                "instance": f"urn:otpsvc:request:{request_id}",
                "code": kind.code,
                **common,
            }
            media_type = PROBLEM_JSON
        else:
            body = {"success": False, "error": {"code": kind.code, "message": message, **common}}
            media_type = JSON
        data = msgspec.json.encode(body)
        return Response(data, status_code=kind.status, media_type=media_type, headers=_headers(error))

    def http_exception(self, request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        """Write what the framework refuses by itself: wrong paths, methods and parameters."""
        if error.status_code >= 500:
            return self.unexpected(request, error)
        response = self.api_error(request, problem(_BY_STATUS.get(error.status_code, "VALIDATION_ERROR")))
        if error.headers and "allow" in {name.lower() for name in error.headers}:
            response.headers["Allow"] = next(value for name, value in error.headers.items() if name.lower() == "allow")
        return response

    def unexpected(self, request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        """Write a fault of ours, and log where it came from without repeating what it says."""
        request_id = request_id_of(request.scope)
        _log.error("request %s failed: %s", request_id, described(error))
        return self.api_error(request, problem("INTERNAL_ERROR"))


def _headers(error: ApiError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.kind.status == CATALOGUE["INVALID_API_KEY"].status:
        headers["WWW-Authenticate"] = 'ApiKey header="X-API-Key"'
    if error.code == "REQUEST_TIMEOUT":
        # What comes late on this connection would be read as the rest of that body, not as the next request.
        headers["Connection"] = "close"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.quota is not None:
        # draft-ietf-httpapi-ratelimit-headers: which limit, and when it has room again
        headers["RateLimit-Policy"] = f'"{error.quota.name}";q={error.quota.amount};w={error.quota.window_s}'
        headers["RateLimit"] = f'"{error.quota.name}";r=0;t={error.retry_after_s or 0}'
    return headers


def _wants_problem(request: Request[Any, Any, Any]) -> bool:
    accepted = request.headers.get("accept", "")
    return any(name == PROBLEM_JSON and weight > 0 for name, weight in _preferences(accepted))


def _preferences(header: str) -> list[tuple[str, float]]:
    found = []
    for part in header[:_LONGEST_HEADER].lower().split(","):
        name, _, parameters = part.partition(";")
        weight = _WEIGHT.search(parameters.strip())
        try:
            found.append((name.strip(), float(weight[1]) if weight else 1.0))
        except ValueError:
            continue
    return found
