"""A phone as the tests play it: bare HTTP over a socket, so that nothing a client library does well hides a fault."""

import asyncio
import base64
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 20.0
BASE = "/mobile/v1"
JSON_TYPE = {"Content-Type": "application/json"}
KEEP_ALIVE = ("", ":keepalive")


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the headers by lower-case name (several joined by a comma), and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The catalogue code of an error; fails for anything else."""
        error: dict[str, Any] = self.json()["error"]
        assert error["request_id"] == self.headers["x-request-id"]
        return str(error["code"])


def basic(login: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


@dataclass
class Phone:
    """Calls the service that listens on `port`; `authorization` is the header as it goes out, empty for none.

    `address` is where it calls from, one of this machine's own.
    """

    port: int
    authorization: str = ""
    address: str = "127.0.0.1"
    id: str = ""
    registered: dict[str, Any] = field(default_factory=dict)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        length: int | None = None,
    ) -> Answer:
        """Make one call: `body` as JSON, or `content` as it is, of which `length` bytes are announced."""
        data = content if content is not None else (b"" if body is None else json.dumps(body).encode())
        given = {**(JSON_TYPE if body is not None or content is not None else {}), **(headers or {})}
        shown = self.authorization if authorization is None else authorization
        if shown:
            given["Authorization"] = shown
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await self.connected()
            try:
                given["Content-Length"] = str(len(data) if length is None else length)
                writer.write(_head(method, path, given) + data)
                status, found = await _read_head(reader)
                return Answer(status, found, await reader.readexactly(int(found.get("content-length", "0"))))
            finally:
                await _close(writer)

    async def register(self, authorization: str, **body: Any) -> Answer:
        """Register, and go on as the device that this gives."""
        answer = await self.call("POST", "/device", {"name": "Pixel", **body}, authorization=authorization)
        if answer.status == 201:
            self.registered = answer.json()
            self.id = self.registered["id"]
            self.authorization = f"Bearer {self.registered['token']}"
        return answer

    async def pull(self, query: str = "") -> list[dict[str, Any]]:
        """Give the messages; fails if they are not given."""
        answer = await self.call("GET", f"/message{query}")
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.json()
        return found

    async def report(self, message_id: str, state: str, error: str | None = None) -> Answer:
        """Report one message as the app does."""
        recipient = {"phoneNumber": "+33612345678", "state": state, "error": error}
        dates = {state: "2026-01-02T03:04:05.678+01:00"}
        return await self.call(
            "PATCH", "/message", [{"id": message_id, "state": state, "recipients": [recipient], "states": dates}]
        )

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a bare connection."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0))

    def listen(self) -> "Line":
        """Open a stream, for the body of an `async with`."""
        return Line(self)


class Line:
    """An open stream of events."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        self._text = b""
        self.status = 0
        self.headers: Mapping[str, str] = {}

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(PATIENCE_S):
            self._reader, self._writer = await self._phone.connected()
            shown = {"Authorization": self._phone.authorization, "Accept": "text/event-stream"}
            self._writer.write(_head("GET", "/events", shown))
            self.status, self.headers = await _read_head(self._reader)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close(self._writer)

    async def heard(self) -> tuple[str, Any]:
        """Give the next event as name and data, a comment as an empty name and its line."""
        async with asyncio.timeout(PATIENCE_S):
            while b"\n\n" not in self._text:
                chunk = await self._chunk()
                assert chunk, "the stream has ended"
                self._text += chunk
        block, _, self._text = self._text.partition(b"\n\n")
        lines = block.decode().splitlines()
        if len(lines) == 1:
            return "", lines[0]
        fields = dict(line.split(": ", 1) for line in lines)
        assert fields.keys() == {"event", "data"}
        return fields["event"], json.loads(fields["data"])

    async def event(self, name: str) -> Any:
        """Give the data of the next event of this name, whatever comes before it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found, data = await self.heard()
                if found == name:
                    return data

    async def ended(self) -> None:
        """Wait until the service ends the stream in good order; fails if it breaks."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._chunk():
                pass
            assert await self._reader.read() == b""

    async def hang_up(self) -> None:
        """End the connection as an app does that is closed."""
        await _close(self._writer)

    async def break_off(self) -> None:
        """Reset the connection, as a network does."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        await asyncio.sleep(0)

    async def _chunk(self) -> bytes:
        size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
        return (await self._reader.readexactly(size + 2))[:-2]


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {BASE}{path} HTTP/1.1", "Host: phones.test", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join((*lines, "", "")).encode()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    top, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers: dict[str, str] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(": ")
        known = headers.get(name.lower())
        headers[name.lower()] = f"{known}, {value}" if known else value
    return int(top.split()[1]), headers


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        return
