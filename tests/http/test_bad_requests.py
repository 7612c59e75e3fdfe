"""Bodies that are too large, late or of another kind; ids, paths, methods and headers of every bad sort."""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from otpsvc.ids import new_message_id, new_otp_id
from tests.http.attacks import BODIES, JSON_TYPE, answered, good_body, head, path_of, refused
from tests.http.service import PATIENCE_S, Service, error_of

pytestmark = pytest.mark.usefixtures("unimpressed")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_bodies_that_are_too_large(service: Service, pending: str, operation: str) -> None:
    body = json.dumps({**good_body(operation, pending), "template": "x" * 16_384}).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 4000):
            yield body[start : start + 4000]

    headers = {**service.tester.headers, "Content-Type": "application/json"}
    path = path_of(operation, pending)
    for content in (body, chunks()):
        answer = service.http.post(path, content=content, headers=headers)
        assert error_of(answer, 413, "PAYLOAD_TOO_LARGE")["details"] == {"max_bytes": 16_384}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json", "application/json/x", ";"],
)
def test_other_content_types(service: Service, pending: str, operation: str, media_type: str) -> None:
    body = good_body(operation, pending)
    answer = service.post(path_of(operation, pending), body, headers={"Content-Type": media_type})
    error_of(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    bare = service.http.post(
        path_of(operation, pending), content=json.dumps(body).encode(), headers=service.tester.headers
    )
    error_of(bare, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("media_type", ["application/json;charset=utf-8", "Application/JSON ; x=y"])
def test_content_types_that_are_json_all_the_same(service: Service, media_type: str) -> None:
    error_of(service.post("/v1/otp", {"to": ""}, headers={"Content-Type": media_type}), 400, "INVALID_PHONE_NUMBER")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("lines", [["Content-Length: 100"], ["Transfer-Encoding: chunked"]])
def test_a_body_that_does_not_come(service: Service, lines: list[str]) -> None:
    answer = service.raw(head(service, "/v1/otp", JSON_TYPE, *lines), b"10\r\n{" if "chunked" in lines[0] else b"{")
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "REQUEST_TIMEOUT"


@pytest.mark.usefixtures("unchanged")
def test_a_caller_that_hangs_up_in_the_middle(service: Service, watched_log: pytest.LogCaptureFixture) -> None:
    started = head(service, "/v1/otp", JSON_TYPE, "Content-Length: 100")
    assert service.raw(started, b"{", ends_input=True) == b""
    for data in (started, started + b'{"to":"+336'):
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as connection:
            connection.sendall(data)
            # Close by a reset, as a crashed client's machine does.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert service.http.get("/health/live").status_code == 200


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 99999999999"],
        ["Content-Length: 99999999999", "Expect: 100-continue"],
    ],
)
def test_a_length_that_is_too_much_is_refused_before_the_body(service: Service, lines: list[str]) -> None:
    answer = service.raw(head(service, "/v1/otp", JSON_TYPE, *lines))
    assert answer.startswith(b"HTTP/1.1 413 "), answer


# -- ids and paths


def bad_ids(otp_id: str) -> list[str]:
    foreign = [new_otp_id(partition=partition, slot=b"\xff\xff", profile=1).text for partition in (1, 7, 255)]
    profiles = [new_otp_id(partition=0, slot=b"\x00\x00", profile=profile).text for profile in (0, 9, 255)]
    swapped = otp_id[:-1] + ("0" if otp_id[-1] != "0" else "4")
    return [
        *foreign, *profiles, swapped, otp_id.upper(), otp_id[:-1], otp_id + "0", otp_id + "%00", otp_id + "%0a",
        "%20" + otp_id, "x" * 3000, "%2e%2e%2f%2e%2e%2fetc", "..%5c", "%00", "%ff%fe", "%C3%A9", "otp_",
        "otp_" + "u" * 26,
        "otp_" + "z" * 26, "msg" + otp_id[3:], "*", "{p00}:otp:x", "'%20OR%201=1", "null", "%F0%9F%98%80" * 26,
    ]  # fmt: skip


@pytest.mark.usefixtures("unchanged")
def test_ids_of_every_bad_sort(service: Service, pending: str) -> None:
    for otp_id in bad_ids(pending):
        path = f"/v1/otp/{otp_id}"
        answers = {
            "get": service.get(path),
            "delete": service.delete(path),
            "verify": service.post(f"{path}/verify", {"code": "0000"}),
            "resend": service.post(f"{path}/resend", {}),
            "verify-otp": service.post("/v1/sms/verify-otp", {"code": "0000", "otp_id": otp_id}),
        }
        for call, answer in answers.items():
            # A slash makes it another address.
            code = "NOT_FOUND" if "%2f" in otp_id and call != "verify-otp" else "OTP_NOT_FOUND"
            assert error_of(answer, 404, code)["details"] == {}, (otp_id, call)


