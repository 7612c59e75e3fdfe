"""The whole service in a thread of the test process: real stores, a real socket, and callers of every kind.

The thread has the event loop that production uses; tests talk to it over HTTP only, or over a bare socket where a
client library would be too polite.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx
import redis
import uvloop

from otpsvc.app import House, create_app, open_house, run_background
from otpsvc.app_delivery import open_delivery, open_outlets
from otpsvc.serving import bind, run_server
from otpsvc.settings import Settings, load
from otpsvc.worker import run_worker
from tests.programs import METRICS

PATIENCE_S = 30.0
MASTER = "5a" * 32

SEND_FIELDS = {
    "success", "otp_id", "message_id", "to", "purpose", "status", "channel", "code_length", "expires_at", "resend_at",
    "attempts_remaining",
}  # fmt: skip

_numbers = itertools.count(10_000_000)
_prefixes = itertools.count(1)
_CODE = re.compile(r"\d{4,10}")


def new_number() -> str:
    """A French mobile number that no other test of this process uses: no limit of another test applies to it."""
    return f"+336{next(_numbers):08d}"


def settings_for(redis_url: str, database_url: str, **variables: object) -> Settings:
    """The settings of a process of this service, as its environment would give them.

    Each has a part of the Redis to itself, so that no other one's worker takes its messages.
    """
    given: dict[str, object] = {
        "OTPSVC_REDIS_URL": redis_url,
        "OTPSVC_REDIS_PREFIX": f"http{next(_prefixes)}",
        "OTPSVC_DATABASE_URL": database_url,
        "OTPSVC_KEYS_MASTERS": f"test:{MASTER}",
        "OTPSVC_METRICS_DIRECTORY": METRICS,
        # Longer than a busy machine makes anybody wait: a store that is late is what other tests are about.
        "OTPSVC_REDIS_TIMEOUT_S": 5,
        "OTPSVC_DELIVERY_SENDERS": "inbox",
        "OTPSVC_SENDERS_INBOX_TYPE": "inbox",
    }
    return load(None, {name: str(value) for name, value in (given | variables).items()})


@dataclass(frozen=True)
class Caller:
    """A client's id and one of its keys."""

    client_id: str
    api_key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.api_key, "X-Client-ID": self.client_id}


