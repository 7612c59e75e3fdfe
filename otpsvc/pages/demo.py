"""`/demo`: a sign-up form beside the simulated phone, for whoever wants to see a verification. Under `dev` only.

The page's calls ask the same service as the API does, as the client of `dev`: no key ever reaches the browser. Rules
stand in the service; nothing is decided here. The phone on the page is that of `pages/phone.py`, whose routes must be
mounted too.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.params import FromPath

from otpsvc.clients.model import Principal
from otpsvc.clock import Clock, SystemClock
from otpsvc.otp.model import (
    OtpView,
    ResendRequest,
    SendRequest,
    SentOtp,
    VerifiedOtp,
    VerifyRequest,
    WrongGuess,
)
from otpsvc.pages.guards import host_of, refuse_foreign_names, refuse_foreign_pages
from otpsvc.pages.html import HTML, STRICT_HEADERS, html, page_part
from otpsvc.pages.phone import HEAD, phone_part
from otpsvc.pages.ports import Bodies

PURPOSE = "registration"

_HEAD = HEAD + (
    '<link rel="stylesheet" href="/dev/assets/demo.css"><script type="module" src="/dev/assets/demo.js"></script>'
)

_Call = Request[Any, Any, Any]
# The page makes one for each thing that its user asks for, and says it again when it had no answer.
_Operation = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9-]+$")]


class Verifications(Protocol):
    """What the demo needs of `OtpService`."""

    async def send(self, caller: Principal, request: SendRequest, idempotency_key: str | None = None) -> SentOtp:
        """Make a code for a number and put its message on the way."""
        ...

    async def resend(self, caller: Principal, request: ResendRequest, idempotency_key: str | None = None) -> SentOtp:
        """Put a fresh code on a pending OTP."""
        ...

    async def verify(
        self, caller: Principal, request: VerifyRequest, idempotency_key: str | None = None
    ) -> VerifiedOtp | WrongGuess:
        """Count one guess and compare it."""
        ...

    async def get(self, caller: Principal, otp_id: str) -> OtpView:
        """Give one OTP as its owner may see it."""
        ...


class SendBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /demo/send`."""

    to: str
    operation: _Operation


class VerifyBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /demo/verify`."""

    otp_id: str
    code: str
    operation: _Operation


class ResendBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /demo/resend`."""

    otp_id: str
    operation: _Operation


class SentAnswer(msgspec.Struct, kw_only=True):
    """What a send or resend answers: the API's fields, and how many seconds are left, for clocks that disagree."""

    success: bool = True
    otp_id: str
    message_id: str
    to: str
    status: str
    code_length: int
    attempts_remaining: int
    expires_at: datetime
    resend_at: datetime
    expires_in_s: float
    resend_in_s: float


class LookAnswer(SentAnswer, kw_only=True):
    """What `GET /demo/otp/{otp_id}` answers: how far the code and its message are."""

    message_status: str | None
    message_reason: str | None
    resends_remaining: int


class VerifyAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a guess answers; `attempts_remaining` is there for a wrong one, `to` and `verified_at` for the right one."""

    success: bool
    valid: bool
    otp_id: str
    attempts_remaining: int | None = None
    to: str | None = None
    verified_at: datetime | None = None


_SEND = msgspec.json.Decoder(SendBody)
_VERIFY = msgspec.json.Decoder(VerifyBody)
_RESEND = msgspec.json.Decoder(ResendBody)


def demo_router(
    otp: Verifications, principal: Callable[[], Principal], bodies: Bodies, *, clock: Clock | None = None
) -> Router:
    """Make the page and its calls; `principal` gives the client that it speaks for, `clock` the seconds left."""
    time = clock or SystemClock()

    @get("/", include_in_schema=False, sync_to_thread=False)
    def page() -> Response[str]:
        body = page_part("demo.html").replace("<!-- phone -->", phone_part())
        return Response(html("Verify your number – otpsvc demo", body, head=_HEAD), media_type=HTML)

    @post("/send", status_code=200, include_in_schema=False, guards=[refuse_foreign_pages])
    async def send(request: _Call) -> Response[bytes]:
        body = await bodies.read(request, _SEND)
        caller = principal()
        asked = SendRequest(to=body.to, purpose=PURPOSE, template=template(host_of(request), caller.policy.ttl_s))
        return _answer(_sent(await otp.send(caller, asked, body.operation), time))

    @post("/resend", status_code=200, include_in_schema=False, guards=[refuse_foreign_pages])
    async def resend(request: _Call) -> Response[bytes]:
        body = await bodies.read(request, _RESEND)
        return _answer(_sent(await otp.resend(principal(), ResendRequest(otp_id=body.otp_id), body.operation), time))

    @post("/verify", status_code=200, include_in_schema=False, guards=[refuse_foreign_pages])
    async def verify(request: _Call) -> Response[bytes]:
        body = await bodies.read(request, _VERIFY)
        guess = VerifyRequest(otp_id=body.otp_id, code=body.code, purpose=PURPOSE)
        return _answer(_judged(await otp.verify(principal(), guess, body.operation)))

    @get("/otp/{otp_id:str}", include_in_schema=False, guards=[refuse_foreign_pages])
    async def look(otp_id: FromPath[str]) -> Response[bytes]:
        return _answer(_looked(await otp.get(principal(), otp_id), time))

    return Router(
        "/demo",
        route_handlers=[page, send, resend, verify, look],
        guards=[refuse_foreign_names],
        response_headers=STRICT_HEADERS,
    )


def template(host: str, ttl_s: int) -> str:
    """Write the text whose last line lets a browser on `host` offer the code by itself (WebOTP).

    A text holds its code once, so the words point to that line.
    """
    minutes, seconds = divmod(ttl_s, 60)
    life = f"{ttl_s} seconds" if seconds else f"{minutes} minute{'' if minutes == 1 else 's'}"
    return f"Your sign-up code is below. It lasts {life}. Never share it.\n\n@{host.partition('%')[0]} #{{{{code}}}}"


def _sent(sent: SentOtp, clock: Clock) -> SentAnswer:
    return SentAnswer(
        otp_id=sent.otp_id,
        message_id=sent.message_id,
        to=sent.to,
        status=sent.status,
        code_length=sent.code_length,
        attempts_remaining=sent.attempts_remaining,
        expires_at=_utc(sent.expires_at),
        resend_at=_utc(sent.resend_at),
        expires_in_s=_seconds_to(sent.expires_at, clock),
        resend_in_s=_seconds_to(sent.resend_at, clock),
    )


def _looked(view: OtpView, clock: Clock) -> LookAnswer:
    return LookAnswer(
        otp_id=view.otp_id,
        message_id=view.message_id,
        to=view.to,
        status=view.status,
        code_length=view.code_length,
        attempts_remaining=view.attempts_remaining,
        expires_at=_utc(view.expires_at),
        resend_at=_utc(view.resend_at),
        expires_in_s=_seconds_to(view.expires_at, clock),
        resend_in_s=_seconds_to(view.resend_at, clock),
        message_status=view.message_status,
        message_reason=view.message_reason,
        resends_remaining=view.resends_remaining,
    )


def _judged(outcome: VerifiedOtp | WrongGuess) -> VerifyAnswer:
    if isinstance(outcome, WrongGuess):
        return VerifyAnswer(
            success=True, valid=False, otp_id=outcome.otp_id, attempts_remaining=outcome.attempts_remaining
        )
    return VerifyAnswer(
        success=True, valid=True, otp_id=outcome.otp_id, to=outcome.to, verified_at=_utc(outcome.verified_at)
    )


def _answer(body: msgspec.Struct) -> Response[bytes]:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _seconds_to(at_ms: int, clock: Clock) -> float:
    return max(0.0, round(at_ms / 1000 - clock.time(), 3))


def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
