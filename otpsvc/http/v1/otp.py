"""The OTP calls: `/v1/otp` and, on the same handlers, ZimSend's spellings under `/v1/sms`."""

from typing import Any

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.params import FromPath

from otpsvc.clients.auth import Authenticator
from otpsvc.events.lookup import OtpLookup
from otpsvc.http.auth import caller_of, device_of
from otpsvc.http.bodies import BodyReader, idempotency_key
from otpsvc.http.metered import CallMeter, ended_as, metered
from otpsvc.http.openapi import BODY_ERRORS, described
from otpsvc.http.problems import JSON, language
from otpsvc.http.v1 import wire
from otpsvc.http.v1.uncounted import Uncounted
from otpsvc.otp.model import SentOtp, VerifiedOtp, VerifyRequest, WrongGuess
from otpsvc.otp.service import OtpService

Call = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode
_SEND = msgspec.json.Decoder(wire.SendBody)
_VERIFY = msgspec.json.Decoder(wire.VerifyBody)
_VERIFY_OTP = msgspec.json.Decoder(wire.VerifyOtpBody)
_RESEND = msgspec.json.Decoder(wire.ResendBody)

_RIGHT = {
    "en": "The code is right.",
    "fr": "Le code est correct.",
    "it": "Il codice è corretto.",
    "ru": "Код верный.",
}
_WRONG = {
    "en": "The code is wrong.",
    "fr": "Le code est incorrect.",
    "it": "Il codice è errato.",
    "ru": "Код неверный.",
}

_LIMIT_ERRORS = ("OTP_COOLDOWN", "OTP_RATE_LIMIT", "RATE_LIMIT_EXCEEDED", "IDEMPOTENCY_CONFLICT")
_PHONE_ERRORS = ("INVALID_DEVICE_ID", "DEVICE_OFFLINE", "NO_DEVICE_AVAILABLE")
_SEND_OPERATION = described(
    body=wire.SendBody,
    answers=[wire.SendAnswer],
    errors=[
        *BODY_ERRORS,
        "INVALID_PHONE_NUMBER",
        "INVALID_TEMPLATE",
        "MESSAGE_TOO_LONG",
        *_LIMIT_ERRORS,
        "OTP_LOCKED_OUT",
        *_PHONE_ERRORS,
    ],
    takes_idempotency_key=True,
    takes_device_id=True,
)
_VERIFY_ERRORS = (
    *BODY_ERRORS,
    "INVALID_PHONE_NUMBER",
    "INVALID_OTP_FORMAT",
    "OTP_NOT_FOUND",
    "OTP_EXPIRED",
    "OTP_MAX_ATTEMPTS",
    "IDEMPOTENCY_CONFLICT",
)
_VERIFY_ANSWERS: tuple[type[msgspec.Struct], ...] = (wire.VerifiedAnswer, wire.WrongAnswer)


