"""Reading a request's body: bounded in size and in time, JSON only, decoded strictly into one struct."""

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from otpsvc.errors import ApiError, problem

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_MAX_IDEMPOTENCY_KEY = 255
_NAMED_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)


class BodyReader:
    """Reads and decodes bodies within `max_bytes` and `timeout_s`."""

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def read(self, request: Request[Any, Any, Any], decoder: msgspec.json.Decoder[_Struct]) -> _Struct:
        """Give the body as a struct.

        Raises ApiError UNSUPPORTED_MEDIA_TYPE, PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT, INVALID_JSON, or VALIDATION_ERROR
        with the field and the reason.
        """
        _check_media_type(request)
        return _decoded(await self.read_bytes(request), decoder)

    async def read_optional(
        self, request: Request[Any, Any, Any], decoder: msgspec.json.Decoder[_Struct], default: _Struct
    ) -> _Struct:
        """Give the body as a struct, or `default` where the request has none."""
        data = await self.read_bytes(request)
        if not data:
            return default
        _check_media_type(request)
        return _decoded(data, decoder)

    async def read_bytes(self, request: Request[Any, Any, Any]) -> bytes:
        """Give the body as it came, of whatever kind it is; raises ApiError PAYLOAD_TOO_LARGE or REQUEST_TIMEOUT."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise self._too_large()
        data = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self._max_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise problem("REQUEST_TIMEOUT") from None
        except InternalServerException:
            # The caller hung up in the middle: no fault of ours, and nobody reads this answer.
            raise problem("REQUEST_TIMEOUT") from None
        return bytes(data)

    def _too_large(self) -> ApiError:
        return problem("PAYLOAD_TOO_LARGE", details={"max_bytes": self._max_bytes})


def idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """Give the caller's `Idempotency-Key`, bare or quoted; raises ApiError VALIDATION_ERROR."""
    given = request.headers.get("idempotency-key")
    if given is None:
        return None
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= _MAX_IDEMPOTENCY_KEY or not key.isascii() or not key.isprintable():
        raise problem(
            "VALIDATION_ERROR",
            details={
                "field": "Idempotency-Key",
                "reason": f"expected 1 to {_MAX_IDEMPOTENCY_KEY} printable characters",
            },
        )
    return key


def _check_media_type(request: Request[Any, Any, Any]) -> None:
    media_type, _, _ = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise problem("UNSUPPORTED_MEDIA_TYPE")


def _decoded(data: bytes, decoder: msgspec.json.Decoder[_Struct]) -> _Struct:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise problem("INVALID_JSON") from None


def _invalid(said: str) -> ApiError:
    # "Expected `int`, got `str` - at `$.code_length`": the library names types and paths, never values.
    reason, _, path = said.partition(" - at `")
    places = [path.rstrip("`").removeprefix("$").removeprefix(".")]
    if named := _NAMED_FIELD.fullmatch(reason):
        places.append(named[1])
    details = {"reason": reason}
    if field := ".".join(filter(None, places)):
        details["field"] = field
    return problem("VALIDATION_ERROR", details=details)