@pytest.mark.usefixtures("unchanged")
def test_message_ids_of_every_bad_sort(service: Service, pending: str) -> None:
    known = str(service.get(f"/v1/otp/{pending}").json()["message_id"])
    foreign = [new_message_id(partition=partition).text for partition in (0, 1, 7, 255)]
    swapped = known[:-1] + ("0" if known[-1] != "0" else "4")
    bad = [message_id.replace("otp_", "msg_") for message_id in bad_ids(pending)]
    for message_id in (*bad, *foreign, swapped, known.upper(), known[:-1], known + "0", known + "%00", pending):
        for path in (f"/v1/messages/{message_id}", f"/v1/sms/status/{message_id}"):
            error = error_of(service.get(path), 404, "NOT_FOUND" if "%2f" in message_id else "MESSAGE_NOT_FOUND")
            assert error["details"] == {}, message_id
    assert service.get(f"/v1/messages/{known}").status_code == 200


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "path",
    ["/", "//", "/v1", "/v2/otp", "/v1/otpp", "/V1/OTP", "/v1/otp/a/b", "/v1/otp/a/verify/c", "/v1/otp/a%2Fverify/x",
     "/v1/sms", "/v1/sms/status", "/v1/sms/status/a/b", "/v1/messages", "/v1/messages/a/b", "/v1/numbers",
     "/v1/numbers/+33612345678", "/v1/numbers/forget/a", "/docs/nothing", "/docs/assets/..%2f..%2fapp.py",
     "/docs/assets/%00", "/docs/assets/index.html",
     "/health", "/health/dead", "/dev", "/dev/inbox.json.bak", "/.env", "/schema", "/%00", "/%ff", "/" + "a/" * 500],
)  # fmt: skip
def test_paths_that_lead_nowhere(service: Service, path: str) -> None:
    error_of(service.get(path), 404, "NOT_FOUND")
    assert refused(service.post(path, {}))["code"] in {"NOT_FOUND", "METHOD_NOT_ALLOWED"}


@pytest.mark.usefixtures("unchanged")
def test_dots_in_a_path_lead_nowhere_either(service: Service) -> None:
    for path in ("/v1/otp/../../etc/passwd", "/docs/assets/../../app.py", "/v1/./otp", "/../health/live"):
        answer = service.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 "), answer


@pytest.mark.usefixtures("unchanged")
def test_other_methods(service: Service, pending: str) -> None:
    cases = {
        "/v1/otp": ("GET", "PUT", "PATCH", "DELETE", "TRACE"),
        f"/v1/otp/{pending}": ("POST", "PUT", "PATCH", "TRACE"),
        f"/v1/otp/{pending}/verify": ("GET", "PUT", "DELETE"),
        f"/v1/otp/{pending}/resend": ("GET", "PUT", "DELETE"),
        "/v1/sms/verify-otp": ("GET", "DELETE"),
        f"/v1/messages/{pending}": ("POST", "PUT", "PATCH", "DELETE"),
        f"/v1/sms/status/{pending}": ("POST", "DELETE"),
        "/v1/numbers/forget": ("GET", "PUT", "DELETE"),
        "/health/live": ("POST", "DELETE"),
        "/docs": ("POST",),
        "/dev/inbox.json": ("POST", "DELETE"),
    }
    for path, methods in cases.items():
        for method in methods:
            answer = service.http.request(method, path, headers=service.tester.headers)
            error_of(answer, 405, "METHOD_NOT_ALLOWED")
            allowed = {name.strip() for name in answer.headers["allow"].split(",")}
            assert allowed
            assert method not in allowed
        assert service.http.head(path, headers=service.tester.headers).status_code in {200, 405}


