"""Readiness: what is called behind, that this stops nobody from sending traffic here, and what asking costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus

import httpx
import pytest
import redis
from litestar import Litestar

from otpsvc.errors import ApiError, problem
from otpsvc.events.model import Backlog
from otpsvc.http import health
from otpsvc.http.health import KEPT_FOR_S, MAX_EVENT_AGE_S, Probe, events_probe, health_router
from otpsvc.testing import ManualClock
from tests.http.service import Service, running, settings_for
from tests.programs import wait_until

LIMIT = 1000
PATIENCE_S = 60


@pytest.mark.parametrize(
    ("backlog", "most", "is_behind"),
    [
        (Backlog(0, 0.0), 0, False),
        # The sum of all partitions says nothing; one that is full says enough, and so does what is only owed.
        (Backlog(LIMIT * 15, MAX_EVENT_AGE_S), LIMIT - 1, False),
        (Backlog(LIMIT, 0.1), LIMIT, True),
        (Backlog(0, 0.0), LIMIT * 2, True),
        (Backlog(1, MAX_EVENT_AGE_S + 1), 1, True),
    ],
)
async def test_behind_is_too_many_in_one_partition_or_too_old(backlog: Backlog, most: int, *, is_behind: bool) -> None:
    async def said() -> Backlog:
        return backlog

    async def fullest() -> int:
        return most

    probe = events_probe(said, fullest, limit=LIMIT)
    if not is_behind:
        await probe()
        return
    with pytest.raises(ApiError) as caught:
        await probe()
    assert (caught.value.code, caught.value.reason) == ("SERVICE_UNAVAILABLE", "behind")


async def test_a_store_that_is_away_is_not_called_behind() -> None:
    async def away() -> Backlog:
        raise problem("SERVICE_UNAVAILABLE", reason="lost")

    async def empty() -> int:
        return 0

    with pytest.raises(ApiError) as caught:
        await events_probe(away, empty, limit=LIMIT)()
    assert caught.value.reason == "lost"


# -- what asking costs


class Store:
    """A part that counts how often it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.fault: Exception | None = None
        self.is_away = False
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> None:
        self.n_asked += 1
        self.was_asked.set()
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        if self.is_away:
            raise problem("SERVICE_UNAVAILABLE", reason="store_lost")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def needed() -> Store:
    return Store()


@pytest.fixture
async def helpful() -> Store:
    return Store()


def client_of(needed: Probe, helpful: Probe, now: Callable[[], float]) -> httpx.AsyncClient:
    router = health_router({"redis": needed}, {"postgresql": helpful}, now=now)
    app = Litestar(route_handlers=[router], openapi_config=None, logging_config=None)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # two libraries' names for one protocol
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.fixture
async def client(needed: Store, helpful: Store, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(needed, helpful, clock.monotonic) as made:
        yield made


async def test_requests_at_one_time_share_one_look(client: httpx.AsyncClient, needed: Store, helpful: Store) -> None:
    needed.may_answer.clear()
    waiting = [asyncio.create_task(client.get("/health/ready")) for _ in range(20)]
    await asyncio.wait_for(needed.was_asked.wait(), PATIENCE_S)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    needed.may_answer.set()
    answers = await asyncio.gather(*waiting[1:])
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "ready")}
    assert (needed.n_asked, helpful.n_asked) == (1, 1)


@pytest.mark.parametrize("status", ["ready", "degraded"])
async def test_an_answer_serves_for_a_second(
    client: httpx.AsyncClient, needed: Store, helpful: Store, clock: ManualClock, status: str
) -> None:
    helpful.is_away = status == "degraded"
    for n_looks in (1, 2, 3):
        for method in ("GET", "HEAD") * 10:
            assert (await client.request(method, "/health/ready")).status_code == 200
        assert (await client.get("/health/ready")).json()["status"] == status
        assert (needed.n_asked, helpful.n_asked) == (n_looks, n_looks)
        clock.advance(KEPT_FOR_S)
    needed.is_away = True
    assert (await client.get("/health/ready")).status_code == 503


