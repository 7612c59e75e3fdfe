"""The HTTP client that senders call gateways with: one request, and a truthful word on whether it may have arrived.

It exists because that word decides whether another sender may carry the message. It never retries, never follows a
redirect, never reads proxies or cookies, never logs, and puts nothing of a request or an answer into an exception.
Where it connects to is judged in `pinned.py`.
"""

import asyncio
import base64
import email.utils
import logging
import ssl
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any
from urllib.parse import urlencode

import httpcore2
import httpx2
import msgspec

from otpsvc import __version__
from otpsvc.senders.addresses import AddressRefused, NotSent, Resolver, SystemResolver
from otpsvc.senders.contract import Outcome, Rejected, RejectionKind, RetryLater, Unknown
from otpsvc.senders.pinned import HeardStream, PinnedBackend

__all__ = ("AddressRefused", "GatewayAnswer", "GatewayClient", "NoAnswer", "NotSent", "outcome_of")

NOT_SENT_RETRY_S = 2.0
_MAX_CONNECTIONS = 100
# Common servers close an idle connection after five seconds. One that was about to be closed loses a request of which
# nobody knows the end, so we let go first.
_KEEPALIVE_S = 4.0
_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": f"otpsvc/{__version__}"}
_MOST_HEAD_BYTES = 131_072
_MOST_FRAMING = 8  # an answer in chunks of a byte each takes six for one
_LEFT_FROM = "http11.send_request_headers.started"

# At DEBUG the library writes down the headers of answers.
logging.getLogger("httpcore2").setLevel(logging.WARNING)


class NoAnswer(Exception):
    """The request may have arrived, and nobody can say what became of it. `reason` is a fixed phrase of ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GatewayAnswer(msgspec.Struct, frozen=True):
    """A whole answer of a gateway. Header names are lower case; of a repeated one the last value counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Show the status alone: gateways echo what they were sent."""
        return f"GatewayAnswer({self.status})"

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status < 300

    def json(self) -> Any | None:
        """Return the body read as JSON; None where it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    @property
    def retry_after_s(self) -> float | None:
        """The pause the gateway asks for, 0.1 to 3600 s; None where it says none that can be read."""
        text = self.headers.get("retry-after", "").strip()
        try:
            after_s = float(text) if text[:1].isdigit() else _time_of(text) - self._now()
        except (ValueError, OverflowError):
            return None
        return min(max(after_s, 0.1), 3600.0)

    def _now(self) -> float:
        """By the gateway's own clock where it shows it, so that a wrong one does no harm."""
        try:
            return _time_of(self.headers.get("date", ""))
        except (ValueError, OverflowError):
            return time.time()


