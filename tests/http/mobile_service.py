"""A service that delivers by its clients' phones only, and phones that are paired with it."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Literal, TypeVar

from otpsvc.app import House
from otpsvc.settings import Settings, load
from tests.http.mobile_phone import Phone, basic
from tests.http.service import MASTER, PATIENCE_S, Caller, Service, running
from tests.programs import METRICS

_Result = TypeVar("_Result")

# Every phone calls from an address of its own: what one of them tries too often must not hold up the next.
_addresses = itertools.count(2)
_prefixes = itertools.count(1)
# What runs behind each port, and the loop that it runs in.
_houses: dict[int, tuple[House, asyncio.AbstractEventLoop]] = {}


def phone_settings(redis_url: str, database_url: str, **variables: object) -> Settings:
    """Settings under which codes go out through phones, and every open stream is heard of each second."""
    given: dict[str, object] = {
        "OTPSVC_REDIS_URL": redis_url,
        "OTPSVC_REDIS_PREFIX": f"phones{next(_prefixes)}",
        "OTPSVC_REDIS_TIMEOUT_S": 5,
        "OTPSVC_DATABASE_URL": database_url,
        "OTPSVC_KEYS_MASTERS": f"test:{MASTER}",
        "OTPSVC_METRICS_DIRECTORY": METRICS,
        "OTPSVC_DELIVERY_SENDERS": "phones",
        "OTPSVC_SENDERS_PHONES_TYPE": "phones",
        "OTPSVC_DEVICES_KEEP_ALIVE_S": 1,
        "OTPSVC_DEVICES_CONFIRMS_BY_ITSELF": "true",
    }
    return load(None, {name: str(value) for name, value in (given | variables).items()})


@contextlib.contextmanager
def serving(
    settings: Settings, *, change: Callable[[House], House] = lambda house: house, **kind: bool
) -> Iterator[Service]:
    """Run one process's worth of the service."""
    inside: list[tuple[House, asyncio.AbstractEventLoop]] = []

    def noted(house: House) -> House:
        inside.append((house, asyncio.get_running_loop()))
        return change(house)

    with running(settings, has_inbox=False, change=noted, **kind) as service:
        _houses[service.port] = inside[0]
        try:
            yield service
        finally:
            del _houses[service.port]


def inside(service: Service, work: Callable[[House], Coroutine[Any, Any, _Result]]) -> _Result:
    """Do something within a running service."""
    house, loop = _houses[service.port]
    return asyncio.run_coroutine_threadsafe(work(house), loop).result(PATIENCE_S)


def new_caller(service: Service) -> Caller:
    """A client of its own: no other test's phone takes its messages."""
    client = inside(service, lambda house: house.clients.create_client("tests", {"cooldown_s": 0}))
    return new_key(service, client.id, "test")


def new_key(service: Service, client_id: str, mode: Literal["live", "test"]) -> Caller:
    """Another key of a client."""
    made = inside(service, lambda house: house.clients.create_key(client_id, mode=mode))
    return Caller(client_id, made.text)


def new_phone(service: Service) -> Phone:
    """A phone that nobody knows yet."""
    number = next(_addresses)
    return Phone(service.port, address=f"127.0.{number // 250}.{number % 250 + 1}")


def pairing(service: Service, *, caller: Caller | None = None, **body: Any) -> dict[str, Any]:
    """Open a pairing as a client does."""
    answer = service.post("/v1/devices/pairings", body, caller=caller)
    assert answer.status_code == 201, answer.text
    opened: dict[str, Any] = answer.json()
    return opened


async def paired(service: Service, *, caller: Caller | None = None, **body: Any) -> Phone:
    """A phone that has registered with its login; `body` is what it says of itself."""
    opened, phone = pairing(service, caller=caller), new_phone(service)
    answer = await phone.register(basic(opened["login"], opened["password"]), **body)
    assert answer.status == 201, answer.body
    phone.registered["password"] = opened["password"]
    return phone


async def present(service: Service, *, caller: Caller | None = None, **body: Any) -> Phone:
    """A paired phone that has pulled, and so is there."""
    phone = await paired(service, caller=caller, **body)
    assert await phone.pull() == []
    return phone


def shown(service: Service, phone: Phone, *, caller: Caller | None = None) -> Mapping[str, Any]:
    """The device as its client sees it."""
    answer = service.get(f"/v1/devices/{phone.id}", caller=caller)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def act(service: Service, phone: Phone, word: str, *, caller: Caller | None = None) -> None:
    """Confirm, disable or enable a device, rotate its token, or `delete` it, as its client does."""
    path = f"/v1/devices/{phone.id}"
    if word == "delete":
        answer = service.delete(path, caller=caller)
    else:
        answer = service.post(f"{path}/{word}", content=b"", caller=caller)
    assert answer.status_code == 200, answer.text
