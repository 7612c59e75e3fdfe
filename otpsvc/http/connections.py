"""One connection of the server, with bounds on what anybody may send, and our words for what is not HTTP.

The library bounds neither the size of a head or of trailers, nor the time that a peer may take: without this file
anybody could fill the memory, or hold connections for ever. Nothing here may depend on the peer's good will: every
state in which we wait for it ends in `close_if_late`.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from otpsvc.errors import problem
from otpsvc.ids import new_request_id

# For the head of a request, and for the rest of a body whose answer did not wait for it.
REQUEST_TIMEOUT_S = 10.0
# Longer than common gateways keep an idle connection (60 s): whoever closes first must be the one that sends next,
# otherwise its request meets a connection that is just ending.
KEEP_ALIVE_S = 75
# A peer that takes nothing of its answers makes us keep them.
UNREAD_TIMEOUT_S = 60.0
# What a request's scope says once its peer has closed its side in good order, and was not merely lost.
PEER_ENDED = "otpsvc.peer_ended"
MAX_HEAD_BYTES = 65_536
MAX_PIPELINED = 256


class Connection(HttpToolsProtocol):
    """The library's protocol, bounded.

    A head may take `REQUEST_TIMEOUT_S` and, beyond its first piece, `MAX_HEAD_BYTES`; so may trailers, and whatever
    else of a body is no content. The content itself is bounded by whoever reads it (`BodyReader`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: RequestResponseCycle | None = None
        self._due_at = 0.0
        self._is_in_head = False
        self._is_in_body = False
        self._n_bytes = 0
        self._refusal: str | None = None
        self._is_over = False
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the library has it
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait_for(REQUEST_TIMEOUT_S)
        _give_up_on_the_dead(transport)

    def eof_received(self) -> None:
        """Note that the peer goes of its own will: whoever serves its request may want to know."""
        if self._running is not None:
            cast("dict[str, Any]", self._running.scope)[PEER_ENDED] = True
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, as the library does only where one request came and the peer ended in good order."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._running is not None and not self._running.response_complete:
            # It would write to what is closed, and the log would be told.
            self._running.disconnected = True
            self._running.message_event.set()

    def on_message_begin(self) -> None:
        """Wait for the rest of the head."""
        super().on_message_begin()
        self._is_in_head = True
        self._n_bytes = 0
        self._wait_for(REQUEST_TIMEOUT_S)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind those before it."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse("Too many requests before the answer to the first.")
        if self.parser.get_http_version() == "1.1" and [name for name, _ in self.headers].count(b"host") != 1:
            self._refuse("Expected one Host header.")  # RFC 9112, section 3.2
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        self._is_in_head, self._is_in_body = False, True
        self._n_bytes = 0
        # Trailers go to this list and are lost with it: one must never pass for a header (RFC 9110, section 6.5.1).
        self.headers = []
        if self.parser.should_upgrade():
            # We speak nothing else, and the library drops what came with such a request.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take content: only what comes between or after it is counted here."""
        self._n_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request if this one has its answer already."""
        self._is_in_body = False
        self._n_bytes = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for(KEEP_ALIVE_S)

    def on_response_complete(self) -> None:
        """Wait for the rest of what the peer has begun, else for its next request."""
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        self._wait_for(REQUEST_TIMEOUT_S if self._is_in_head or self._is_in_body else KEEP_ALIVE_S)

    def data_received(self, data: bytes) -> None:
        """Read on, unless there is too much that is no content."""
        if self._is_over:
            return
        self._n_bytes += len(data)
        super().data_received(data)
        if self._n_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head or the trailers of the request are too long.")

    def pause_writing(self) -> None:
        """Note since when the peer takes less than we have for it."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """Forget that: it takes enough."""
        super().resume_writing()
        self._unread_since = None

    def close_if_late(self) -> None:
        """Close the connection if the peer owes us something for too long; called every now and then."""
        now = self.loop.time()
        if self.transport.is_closing() and self._unread_since is None:
            self._unread_since = now
        if self._unread_since is not None and now - self._unread_since > UNREAD_TIMEOUT_S:
            self.transport.abort()
        elif now > self._due_at and (self._latest is None or self._latest.response_complete):
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what no handler will ever see, and close, as soon as what came before has its answer."""
        self._is_over = True
        latest = self._latest
        if latest is not None and not latest.response_complete and not self._is_in_body:
            # Its peer would take a 400 for the answer to that earlier request.
            latest.keep_alive = False
            return
        has_answer = self._is_in_body and latest is not None and latest.response_started
        if not has_answer and not self.pipeline:
            self.transport.write(_bad_request(self._refusal or msg))
        self.transport.close()

    @property
    def _latest(self) -> RequestResponseCycle | None:
        """The last request whose head was complete; None before the first, which the library's types do not say."""
        return self.cycle

    def _wait_for(self, timeout_s: float) -> None:
        self._due_at = self.loop.time() + timeout_s

    def _refuse(self, reason: str) -> None:
        # The parser stops at whatever is raised in it, and the library then asks for a 400.
        self._refusal = reason
        raise ValueError(reason)


def _give_up_on_the_dead(transport: asyncio.Transport) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing any more, after a minute, not a quarter hour."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    is_tcp = connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6)
    if connection is not None and is_tcp and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_TIMEOUT_S * 1000))


def _bad_request(reason: str) -> bytes:
    kind, request_id = problem("VALIDATION_ERROR").kind, new_request_id()
    body = msgspec.json.encode(
        {
            "success": False,
            "error": {
                "code": kind.code,
                "message": kind.message["en"],
                "details": {"reason": reason},
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
    return head.encode() + body