def otp_router(
    service: OtpService,
    lookup: OtpLookup,
    authenticator: Authenticator,
    bodies: BodyReader,
    metrics: CallMeter | None = None,
) -> Router:
    """Make the routes over the services; what they need is handed in, nothing is looked up."""
    meter = metrics or Uncounted()

    @post(["/otp", "/sms/send-otp"], status_code=200, operation_class=_SEND_OPERATION, summary="Send a code")
    @metered(meter, "send", "accepted")
    async def send(request: Call) -> Response[bytes]:
        """Make a code, send it to `to`, answer with all that a user interface needs to show."""
        caller = await caller_of(request, authenticator)
        body = await bodies.read(request, _SEND)
        return _sent(request, await service.send(caller, body.to_request(device_of(request)), idempotency_key(request)))

    @post(
        "/otp/{otp_id:str}/verify",
        status_code=200,
        operation_class=described(
            body=wire.VerifyBody, answers=_VERIFY_ANSWERS, errors=_VERIFY_ERRORS, takes_idempotency_key=True
        ),
        summary="Verify a code",
    )
    @metered(meter, "verify", "right")
    async def verify(request: Call, otp_id: FromPath[str]) -> Response[bytes]:
        """Compare one guess. A right one consumes the code; a wrong one answers 200 with `valid: false`."""
        caller = await caller_of(request, authenticator)
        body = await bodies.read(request, _VERIFY)
        return _verified(request, await service.verify(caller, body.to_request(otp_id), idempotency_key(request)))

    @post(
        "/sms/verify-otp",
        status_code=200,
        operation_class=described(
            body=wire.VerifyOtpBody, answers=_VERIFY_ANSWERS, errors=_VERIFY_ERRORS, takes_idempotency_key=True
        ),
        summary="Verify a code (ZimSend's spelling)",
    )
    @metered(meter, "verify", "right")
    async def verify_otp(request: Call) -> Response[bytes]:
        """Compare one guess; the OTP's id is in the body."""
        caller = await caller_of(request, authenticator)
        body = await bodies.read(request, _VERIFY_OTP)
        guess: VerifyRequest = body.to_request(body.otp_id)
        return _verified(request, await service.verify(caller, guess, idempotency_key(request)))

    @post(
        "/otp/{otp_id:str}/resend",
        status_code=200,
        operation_class=described(
            body=wire.ResendBody,
            is_body_required=False,
            answers=[wire.SendAnswer],
            errors=[
                *BODY_ERRORS,
                "OTP_NOT_FOUND",
                "OTP_EXPIRED",
                "OTP_MAX_ATTEMPTS",
                "OTP_RESEND_LIMIT",
                *_LIMIT_ERRORS,
                *_PHONE_ERRORS,
            ],
            takes_idempotency_key=True,
        ),
        summary="Send another code for the same verification",
    )
    @metered(meter, "resend", "accepted")
    async def resend(request: Call, otp_id: FromPath[str]) -> Response[bytes]:
        """Make a fresh code with a fresh life for the same id. Used attempts stay used; at most five times."""
        caller = await caller_of(request, authenticator)
        body = await bodies.read_optional(request, _RESEND, wire.ResendBody())
        return _sent(request, await service.resend(caller, body.to_request(otp_id), idempotency_key(request)))

    @get(
        "/otp/{otp_id:str}",
        operation_class=described(answers=[wire.OtpHistoryAnswer], errors=["OTP_NOT_FOUND"]),
        summary="Look at a verification",
    )
    @metered(meter, "get", "found")
    async def look(request: Call, otp_id: FromPath[str]) -> Response[bytes]:
        """Give the status and times of one verification, and what happened to it.

        The history follows what happens by a moment; it is null while it cannot be read.
        """
        caller = await caller_of(request, authenticator)
        return _answer(wire.OtpHistoryAnswer.of_looked(await lookup.look(caller, otp_id)))

    @delete(
        "/otp/{otp_id:str}",
        status_code=200,
        operation_class=described(answers=[wire.OtpAnswer], errors=["OTP_NOT_FOUND", "OTP_NOT_PENDING"]),
        summary="Cancel a verification",
    )
    @metered(meter, "cancel", "cancelled")
    async def cancel(request: Call, otp_id: FromPath[str]) -> Response[bytes]:
        """End a pending verification; its code never verifies again. Cancelling twice is the same as once."""
        caller = await caller_of(request, authenticator)
        return _answer(wire.OtpAnswer.of(await service.cancel(caller, otp_id)))

    return Router("/v1", route_handlers=[send, verify, verify_otp, resend, look, cancel], tags=["otp"])


def _sent(request: Call, sent: SentOtp) -> Response[bytes]:
    if sent.is_replay:
        ended_as(request, "replayed")
    return _answer(wire.SendAnswer.of(sent), is_replay=sent.is_replay)


def _verified(request: Call, outcome: VerifiedOtp | WrongGuess) -> Response[bytes]:
    if outcome.is_replay:
        ended_as(request, "replayed")
    elif isinstance(outcome, WrongGuess):
        ended_as(request, "wrong")
    if isinstance(outcome, VerifiedOtp):
        answer: msgspec.Struct = wire.VerifiedAnswer.of(outcome, _RIGHT[language(request)])
    else:
        answer = wire.WrongAnswer.of(outcome, _WRONG[language(request)])
    return _answer(answer, is_replay=outcome.is_replay)


def _answer(body: msgspec.Struct, *, is_replay: bool = False) -> Response[bytes]:
    headers = {"Idempotent-Replayed": "true"} if is_replay else None
    return Response(_encode(body), media_type=JSON, headers=headers)
