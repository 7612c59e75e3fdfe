"""A gateway to test senders against: a real HTTP server on the loopback, which misbehaves when it is told to.

A double of one gateway is a subclass that overrides `respond` and keeps the protocol faithfully. The faults live here,
so that every sender meets the same ones.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools
import msgspec

_DRIP_S = 0.2
_ARRIVAL_S = 10.0
_HUGE_BYTES = 10_000_000
_MOST_KEPT_BYTES = 65_536
_TAKEN: Mapping[str, str] = {"content-type": "text/html"}


class Fault(Enum):
    """What the double does wrong. `is_processed` says whether the request was carried out nevertheless."""

    HANG = "hang"
    HTML_500 = "html_500"
    HTML_500_AFTER = "html_500_after"
    CLOSE_MID_BODY = "close_mid_body"
    SLOW_DRIP = "slow_drip"
    TOO_MANY = "too_many"
    REDIRECT = "redirect"
    HUGE = "huge"
    NOT_JSON = "not_json"
    REFUSE = "refuse"

    @property
    def is_processed(self) -> bool:
        """Whether `respond` runs, that is, whether the gateway takes the message."""
        return self not in {Fault.HTML_500, Fault.TOO_MANY, Fault.REDIRECT, Fault.REFUSE}


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it arrived: header names in lower case, `path` decoded, of a repeated key the last value."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body read as JSON; raise msgspec.DecodeError."""
        return msgspec.json.decode(self.body)

    def form(self) -> dict[str, str]:
        """Return the body read as a form."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


class Reply(NamedTuple):
    """What to answer: a body that is not bytes is sent as JSON."""

    status: int = 200
    body: object = b""
    headers: Mapping[str, str] = {}


class GatewayDouble:
    """A server for the body of an `async with`, at `url`; `requests` are those that arrived, in order.

    `written` are the starts of what was answered, as it went out. `n_strayed` counts the connections to the place that
    a REDIRECT points to. What `respond` raises is raised again at the end of the `with`, so that a broken double is no
    passed test.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[GatewayRequest] = []
        self.written: list[bytes] = []
        self.n_strayed = 0
        self._tls = tls
        self._port = 0
        self._elsewhere = 0
        self._servers: list[asyncio.Server] = []
        self._door: asyncio.Server | None = None
        self._faults: list[Fault] = []
        self._talks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._errors: list[Exception] = []
        self._arrival = asyncio.Condition()

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def n_connected(self) -> int:
        """How many connections are open at this moment."""
        return len(self._talks)

    async def __aenter__(self) -> Self:
        await self.restore()
        stray = await asyncio.start_server(self._stray, "127.0.0.1", 0)
        self._servers.append(stray)
        self._elsewhere = stray.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._shut()
        for server in self._servers:
            server.close()
        talks = list(self._talks)
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        if self._errors:
            raise self._errors[0]

    def misbehave(self, *faults: Fault) -> None:
        """Meet the next requests with these faults, one each, in order. REFUSE shuts the door at once."""
        for fault in faults:
            if fault is Fault.REFUSE:
                self._shut()
            else:
                self._faults.append(fault)

    async def restore(self) -> None:
        """Forget faults that nobody met, and listen again, at the same address."""
        self._faults.clear()
        if self._door is None:
            self._door = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._tls)
            self._servers.append(self._door)
            self._port = self._door.sockets[0].getsockname()[1]

    async def arrived(self, count: int = 1) -> None:
        """Wait until so many requests have come; raise TimeoutError if they do not."""
        async with asyncio.timeout(_ARRIVAL_S), self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)

    def cut_idle(self) -> None:
        """End every connection at once, also those that a client keeps for its next request."""
        for writer in self._talks.values():
            connection = writer.get_extra_info("socket")
            # By the socket itself: a transport would do it a turn of the loop later.
            if connection is not None:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
                    end.shutdown(socket.SHUT_RDWR)
            writer.transport.abort()

    async def respond(self, request: GatewayRequest) -> Reply:  # noqa: ARG002 - for those who override it
        """Carry out a request and say what to answer; override."""
        return Reply(200, {})

    def _shut(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
        self.cut_idle()

    async def _stray(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_strayed += 1
        writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server runs this as a task
        self._talks[task] = writer
        try:
            await self._talk(reader, writer)
        except (OSError, httptools.HttpParserError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        except Exception as error:  # noqa: BLE001 - kept for the test, which must fail by it
            self._errors.append(error)
        finally:
            del self._talks[task]
            writer.close()
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived = _Arriving()
        parser = httptools.HttpRequestParser(arrived)
        arrived.bind(parser)
        while data := await reader.read(65_536):
            parser.feed_data(data)
            while arrived.whole:
                request = arrived.whole.pop(0)
                self.requests.append(request)
                async with self._arrival:
                    self._arrival.notify_all()
                fault = self._faults.pop(0) if self._faults else None
                await self._answer(request, fault, reader, writer)
            if writer.is_closing():
                return

    async def _answer(
        self, request: GatewayRequest, fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        reply = await self.respond(request) if fault is None or fault.is_processed else Reply()
        match fault:
            case Fault.HANG:
                await reader.read()  # until the client gives up
                writer.close()
                return
            case Fault.HTML_500 | Fault.HTML_500_AFTER:
                reply = Reply(500, b"<html><body><h1>Internal Server Error</h1></body></html>", _TAKEN)
            case Fault.TOO_MANY:
                reply = Reply(429, {"error": "too many requests"}, {"retry-after": "7"})
            case Fault.REDIRECT:
                reply = Reply(302, b"", {"location": f"http://127.0.0.1:{self._elsewhere}{request.path}"})
            case Fault.HUGE:
                reply = Reply(200, b" " * _HUGE_BYTES, _TAKEN)
            case Fault.NOT_JSON:
                reply = Reply(200, b"<html>Thank you!</html>", _TAKEN)
        raw = _raw(reply)
        self.written.append(raw[:_MOST_KEPT_BYTES])
        if fault is Fault.CLOSE_MID_BODY:
            head_end = raw.index(b"\r\n\r\n") + 4
            writer.write(raw[: head_end + max(0, len(raw) - head_end - 1) // 2])
            await writer.drain()
            writer.close()
            return
        if fault is Fault.SLOW_DRIP:
            for byte in raw:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(_DRIP_S)
            return
        writer.write(raw)
        await writer.drain()
        if reply.headers.get("connection") == "close":
            writer.close()


class _Arriving:
    """Puts requests together from what the parser tells."""

    def __init__(self) -> None:
        self.whole: list[GatewayRequest] = []
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._method = ""

    def bind(self, parser: httptools.HttpRequestParser) -> None:
        """Know the parser that tells, which alone knows the method."""
        self._parser = parser

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        parts = urlsplit(self._target.decode("latin-1"))
        self.whole.append(
            GatewayRequest(
                method=self._parser.get_method().decode("ascii"),
                path=unquote(parts.path),
                query=dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers=self._headers,
                body=bytes(self._body),
            )
        )


def _raw(reply: Reply) -> bytes:
    is_json = not isinstance(reply.body, bytes)
    body = msgspec.json.encode(reply.body) if is_json else reply.body
    assert isinstance(body, bytes)  # noqa: S101 - one of the two it is
    headers = {
        "content-type": "application/json" if is_json else "text/plain",
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in reply.headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} Said\r\n{head}\r\n".encode("latin-1") + body
