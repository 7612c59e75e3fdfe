"""The catalogue: complete, spoken in four languages, and true to the systems that it replaces."""

import re
import string

import pytest

from otpsvc.errors import CATALOGUE, LANGUAGES, ApiError, ErrorKind, OtpsvcError, problem

CATEGORIES = {
    *("auth", "permission", "validation", "otp", "rate_limit", "conflict", "not_found", "blocked", "credit"),
    *("device", "delivery", "gateway", "server"),
}
# Faults that are not the caller's.
NOT_THE_CALLERS = {"server", "delivery", "gateway"}
# What callers of the replaced system rely on: a code's status may never change (ARCHITECTURE, Errors).
KEPT = {
    "MISSING_AUTH_HEADERS": 400,
    "INVALID_API_KEY": 401,
    "INVALID_CLIENT_ID": 401,
    "INVALID_JSON": 400,
    "INVALID_PHONE_NUMBER": 400,
    "INVALID_OTP_FORMAT": 400,
    "OTP_NOT_FOUND": 404,
    "OTP_EXPIRED": 400,
    "OTP_MAX_ATTEMPTS": 429,
    "OTP_RATE_LIMIT": 429,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
    "INVALID_DEVICE_ID": 404,
    "DEVICE_OFFLINE": 503,
    "NO_DEVICE_AVAILABLE": 503,
    "MESSAGE_TOO_LONG": 400,
    "INVALID_PRIORITY": 400,
    "INVALID_SCHEDULED_DATE": 400,
    "NETWORK_ERROR": 500,
    "NO_CREDIT": 402,
    "BLOCKED_NUMBER": 403,
    "SMS_SEND_TIMEOUT": 504,
    "MESSAGE_NOT_FOUND": 404,
    "CANNOT_CANCEL_MESSAGE": 400,
    "TOO_MANY_RECIPIENTS": 400,
    "INVALID_WEBHOOK_URL": 400,
}


@pytest.fixture(params=CATALOGUE.values(), ids=lambda kind: kind.code)
def kind(request: pytest.FixtureRequest) -> ErrorKind:
    row: ErrorKind = request.param
    return row


def test_a_row_is_well_formed(kind: ErrorKind) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", kind.code)
    assert 400 <= kind.status <= 599
    assert kind.category in CATEGORIES
    assert kind.category == "device" or (kind.status >= 500) == (kind.category in NOT_THE_CALLERS)


def test_a_row_speaks_every_language(kind: ErrorKind) -> None:
    assert tuple(kind.message) == LANGUAGES
    assert len(set(kind.message.values())) == len(LANGUAGES)
    for text in kind.message.values():
        assert text == text.strip()
        assert text.endswith(".")
        assert 15 < len(text) < 140
    assert set(kind.message["ru"].lower()) & set("абвгдежзиклмнопрстуя")
    assert not set(kind.message["en"]) - set(string.printable)


def test_a_row_tells_when_to_come_back_only_where_that_helps(kind: ErrorKind) -> None:
    assert kind.retry_after_s is None or kind.retry_after_s > 0
    if kind.retry_after_s is not None:
        assert kind.retryable
        assert kind.status in {429, 503}
    if kind.status == 503:
        assert kind.retry_after_s is not None
    if kind.category == "rate_limit":
        assert (kind.status, kind.retryable) == (429, True)
        assert kind.retry_after_s is not None


def test_codes_are_unique() -> None:
    assert list(CATALOGUE) == [row.code for row in CATALOGUE.values()]


@pytest.mark.parametrize(("code", "status"), KEPT.items())
def test_kept_codes_keep_their_status(code: str, status: int) -> None:
    assert CATALOGUE[code].status == status


def test_a_problem_carries_its_row_and_nothing_else_by_itself() -> None:
    error = problem("OTP_COOLDOWN")
    assert isinstance(error, ApiError)
    assert isinstance(error, OtpsvcError)
    assert (error.code, error.details, error.retry_after_s) == ("OTP_COOLDOWN", {}, 30)
    assert str(error) == "OTP_COOLDOWN"


def test_a_problem_may_know_better_when_to_come_back() -> None:
    assert problem("OTP_COOLDOWN", retry_after_s=7).retry_after_s == 7
    assert problem("OTP_EXPIRED").retry_after_s is None


def test_details_are_not_shared_between_problems() -> None:
    problem("OTP_EXPIRED").details["x"] = 1
    assert problem("OTP_EXPIRED").details == {}


def test_an_error_that_is_not_in_the_catalogue_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        problem("NO_SUCH_ERROR")


def test_details_never_stand_in_the_words_of_the_exception() -> None:
    assert "5678" not in f"{problem('OTP_EXPIRED', details={'to': '5678'})!r}"