class GatewayClient:
    """Connections to one gateway, kept for reuse. `timeout_s` bounds a whole call, from the name to the last byte.

    `allow_private` allows private addresses and plain http, for gateways in one's own network. `tls` replaces the
    machine's trusted certificates, `resolver` its resolver.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 8.0,
        allow_private: bool = False,
        max_answer_bytes: int = 65_536,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._max_answer_bytes = max_answer_bytes
        self._tls = tls
        self._resolver = resolver
        self._own_resolver: SystemResolver | None = None
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def open(self) -> None:
        """Make the pool; nothing is connected yet. Opening an open client changes nothing."""
        if self._pool is not None:
            return
        if self._resolver is None:
            self._own_resolver = SystemResolver()
        resolver = self._resolver or self._own_resolver
        assert resolver is not None  # noqa: S101 - one of the two was just made sure of
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls or httpcore2.default_ssl_context(),
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=20,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=PinnedBackend(
                resolver,
                allow_private=self._allow_private,
                most_bytes=_MOST_HEAD_BYTES + _MOST_FRAMING * self._max_answer_bytes,
            ),
        )

    async def close(self) -> None:
        """Close every connection; may be called again, and without `open`."""
        pool, self._pool = self._pool, None
        if self._own_resolver is not None:
            self._own_resolver.close()
            self._own_resolver = None
        if pool is not None:
            await pool.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        basic: tuple[str, str] | None = None,
        bearer: str | None = None,
    ) -> GatewayAnswer:
        """Make one call and return its answer, whatever its status.

        At most one of `json` (any value msgspec can encode), `form` and `content` is the body. Raises NotSent,
        AddressRefused or NoAnswer, nothing else; may be cancelled.
        """
        pool = self._pool
        if pool is None:
            raise NotSent("client not open")
        body, kind = _body(json, form, content)
        target = _target(url, allow_private=self._allow_private)
        sent_headers = _headers(headers, kind, body, target, basic, bearer, has_body=method not in {"GET", "HEAD"})
        has_left = False

        async def watch(step: str, _info: Mapping[str, Any]) -> None:
            nonlocal has_left
            has_left = has_left or step == _LEFT_FROM

        # Less than the whole, so that a gateway that does not answer the door leaves time to say that nothing left.
        extensions = {"trace": watch, "timeout": {"connect": self._timeout_s * 0.6}}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                pool.stream(
                    method,
                    httpcore2.URL(
                        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
                    ),
                    headers=sent_headers,
                    content=body or None,
                    extensions=extensions,
                ) as answer,
            ):
                return await self._read(answer)
        except (NotSent, NoAnswer):
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke, only one thing matters: had the request left?
            reason = _REASONS.get(type(error), "connection failed")
            if has_left:
                raise NoAnswer(reason) from None
            raise NotSent(reason) from None

    async def _read(self, answer: httpcore2.Response) -> GatewayAnswer:
        stream = answer.extensions["network_stream"]
        if isinstance(stream, HeardStream) and not stream.has_heard:
            # Left over from the question before. As it stays unread, the connection is not used again.
            raise NoAnswer("answer before the question")
        body = bytearray()
        async for chunk in answer.aiter_stream():
            body += chunk
            if len(body) > self._max_answer_bytes:
                raise NoAnswer("answer too large")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
        return GatewayAnswer(answer.status, headers, bytes(body))


def outcome_of(error: NotSent | NoAnswer) -> Outcome:
    """Say what a call that ended without an answer means for its message."""
    match error:
        case AddressRefused():
            return Rejected(RejectionKind.MISCONFIGURED, error.reason)
        case NotSent():
            return RetryLater(NOT_SENT_RETRY_S, error.reason, is_fault=True)
        case NoAnswer():
            return Unknown(error.reason)


_REASONS: Mapping[type[Exception], str] = {
    TimeoutError: "time-out",
    httpcore2.ConnectTimeout: "connect time-out",
    httpcore2.ConnectError: "connection or TLS refused",
    httpcore2.RemoteProtocolError: "no whole answer",
    httpcore2.ReadError: "connection cut",
    httpcore2.WriteError: "connection cut",
}


def _target(url: str, *, allow_private: bool) -> httpx2.URL:
    try:
        target = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError, TypeError):
        raise AddressRefused("not a URL") from None
    if target.scheme not in ({"https", "http"} if allow_private else {"https"}) or not target.host:
        raise AddressRefused("scheme not allowed")
    if target.userinfo:
        raise AddressRefused("user name in URL")
    return target


def _body(json: object, form: Mapping[str, str] | None, content: bytes | None) -> tuple[bytes, str | None]:
    if form is not None:
        return urlencode(form).encode("ascii"), "application/x-www-form-urlencoded"
    if content is not None:
        return content, None
    if json is not None:
        return msgspec.json.encode(json), "application/json"
    return b"", None


def _headers(
    given: Mapping[str, str] | None,
    kind: str | None,
    body: bytes,
    target: httpx2.URL,
    basic: tuple[str, str] | None,
    bearer: str | None,
    *,
    has_body: bool,
) -> list[tuple[bytes, bytes]]:
    headers = {"host": target.netloc.decode("ascii"), **_HEADERS}
    if kind is not None:
        headers["content-type"] = kind
    if basic is not None:
        headers["authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode("ascii")
    if bearer is not None:
        headers["authorization"] = f"Bearer {bearer}"
    headers |= {name.lower(): value for name, value in (given or {}).items()}
    if body or has_body:
        headers["content-length"] = str(len(body))
    # A line end in a value would be a header of somebody else's making.
    if not all(name.isascii() and value.isascii() and value.isprintable() for name, value in headers.items()):
        raise NotSent("a header cannot be sent")
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]


def _time_of(date: str) -> float:
    try:
        moment = email.utils.parsedate_to_datetime(date)
    except (TypeError, IndexError):
        raise ValueError("not a date") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
