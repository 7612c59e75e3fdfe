"""The phone's side of the connection: every call of the mobile protocol, as plain methods.

It decides nothing and retries nothing: whether and when to call again is the phone's business (`phone.py`,
`reports.py`). It follows no redirect, reads no proxy from the environment, and puts nothing of a request or an answer
into an exception: both hold tokens and texts.
"""

import asyncio
import base64
import contextlib
import functools
import ipaddress
import logging
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx2
import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.handset.stream import EventReader, ServerEvent
from otpsvc.handset.wire import Registered, Report, SimCard, WireMessage, read_messages, registration

T = TypeVar("T")

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_BASE = "/mobile/v1"
_CONNECT_S = 10.0
_MOST_ANSWER_BYTES = 8_000_000
# Servers close an idle connection after a few seconds; one that is about to be closed loses a request.
_LIMITS = httpx2.Limits(max_connections=8, max_keepalive_connections=2, keepalive_expiry=4.0)
_HEADERS = {"accept-encoding": "identity", "user-agent": "otpsvc-handset"}

for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class LinkError(Exception):
    """A call did not succeed. The message is a fixed phrase of ours."""


class NoServer(LinkError):
    """No answer came; the call may have been carried out."""


class Refused(LinkError):
    """The server answered with another status than success, or with something that is no answer to this call."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status


class Login(msgspec.Struct, frozen=True):
    """What a phone proves itself with before it has a token: login and password, or a one-time code."""

    login: str = ""
    password: str = ""
    code: str = ""

    def __repr__(self) -> str:
        """Name the login only."""
        return f"Login({self.login!r})"

    @property
    def header(self) -> str:
        """The Authorization header that says it; empty where there is nothing to say."""
        if self.login:
            return "Basic " + base64.b64encode(f"{self.login}:{self.password}".encode()).decode("ascii")
        return f"Code {self.code}" if self.code else ""


def server_address(url: str, *, allow_http: bool = False) -> str:
    """Return the base of all calls for the address that a person typed; raise ConfigurationError.

    Plain http carries tokens and codes for everybody to read: only this machine itself may be talked to like that,
    unless `allow_http` says otherwise.
    """
    try:
        target = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, UnicodeError):
        raise ConfigurationError("the server's address is not a URL") from None
    if target.scheme not in {"https", "http"} or not _HOST.fullmatch(target.raw_host.decode("ascii")):
        raise ConfigurationError("the server's address must begin with https://")
    if target.userinfo or target.query or target.fragment:
        raise ConfigurationError("the server's address may have no user name, query or fragment")
    if target.scheme == "http" and not allow_http and not _is_loopback(target.host):
        raise ConfigurationError("the server's address must begin with https://, or use --allow-http")
    path = target.path.rstrip("/").removesuffix(_BASE)
    return f"{target.scheme}://{target.netloc.decode('ascii')}{path}{_BASE}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServerLink:
    """Connections of one phone to its server, at what `server_address` returned. Use as `async with`.

    Every call raises NoServer or Refused, nothing else, and may be cancelled. `silence_s`: how long the stream of
    events may say nothing, not even a comment, before it counts as broken. `call_s` bounds any other call.
    """

    def __init__(
        self, base: str, *, silence_s: float = 3600.0, call_s: float = 30.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.base = base
        self._silence_s = silence_s
        self._call_s = call_s
        self._tls = tls
        self._client: httpx2.AsyncClient | None = None
        self._line: Any = None

    async def __aenter__(self) -> Self:
        # Plain http needs no certificates, and a hundred phones can do with one set of them.
        verify = (self._tls or _certificates()) if self.base.startswith("https:") else False
        self._client = httpx2.AsyncClient(
            headers=_HEADERS,
            verify=verify,
            trust_env=False,
            limits=_LIMITS,
            timeout=httpx2.Timeout(self._call_s, connect=_CONNECT_S),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def register(self, login: Login, name: str, sims: Sequence[SimCard]) -> Registered:
        """`POST /device`."""
        body = await self._call("POST", "/device", login.header, registration(name, sims))
        return _read(body, Registered)

    async def device(self, token: str = "") -> Mapping[str, Any]:
        """`GET /device`: our public address, and with a token what the server knows of us."""
        return _read(await self._call("GET", "/device", _bearer(token) if token else ""), dict[str, Any])

    async def update(self, token: str, device_id: str, sims: Sequence[SimCard]) -> None:
        """`PATCH /device`: tell the SIMs, and find out whether the token is still good."""
        await self._call("PATCH", "/device", _bearer(token), {"id": device_id, "simCards": list(sims)})

    async def messages(self, token: str, *, order: str = "fifo") -> list[WireMessage]:
        """`GET /message`: what this phone has to send."""
        body = await self._call("GET", f"/message?order={order}", _bearer(token))
        try:
            return read_messages(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Refused(200) from None

    async def report(self, token: str, reports: Sequence[Report]) -> None:
        """`PATCH /message`."""
        await self._call("PATCH", "/message", _bearer(token), list(reports))

    async def settings(self, token: str) -> Mapping[str, Any]:
        """`GET /settings`."""
        return _read(await self._call("GET", "/settings", _bearer(token)), dict[str, Any])

    async def webhooks(self, token: str) -> list[Any]:
        """`GET /webhooks`."""
        return _read(await self._call("GET", "/webhooks", _bearer(token)), list[Any])

    async def enrolment_code(self, login: Login) -> Mapping[str, Any]:
        """`GET /user/code`: a one-time code and until when it is good."""
        return _read(await self._call("GET", "/user/code", login.header), dict[str, Any])

    async def change_password(self, token: str, current: str, new: str) -> None:
        """`PATCH /user/password`."""
        await self._call("PATCH", "/user/password", _bearer(token), {"currentPassword": current, "newPassword": new})

    async def events(self, token: str) -> AsyncGenerator[ServerEvent | None]:
        """`GET /events`: None once the stream is open, then its events until the server ends it."""
        client = self._opened()
        headers = {"authorization": _bearer(token), "accept": "text/event-stream", "cache-control": "no-cache"}
        timeout = httpx2.Timeout(self._call_s, connect=_CONNECT_S, read=self._silence_s)
        reader = EventReader()
        try:
            async with client.stream("GET", f"{self.base}/events", headers=headers, timeout=timeout) as answer:
                kind = answer.headers.get("content-type", "").partition(";")[0].strip()
                if answer.status_code != 200 or kind != "text/event-stream":
                    raise Refused(answer.status_code)
                self._line = answer.extensions.get("network_stream")
                yield None
                async for piece in answer.aiter_raw():
                    for event in reader.feed(piece):
                        yield event
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError):
            raise NoServer("the stream broke") from None
        finally:
            self._line = None

    def break_line(self) -> None:
        """Let the stream of events end as by a lost network: without the good-bye that a closed app says."""
        line, self._line = self._line, None
        end = line.get_extra_info("socket") if line is not None else None
        with contextlib.suppress(OSError):
            if end is not None and end.fileno() >= 0:
                with socket.socket(fileno=os.dup(end.fileno())) as same:
                    same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _call(self, method: str, path: str, authorization: str, body: object = None) -> bytes:
        client = self._opened()
        headers = {"authorization": authorization} if authorization else {}
        content = b""
        if body is not None:
            content = msgspec.json.encode(body)
            headers["content-type"] = "application/json"
        answered = bytearray()
        try:
            async with (
                asyncio.timeout(self._call_s),
                client.stream(method, f"{self.base}{path}", headers=headers, content=content) as answer,
            ):
                async for piece in answer.aiter_raw():
                    answered += piece
                    if len(answered) > _MOST_ANSWER_BYTES:
                        raise NoServer("the answer is too large")
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError):
            raise NoServer("the server does not answer") from None
        if not 200 <= answer.status_code < 300:
            raise Refused(answer.status_code)
        return bytes(answered)

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            raise NoServer("the phone is switched off")
        return self._client


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


def _bearer(token: str) -> str:
    return f"Bearer {token}"


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(200) from None
