"""What is hardly HTTP, what never ends, and who keeps a connection: no key is needed for any of it."""

import contextlib
import gc
import logging
import re
import socket
import struct
import time
import weakref
from collections.abc import Iterator

import pytest

from otpsvc import serving
from otpsvc.http import connections
from otpsvc.http.connections import Connection
from tests.http.attacks import JSON_TYPE, answered, head
from tests.http.conftest import logged
from tests.http.service import PATIENCE_S, Service, new_number, running, settings_for
from tests.programs import wait_until

pytestmark = pytest.mark.usefixtures("quiet")

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/otp HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
BIG_ASSET = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"

NOT_HTTP = {
    "bytes": b"\x00\x01\x02\xff\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 64,
    "path of bytes": b"GET /v1/otp/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": b"FOO /v1/otp HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "length beyond 64 bits": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "space in name": b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key : x\r\n\r\n",
    "NUL in value": b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: a\x00b\r\n\r\n",
    "chunk": CHUNKED + b"zz\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": GET[:-2] + b"Host: y\r\n\r\n",
}


@pytest.fixture
def quiet(watched_log: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a stranger sends is worth a line: he could fill the log."""
    yield
    assert [record.getMessage() for record in logged(watched_log, logging.WARNING)] == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound on time is short, and looked at often."""
    for name in ("REQUEST_TIMEOUT_S", "KEEP_ALIVE_S", "UNREAD_TIMEOUT_S"):
        monkeypatch.setattr(connections, name, 0.2)
    monkeypatch.setattr(serving, "_LOOK_AT_CONNECTIONS_EVERY_S", 0.05)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> "list[weakref.ref[Connection]]":
    """The connections that the service takes from now on."""
    taken: list[weakref.ref[Connection]] = []
    take = Connection.connection_made

    def noted(connection: Connection, transport: object) -> None:
        taken.append(weakref.ref(connection))
        take(connection, transport)  # type: ignore[arg-type]  # whatever it is, it goes through

    monkeypatch.setattr(Connection, "connection_made", noted)
    return taken


@pytest.fixture(scope="module")
def patient(own_stores: tuple[str, str]) -> Iterator[Service]:
    """A service that gives a body the time that it gives in production."""
    with running(settings_for(*own_stores)) as started:
        yield started


@contextlib.contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as connection:
        yield connection


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Read so many answers, status and body, that give their length; fewer if the service closes before."""
    data = b""
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        top, separator, rest = data.partition(b"\r\n\r\n")
        length = int(match[1]) if (match := re.search(rb"(?i)\r\ncontent-length: (\d+)", top)) else 0
        if separator and len(rest) >= length:
            found.append((int(top.split()[1]), rest[:length]))
            data = rest[length:]
        elif chunk := connection.recv(65_536):
            data += chunk
        else:
            break
    assert len(found) < count or data == b""
    return found


def read_to_the_end(connection: socket.socket) -> bytes:
    """Read until the service closes; it fails if the service does not."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            data += chunk
    return data


# -- what is hardly HTTP


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_hardly_http(service: Service, name: str) -> None:
    status, body = answered(service.raw(NOT_HTTP[name]))
    assert status == 400
    assert (body["success"], body["error"]["code"]) == (False, "VALIDATION_ERROR")
    assert service.http.get("/health/live").status_code == 200


def test_the_older_protocol_needs_no_host(service: Service) -> None:
    assert answered(service.raw(b"GET /health/live HTTP/1.0\r\n\r\n"))[0] == 200


@pytest.mark.usefixtures("unchanged")
def test_a_broken_chunk_after_a_good_head(service: Service) -> None:
    status, body = answered(service.raw(head(service, "/v1/otp", JSON_TYPE, "Transfer-Encoding: chunked"), b"zz\r\n"))
    assert (status, body["success"]) == (400, False)


def test_what_cannot_be_read_is_no_answer_to_the_request_before_it(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(GET * 2 + b"no HTTP\r\n\r\n" + GET)
        answer = read_to_the_end(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200"]


def test_a_broken_body_gets_no_second_answer(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(CHUNKED)
        assert read_answers(connection, 1)[0][0] == 400
        connection.sendall(b"zz\r\n")
        assert read_to_the_end(connection) == b""


def test_an_upgrade_is_answered_as_if_it_had_not_been_asked_for(service: Service) -> None:
    with connected(service) as connection:
        connection.sendall(UPGRADE)
        answer = read_to_the_end(connection)
    assert answered(answer) == (200, {"status": "alive"})
    assert b"\r\nconnection: close\r\n" in answer


def test_a_trailer_is_no_header(service: Service) -> None:
    trailers = "".join(f"{name}: {value}\r\n" for name, value in service.tester.headers.items())
    request = CHUNKED[:-2] + f"{JSON_TYPE}\r\n\r\n2\r\n{{}}\r\n0\r\n{trailers}\r\n".encode()
    status, body = answered(service.raw(request))
    assert (status, body["error"]["code"]) == (400, "MISSING_AUTH_HEADERS")


def test_a_real_fault_of_the_server_is_still_logged(service: Service, watched_log: pytest.LogCaptureFixture) -> None:
    logging.getLogger("uvicorn.error").error("something broke")
    assert "something broke" in watched_log.text
    watched_log.clear()


# -- what never ends

ENDLESS = {
    "head": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * 10_000),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: y\r\n" * 1000),
    "trailer": (CHUNKED + b"0\r\nX-A: ", b"a" * 10_000),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: y\r\n" * 1000),
    "chunk's words": (CHUNKED + b"2;", b"a" * 10_000),
    "lines between": (GET, b"\r\n" * 5000),
}
LIMIT = 20_000_000


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_not_kept(service: Service, name: str) -> None:
    start, more = ENDLESS[name]
    sent = 0
    with connected(service) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start)
        while sent < LIMIT:
            connection.sendall(more)
            sent += len(more)
    assert sent < LIMIT


def test_trailers_without_end_behind_a_key(patient: Service) -> None:
    start = head(patient, "/v1/otp", JSON_TYPE, "Transfer-Encoding: chunked")
    sent = 0
    with connected(patient) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start + b"2\r\n{}\r\n0\r\n")
        while sent < LIMIT:
            connection.sendall(b"X-A: y\r\n" * 1000)
            sent += 8000
    assert sent < LIMIT


def test_more_requests_at_once_than_anybody_needs(service: Service) -> None:
    with connected(service) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(GET * 5000)
        answers = read_to_the_end(connection).count(b"HTTP/1.1 200 ")
    assert answers <= connections.MAX_PIPELINED + 1


# -- who keeps a connection

HOLDERS = {
    "nothing": b"",
    "half a head": POST + b"X-A: ",
    "a line after the answer": GET + b"\r\n",
    "a refused body": POST + b"Content-Length: 1000000\r\n\r\n",
    "a body that nobody reads": GET[:-2] + b"Content-Length: 1000000\r\n\r\n",
    "refused chunks": CHUNKED,
    "trailers": CHUNKED + b"0\r\n",
    "an idle connection": GET,
    "half a head behind an answer": GET + POST,
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", HOLDERS)
def test_nobody_holds_a_connection_by_silence(service: Service, name: str) -> None:
    with connected(service) as connection:
        connection.sendall(HOLDERS[name])
        read_to_the_end(connection)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (GET, b"\r\n"),
        (POST + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (GET[:-2] + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
        (POST, b"X: y\r\n"),
    ],
)
def test_nobody_holds_a_connection_drop_by_drop(service: Service, start: bytes, drop: bytes) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    with connected(service) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start)
        connection.settimeout(0.02)
        while time.monotonic() < give_up_at:
            with contextlib.suppress(TimeoutError):
                if connection.recv(65_536) == b"":
                    break
            connection.sendall(drop)
    assert time.monotonic() < give_up_at


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("count", [1, 20])
def test_nobody_holds_a_connection_by_not_reading(
    service: Service, made: "list[weakref.ref[Connection]]", count: int
) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(BIG_ASSET * count)
        wait_until(lambda: len(made) == 1, "the connection")
        wait_until(lambda: is_gone(made[0]), "the end of it")


@pytest.mark.parametrize(("requests", "n_answers"), [(GET, 1), (GET * 100, 0), (BIG_ASSET * 20, 0)])
def test_nothing_is_left_of_a_connection_that_was_reset(
    service: Service, made: "list[weakref.ref[Connection]]", requests: bytes, n_answers: int
) -> None:
    with connected(service) as connection:
        connection.sendall(requests)
        assert len(read_answers(connection, n_answers)) == n_answers
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: len(made) == 1 and is_gone(made[0]), "the end of it")