# -- headers


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["X-API-Key", "X-Client-ID"])
@pytest.mark.parametrize("value", [None, "", " "])
def test_missing_credentials(service: Service, pending: str, name: str, value: str | None) -> None:
    given_headers = {**service.tester.headers, name: value, "Content-Type": "application/json"}
    headers = {key: text.strip() for key, text in given_headers.items() if text is not None}
    for method, path in (
        ("POST", "/v1/otp"), ("POST", "/v1/sms/send-otp"), ("POST", "/v1/sms/verify-otp"),
        ("GET", f"/v1/otp/{pending}"),
        ("DELETE", f"/v1/otp/{pending}"), ("POST", f"/v1/otp/{pending}/verify"), ("POST", f"/v1/otp/{pending}/resend"),
        ("GET", f"/v1/messages/{pending}"), ("GET", f"/v1/sms/status/{pending}"), ("POST", "/v1/numbers/forget"),
    ):  # fmt: skip
        answer = service.http.request(method, path, headers=headers, content=b"not even JSON")
        error_of(answer, 400, "MISSING_AUTH_HEADERS")


@pytest.mark.usefixtures("unchanged")
def test_wrong_credentials(service: Service) -> None:
    key, client = service.tester.api_key, service.tester.client_id
    cases = [
        *((key[:-1] + letter, client, "INVALID_API_KEY") for letter in "01g" if letter != key[-1]),
        (key.replace("zs_test_", "zs_live_"), client, "INVALID_API_KEY"),
        (key.upper(), client, "INVALID_API_KEY"),
        (key + " x", client, "INVALID_API_KEY"),
        ("x" * 100_000, client, "INVALID_API_KEY"),
        ("é" * 73, client, "INVALID_API_KEY"),
        ("zs_test_" + "0" * 65, client, "INVALID_API_KEY"),
        (key, service.stranger.client_id, "INVALID_CLIENT_ID"),
        (key, client + "0", "INVALID_CLIENT_ID"),
        (key, "é" * 1000, "INVALID_CLIENT_ID"),
        (key, "' OR '1'='1", "INVALID_CLIENT_ID"),
        (service.stranger.api_key, client, "INVALID_CLIENT_ID"),
    ]
    for api_key, client_id, code in cases:
        headers = {b"X-API-Key": api_key.encode(), b"X-Client-ID": client_id.encode()}
        answer = service.http.post("/v1/otp", content=b"{}", headers=headers)
        error_of(answer, 401, code)
        assert answer.headers["www-authenticate"]
        assert key not in answer.text


@pytest.mark.usefixtures("unchanged")
def test_credentials_given_twice_are_never_mixed(service: Service) -> None:
    mine, other = service.tester, service.stranger
    for pairs in (
        [("X-API-Key", mine.api_key), ("X-API-Key", "x"), ("X-Client-ID", other.client_id), ("X-Client-ID", "x")],
        [("X-API-Key", "x"), ("X-API-Key", mine.api_key), ("X-Client-ID", "x"), ("X-Client-ID", other.client_id)],
        [("X-API-Key", f"{mine.api_key}, {mine.api_key}"), ("X-Client-ID", mine.client_id)],
    ):
        answer = service.http.post("/v1/otp", content=b'{"to":"+33612345678"}', headers=pairs)
        assert refused(answer)["code"] in {"INVALID_API_KEY", "INVALID_CLIENT_ID"}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "key", [b'""', b"x" * 256, b'"' + b"x" * 256 + b'"', b"\xff", b"caf\xc3\xa9", b"a\tb", b"x" * 60_000]
)
def test_bad_idempotency_keys(service: Service, pending: str, key: bytes) -> None:
    for path, body in (
        ("/v1/otp", {"to": "+33612345678"}),
        (f"/v1/otp/{pending}/verify", {"code": "0000"}),
        (f"/v1/otp/{pending}/resend", {}),
    ):
        headers: Any = {**service.tester.headers, "Content-Type": "application/json", "Idempotency-Key": key}
        answer = service.http.post(path, content=json.dumps(body).encode(), headers=headers)
        assert error_of(answer, 400, "VALIDATION_ERROR")["details"]["field"] == "Idempotency-Key"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["Accept", "Accept-Language", "X-Request-ID", "Content-Type", "X-Anything", "Cookie"])
@pytest.mark.parametrize(
    "value", [b"\xff\xfe", b"fr;q=0.5," * 5000, b"application/problem+json;q=" + b"9" * 4000, b";q=;;,"]
)
def test_headers_of_odd_bytes_and_great_length(service: Service, name: str, value: bytes) -> None:
    lines = head(service, "/v1/otp", *([] if name == "Content-Type" else [JSON_TYPE]), "Content-Length: 2")
    answer = service.raw(lines[:-2] + name.encode() + b": " + value + b"\r\n\r\n{}")
    status, body = answered(answer)
    assert status == (415 if name == "Content-Type" else 400)
    assert body.get("error", body)["code"] == ("VALIDATION_ERROR" if status == 400 else "UNSUPPORTED_MEDIA_TYPE")
