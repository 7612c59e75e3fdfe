"""The demo's page and calls over plain HTTP: what they answer, to whom, and what a bad request gets."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from otpsvc import phone
from otpsvc.otp.policy import Policy
from otpsvc.pages.demo import template
from otpsvc.pages.html import page_part
from tests.http.service import error_of
from tests.otp.house import wrong
from tests.pages.stand import CLIENT, Stand
from tests.programs import wait_until

FOREIGN_PAGES: list[dict[str, str]] = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
]  # fmt: skip
CALLS: dict[str, dict[str, Any]] = {
    "/demo/send": {"to": "+12025550123", "operation": "1"},
    "/demo/verify": {"otp_id": "otp_1", "code": "123456", "operation": "1"},
    "/demo/resend": {"otp_id": "otp_1", "operation": "1"},
    "/dev/phone/switch": {"name": "Pixel", "on": False},
}


@pytest.fixture
def http(stand: Stand) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stand.url, timeout=20) as client:
        yield client


def sent(
    http: httpx.Client, stand: Stand, operation: str = "1", to: str = "+12025550123"
) -> tuple[dict[str, Any], str]:
    """Send a code; give the answer, and the code as it arrived."""
    answer = http.post("/demo/send", json={"to": to, "operation": operation})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body, arrived(stand, body["message_id"])


def arrived(stand: Stand, message_id: str) -> str:
    def found() -> list[str]:
        return [sms.text for sms in stand.air.list() if sms.message_id == message_id]

    wait_until(lambda: bool(found()), "the SMS")
    return found()[0].rpartition("#")[2]


def test_a_verification(http: httpx.Client, stand: Stand) -> None:
    body, code = sent(http, stand)
    assert body.keys() == {
        "success", "otp_id", "message_id", "to", "status", "code_length", "attempts_remaining", "expires_at",
        "resend_at", "expires_in_s", "resend_in_s",
    }  # fmt: skip
    assert (body["success"], body["to"], body["status"]) == (True, "+12*****0123", "pending")
    assert 290 < body["expires_in_s"] <= 300
    look = http.get(f"/demo/otp/{body['otp_id']}").json()
    assert look.keys() - body.keys() == {"message_status", "message_reason", "resends_remaining"}
    guess = {"otp_id": body["otp_id"], "code": wrong(code), "operation": "2"}
    answer = http.post("/demo/verify", json=guess).json()
    assert answer == {"success": True, "valid": False, "otp_id": body["otp_id"], "attempts_remaining": 2}
    again = http.post("/demo/resend", json={"otp_id": body["otp_id"], "operation": "3"}).json()
    assert (again["otp_id"], again["attempts_remaining"]) == (body["otp_id"], 2)
    right = {**guess, "code": arrived(stand, again["message_id"]), "operation": "4"}
    for _ in range(2):
        answer = http.post("/demo/verify", json=right).json()
        assert answer.keys() == {"success", "valid", "otp_id", "to", "verified_at"}
        assert (answer["valid"], answer["to"]) == (True, "+12*****0123")
    error_of(http.post("/demo/verify", json={**right, "operation": "5"}), 404, "OTP_NOT_FOUND")


def test_the_same_operation_again_is_not_done_again(http: httpx.Client, stand: Stand) -> None:
    first, code = sent(http, stand)
    second, _ = sent(http, stand)
    assert second["otp_id"] == first["otp_id"]
    guess = {"otp_id": first["otp_id"], "code": wrong(code), "operation": "2"}
    assert {http.post("/demo/verify", json=guess).json()["attempts_remaining"] for _ in range(3)} == {2}
    error_of(http.post("/demo/send", json={"to": "+61491570006", "operation": "1"}), 422, "IDEMPOTENCY_CONFLICT")


def test_the_last_line_names_the_site_that_may_take_the_code(http: httpx.Client, stand: Stand) -> None:
    for host, name in {"localhost:80": "localhost", "127.0.0.1": "127.0.0.1", "[::1]:80": "::1"}.items():
        body = {"to": "+61491570006", "operation": name.replace(":", "").replace(".", "")}
        answer = http.post("/demo/send", json=body, headers={"Host": host}).json()
        arrived(stand, answer["message_id"])
        (text,) = (sms.text for sms in stand.air.list() if sms.message_id == answer["message_id"])
        assert re.fullmatch(rf"[^\n]+\n\n@{re.escape(name)} #[0-9]{{6}}", text)


def test_a_text_says_how_long_its_code_lives() -> None:
    lives = {60: "1 minute.", 300: "5 minutes.", 90: "90 seconds.", 1800: "30 minutes."}
    for ttl_s, words in lives.items():
        assert f"It lasts {words}" in template("localhost", ttl_s)
        assert len(template("localhost", ttl_s)) < 160


@pytest.mark.parametrize("path", CALLS)
def test_no_other_page_may_ask(http: httpx.Client, stand: Stand, path: str) -> None:
    for headers in FOREIGN_PAGES:
        error_of(http.post(path, json=CALLS[path], headers=headers), 404, "NOT_FOUND")
    for host in ("evil.example", "localhost.evil.example", "", "2130706433"):
        origin = {"Host": host, "Origin": f"http://{host}"}
        error_of(http.post(path, json=CALLS[path], headers=origin), 404, "NOT_FOUND")
    assert stand.play.has_phone
    assert stand.air.list() == []
    own = {"Origin": stand.url, "Sec-Fetch-Site": "same-origin"}
    assert http.post(path, json=CALLS[path], headers=own).json() != {}
    if path == "/demo/send":
        wait_until(lambda: len(stand.air.list()) == 1, "the SMS")


@pytest.mark.parametrize("path", CALLS)
def test_bad_bodies_are_refused(http: httpx.Client, path: str) -> None:
    good = CALLS[path]
    as_json = {"Content-Type": "application/json"}
    error_of(http.post(path, content=json.dumps(good)), 415, "UNSUPPORTED_MEDIA_TYPE")
    error_of(http.post(path, data={"to": "+12025550123"}), 415, "UNSUPPORTED_MEDIA_TYPE")
    error_of(http.post(path, content=b"{", headers=as_json), 400, "INVALID_JSON")
    error_of(http.post(path, content=b"\xff", headers=as_json), 400, "INVALID_JSON")
    error_of(http.post(path, content=b" " * 5000, headers=as_json), 413, "PAYLOAD_TOO_LARGE")
    for body in ([], {**good, "more": 1}, {}, *({**good, name: []} for name in good)):
        error_of(http.post(path, json=body), 400, "VALIDATION_ERROR")
    if "operation" in good:
        for operation in ("", "a" * 65, "ä", "a b"):
            error_of(http.post(path, json={**good, "operation": operation}), 400, "VALIDATION_ERROR")


def test_what_it_does_not_know_is_not_found(http: httpx.Client) -> None:
    for otp_id in ("otp_1", "otp_00p8m09r4cb0s6nz6g88zn8314", "%00", "x" * 500):
        error_of(http.get(f"/demo/otp/{otp_id}"), 404, "OTP_NOT_FOUND")
    for method, path in (("GET", "/demo/send"), ("PUT", "/demo/verify"), ("DELETE", "/demo")):
        error_of(http.request(method, path), 405, "METHOD_NOT_ALLOWED")
    error_of(http.get("/demo/nothing"), 404, "NOT_FOUND")


def test_the_page_may_run_our_own_files_and_nothing_else(http: httpx.Client) -> None:
    page = http.get("/demo")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(maxsplit=1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(
        r"<style|<script(?! type=\"module\" src=\"/dev/assets/)|\son\w+=|\sstyle=|javascript:", page.text
    )
    assert not re.search(r"https?://(?!www\.w3\.org)", page.text)


def test_the_page_holds_no_secret(http: httpx.Client) -> None:
    page = http.get("/demo").text
    assert CLIENT not in page
    assert not re.search(r"zs_(?:test|live)|client_|X-API-Key", page)
    error_of(http.get("/demo", headers={"Host": "evil.example"}), 404, "NOT_FOUND")


def test_its_example_numbers_are_good_ones() -> None:
    numbers = re.findall(r'data-number="([^"]+)"', page_part("demo.html"))
    assert len({phone.region(phone.normalise(number)) for number in numbers}) == 4


def test_it_speaks_for_the_client_in_force_now(http: httpx.Client, stand: Stand) -> None:
    stand.play.policy = Policy(cooldown_s=60)
    first, _ = sent(http, stand, "1")
    refused = error_of(http.post("/demo/send", json={"to": "+12025550123", "operation": "2"}), 429, "OTP_COOLDOWN")
    assert refused["details"]["otp_id"] == first["otp_id"]
    stand.play.policy = Policy(cooldown_s=0, code_length=8, ttl_s=120)
    other, code = sent(http, stand, "3", to="+61491570006")
    assert (other["code_length"], len(code)) == (8, 8)
    assert 110 < other["expires_in_s"] <= 120
