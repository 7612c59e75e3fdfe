"""The product as a backend developer calls it: send, read the message, verify; resend, cancel, look."""

import re
from typing import Any

import pytest

from tests.http.service import SEND_FIELDS, Service, error_of, new_number, wrong


def without_time(error: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in error.items() if name not in {"request_id", "details"}}


def test_send_read_verify(service: Service) -> None:
    number = new_number()
    sent = service.send(number, purpose="login", metadata={"cart": [1, "é", None, 0.5]})
    assert sent.status_code == 200
    answer = sent.json()
    assert answer.keys() == SEND_FIELDS
    assert answer["success"] is True
    assert re.fullmatch(r"otp_[0-9a-hjkmnp-tv-z]{26}", answer["otp_id"])
    assert (answer["purpose"], answer["status"], answer["channel"]) == ("login", "pending", "sms")
    assert (answer["code_length"], answer["attempts_remaining"]) == (6, 3)
    assert answer["to"] == f"{number[:4]}****{number[-4:]}"
    assert number not in sent.text
    code = service.code(sent)
    assert len(code) == 6
    assert service.message(answer["message_id"])["to"] == number

    right = service.verify(answer["otp_id"], code)
    assert right.status_code == 200
    assert right.json().keys() == {
        "success", "valid", "message", "otp_id", "to", "purpose", "metadata", "verified_at",
    }  # fmt: skip
    assert right.json()["valid"] is True
    assert right.json()["metadata"] == {"cart": [1, "é", None, 0.5]}
    assert (right.json()["to"], right.json()["purpose"]) == (answer["to"], "login")
    error_of(service.verify(answer["otp_id"], code), 404, "OTP_NOT_FOUND")


def test_the_code_is_in_no_answer_but_the_inbox(service: Service) -> None:
    sent = service.send()
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    wrong_guess = service.verify(otp_id, wrong(code))
    looked = service.get(f"/v1/otp/{otp_id}")
    for answer in (sent, wrong_guess, looked):
        assert code not in re.sub(r'"(otp_id|message_id|\w+_at|request_id)":"[^"]*"', "", answer.text)


def test_wrong_guesses_count_down_and_then_nothing_is_compared(service: Service) -> None:
    sent = service.send()
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    for remaining in (2, 1, 0):
        guess = service.verify(otp_id, wrong(code))
        assert guess.status_code == 200
        assert guess.json().keys() == {"success", "valid", "message", "otp_id", "attempts_remaining"}
        assert (guess.json()["valid"], guess.json()["attempts_remaining"]) == (False, remaining)
    locked = service.verify(otp_id, code)
    error = error_of(locked, 429, "OTP_MAX_ATTEMPTS")
    assert "retry-after" not in locked.headers
    assert "retry_after" not in error
    assert error["retryable"] is False
    assert service.get(f"/v1/otp/{otp_id}").json()["status"] == "locked"


def test_a_guess_of_the_wrong_form_costs_nothing(service: Service) -> None:
    sent = service.send()
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    for guess in ("", "12345", "1234567", "abcdef", "12345x", "-12345", "12 34", "1" * 5000, "\x00" * 6, "１２３"):
        error_of(service.verify(otp_id, guess), 400, "INVALID_OTP_FORMAT")
    assert service.get(f"/v1/otp/{otp_id}").json()["attempts_remaining"] == 3
    assert service.verify(otp_id, code).json()["valid"] is True


def test_a_code_typed_in_other_digits_or_with_a_space_is_the_same_code(service: Service) -> None:
    sent = service.send()
    code = service.code(sent)
    arabic = code.translate({ord(str(digit)): chr(0x660 + digit) for digit in range(10)})
    assert service.verify(sent.json()["otp_id"], f"{arabic[:3]} {arabic[3:]}").json()["valid"] is True


@pytest.mark.parametrize("mode", ["other client", "other mode"])
def test_nobody_else_sees_or_ends_or_verifies_it(service: Service, mode: str) -> None:
    other = service.stranger if mode == "other client" else service.liver
    sent = service.send()
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    unknown = "otp_" + "0" * 26
    path = f"/v1/otp/{otp_id}"
    foreign = [
        (service.verify(otp_id, code, caller=other), service.verify(unknown, code, caller=other)),
        (service.get(path, caller=other), service.get(f"/v1/otp/{unknown}", caller=other)),
        (service.delete(path, caller=other), service.delete(f"/v1/otp/{unknown}", caller=other)),
        (service.post(f"{path}/resend", {}, caller=other), service.post(f"/v1/otp/{unknown}/resend", {}, caller=other)),
    ]
    for one, nothing in foreign:
        assert without_time(error_of(one, 404, "OTP_NOT_FOUND")) == without_time(
            error_of(nothing, 404, "OTP_NOT_FOUND")
        )
    assert service.verify(otp_id, code).json()["valid"] is True


