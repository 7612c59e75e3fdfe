"""What the tests of bad input share: the operations, good bodies to spoil, and what every refusal must look like."""

import json
from typing import Any

import httpx
import msgspec

from otpsvc.http.v1 import wire, wire_numbers
from tests.http.service import Service, error_of

SEND, VERIFY, VERIFY_OTP, RESEND, FORGET = "send", "verify", "verify-otp", "resend", "forget"
BODIES: dict[str, type[msgspec.Struct]] = {
    SEND: wire.SendBody,
    VERIFY: wire.VerifyBody,
    VERIFY_OTP: wire.VerifyOtpBody,
    RESEND: wire.ResendBody,
    FORGET: wire_numbers.ForgetBody,
}


def path_of(operation: str, otp_id: str) -> str:
    return {
        SEND: "/v1/otp",
        VERIFY: f"/v1/otp/{otp_id}/verify",
        VERIFY_OTP: "/v1/sms/verify-otp",
        RESEND: f"/v1/otp/{otp_id}/resend",
        FORGET: "/v1/numbers/forget",
    }[operation]


def good_body(operation: str, otp_id: str) -> dict[str, Any]:
    """A body that would be accepted, or would at least cost an attempt."""
    return {
        SEND: {"to": "+33612345678"},
        VERIFY: {"code": "0000"},
        VERIFY_OTP: {"code": "0000", "otp_id": otp_id},
        RESEND: {"session": "s"},
        FORGET: {"to": "+33612345678"},
    }[operation]


def refused(answer: httpx.Response) -> dict[str, Any]:
    """Check that this is a refusal in our shape, of a kind that tells the caller to change something."""
    assert 400 <= answer.status_code < 500, answer.text
    return error_of(answer, answer.status_code, answer.json()["error"]["code"])


def head(service: Service, path: str = "/v1/otp", *lines: str) -> bytes:
    """The head of a POST that is all right so far."""
    given = [f"{name}: {value}" for name, value in service.tester.headers.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *given, *lines, "", ""]).encode()


JSON_TYPE = "Content-Type: application/json"


def answered(data: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of an answer that came over a bare connection."""
    top, _, body = data.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 "), data
    return int(top.split()[1]), json.loads(body)
