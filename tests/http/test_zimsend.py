"""ZimSend's spellings of the same calls: its clients work unchanged."""

from datetime import datetime

import httpx
import pytest

from tests.http.service import SEND_FIELDS, Service, error_of, new_number


def life_s(answer: httpx.Response) -> float:
    """How long a code lives that was just sent, to the second."""
    sent = answer.json()
    ends_at, resend_at = (datetime.fromisoformat(sent[name]) for name in ("expires_at", "resend_at"))
    return (ends_at - resend_at).total_seconds()


@pytest.mark.parametrize(
    ("fields", "length", "lifetime_s"),
    [
        ({}, 6, 300),
        ({"length": 4, "expiry": 60}, 4, 60),
        ({"code_length": 10, "expiry_minutes": 30}, 10, 1800),
        ({"code_length": 8, "length": 8, "expiry": 120, "expiry_minutes": 2, "ttl_s": 120}, 8, 120),
        (
            {
                "length": None, "expiry": None, "code_length": None, "expiry_minutes": None, "ttl_s": None,
                "template": None, "metadata": None, "webhook_url": None, "purpose": None, "locale": None,
                "session": None, "end_user_ip": None,
            },
            6,
            300,
        ),
    ],
)  # fmt: skip
def test_both_of_its_variants_are_read(
    service: Service, fields: dict[str, object], length: int, lifetime_s: int
) -> None:
    sent = service.post("/v1/sms/send-otp", {"to": new_number(), **fields})
    assert sent.status_code == 200, sent.text
    assert sent.json().keys() == SEND_FIELDS
    assert sent.json()["code_length"] == length
    assert life_s(sent) == lifetime_s  # the tester has no cooldown, so `resend_at` is now
    code = service.code(sent)
    assert len(code) == length
    body = {"otp_id": sent.json()["otp_id"], "code": code}
    assert service.post("/v1/sms/verify-otp", body).json()["valid"] is True


@pytest.mark.parametrize(
    "fields",
    [
        {"code_length": 6, "length": 8},
        {"expiry": 60, "expiry_minutes": 2},
        {"ttl_s": 60, "expiry": 61},
        {"ttl_s": 60, "expiry_minutes": 2},
    ],
)
def test_spellings_that_disagree_are_refused(service: Service, fields: dict[str, object]) -> None:
    for path in ("/v1/otp", "/v1/sms/send-otp"):
        error = error_of(service.post(path, {"to": new_number(), **fields}), 400, "VALIDATION_ERROR")
        assert all(name in error["details"]["reason"] for name in fields)


def test_its_verify_reads_phone_and_needs_the_id(service: Service) -> None:
    number = new_number()
    sent = service.send(number)
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    error_of(service.post("/v1/sms/verify-otp", {"code": code}), 400, "VALIDATION_ERROR")
    error_of(service.post("/v1/sms/verify-otp", {"code": code, "otp_id": otp_id, "phone": new_number()}), 404,
             "OTP_NOT_FOUND")  # fmt: skip
    error_of(service.post("/v1/sms/verify-otp", {"code": code, "otp_id": otp_id, "phone": "nobody"}), 400,
             "INVALID_PHONE_NUMBER")  # fmt: skip
    right = service.post("/v1/sms/verify-otp", {"code": code, "otp_id": otp_id, "phone": number})
    assert right.json()["valid"] is True


@pytest.mark.parametrize("placeholder", ["{{code}}", "{code}"])
def test_a_template_takes_either_placeholder(service: Service, placeholder: str) -> None:
    sent = service.send(template=f"Ваш код\n{placeholder} <b>", code_length=4)
    assert service.message(sent.json()["message_id"])["text"] == f"Ваш код\n{service.code(sent)} <b>"


@pytest.mark.parametrize(
    "template", ["", "no code", "{{code}} {{code}}", "{{code}} {code}", "{code}\x07", "{code}\u2028"]
)
def test_a_template_that_cannot_carry_one_code_is_refused(service: Service, template: str) -> None:
    error_of(service.send(template=template), 400, "INVALID_TEMPLATE")


def test_a_text_that_is_too_long_is_refused(service: Service) -> None:
    details = error_of(service.send(template="{{code}}" + "x" * 1600), 400, "MESSAGE_TOO_LONG")["details"]
    assert details == {"field": "template", "length": 1606, "max_length": 1600}