def test_what_is_sent_along_must_match(service: Service) -> None:
    number = new_number()
    sent = service.send(number, purpose="login", session="tab 1")
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    mismatches: tuple[dict[str, Any], ...] = (
        {"to": new_number()},
        {"phone": new_number()},
        {"purpose": "transaction"},
        {"session": "tab 2"},
    )
    for along in mismatches:
        error_of(service.verify(otp_id, code, **along), 404, "OTP_NOT_FOUND")
    error_of(service.verify(otp_id, code, purpose=""), 400, "VALIDATION_ERROR")
    error_of(service.verify(otp_id, code, session=""), 400, "VALIDATION_ERROR")
    error_of(service.verify(otp_id, code, to=""), 400, "INVALID_PHONE_NUMBER")
    error_of(service.verify(otp_id, code, to=number, phone=new_number()), 400, "VALIDATION_ERROR")
    right = service.verify(otp_id, code, to=f"00{number[1:]}", phone=None, purpose="login", session="tab 1")
    assert right.json()["valid"] is True


def test_resend_makes_a_fresh_code_and_keeps_the_used_attempts(service: Service) -> None:
    sent = service.send(template="Code: {{code}}", code_length=8)
    otp_id, first = sent.json()["otp_id"], service.code(sent)
    assert service.verify(otp_id, wrong(first)).json()["attempts_remaining"] == 2
    again = service.http.post(f"/v1/otp/{otp_id}/resend", headers=service.tester.headers)
    assert again.status_code == 200
    assert again.json().keys() == SEND_FIELDS
    assert again.json()["otp_id"] == otp_id
    assert again.json()["message_id"] != sent.json()["message_id"]
    assert again.json()["attempts_remaining"] == 2
    second = service.code(again)
    assert len(second) == 8
    assert service.message(again.json()["message_id"])["text"] == f"Code: {second}"
    assert service.verify(otp_id, second).json()["valid"] is True
    error_of(service.post(f"/v1/otp/{otp_id}/resend", {}), 404, "OTP_NOT_FOUND")


def test_a_sixth_resend_is_refused(service: Service) -> None:
    sent = service.send()
    path = f"/v1/otp/{sent.json()['otp_id']}/resend"
    for _ in range(5):
        assert service.post(path, {}).status_code == 200
    refused = service.post(path, {})
    error_of(refused, 429, "OTP_RESEND_LIMIT")
    assert "retry-after" not in refused.headers


def test_cancel_ends_it_for_good_and_says_so_every_time(service: Service) -> None:
    sent = service.send()
    code, otp_id = service.code(sent), sent.json()["otp_id"]
    for _ in range(2):
        cancelled = service.delete(f"/v1/otp/{otp_id}")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    error_of(service.verify(otp_id, code), 404, "OTP_NOT_FOUND")
    done = service.send()
    assert service.verify(done.json()["otp_id"], service.code(done)).json()["valid"] is True
    refused = error_of(service.delete(f"/v1/otp/{done.json()['otp_id']}"), 409, "OTP_NOT_PENDING")
    assert refused["details"]["status"] == "verified"


def test_looking_at_one_shows_its_owner_how_it_stands(service: Service) -> None:
    sent = service.send(metadata={"a": {}})
    otp_id, code = sent.json()["otp_id"], service.code(sent)
    seen = service.get(f"/v1/otp/{otp_id}").json()
    assert {name: seen[name] for name in SEND_FIELDS} == sent.json()
    assert seen["message_status"] == "sent"
    assert (seen["ended_at"], seen["resends_remaining"], seen["metadata"]) == (None, 5, {"a": {}})
    service.verify(otp_id, code)
    seen = service.get(f"/v1/otp/{otp_id}").json()
    assert seen["status"] == "verified"
    assert seen["ended_at"] is not None


def test_a_second_send_supersedes_the_first(service: Service) -> None:
    number = new_number()
    first = service.send(number)
    code = service.code(first)
    second = service.send(number)
    error_of(service.verify(first.json()["otp_id"], code), 404, "OTP_NOT_FOUND")
    assert service.verify(second.json()["otp_id"], service.code(second)).json()["valid"] is True
