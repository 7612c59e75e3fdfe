"""Whatever a gateway says is turned into a word of ours or left out, and nothing of it raises."""

import pytest

from otpsvc.senders.answers import (
    decoded,
    failure_of,
    fields,
    gateway_id,
    moment,
    our_id,
    outcome_of_answer,
    unmapped,
)
from otpsvc.senders.contract import Outcome, Rejected, RejectionKind, RetryLater, Unknown
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer

CODES = GatewayMap.from_csv(
    "acme",
    "table,code,outcome,after_s,error,meaning\n"
    "send,BAD,invalid_number,,,a bad number\n"
    "send,SLOW,retry,9,,too fast\n"
    "send,http_401,unauthorised,,,who\n"
    "send,http_429,retry,5,,too many\n"
    "send,http_4xx,misconfigured,,,wrong\n"
    "send,http_5xx,unknown,,,broken\n"
    "failure,LOST,undeliverable,,,lost\n",
)


@pytest.mark.parametrize(
    ("code", "status", "headers", "outcome"),
    [
        ("BAD", 400, {}, Rejected(RejectionKind.INVALID_NUMBER, "code BAD")),
        ("bad ", 500, {}, Rejected(RejectionKind.INVALID_NUMBER, "code BAD")),
        ("SLOW", 429, {}, RetryLater(9.0, "code SLOW")),
        ("SLOW", 429, {"retry-after": "20"}, RetryLater(20.0, "code SLOW")),
        ("NEW", 400, {}, Rejected(RejectionKind.GATEWAY_ERROR, "unmapped code NEW", is_unmapped=True)),
        ("NEW", 401, {}, Rejected(RejectionKind.UNAUTHORISED, "status 401", is_unmapped=True)),
        ("NEW", 429, {}, RetryLater(5.0, "status 429")),
        ("NEW", 500, {}, Unknown("status 500")),
        (None, 400, {}, Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        ({"code": "BAD"}, 400, {}, Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        (True, 400, {}, Rejected(RejectionKind.MISCONFIGURED, "status 400")),
        (None, 200, {}, Unknown("status 200, not understood")),
        (None, 302, {}, Unknown("status 302, not understood")),
    ],
)
def test_what_an_answer_means(code: object, status: int, headers: dict[str, str], outcome: Outcome) -> None:
    assert outcome_of_answer(CODES, code, GatewayAnswer(status, headers, b"")) == outcome


def test_an_unmapped_code_never_blames_the_settings() -> None:
    refused = Rejected(RejectionKind.GATEWAY_ERROR, "status 400", is_unmapped=True)
    assert unmapped(Rejected(RejectionKind.MISCONFIGURED, "status 400")) == refused
    assert unmapped(RetryLater(1.0, "status 429")) == RetryLater(1.0, "status 429")


def test_a_pause_of_the_senders_own_stands_between_theirs_and_the_tables() -> None:
    assert outcome_of_answer(CODES, "SLOW", GatewayAnswer(429, {}, b""), pause_s=30.0) == RetryLater(30.0, "code SLOW")
    answer = GatewayAnswer(429, {"retry-after": "4"}, b"")
    assert outcome_of_answer(CODES, "SLOW", answer, pause_s=30.0) == RetryLater(4.0, "code SLOW")


def test_why_a_message_failed_is_said_in_codes_we_know() -> None:
    assert failure_of(CODES, "lost") == (RejectionKind.UNDELIVERABLE, "code LOST", False)
    assert failure_of(CODES, "NEW") == (RejectionKind.GATEWAY_ERROR, "unmapped code NEW", True)
    assert failure_of(CODES, "+33612345678") == (RejectionKind.GATEWAY_ERROR, "unmapped code (not shown)", True)
    assert failure_of(CODES, {"a": 1}) == (RejectionKind.GATEWAY_ERROR, "unmapped code (not shown)", True)
    assert failure_of(CODES, None) == (RejectionKind.UNDELIVERABLE, "", False)


@pytest.mark.parametrize("given", ["a", "msg_sms_1", "0A000000-1", 700000, "a.b:c", "x" * 64])
def test_ids_that_look_like_ids(given: object) -> None:
    assert gateway_id(given) == str(given)


@pytest.mark.parametrize(
    "given", ["", " a", "a/b", "../a", "+33612345678", "x" * 65, "a\n", None, True, 1.5, [], {}, "ü"]
)
def test_ids_that_do_not(given: object) -> None:
    assert gateway_id(given) is None


def test_our_ids_have_one_form() -> None:
    assert our_id("msg_" + "0" * 26) == "msg_" + "0" * 26
    others: list[object] = ["otp_" + "0" * 26, "msg_" + "0" * 25, "msg_" + "0" * 27, "msg_" + "A" * 26, 7, None, []]
    for given in others:
        assert our_id(given) is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("2027-01-15T08:00:00Z", 1_800_000_000.0),
        ("2027-01-15T10:00:00.5+02:00", 1_800_000_000.5),
        ("2027-01-15T08:00:00", None),
        ("2027-01-15", None),
        ("soon", None),
        (1_800_000_000, None),
        (None, None),
        ("9999-12-31T23:59:59-14:00", 253_402_351_199.0),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200.0),
    ],
)
def test_times_need_an_offset(given: object, seconds: float | None) -> None:
    assert moment(given) == seconds


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b'"\\ud800"'])
def test_a_body_that_is_no_json_raises_nothing(body: bytes) -> None:
    assert fields(decoded(body)).get("b") is None
