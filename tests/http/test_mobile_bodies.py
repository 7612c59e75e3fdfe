"""What a phone sends that cannot be read: told, never kept, and nothing is used up by it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.http.mobile_phone import Phone, basic
from tests.http.mobile_service import new_phone, paired, pairing, phone_settings, serving
from tests.http.service import Service

pytestmark = pytest.mark.usefixtures("unimpressed")


@pytest.fixture(scope="module")
def service(own_stores: tuple[str, str]) -> Iterator[Service]:
    with serving(phone_settings(*own_stores, OTPSVC_HTTP_BODY_TIMEOUT_S=0.4), delivers=False) as started:
        yield started


@pytest.fixture(scope="module")
def known(service: Service) -> Phone:
    return asyncio.run(paired(service))


def login_of(opened: dict[str, Any]) -> str:
    return basic(opened["login"], opened["password"])


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{name",
    "bytes": b"\xff\xfe\x00",
    "half a character": b'{"name": "\xc3"}',
    "too deep": b"[" * 10_000,
    "a number": b"7",
    "null": b"null",
    "a list of numbers": b"[1]",
    "an object in vain": b'{"a": {"name": 5}}',
    "too much": b'"' + b"x" * 300_000 + b'"',
}
ROUTES = [("PATCH", "/device"), ("PATCH", "/message"), ("PATCH", "/messages"), ("PATCH", "/user/password")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("kind", BODIES)
async def test_a_bad_body_is_told(service: Service, known: Phone, kind: str, method: str, path: str) -> None:
    answer = await known.call(method, path, content=BODIES[kind])
    if kind == "too much":
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
    else:
        # What is wrong in two ways is told as either.
        assert (answer.status, answer.code in ("INVALID_JSON", "VALIDATION_ERROR")) == (400, True)
    assert b"xxx" not in answer.body


@pytest.mark.parametrize(
    "body",
    [
        {"name": 5},
        {"name": ["x"]},
        {"simCards": {}},
        {"simCards": [5]},
        {"simCards": [{"slotIndex": 0}]},
        {"simCards": [{"slotIndex": "0", "simNumber": 1}]},
        {"simCards": [{"slotIndex": 0.5, "simNumber": 1}]},
        {"simCards": [{"slotIndex": 0, "simNumber": 1, "phoneNumber": 33612345678}]},
        [],
    ],
)
async def test_a_bad_registration_uses_nothing_up(service: Service, body: Any) -> None:
    opened, phone = pairing(service), new_phone(service)
    answer = await phone.call("POST", "/device", body, authorization=f"Code {opened['code']}")
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert b"33612345678" not in answer.body
    assert (await phone.register(f"Code {opened['code']}")).status == 201


@pytest.mark.parametrize(("method", "path"), [("POST", "/device"), *ROUTES])
async def test_only_json_is_read(service: Service, known: Phone, method: str, path: str) -> None:
    shown_as = login_of(pairing(service)) if method == "POST" else known.authorization
    for media_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await known.call(
            method, path, content=b"{}", headers={"Content-Type": media_type}, authorization=shown_as
        )
        assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(("method", "path"), [("POST", "/device"), *ROUTES])
async def test_a_body_that_never_comes_holds_nothing(service: Service, known: Phone, method: str, path: str) -> None:
    shown_as = login_of(pairing(service)) if method == "POST" else known.authorization
    answer = await known.call(method, path, content=b"{", authorization=shown_as, length=100)
    assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/device", 405),
        ("POST", "/message", 405),
        ("GET", "/user/password", 405),
        ("GET", "/message/", 200),
        ("GET", "/messages/?order=lifo", 200),
        ("GET", "/message?order=nonsense&order=lifo", 200),
    ],
)
async def test_paths_and_methods(known: Phone, method: str, path: str, status: int) -> None:
    assert (await known.call(method, path)).status == status


async def test_no_call_of_a_phone_is_in_the_documentation(service: Service) -> None:
    assert "/mobile/" not in service.http.get("/docs/openapi.json").text
