"""One running service per module of HTTP tests, a watch on what it logs, and cables to its stores that can be cut."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import redis

from otpsvc.embedded import RunningStores
from tests.conftest import run_sql
from tests.http.cable import Cable, plugged_in
from tests.http.service import PATIENCE_S, Service, running, settings_for

DATABASE = "http_tests"


@pytest.fixture(scope="module", autouse=True)
def many_pairings() -> Iterator[None]:
    """The phones of a module are all of one client: let it open as many pairings as it wants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otpsvc.devices.passwords.MOST_OPENED", 1_000_000)
        yield


@pytest.fixture(scope="module")
def own_stores(stores: RunningStores, migrated_template: str) -> Iterator[tuple[str, str]]:
    """The addresses of an emptied Valkey and of a migrated database that one module has for itself."""
    with redis.Redis.from_url(stores.redis_url) as client:
        client.flushall()
    run_sql(stores.database_url, f"CREATE DATABASE {DATABASE} TEMPLATE {migrated_template}")
    yield stores.redis_url, stores.stores.database(DATABASE)
    run_sql(stores.database_url, f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(scope="module")
def service(own_stores: tuple[str, str]) -> Iterator[Service]:
    with running(settings_for(*own_stores, OTPSVC_HTTP_BODY_TIMEOUT_S=0.4)) as started:
        yield started


def logged(log: pytest.LogCaptureFixture, level: int = logging.NOTSET) -> list[logging.LogRecord]:
    """What the test itself logged, from `level` up: when it is over, `records` is empty again."""
    return [record for record in log.get_records("call") if record.levelno >= level]


@pytest.fixture(autouse=True)
def watched_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """No request, however wrong or unlucky, may put a traceback into the log."""
    for name in ("otpsvc", "uvicorn"):
        caplog.set_level(logging.INFO, name)
    yield caplog
    for record in logged(caplog):
        assert not record.exc_info
        assert "Traceback" not in record.getMessage()


@pytest.fixture
def unimpressed(watched_log: pytest.LogCaptureFixture) -> Iterator[None]:
    """Bad input is no fault of ours: nothing above a warning may be logged."""
    yield
    assert [record.getMessage() for record in logged(watched_log, logging.ERROR)] == []


@pytest.fixture(scope="module")
def pending(service: Service) -> str:
    """The id of an OTP whose message has left, so that nothing but a request changes it."""
    sent = service.send(code_length=4, session="s")
    service.code(sent)
    while service.get(f"/v1/otp/{sent.json()['otp_id']}").json()["message_status"] != "sent":
        time.sleep(0.01)
    return str(sent.json()["otp_id"])


@pytest.fixture
def unchanged(service: Service, pending: str) -> Iterator[None]:
    """Everything that Redis holds is the same after the test."""
    service.written()
    before = service.dump()
    assert before
    yield
    assert service.dump() == before


@pytest.fixture
def redis_cable(own_stores: tuple[str, str]) -> Iterator[Cable]:
    with plugged_in(Path(urlsplit(own_stores[0]).path)) as cable:
        yield cable


@pytest.fixture
def database_cable(own_stores: tuple[str, str]) -> Iterator[Cable]:
    query = parse_qs(urlsplit(own_stores[1]).query)
    with plugged_in(Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}") as cable:
        yield cable


@pytest.fixture
def wired(own_stores: tuple[str, str], redis_cable: Cable, database_cable: Cable) -> Iterator[Service]:
    """A service that reaches both its stores through cables."""
    address = urlsplit(own_stores[1])
    port = parse_qs(address.query)["port"][0]
    settings = settings_for(
        f"unix://{quote(str(redis_cable.directory))}/redis.sock?db=0",
        f"postgresql://{address.netloc}{address.path}?host={quote(str(database_cable.directory))}&port={port}",
        OTPSVC_REDIS_TIMEOUT_S=0.5,
        OTPSVC_DATABASE_TIMEOUT_S=0.8,
    )
    with running(settings) as started:
        # On a busy machine the first connections take longer than these time-outs.
        give_up_at = time.monotonic() + PATIENCE_S
        while any(started.send(caller=caller).status_code != 200 for caller in (started.tester, started.liver)):
            assert time.monotonic() < give_up_at
        yield started
