"""The route of the metrics, and how calls are counted: each exit once, under its word."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, Response, Router, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from otpsvc.errors import ApiError, problem
from otpsvc.http.edge import Edge
from otpsvc.http.metered import ended_as, metered
from otpsvc.http.metrics import metrics_router
from otpsvc.http.problems import ErrorAnswers
from otpsvc.metrics import Probes, Scrape, open_metrics
from tests.http.service import new_number, running, settings_for

REASON = "the_scripts_own_word"

Call = Request[Any, Any, Any]
Ends = Callable[[Call, str], Awaitable[Response[bytes]]]


class Notebook:
    """A meter that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def called(self, call: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((call, outcome))


async def _answers(request: Call, path: str) -> Response[bytes]:
    return Response(path.encode())


async def _answers_otherwise(request: Call, path: str) -> Response[bytes]:
    ended_as(request, "replayed")
    return Response(path.encode())


async def _refuses(request: Call, path: str) -> Response[bytes]:
    raise problem("OTP_COOLDOWN")


async def _refuses_with_a_reason(request: Call, path: str) -> Response[bytes]:
    ended_as(request, "accepted")
    raise problem("OTP_NOT_FOUND", reason=REASON)


async def _fails(request: Call, path: str) -> Response[bytes]:
    raise ValueError("the code was 123456")


async def _hangs(request: Call, path: str) -> Response[bytes]:
    await asyncio.sleep(60)
    return Response(b"")


ENDS: dict[str, tuple[Ends, str]] = {
    "answers": (_answers, "accepted"),
    "answers-otherwise": (_answers_otherwise, "replayed"),
    "refuses": (_refuses, "otp_cooldown"),
    "refuses-with-a-reason": (_refuses_with_a_reason, REASON),
    "fails": (_fails, "internal_error"),
    "hangs": (_hangs, "disconnected"),
}


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def client_of(*routers: Router) -> httpx.AsyncClient:
    errors = ErrorAnswers(None)
    app = Litestar(
        route_handlers=routers,
        openapi_config=None,
        exception_handlers={
            ApiError: errors.api_error,
            HTTPException: errors.http_exception,
            Exception: errors.unexpected,
        },
        logging_config=None,
    )
    transport = httpx.ASGITransport(app=Edge(app))  # type: ignore[arg-type]  # two libraries' names for one protocol
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.fixture
async def client(notebook: Notebook) -> AsyncIterator[httpx.AsyncClient]:
    @post("/{name:str}", status_code=200)
    @metered(notebook, "send", success="accepted")
    async def send(request: Call, name: FromPath[str]) -> Response[bytes]:
        """Do as told."""
        return await ENDS[name][0](request, name)

    @get("/plain")
    @metered(notebook, "get")
    async def plain(request: Call) -> Response[bytes]:
        return Response(b"x")

    async with client_of(Router("/", route_handlers=[send, plain])) as made:
        yield made


@pytest.mark.parametrize("name", sorted(ENDS.keys() - {"hangs"}))
async def test_each_exit_is_counted_once(client: httpx.AsyncClient, notebook: Notebook, name: str) -> None:
    await client.post(f"/{name}")
    assert notebook.calls == [("send", ENDS[name][1])]


async def test_a_call_that_is_cut_off_is_counted(client: httpx.AsyncClient, notebook: Notebook) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.post("/hangs")
    assert notebook.calls == [("send", "disconnected")]


async def test_a_handler_keeps_its_answer_and_its_parameters(client: httpx.AsyncClient, notebook: Notebook) -> None:
    assert (await client.post("/answers")).text == "answers"
    assert (await client.get("/plain")).text == "x"
    assert notebook.calls[-1] == ("get", "done")


@pytest.mark.parametrize("accept", ["application/json", "application/problem+json"])
async def test_a_reason_is_never_part_of_an_answer(client: httpx.AsyncClient, accept: str) -> None:
    answer = await client.post("/refuses-with-a-reason", headers={"accept": accept})
    assert answer.status_code == 404
    assert "OTP_NOT_FOUND" in answer.text
    assert REASON not in answer.text
    assert REASON not in repr(answer.headers)
    without = problem("OTP_NOT_FOUND")
    assert str(problem("OTP_NOT_FOUND", reason=REASON)) == str(without)
    assert without.reason is None


async def test_the_route_gives_what_is_counted(tmp_path: Path) -> None:
    async def nothing() -> None:
        return None

    async def queues() -> dict[int, tuple[int, float]]:
        return {0: (2, 0.5)}

    async def events() -> tuple[int, float]:
        return (1, 0.5)

    async def owed() -> int:
        return 3

    async def gates() -> dict[str, tuple[int, int]]:
        return {"acme": (2, 3)}

    async def devices() -> int:
        return 4

    metrics = open_metrics(tmp_path, installation="otpsvc")
    try:
        metrics.called("send", "accepted", 0.1)
        scrape = Scrape(metrics, Probes(queues, events, owed, {"redis": nothing}, gates, devices))
        async with client_of(metrics_router(scrape)) as client:
            plain = await client.get("/metrics")
            assert plain.status_code == 200
            assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert 'otpsvc_calls_total{call="send",outcome="accepted"} 1.0\n' in plain.text
            assert 'otpsvc_queue_messages{partition="0"} 2.0\n' in plain.text
            modern = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,*/*"})
            assert modern.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            assert modern.text.endswith("# EOF\n")
            assert (await client.post("/metrics")).status_code == 405
    finally:
        metrics.close()


def test_a_whole_service_counts_what_it_answers(own_stores: tuple[str, str], tmp_path: Path) -> None:
    number = new_number()
    with running(settings_for(*own_stores, OTPSVC_METRICS_DIRECTORY=tmp_path)) as service:
        sent = service.send(number, headers={"Idempotency-Key": "k"})
        service.send(number, headers={"Idempotency-Key": "k"})
        code = service.code(sent)
        otp_id = sent.json()["otp_id"]
        service.verify(otp_id, code[:-1] + str((int(code[-1]) + 1) % 10))
        service.verify(otp_id, "x")
        service.verify(otp_id, code)
        service.verify(otp_id, code)
        service.get(f"/v1/otp/{otp_id}")
        service.get(f"/v1/sms/status/{sent.json()['message_id']}")
        service.delete(f"/v1/otp/{otp_id}")
        service.http.post("/v1/otp", json={"to": number})
        service.written()
        text = service.http.get("/metrics").text
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    calls = {name: float(value) for name, value in counted.items() if name.startswith("otpsvc_calls_total")}
    assert calls == {
        'otpsvc_calls_total{call="send",outcome="accepted"}': 1,
        'otpsvc_calls_total{call="send",outcome="replayed"}': 1,
        'otpsvc_calls_total{call="send",outcome="missing_auth_headers"}': 1,
        'otpsvc_calls_total{call="verify",outcome="wrong"}': 1,
        'otpsvc_calls_total{call="verify",outcome="right"}': 1,
        'otpsvc_calls_total{call="verify",outcome="invalid_otp_format"}': 1,
        'otpsvc_calls_total{call="verify",outcome="not_found"}': 1,
        'otpsvc_calls_total{call="get",outcome="found"}': 1,
        'otpsvc_calls_total{call="status",outcome="found"}': 1,
        'otpsvc_calls_total{call="cancel",outcome="ended"}': 1,
    }
    assert counted['otpsvc_handovers_total{outcome="accepted",sender="inbox"}'] == "1.0"
    assert counted['otpsvc_messages_ended_total{reason="none",status="sent"}'] == "1.0"
    assert counted['otpsvc_store_up{store="redis"}'] == counted['otpsvc_store_up{store="postgresql"}'] == "1.0"
    assert counted["otpsvc_events_unwritten"] == "0.0"
    assert "otpsvc_events_owed_max" in counted
    assert float(counted['otpsvc_events_drained_total{kind="new"}']) >= 4
    for secret in (number, number[4:], code, otp_id, sent.json()["message_id"], service.tester.client_id):
        assert secret not in " ".join(counted)
