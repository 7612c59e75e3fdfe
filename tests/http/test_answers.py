"""What belongs to every answer: idempotency, limits, languages, problem+json, ids and headers."""

import re
from datetime import datetime

import pytest

from otpsvc.errors import CATALOGUE
from tests.http.service import Service, error_of, new_number, wrong

SECURITY = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}


# -- Idempotency-Key


@pytest.mark.parametrize("key", ["order-1", '"order-2"', "~" * 255, "'; DROP TABLE clients --"])
def test_the_same_key_and_request_give_the_same_answer(service: Service, key: str) -> None:
    number, headers = new_number(), {"Idempotency-Key": key}
    first = service.send(number, headers=headers, metadata={"b": 1, "a": 2})
    code = service.code(first)
    assert "idempotent-replayed" not in first.headers
    twin = service.send(number, headers=headers, metadata={"a": 2, "b": 1})
    assert twin.headers["idempotent-replayed"] == "true"
    assert twin.json() == first.json()
    error_of(service.send(number, headers=headers, purpose="login"), 422, "IDEMPOTENCY_CONFLICT")
    assert service.verify(first.json()["otp_id"], code).json()["valid"] is True
    assert service.send(number, headers=headers, metadata={"a": 2, "b": 1}).json()["status"] == "verified"


def test_a_key_bare_and_quoted_is_one_key(service: Service) -> None:
    number = new_number()
    first = service.send(number, headers={"Idempotency-Key": "one"})
    twin = service.send(number, headers={"Idempotency-Key": '"one"'})
    assert twin.headers["idempotent-replayed"] == "true"
    assert twin.json()["otp_id"] == first.json()["otp_id"]


def test_a_key_belongs_to_one_client_and_mode(service: Service) -> None:
    number, headers = new_number(), {"Idempotency-Key": "shared"}
    answers = [
        service.send(number, headers=headers, caller=caller)
        for caller in (service.tester, service.liver, service.stranger)
    ]
    assert len({answer.json()["otp_id"] for answer in answers}) == 3


def test_a_repeated_guess_under_one_key_costs_one_attempt(service: Service) -> None:
    sent = service.send()
    otp_id, code = sent.json()["otp_id"], service.code(sent)
    for _ in range(3):
        guess = service.verify(otp_id, wrong(code), headers={"Idempotency-Key": "guess"})
        assert guess.json()["attempts_remaining"] == 2
    error_of(service.verify(otp_id, code, headers={"Idempotency-Key": "guess"}), 422, "IDEMPOTENCY_CONFLICT")
    for _ in range(3):
        assert service.verify(otp_id, code, headers={"Idempotency-Key": "right"}).json()["valid"] is True


def test_resend_replays_under_its_key(service: Service) -> None:
    path = f"/v1/otp/{service.send().json()['otp_id']}/resend"
    first = service.post(path, {}, headers={"Idempotency-Key": "again"})
    twin = service.post(path, {}, headers={"Idempotency-Key": "again"})
    assert twin.headers["idempotent-replayed"] == "true"
    assert twin.json() == first.json()


# -- limits, languages, headers


def test_the_cooldown_names_when_and_the_resend_call(service: Service) -> None:
    number = new_number()
    first = service.send(number, caller=service.stranger)
    refused = service.send(number, caller=service.stranger)
    error = error_of(refused, 429, "OTP_COOLDOWN")
    assert error["details"]["otp_id"] == first.json()["otp_id"]
    assert error["details"]["resend"] == f"POST /v1/otp/{first.json()['otp_id']}/resend"
    assert 1 <= error["retry_after"] <= 30
    assert refused.headers["retry-after"] == str(error["retry_after"])
    assert refused.headers["ratelimit-policy"] == '"cooldown";q=1;w=30'
    assert refused.headers["ratelimit"] == f'"cooldown";r=0;t={error["retry_after"]}'
    later = datetime.fromisoformat(error["details"]["retry_at"])
    assert abs((later - datetime.fromisoformat(first.json()["resend_at"])).total_seconds()) < 1


def test_the_eleventh_code_in_an_hour_is_refused(service: Service) -> None:
    number = new_number()
    for purpose in range(10):
        assert service.send(number, purpose=f"purpose_{purpose}").status_code == 200
    refused = service.send(number)
    error = error_of(refused, 429, "OTP_RATE_LIMIT")
    assert 3500 < error["retry_after"] <= 3600
    assert refused.headers["retry-after"] == str(error["retry_after"])
    assert refused.headers["ratelimit-policy"] == '"number";q=10;w=3600'
    assert refused.headers["ratelimit"].startswith('"number";r=0;t=')
    assert number not in refused.text


