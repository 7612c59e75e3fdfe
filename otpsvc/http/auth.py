"""Who calls: the two headers of a request, answered from memory where that is possible."""

from typing import Any

from litestar import Request

from otpsvc.clients.auth import Authenticator
from otpsvc.clients.model import Principal

API_KEY_HEADER = "X-API-Key"
CLIENT_ID_HEADER = "X-Client-ID"
DEVICE_ID_HEADER = "X-Device-ID"


async def caller_of(request: Request[Any, Any, Any], authenticator: Authenticator) -> Principal:
    """Give the principal; raises ApiError MISSING_AUTH_HEADERS, INVALID_API_KEY, INVALID_CLIENT_ID."""
    api_key = request.headers.get(API_KEY_HEADER)
    client_id = request.headers.get(CLIENT_ID_HEADER)
    return authenticator.authenticate_cached(api_key, client_id) or await authenticator.authenticate(api_key, client_id)


def device_of(request: Request[Any, Any, Any]) -> str | None:
    """Give the phone that a send is pinned to, as the caller wrote it; None for any."""
    return request.headers.get(DEVICE_ID_HEADER) or None
