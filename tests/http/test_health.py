"""The probe of the events: what it calls behind, and that being behind stops nobody from sending traffic here."""

from collections.abc import Iterator
from http import HTTPStatus

import pytest
import redis

from otpsvc.errors import ApiError, problem
from otpsvc.events.model import Backlog
from otpsvc.http.health import MAX_EVENT_AGE_S, events_probe
from tests.http.service import Service, running, settings_for

LIMIT = 1000


@pytest.mark.parametrize(
    ("backlog", "is_behind"),
    [
        (Backlog(0, 0.0), False),
        (Backlog(LIMIT - 1, MAX_EVENT_AGE_S), False),
        (Backlog(LIMIT, 0.1), True),
        (Backlog(LIMIT * 2, 0.1), True),
        (Backlog(1, MAX_EVENT_AGE_S + 1), True),
    ],
)
async def test_behind_is_too_many_or_too_old(backlog: Backlog, *, is_behind: bool) -> None:
    async def said() -> Backlog:
        return backlog

    probe = events_probe(said, limit=LIMIT)
    if not is_behind:
        await probe()
        return
    with pytest.raises(ApiError) as caught:
        await probe()
    assert (caught.value.code, caught.value.reason) == ("SERVICE_UNAVAILABLE", "behind")


async def test_a_store_that_is_away_is_not_called_behind() -> None:
    async def away() -> Backlog:
        raise problem("SERVICE_UNAVAILABLE", reason="lost")

    with pytest.raises(ApiError) as caught:
        await events_probe(away, limit=LIMIT)()
    assert caught.value.reason == "lost"


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
    assert undrained.http.get("/health/ready").json() == {
        "status": "degraded",
        "parts": {"redis": "ok", "postgresql": "ok", "events": "behind"},
    }
    assert undrained.send().status_code == HTTPStatus.SERVICE_UNAVAILABLE
