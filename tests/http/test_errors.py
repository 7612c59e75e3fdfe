"""When something fails: the catalogue is whole, faults of ours tell nothing, and lost stores are said to be lost."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from litestar.exceptions import HTTPException

import otpsvc
from otpsvc.app import House
from otpsvc.errors import CATALOGUE, LANGUAGES, ErrorKind, problem
from tests.http.cable import Cable
from tests.http.service import Service, error_of, new_number, running, settings_for

SECRET = "code 918273 for +33698765432"


# -- the catalogue


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE)
def test_every_error_speaks_all_four_languages(kind: ErrorKind) -> None:
    assert set(kind.message) == set(LANGUAGES)
    assert len(set(kind.message.values())) == len(LANGUAGES)
    assert all(text.strip() == text and text.endswith(".") for text in kind.message.values())
    assert re.search("[а-яё]", kind.message["ru"])
    assert not re.search("[а-яё]", kind.message["en"] + kind.message["fr"] + kind.message["it"])


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE)
def test_every_error_is_made_somewhere(kind: ErrorKind) -> None:
    package = Path(otpsvc.__file__).parent
    texts = [path.read_text() for path in package.rglob("*.py") if path != package / "errors.py"]
    assert any(f'"{kind.code}"' in text for text in texts)


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE)
def test_every_error_is_coherent(kind: ErrorKind) -> None:
    assert re.fullmatch("[A-Z][A-Z_]+", kind.code)
    assert 400 <= kind.status < 600
    if kind.retry_after_s is not None:
        assert kind.retryable
    if kind.status >= 500 or kind.category == "rate_limit":
        assert kind.retryable
    assert problem(kind.code).retry_after_s == kind.retry_after_s


def test_the_page_of_errors_shows_each_under_its_address(service: Service) -> None:
    page = service.http.get("/docs/errors")
    assert page.status_code == 200
    for kind in CATALOGUE.values():
        (row,) = re.findall(rf'<tr id="{kind.code}">(.*?)</tr>', page.text)
        assert f"<td>{kind.status}</td>" in row
        assert f"<td>{'yes' if kind.retryable else 'no'}</td>" in row


def test_the_type_of_a_problem_leads_to_its_place_on_that_page(service: Service) -> None:
    answer = service.get("/v1/otp/none", headers={"Accept": "application/problem+json"})
    address, _, place = str(answer.json()["type"]).partition("#")
    assert address == "/docs/errors"
    assert f'id="{place}"' in service.http.get(address).text


def test_the_type_of_a_problem_is_an_address_that_callers_can_reach(own_stores: tuple[str, str]) -> None:
    with running(settings_for(*own_stores, OTPSVC_HTTP_PUBLIC_URL="https://otp.example.com/sms")) as public:
        for path, code in (("/v1/otp/none", "OTP_NOT_FOUND"), ("/nowhere", "NOT_FOUND")):
            answer = public.get(path, headers={"Accept": "application/problem+json"})
            assert answer.json()["type"] == f"https://otp.example.com/sms/docs/errors#{code}"


# -- faults of ours


class Exploding:
    """All services in one, in which everything goes wrong in words that must not get out."""

    error: Exception = RuntimeError()

    async def _explode(self, *_: Any, **__: Any) -> Any:
        raise self.error

    send = verify = resend = cancel = get = look = status = forget = _explode


class LoudError(Exception):
    def __repr__(self) -> str:
        return SECRET

    def __str__(self) -> str:
        return SECRET


FAULTS: dict[str, Exception] = {
    "ours": RuntimeError(SECRET),
    "loud": LoudError(SECRET),
    "missing": KeyError(SECRET),
    "text": UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    "memory": MemoryError(SECRET),
    "late": TimeoutError(SECRET),
    "group": ExceptionGroup(SECRET, [ValueError(SECRET)]),
    "framework's": HTTPException(detail=SECRET, status_code=500, extra={"x": SECRET}, headers={"X-Leak": SECRET}),
}


@pytest.fixture(scope="module")
def bomb() -> Exploding:
    return Exploding()


@pytest.fixture(scope="module")
def exploding(own_stores: tuple[str, str], bomb: Exploding) -> Iterator[Service]:
    def with_double(house: House) -> House:
        double = cast("Any", bomb)
        return dataclasses.replace(house, otp=double, lookup=double, messages=double, eraser=double)

    with running(settings_for(*own_stores), change=with_double) as started:
        yield started


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_tells_its_kind_and_place_to_the_log_and_nothing_to_the_caller(
    exploding: Service, bomb: Exploding, name: str, watched_log: pytest.LogCaptureFixture
) -> None:
    bomb.error = FAULTS[name]
    calls: list[Callable[[], Any]] = [
        lambda: exploding.send("+33698765432"),
        lambda: exploding.verify("otp_x", "918273"),
        lambda: exploding.post("/v1/sms/verify-otp", {"otp_id": "x", "code": "918273"}),
        lambda: exploding.post("/v1/otp/x/resend", {}),
        lambda: exploding.get("/v1/otp/x"),
        lambda: exploding.delete("/v1/otp/x"),
        lambda: exploding.get("/v1/messages/x"),
        lambda: exploding.get("/v1/sms/status/x"),
        lambda: exploding.post("/v1/numbers/forget", {"to": "+33698765432"}),
    ]
    for call in calls:
        answer = call()
        error = error_of(answer, 500, "INTERNAL_ERROR")
        assert error["details"] == {}
        said = answer.text + repr(dict(answer.headers)) + watched_log.text
        for secret in (SECRET, "918273", "98765432"):
            assert secret not in said
        assert error["request_id"] in watched_log.text
    assert type(FAULTS[name]).__name__ in watched_log.text


def test_what_the_framework_refuses_tells_nothing_either(exploding: Service, bomb: Exploding) -> None:
    bomb.error = HTTPException(detail=SECRET, status_code=400, extra=[SECRET], headers={"X-Leak": SECRET})
    answer = exploding.get("/v1/otp/x")
    assert error_of(answer, 400, "VALIDATION_ERROR")["details"] == {}
    assert SECRET not in answer.text + repr(dict(answer.headers))


# -- stores that are away


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_without_redis_it_says_so_and_fails_closed(
    wired: Service, redis_cable: Cable, how: str, watched_log: pytest.LogCaptureFixture
) -> None:
    number = new_number()
    sent = wired.send(number)
    otp_id, code = sent.json()["otp_id"], wired.code(sent)
    path = f"/v1/otp/{otp_id}"
    getattr(redis_cable, how)()
    for answer in (
        wired.send(),
        wired.verify(otp_id, code),
        wired.get(path),
        wired.delete(path),
        wired.post(f"{path}/resend", {}),
        wired.get(f"/v1/messages/{sent.json()['message_id']}"),
        wired.get(f"/v1/sms/status/{sent.json()['message_id']}"),
        wired.post("/v1/numbers/forget", {"to": number}),
    ):
        error = error_of(answer, 503, "SERVICE_UNAVAILABLE")
        assert answer.headers["retry-after"] == str(error["retry_after"]) == "1"
        assert error["retryable"] is True
    ready = wired.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "unavailable",
        "parts": {"redis": "unreachable", "postgresql": "ok", "events": "unreachable"},
    }
    assert wired.http.head("/health/ready").status_code == 503
    assert wired.http.get("/health/live").status_code == 200
    assert number not in watched_log.text
    assert code not in watched_log.text
    redis_cable.plug_in()
    if how == "cut":  # with a silent store the first guess may have been counted, and been right
        assert wired.verify(otp_id, code).json()["valid"] is True
    again = wired.send()
    assert wired.verify(again.json()["otp_id"], wired.code(again)).json()["valid"] is True
    assert wired.http.get("/health/ready").json()["status"] == "ready"


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_without_postgresql_a_known_key_goes_on(wired: Service, database_cable: Cable, how: str) -> None:
    assert wired.send().status_code == 200
    getattr(database_cable, how)()
    sent = wired.send()
    assert wired.verify(sent.json()["otp_id"], wired.code(sent)).json()["valid"] is True
    ready = wired.http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "degraded",
        "parts": {"redis": "ok", "postgresql": "unreachable", "events": "ok"},
    }
    unknown = wired.send(caller=wired.stranger)
    error_of(unknown, 503, "SERVICE_UNAVAILABLE")
    assert int(unknown.headers["retry-after"]) > 0
    database_cable.plug_in()


def test_a_request_that_redis_answers_too_late_is_not_done_twice(wired: Service, redis_cable: Cable) -> None:
    number = new_number()
    headers = {"Idempotency-Key": "late"}
    assert wired.send().status_code == 200
    redis_cable.hang()
    error_of(wired.send(number, headers=headers), 503, "SERVICE_UNAVAILABLE")
    redis_cable.plug_in()
    first, twin = wired.send(number, headers=headers), wired.send(number, headers=headers)
    assert (first.status_code, twin.status_code) == (200, 200)
    assert twin.headers["idempotent-replayed"] == "true"
    assert twin.json()["otp_id"] == first.json()["otp_id"]
    assert [entry["message_id"] for entry in _delivered(wired, number, first)] == [first.json()["message_id"]]


def _delivered(wired: Service, number: str, sent: Any) -> list[dict[str, Any]]:
    wired.message(sent.json()["message_id"])
    entries: list[dict[str, Any]] = wired.http.get("/dev/inbox.json", params={"to": number}).json()
    return entries