@dataclass
class Service:
    """Where the service listens, who may call it, and short ways to do so."""

    port: int
    redis_url: str
    prefix: str  # what the names of its keys in that Redis begin with
    tester: Caller  # no cooldown
    liver: Caller  # the same client, live mode
    stranger: Caller  # another client, default policy
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S)

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        caller: Caller | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Call with JSON, or with `content` sent under the name of JSON as it is."""
        data = content if content is not None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(caller or self.tester).headers, **(headers or {})}
        return self.http.post(path, content=data, headers=given)

    def send(
        self,
        to: str | None = None,
        *,
        caller: Caller | None = None,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        return self.post("/v1/otp", {"to": to or new_number(), **body}, caller=caller, headers=headers)

    def verify(
        self,
        otp_id: str,
        code: Any,
        *,
        caller: Caller | None = None,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        return self.post(f"/v1/otp/{otp_id}/verify", {"code": code, **body}, caller=caller, headers=headers)

    def get(
        self, path: str, *, caller: Caller | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self.http.get(path, headers={**(caller or self.tester).headers, **(headers or {})})

    def delete(self, path: str, *, caller: Caller | None = None) -> httpx.Response:
        return self.http.delete(path, headers=(caller or self.tester).headers)

    def message(self, message_id: str) -> dict[str, Any]:
        """Wait for a message to reach the inbox."""
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            entries: list[dict[str, Any]] = self.http.get("/dev/inbox.json").json()
            for entry in entries:
                if entry["message_id"] == message_id:
                    return entry
            time.sleep(0.01)
        raise AssertionError(f"{message_id} never reached the inbox")

    def code(self, answer: httpx.Response) -> str:
        """The code that an accepted send delivered."""
        assert answer.status_code == 200, answer.text
        found = _CODE.search(self.message(answer.json()["message_id"])["text"])
        assert found is not None
        return found[0]

    def raw(self, data: bytes, *more: bytes, ends_input: bool = False) -> bytes:
        """Write bytes to a bare connection and read what comes until the service closes it or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            with contextlib.suppress(OSError):
                for part in (data, *more):
                    connection.sendall(part)
                if ends_input:
                    connection.shutdown(socket.SHUT_WR)
            return _answer_on(connection)

    def dump(self) -> dict[bytes, tuple[Any, Any]]:
        """Everything that Redis holds, with the time at which each key ends."""
        with redis.Redis.from_url(self.redis_url) as client:
            return {name: (_held(client, name), client.pexpiretime(name)) for name in client.scan_iter(count=1000)}

    def written(self) -> None:
        """Wait until all that happened is in PostgreSQL."""
        with redis.Redis.from_url(self.redis_url) as client:
            give_up_at = time.monotonic() + PATIENCE_S
            while any(client.xlen(name) for name in client.scan_iter(f"{self.prefix}:*:events", count=1000)):
                assert time.monotonic() < give_up_at, "the events are not written"
                time.sleep(0.01)

    def purge(self, *record_ids: str) -> None:
        """Take records out of Redis as time does, once what they tell is written."""
        self.written()
        with redis.Redis.from_url(self.redis_url) as client:
            for record_id in record_ids:
                assert client.delete(*client.scan_iter(f"{self.prefix}:*:{record_id}", count=1000))

    def history(self, otp_id: str, last: str, *, caller: Caller | None = None) -> list[dict[str, Any]]:
        """The history of an OTP as soon as it ends with this event."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            entries: list[dict[str, Any]] = self.get(f"/v1/otp/{otp_id}", caller=caller).json()["history"]
            if entries and entries[-1]["event"] == last:
                return entries
            assert time.monotonic() < give_up_at, f"{last} never came: {entries}"
            time.sleep(0.01)


def _held(client: "redis.Redis", name: bytes) -> object:
    # A stream's dump also says when its readers last looked.
    return client.xrange(name) if client.type(name) == b"stream" else client.dump(name)


def _answer_on(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            answer += chunk
            head, separator, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if separator and length and len(body) >= int(length[1]):
                break
    return answer


def wrong(code: str) -> str:
    """Another code of the same length."""
    return code[:-1] + str((int(code[-1]) + 1) % 10)


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is this error in our envelope, whole, and give its inside."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    body = answer.json()
    assert body.keys() == {"success", "error"}
    error: dict[str, Any] = body["error"]
    assert body["success"] is False
    assert error["code"] == code, error
    assert error.keys() - {"retry_after"} == {"code", "message", "details", "retryable", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    return error


Change = Callable[[House], House]


@contextlib.contextmanager
def running(
    settings: Settings,
    *,
    has_inbox: bool = True,
    delivers: bool = True,
    drains: bool = True,
    change: Change = lambda house: house,
) -> Iterator[Service]:
    """Run the service for the body of a `with`; `change` may put a double in the place of a part."""
    ready: Future[tuple[Service, Callable[[], object]]] = Future()
    kind = {"has_inbox": has_inbox, "delivers": delivers, "drains": drains}
    thread = threading.Thread(target=_run, args=(settings, ready, change), kwargs=kind, name="service")
    thread.start()
    service, stop = ready.result(PATIENCE_S)
    try:
        yield service
    finally:
        service.http.close()
        stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def _run(
    settings: Settings, ready: "Future[tuple[Service, Callable[[], object]]]", change: Change, **kind: bool
) -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, ready, change, **kind))
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)


async def _serve(
    settings: Settings,
    ready: "Future[tuple[Service, Callable[[], object]]]",
    change: Change,
    *,
    has_inbox: bool,
    delivers: bool,
    drains: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with open_house(settings) as house, open_outlets(house.stores, is_dev=True, is_worker=True) as outlets:
        delivery = open_delivery(house.stores, outlets)
        tester = await _caller(house, {"cooldown_s": 0})
        live = await house.clients.create_key(tester.client_id, mode="live")
        service = Service(
            port=0,
            redis_url=settings.redis.url.reveal(),
            prefix=settings.redis.prefix,
            tester=tester,
            liver=Caller(tester.client_id, live.text),
            stranger=await _caller(house, {}),
        )
        app = create_app(change(house), outlets, closing=stop, has_inbox=has_inbox)
        with contextlib.closing(bind("127.0.0.1", 0)) as sock:
            service = dataclasses.replace(service, port=sock.getsockname()[1])
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run_server(app, sock, stop, trusted_proxies=settings.http.trusted_proxies))
                tasks.create_task(house.phones.calls.run(stop))
                if delivers:
                    tasks.create_task(
                        run_worker(
                            delivery.queues, delivery.dispatcher, batch=8, concurrency=8, stop=stop, clock=house.clock
                        )
                    )
                if drains:
                    tasks.create_task(run_background(house, stop))
                ready.set_result((service, lambda: loop.call_soon_threadsafe(stop.set)))


async def _caller(house: House, policy: dict[str, object]) -> Caller:
    client = await house.clients.create_client("tests", policy)
    made = await house.clients.create_key(client.id, mode="test")
    return Caller(client.id, made.text)