def is_gone(connection: "weakref.ref[Connection]") -> bool:
    gc.collect()
    return connection() is None


# -- what must go on working


def test_an_idle_connection_is_kept_for_longer_than_gateways_keep_it(
    service: Service, made: "list[weakref.ref[Connection]]"
) -> None:
    with connected(service) as connection:
        connection.sendall(GET)
        read_answers(connection, 1)
        kept = made[0]()
        assert kept is not None
        assert kept.timeout_keep_alive > 60
        assert kept._due_at - kept.loop.time() > 60


def test_many_requests_on_one_connection(service: Service) -> None:
    body = b'{"to":"nobody"}'
    ask = head(service, "/v1/otp", JSON_TYPE, f"Content-Length: {len(body)}") + body
    chunked = CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\nX-Trailer: y\r\n\r\n"
    with connected(service) as connection:
        for _ in range(200):
            for request, status in ((GET, 200), (ask, 400), (chunked, 400), (b"\r\n" + GET, 200)):
                connection.sendall(request)
                assert read_answers(connection, 1)[0][0] == status


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    bodies = [b'{"to":"nobody","code_length":%d}' % length for length in (4, 11)] * 50
    ask = [head(service, "/v1/otp", JSON_TYPE, f"Content-Length: {len(body)}") + body for body in bodies]
    with connected(service) as connection:
        for _ in range(5):
            connection.sendall(b"".join(part for request in ask for part in (request, GET)))
            answers = read_answers(connection, 200)
            assert [status for status, _ in answers] == [400, 200] * 100
            assert [b"code_length" in body for _, body in answers] == [False, False, True, False] * 50


def test_a_refused_body_that_still_comes_costs_no_connection(service: Service) -> None:
    refused = POST + b"Content-Length: 300000\r\n\r\n"
    with connected(service) as connection:
        for _ in range(3):
            connection.sendall(refused)
            assert read_answers(connection, 1)[0][0] == 400
            connection.sendall(b"x" * 300_000)
        connection.sendall(GET)
        assert read_answers(connection, 1)[0][0] == 200


@pytest.mark.usefixtures("impatient")
def test_a_body_may_be_slower_than_a_head(patient: Service) -> None:
    body = b'{"to":"%s"}' % new_number().encode()
    with connected(patient) as connection:
        connection.sendall(head(patient, "/v1/otp", JSON_TYPE, f"Content-Length: {len(body)}"))
        for place in range(len(body)):
            time.sleep(0.03)
            connection.sendall(body[place : place + 1])
        assert read_answers(connection, 1)[0][0] == 200
