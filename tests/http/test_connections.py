"""What is hardly HTTP, and heads of requests that are too long or never end."""

import contextlib
import socket

import pytest

from otpsvc.http import connections
from tests.http.attacks import JSON_TYPE, answered, head
from tests.http.service import PATIENCE_S, Service

pytestmark = pytest.mark.usefixtures("unimpressed")

NOT_HTTP = {
    "bytes": b"\x00\x01\x02\xff\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 64,
    "path of bytes": b"GET /v1/otp/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": b"FOO /v1/otp HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /v1/otp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": b"POST /v1/otp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n{}",
    "negative length": b"POST /v1/otp HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "length beyond 64 bits": b"POST /v1/otp HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "space in name": b"GET / HTTP/1.1\r\nX-API-Key : x\r\n\r\n",
    "NUL in value": b"GET / HTTP/1.1\r\nX-API-Key: a\x00b\r\n\r\n",
    "chunk": b"POST /v1/otp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_hardly_http(service: Service, name: str) -> None:
    status, body = answered(service.raw(NOT_HTTP[name]))
    assert status == 400
    assert (body["success"], body["error"]["code"]) == (False, "VALIDATION_ERROR")
    assert service.http.get("/health/live").status_code == 200


@pytest.mark.usefixtures("unchanged")
def test_a_broken_chunk_after_a_good_head(service: Service) -> None:
    status, body = answered(service.raw(head(service, "/v1/otp", JSON_TYPE, "Transfer-Encoding: chunked"), b"zz\r\n"))
    assert (status, body["success"]) == (400, False)


@pytest.mark.parametrize("start", [b"", b"POST /v1/otp HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_a_head_that_does_not_end_in_time(service: Service, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as connection:
        connection.sendall(start)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


def test_a_head_without_end(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ")
            while sent < 20_000_000:
                connection.sendall(b"a" * 10_000)
                sent += 10_000
        assert sent < 20_000_000