def test_ten_wrong_guesses_lock_new_codes_out_but_no_living_one(service: Service) -> None:
    number = new_number()
    for purpose in ("a", "b", "c"):
        sent = service.send(number, purpose=purpose)
        for _ in range(3):
            service.verify(sent.json()["otp_id"], wrong(service.code(sent)))
    living = service.send(number, purpose="d")
    code = service.code(living)
    service.verify(living.json()["otp_id"], wrong(code))
    refused = service.send(number)
    error_of(refused, 429, "OTP_LOCKED_OUT")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["ratelimit-policy"] == '"wrong_guesses";q=10;w=3600'
    assert service.verify(living.json()["otp_id"], code).json()["valid"] is True


def test_one_address_cannot_send_to_ever_more_numbers(service: Service) -> None:
    for _ in range(20):
        assert service.send(end_user_ip="192.0.2.77").status_code == 200
    refused = service.send(end_user_ip="::ffff:192.0.2.77")
    assert error_of(refused, 429, "RATE_LIMIT_EXCEEDED")["details"]["limit"] == "end_user_ip"
    assert refused.headers["ratelimit-policy"] == '"end_user_ip";q=20;w=3600'
    assert service.send(end_user_ip="192.0.2.78").status_code == 200


LANGUAGES = [
    ("en", "en"), ("fr", "fr"), ("it-CH", "it"), ("RU", "ru"), ("de, fr;q=0.3", "fr"), ("fr;q=0.3, it;q=0.31", "it"),
    ("fr;q=0, ru;q=0.001", "ru"), ("de", "en"), ("*", "en"), ("", "en"), (";;;,,,q=", "en"), ("fr;q=1.2.3", "en"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "language"), LANGUAGES)
def test_messages_come_in_the_language_that_was_asked_for(service: Service, asked: str, language: str) -> None:
    answer = service.get("/v1/otp/none", headers={"Accept-Language": asked})
    assert error_of(answer, 404, "OTP_NOT_FOUND")["message"] == CATALOGUE["OTP_NOT_FOUND"].message[language]


def test_a_guess_is_answered_in_that_language_too(service: Service) -> None:
    sent = service.send()
    otp_id, code = sent.json()["otp_id"], service.code(sent)
    said = [
        service.verify(otp_id, wrong(code), headers={"Accept-Language": "it"}).json()["message"],
        service.verify(otp_id, code, headers={"Accept-Language": "ru"}).json()["message"],
    ]
    assert said == ["Il codice è errato.", "Код верный."]


def test_problem_json_for_those_who_ask(service: Service) -> None:
    headers = {"Accept": "application/problem+json", "Accept-Language": "fr"}
    answer = service.get("/v1/otp/none", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    problem = answer.json()
    assert problem["type"].endswith("/docs/errors#OTP_NOT_FOUND")
    assert (problem["status"], problem["code"]) == (404, "OTP_NOT_FOUND")
    assert problem["title"].startswith("No usable code")
    assert problem["detail"].startswith("Aucun code")
    assert answer.headers["x-request-id"] in problem["instance"]
    assert "success" not in problem


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html", "application/problem+json;q=0", ""])
def test_the_envelope_for_everybody_else(service: Service, accept: str) -> None:
    error_of(service.get("/v1/otp/none", headers={"Accept": accept}), 404, "OTP_NOT_FOUND")


@pytest.mark.parametrize("given", ["a", "A.b-c_9", "x" * 64])
def test_a_well_formed_request_id_is_kept(service: Service, given: str) -> None:
    for path in ("/v1/otp/none", "/health/live", "/nowhere", "/docs"):
        assert service.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["x" * 65, "a b", "a/b", "<script>", '"', "{}"])
def test_any_other_is_replaced(service: Service, given: str) -> None:
    made = service.get("/v1/otp/none", headers={"X-Request-ID": given})
    assert re.fullmatch(r"req_[0-9a-hjkmnp-tv-z]{16}", made.headers["x-request-id"])
    assert made.json()["error"]["request_id"] == made.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/otp/none", "/health/live", "/nowhere", "/docs", "/docs/assets/start.js"])
def test_every_answer_has_the_headers_of_an_api(service: Service, path: str) -> None:
    for answer in (service.get(path), service.http.put(path)):
        assert SECURITY.items() <= dict(answer.headers).items()
        assert "server" not in answer.headers


def test_probes(service: Service) -> None:
    assert service.http.get("/health/live").json() == {"status": "alive"}
    ready = service.http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "parts": {"redis": "ok", "postgresql": "ok", "events": "ok"}}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_probe_may_ask_for_the_head_alone(service: Service, path: str) -> None:
    whole, head = service.http.get(path), service.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    changing = {"date": "", "x-request-id": ""}
    assert {**head.headers, **changing} == {**whole.headers, **changing}
