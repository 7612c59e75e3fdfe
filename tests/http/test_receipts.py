"""`/receipts/{sender}`: what is believed, what is refused, and that nothing a stranger sends is a fault of ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar
from litestar.exceptions import HTTPException

from otpsvc.errors import ApiError, problem
from otpsvc.http.edge import Edge
from otpsvc.http.problems import ErrorAnswers
from otpsvc.http.receipts import MAX_BODY_BYTES, MAX_RECEIPTS, receipts_router
from otpsvc.senders.contract import (
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
)

DELIVERED = Receipt(status=ReceiptStatus.DELIVERED, provider_id="p-1")


class Parser:
    """A sender that answers what it was told to, and keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[ReceiptRequest] = []

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        self.asked.append(request)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer == "hang":
            await asyncio.sleep(60)
        answer: Receipts | ReceiptRefusal = self.answer
        return answer


class Meter:
    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def called(self, call: str, outcome: str, seconds: float) -> None:
        assert call == "receipt"
        self.outcomes.append(outcome)


class Desk:
    """The route over parsers by name; `taken` holds what was kept, unless `fails_with` is set."""

    def __init__(self, public_url: str | None = "https://otp.example") -> None:
        self.parsers = {
            "acme": Parser(Receipts((DELIVERED,), b"ACK")),
            "deaf": Parser(ReceiptRefusal(RefusalKind.UNSUPPORTED)),
            "strict": Parser(ReceiptRefusal(RefusalKind.UNAUTHENTIC, "who are you")),
            "lost": Parser(ReceiptRefusal(RefusalKind.MALFORMED)),
            "broken": Parser(KeyError("+33612345678")),
            "gone": Parser(SystemExit("+33612345678")),
            "slow": Parser("hang"),
            "odd": Parser("nonsense"),
            "empty": Parser(Receipts(cast("Any", None))),
            "wordy": Parser(Receipts(cast("Any", ("delivered +33612345678",)))),
            "digital": Parser(Receipts((Receipt(status=DELIVERED.status, provider_id=cast("Any", 33612345678)),))),
            "vague": Parser(Receipts((Receipt(status=cast("Any", "+33612345678"), provider_id="p-1"),))),
            "flood": Parser(Receipts((DELIVERED,) * (MAX_RECEIPTS + 1))),
        }
        self.taken: list[tuple[str, Sequence[Receipt]]] = []
        self.fails_with: Exception | None = None
        self.meter = Meter()
        router = receipts_router(self.parsers, self.take, public_url=public_url, body_timeout_s=2, metrics=self.meter)
        errors = ErrorAnswers(public_url)
        app = Litestar(
            [router],
            exception_handlers={
                ApiError: errors.api_error,
                HTTPException: errors.http_exception,
                Exception: errors.unexpected,
            },
            openapi_config=None,
            logging_config=None,
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(Edge(app)),  # type: ignore[arg-type] # the two libraries type ASGI apart
            base_url="http://inside:8080",
        )

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.taken.append((sender, receipts))


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    async with made.http:
        yield made


async def test_an_authentic_receipt_is_kept_and_answered_in_the_gateways_words(desk: Desk) -> None:
    answer = await desk.http.post("/receipts/acme", content=b"anything", headers={"X-Signature": "abc"})
    assert (answer.status_code, answer.content) == (200, b"ACK")
    assert answer.headers["content-type"].startswith("text/plain")
    assert desk.taken == [("acme", (DELIVERED,))]
    assert desk.meter.outcomes == ["taken"]
    (asked,) = desk.parsers["acme"].asked
    assert (asked.method, asked.body) == ("POST", b"anything")
    assert asked.headers["x-signature"] == "abc"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_address_is_given_as_it_was_called_from_outside(desk: Desk, method: str) -> None:
    await desk.http.request(method, "/receipts/acme/a%7Etoken%20x?b=2&a=%C3%A9")
    (asked,) = desk.parsers["acme"].asked
    assert asked.url == "https://otp.example/receipts/acme/a%7Etoken%20x?b=2&a=%C3%A9"
    assert asked.method == method


