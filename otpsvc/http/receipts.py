"""`/receipts/{sender}`: where gateways say what became of a message. Anybody may call it: nothing is believed unproved.

Each sender checks its own gateway's proof and reads its own gateway's form; in here is only what holds for all of them.
An answer tells a stranger nothing: neither which messages exist nor what was wrong with a proof. What was proved and
cannot be kept is answered 503, so that the gateway repeats it. Bodies may hold the texts we sent: never log one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from litestar import HttpMethod, Request, Response, Router, route
from litestar.params import FromPath

from otpsvc.errors import ApiError, problem
from otpsvc.faults import described
from otpsvc.http.bodies import BodyReader
from otpsvc.http.metered import CallMeter, metered
from otpsvc.http.v1.uncounted import Uncounted
from otpsvc.senders.contract import Receipt, ReceiptRefusal, ReceiptRequest, Receipts, RefusalKind

MAX_BODY_BYTES = 65_536
MAX_RECEIPTS = 1000
PARSE_TIMEOUT_S = 5.0

_REFUSALS = {
    RefusalKind.UNSUPPORTED: "RESOURCE_NOT_FOUND",
    RefusalKind.UNAUTHENTIC: "RECEIPT_REFUSED",
    RefusalKind.MALFORMED: "VALIDATION_ERROR",
}

_log = logging.getLogger(__name__)

# The event loop itself holds tasks by a thread only.
_abandoned: set[asyncio.Task[Receipts | ReceiptRefusal]] = set()

Take = Callable[[str, Sequence[Receipt]], Awaitable[None]]


class ReceiptParser(Protocol):
    """A sender, as far as receipts go."""

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the proof, then read."""
        ...


def receipts_router(
    senders: Mapping[str, ReceiptParser],
    take: Take,
    *,
    public_url: str | None,
    body_timeout_s: float,
    metrics: CallMeter | None = None,
) -> Router:
    """Make the routes over the senders by name; `take` keeps what they read, or raises ApiError."""
    meter = metrics or Uncounted()
    bodies = BodyReader(max_bytes=MAX_BODY_BYTES, timeout_s=body_timeout_s)

    async def taken(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
        sender = senders.get(name)
        if sender is None:
            raise problem("RESOURCE_NOT_FOUND")
        body = await bodies.read_bytes(request)
        read = await _parsed(name, sender, _received(request, body, public_url))
        if isinstance(read, ReceiptRefusal):
            raise problem(_REFUSALS[read.kind])
        await take(name, read.items)
        return Response(read.answer, media_type="text/plain")

    @route(
        ["/{sender_name:str}", "/{sender_name:str}/{token:str}"],
        http_method=[HttpMethod.GET, HttpMethod.POST],
        status_code=200,
        include_in_schema=False,
    )
    @metered(meter, "receipt", "taken")
    async def receive(request: Request[Any, Any, Any], sender_name: FromPath[str]) -> Response[bytes]:
        """Take receipts from a gateway; the token, where there is one, is the sender's to check."""
        return await taken(request, sender_name)

    return Router("/receipts", route_handlers=[receive])


def _received(request: Request[Any, Any, Any], body: bytes, public_url: str | None) -> ReceiptRequest:
    """Give the request as the gateway made it: some sign the address that they called, query included."""
    raw_path = request.scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
    query = request.scope.get("query_string", b"").decode("latin-1")
    base = public_url or f"{request.url.scheme}://{request.headers.get('host', '')}"
    return ReceiptRequest(
        method=request.method,
        url=f"{base}{raw_path}" + (f"?{query}" if query else ""),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
    )


async def _parsed(name: str, sender: ReceiptParser, received: ReceiptRequest) -> Receipts | ReceiptRefusal:
    """Let the sender read, whatever it does meanwhile: it may be a stranger's code over a stranger's bytes."""
    # A task of its own: a stranger's code may swallow its cancellation, or raise one that is not ours.
    task = asyncio.create_task(_read(name, sender, received))
    try:
        await asyncio.wait({task}, timeout=PARSE_TIMEOUT_S)
    finally:
        if not task.done():
            _abandoned.add(task)
            task.add_done_callback(_forget)
            task.cancel()
    if not task.done() or task.cancelled():
        _log.error("sender %s did not read a receipt within %g s", name, PARSE_TIMEOUT_S)
        return ReceiptRefusal(RefusalKind.MALFORMED)
    return task.result()


async def _read(name: str, sender: ReceiptParser, received: ReceiptRequest) -> Receipts | ReceiptRefusal:
    try:
        read: object = await sender.parse_receipt(received)
        if isinstance(read, Receipts):
            # Structs do not check their fields by themselves.
            read = msgspec.convert(msgspec.to_builtins(read), Receipts)
    except ApiError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a fault of a sender is no reason for a 500 to a gateway
        _log.error("sender %s failed to read a receipt: %s", name, described(error))
        return ReceiptRefusal(RefusalKind.MALFORMED)
    if isinstance(read, ReceiptRefusal) and read.kind in _REFUSALS:
        return read
    if isinstance(read, Receipts) and len(read.items) <= MAX_RECEIPTS:
        return read
    return ReceiptRefusal(RefusalKind.MALFORMED)


def _forget(task: asyncio.Task[Receipts | ReceiptRefusal]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        # Nobody waits for it any more, and then its fault is nobody's.
        task.exception()