async def test_a_return_is_seen_at_once(client: httpx.AsyncClient, needed: Store) -> None:
    needed.is_away = True
    for _ in range(3):
        assert (await client.get("/health/ready")).json()["parts"] == {"redis": "unreachable", "postgresql": "ok"}
    needed.is_away = False
    assert (await client.get("/health/ready")).json()["status"] == "ready"


async def test_a_part_that_says_nothing_holds_nobody_up(
    client: httpx.AsyncClient, helpful: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.05)
    helpful.may_answer.clear()
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["parts"]) == (200, {"redis": "ok", "postgresql": "unreachable"})


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (problem("SERVICE_UNAVAILABLE", reason="store_refused"), "refusing"),
        (problem("SERVICE_UNAVAILABLE", reason="store_timeout"), "unreachable"),
        (problem("SERVICE_UNAVAILABLE"), "unreachable"),
        (RuntimeError("NOPERM this user has no permissions"), "unreachable"),
    ],
)
async def test_a_part_that_cannot_be_used_is_missing_however_it_says_so(
    client: httpx.AsyncClient, needed: Store, helpful: Store, clock: ManualClock, fault: Exception, state: str
) -> None:
    helpful.fault = fault
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["parts"]) == (200, {"redis": "ok", "postgresql": state})
    clock.advance(KEPT_FOR_S)
    needed.fault = fault
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["parts"]) == (503, {"redis": state, "postgresql": state})


# -- a whole service


@pytest.fixture
def undrained(own_stores: tuple[str, str]) -> Iterator[Service]:
    """A service whose events nobody writes down, and which may have a thousand of them."""
    settings = settings_for(*own_stores, OTPSVC_LIMITS_EVENT_LIMIT=LIMIT)
    with running(settings, drains=False) as started:
        yield started


def test_a_backlog_at_its_bound_is_said_and_is_no_outage(undrained: Service) -> None:
    assert undrained.send().status_code == 200
    assert undrained.http.get("/health/ready").json()["status"] == "ready"
    with redis.Redis.from_url(undrained.redis_url) as client:
        (stream,) = client.scan_iter(f"{undrained.prefix}:*:events", count=1000)
        for _ in range(LIMIT):
            client.xadd(stream, {"event": "none"})
    for method in ("GET", "HEAD"):
        assert undrained.http.request(method, "/health/ready").status_code == HTTPStatus.OK
    give_up_at = time.monotonic() + PATIENCE_S
    while undrained.http.get("/health/ready").json()["status"] == "ready":  # the answer of a second ago
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    assert undrained.http.get("/health/ready").json() == {
        "status": "degraded",
        "parts": {"redis": "ok", "postgresql": "ok", "events": "behind"},
    }
    assert undrained.send().status_code == HTTPStatus.SERVICE_UNAVAILABLE


@pytest.fixture
def served(own_stores: tuple[str, str]) -> Iterator[Service]:
    with running(settings_for(*own_stores)) as started:
        yield started


REFUSALS = (
    (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
)


def test_a_store_that_only_reads_is_not_ready(served: Service) -> None:
    """A PING is answered by a full server, by a replica, and by one that misses its own: none of them takes a code."""
    with redis.Redis.from_url(served.redis_url) as client:
        for begins, ends in REFUSALS:
            wait_until(lambda: served.http.get("/health/ready").json()["status"] == "ready", "a store that takes codes")
            client.execute_command(*begins)
            try:
                wait_until(lambda: served.http.get("/health/ready").status_code == 503, f"{begins} to be seen")
                assert served.http.get("/health/ready").json()["parts"]["redis"] == "refusing"
                assert 'otpsvc_store_up{store="redis"} 0.0' in served.http.get("/metrics").text
                assert served.send().status_code == HTTPStatus.SERVICE_UNAVAILABLE
            finally:
                client.execute_command(*ends)
        names = set(client.scan_iter(f"{served.prefix}*", count=1000))
        assert not [name for name in names if b"barrier" in name]
