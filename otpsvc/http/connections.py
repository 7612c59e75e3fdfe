"""One connection of the server, with bounds on the head of a request and our words for what is not HTTP.

The library bounds neither the size of a head nor the time it takes: without this file anybody could fill the memory, or
hold connections for ever, before a single header of theirs is read.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from otpsvc.errors import problem
from otpsvc.ids import new_request_id

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 65_536


class Connection(HttpToolsProtocol):
    """The library's protocol; a head may take `HEAD_TIMEOUT_S` and, beyond its first piece, `MAX_HEAD_BYTES`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_began_at: float | None = None
        self._n_head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the library has it
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._head_began_at = self.loop.time()

    def on_message_begin(self) -> None:
        """Note when the next head began."""
        super().on_message_begin()
        self._head_began_at = self.loop.time()

    def on_headers_complete(self) -> None:
        """Stop waiting: the body has bounds of its own (`BodyReader`)."""
        super().on_headers_complete()
        self._head_began_at = None
        self._n_head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head has become too long."""
        was_in_head = self._head_began_at is not None
        super().data_received(data)
        if was_in_head and self._head_began_at is not None:
            self._n_head_bytes += len(data)
            if self._n_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")

    def close_if_late(self) -> None:
        """Close the connection if its head has taken too long; called every now and then."""
        if self._head_began_at is not None and self.loop.time() - self._head_began_at > HEAD_TIMEOUT_S:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what no handler will ever see, and close."""
        kind, request_id = problem("VALIDATION_ERROR").kind, new_request_id()
        body = msgspec.json.encode(
            {
                "success": False,
                "error": {
                    "code": kind.code,
                    "message": kind.message["en"],
                    "details": {"reason": msg},
                    "retryable": kind.retryable,
                    "request_id": request_id,
                },
            }
        )
        status = HTTPStatus(kind.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nx-content-type-options: nosniff\r\n"
            "cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
