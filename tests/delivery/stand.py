"""A whole service in one loop, with real stores and gateways that misbehave: codes go out through it as for a customer.

The gateways are receivers of signed webhooks, each a `GatewayDouble` of its own; what they sign and how they answer is
theirs, what becomes of a message is the service's.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from otpsvc.app import House, create_app, open_house, run_background
from otpsvc.app_delivery import Outlets, open_delivery, open_outlets, run_delivery
from otpsvc.serving import bind, run_server
from otpsvc.settings import load
from otpsvc.testing import GatewayDouble, GatewayRequest, Reply
from tests.gateways.webhook import OTHER_SECRET, SECRET, signed
from tests.programs import METRICS

PATIENCE_S = 30.0
MASTER = "5a" * 32
_numbers = itertools.count(33_612_000_000)
_prefixes = itertools.count(1)


class Gateway(GatewayDouble):
    """A receiver of the webhook; `taken` maps our message ids to the texts it took, in order.

    `answers` has what to answer to the next messages, one each; without any it accepts. It deduplicates nothing.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.taken: list[tuple[str, str]] = []
        self.answers: list[Reply] = []
        self.secret = SECRET
        self.delay_s = 0.0
        self.on_taken: Callable[[str, str], Any] | None = None

    async def respond(self, request: GatewayRequest) -> Reply:
        """Take the message, or answer what was prepared."""
        body = request.json()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.answers:
            return self.answers.pop(0)
        self.taken.append((body["id"], body["text"]))
        provider_id = f"{self.name}-{len(self.taken)}"
        if self.on_taken is not None:
            await self.on_taken(body["id"], provider_id)
        return Reply(200, {"message_id": provider_id})

    def copies(self, message_id: str) -> int:
        """How many times it took a message."""
        return sum(taken == message_id for taken, _ in self.taken)

    def table(self, **settings: object) -> str:
        """Write its table of the settings."""
        given: dict[str, object] = {
            "type": "webhook",
            "url": self.url + "/send",
            "secret": self.secret,
            "allow_private": True,
            "deduplicates": False,
            "receipts": True,
            "timeout_s": 1,
            **settings,
        }
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in given.items()]
        return "\n".join([f"[senders.{self.name}]", *lines, ""])


async def until(is_so: Callable[[], object], what: str) -> None:
    """Wait for something that must come true."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"waited {PATIENCE_S:.0f} s for {what}"
        await asyncio.sleep(0.01)


@dataclass
class Stand:
    """The running service and short ways to use it."""

    house: House
    outlets: Outlets
    http: httpx.AsyncClient
    headers: Mapping[str, str]
    address: str = ""

    async def send(self, to: str | None = None, **body: Any) -> dict[str, Any]:
        answer = await self.http.post("/v1/otp", json={"to": to or f"+{next(_numbers)}", **body}, headers=self.headers)
        assert answer.status_code == 200, answer.text
        sent: dict[str, Any] = answer.json()
        return sent

    async def verify(self, otp_id: str, code: str, **headers: str) -> httpx.Response:
        return await self.http.post(
            f"/v1/otp/{otp_id}/verify", json={"code": code}, headers={**self.headers, **headers}
        )

    async def message(self, sent: dict[str, Any]) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/messages/{sent['message_id']}", headers=self.headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def comes_to(self, sent: dict[str, Any], status: str) -> dict[str, Any]:
        """Wait until the message has this status."""
        give_up_at = time.monotonic() + PATIENCE_S
        while (found := await self.message(sent))["status"] != status:
            assert time.monotonic() < give_up_at, f"never {status}: {found}"
            await asyncio.sleep(0.02)
        return found

    async def history(self, sent: dict[str, Any], last: str) -> list[dict[str, Any]]:
        """The history of an OTP as soon as it ends with this event."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            answer = await self.http.get(f"/v1/otp/{sent['otp_id']}", headers=self.headers)
            entries: list[dict[str, Any]] = answer.json()["history"] or []
            if entries and entries[-1]["event"] == last:
                return entries
            assert time.monotonic() < give_up_at, f"{last} never came: {entries}"
            await asyncio.sleep(0.02)

    async def receipt(self, gateway: Gateway, *, is_forged: bool = False, skew_s: float = 0, **said: Any) -> int:
        """Bring a receipt as the gateway does; return the status of the answer."""
        request = signed(said, OTHER_SECRET if is_forged else gateway.secret, time.time() + skew_s)
        answer = await self.http.post(f"/receipts/{gateway.name}", content=request.body, headers=dict(request.headers))
        return answer.status_code

    async def count(self, name: str, **labels: str) -> float:
        """Read one counter or gauge, 0 where there is none."""
        text = (await self.http.get("/metrics")).text
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            metric, _, given = head.rstrip("}").partition("{")
            if metric == name and wanted <= set(given.split(",")):
                return float(value)
        return 0.0


@contextlib.asynccontextmanager
async def stand(
    directory: Path, redis_url: str, database_url: str, tables: str, *, n_workers: int = 1, **variables: object
) -> AsyncIterator[Stand]:
    """Run the service on these tables of the settings until the body of the `with` is done."""
    path = directory / "otpsvc.toml"
    path.write_text(tables)
    path.chmod(0o600)
    given: dict[str, object] = {
        "OTPSVC_REDIS_URL": redis_url,
        "OTPSVC_REDIS_PREFIX": f"delivery{next(_prefixes)}",
        "OTPSVC_REDIS_TIMEOUT_S": 5,
        "OTPSVC_DATABASE_URL": database_url,
        "OTPSVC_KEYS_MASTERS": f"test:{MASTER}",
        "OTPSVC_METRICS_DIRECTORY": METRICS,
        **variables,
    }
    settings = load(path, {name: str(value) for name, value in given.items()})
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(settings))
        outlets = await stack.enter_async_context(open_outlets(house.stores, is_dev=False, is_worker=True))
        client = await house.clients.create_client("stand", {"cooldown_s": 0})
        key = await house.clients.create_key(client.id, mode="live")
        sock = stack.enter_context(contextlib.closing(bind("127.0.0.1", 0)))
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=address, timeout=PATIENCE_S))
        deliveries = [open_delivery(house.stores, outlets) for _ in range(n_workers)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_server(create_app(house, outlets, closing=stop), sock, stop))
            tasks.create_task(run_background(house, stop))
            tasks.create_task(house.phones.calls.run(stop))
            for delivery in deliveries:
                tasks.create_task(run_delivery(delivery, settings, stop, house.clock))
            try:
                yield Stand(house, outlets, http, {"X-API-Key": key.text, "X-Client-ID": client.id}, address)
            finally:
                stop.set()