async def test_without_a_public_address_the_host_header_stands_in() -> None:
    desk = Desk(public_url=None)
    async with desk.http:
        await desk.http.post("/receipts/acme", headers={"host": "otp.internal"})
    assert desk.parsers["acme"].asked[0].url == "http://otp.internal/receipts/acme"


@pytest.mark.parametrize(
    ("sender", "status", "code"),
    [
        ("strict", 401, "RECEIPT_REFUSED"),
        ("deaf", 404, "RESOURCE_NOT_FOUND"),
        ("nobody", 404, "RESOURCE_NOT_FOUND"),
        ("lost", 400, "VALIDATION_ERROR"),
        ("broken", 400, "VALIDATION_ERROR"),
        ("gone", 400, "VALIDATION_ERROR"),
        *((name, 400, "VALIDATION_ERROR") for name in ("odd", "empty", "wordy", "digital", "vague")),
        ("flood", 400, "VALIDATION_ERROR"),
    ],
)
async def test_what_is_not_believed_is_refused_in_words_that_tell_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture, sender: str, status: int, code: str
) -> None:
    answer = await desk.http.post(f"/receipts/{sender}", content=b"the text 123456 to +33612345678")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["details"]) == (status, code, {})
    assert desk.taken == []
    assert desk.meter.outcomes == [code.lower()]
    for word in ("123456", "33612345678", "who are you"):
        assert word not in answer.text + caplog.text


async def test_a_parser_that_hangs_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.http.receipts.PARSE_TIMEOUT_S", 0.05)
    answer = await desk.http.post("/receipts/slow", content=b"x")
    assert answer.json()["error"]["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("how", ["swallows its cancellation", "cancels itself"])
async def test_no_parser_holds_up_a_request(desk: Desk, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("otpsvc.http.receipts.PARSE_TIMEOUT_S", 0.05)
    done = asyncio.Event()

    async def parse_receipt(request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        if how == "cancels itself":
            raise asyncio.CancelledError
        while not done.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()
        raise KeyError("+33612345678")

    monkeypatch.setattr(desk.parsers["slow"], "parse_receipt", parse_receipt)
    give_up = asyncio.get_running_loop().call_later(5, done.set)
    try:
        answer = await desk.http.post("/receipts/slow", content=b"x")
        assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
        assert desk.meter.outcomes == ["validation_error"]
        assert not done.is_set()
    finally:
        give_up.cancel()
        done.set()


async def test_what_cannot_be_kept_is_to_come_again(desk: Desk) -> None:
    desk.fails_with = problem("SERVICE_UNAVAILABLE")
    answer = await desk.http.post("/receipts/acme", content=b"x")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    desk.fails_with = None
    assert (await desk.http.post("/receipts/acme", content=b"x")).status_code == 200


async def test_a_body_that_is_too_large_reaches_no_sender(desk: Desk) -> None:
    whole = await desk.http.post("/receipts/acme", content=b"x" * MAX_BODY_BYTES)
    assert whole.status_code == 200
    more = await desk.http.post("/receipts/acme", content=b"x" * (MAX_BODY_BYTES + 1))
    assert more.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"
    assert len(desk.parsers["acme"].asked) == 1


@pytest.mark.parametrize("path", ["/receipts", "/receipts/", "/receipts/acme/a/b", "/receipts/%00", "/receipts/%ff"])
async def test_other_addresses_are_nobodys(desk: Desk, path: str) -> None:
    answer = await desk.http.post(path, content=b"x")
    assert answer.status_code == 404
    assert desk.taken == []


async def test_other_methods_are_refused(desk: Desk) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await desk.http.request(method, "/receipts/acme")).status_code == 405
