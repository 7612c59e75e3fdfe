"""The pages of `dev` over the real OTP service and store, with phones that do as the test says, in a thread.

Nothing here imitates a rule: the codes, their limits and their ends are the real ones. What is played is the way of an
SMS (the worker, the pool and the radio have tests of their own), so that a test can hold one up or fail one.
"""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import redis
import uvloop
from litestar import Litestar
from litestar.exceptions import HTTPException

from otpsvc.clients.model import Principal
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError
from otpsvc.handset.air import Air, Sms
from otpsvc.http.bodies import BodyReader
from otpsvc.http.edge import Edge
from otpsvc.http.problems import ErrorAnswers
from otpsvc.messages.model import ClaimedMessage, Content, MessageStatus
from otpsvc.messages.text import Texts
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import CodeHasher
from otpsvc.otp.policy import Limits, Policy
from otpsvc.otp.ports import Tenant
from otpsvc.otp.service import OtpService
from otpsvc.pages.demo import demo_router
from otpsvc.pages.phone import phone_router
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.redis.otp import RedisOtpStore
from otpsvc.serving import bind, run_server
from tests.otp.house import MASTERS

PATIENCE_S = 30.0
CLIENT = "client_300000000003"
DEVICE = "dev_00000000000000000000000000"


class Play:
    """What the phones of this stand are and do; a test may change it at any time."""

    def __init__(self) -> None:
        self.phones: dict[str, bool] = {"Pixel": True}
        self.policy = Policy(cooldown_s=0)
        self.fails_with = ""  # the reason with which the next messages fail, where there is one
        self.is_reach_known = True  # whether a send hears at once that no phone is on
        self.streams = 0

    @property
    def has_phone(self) -> bool:
        return any(self.phones.values())

    def states(self) -> list[tuple[str, bool]]:
        return list(self.phones.items())

    async def refusal(self, tenant: Tenant, channel: str, to: str, device_id: str) -> str:
        return "" if self.has_phone or not self.is_reach_known else "NO_DEVICE_AVAILABLE"

    async def switch(self, name: str, is_on: bool) -> bool:
        if name not in self.phones:
            return False
        self.phones[name] = is_on
        return True


class CountingAir(Air):
    """The real air; counts who looks at it."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self._play = play

    def clear(self) -> None:
        """Forget what arrived."""
        self._arrived.clear()

    @contextlib.contextmanager
    def subscribe(self, to: str | None = None) -> Iterator[AsyncIterator[Sms]]:
        self._play.streams += 1
        try:
            with super().subscribe(to) as arriving:
                yield arriving
        finally:
            self._play.streams -= 1


@dataclass
class Stand:
    """A running stand: where it listens, what its phones do, what arrived."""

    port: int
    redis_url: str
    play: Play
    air: CountingAir
    loop: asyncio.AbstractEventLoop
    closing: asyncio.Event
    stop: Callable[[], object] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arrive(self, text: str, *, to: str = "+33612345678", message_id: str = "msg_0") -> None:
        """Let an SMS arrive that the service knows nothing of."""
        sms = Sms(message_id=message_id, to=to, text=text, device_id=DEVICE, sent_at=datetime.now(UTC))
        self.loop.call_soon_threadsafe(self.air.transmit, sms)

    def clear(self) -> None:
        """Begin anew: one phone that is on, no cooldown, every limit at its beginning, nothing on the screen."""
        self.play.phones = {"Pixel": True}
        self.play.policy = Policy(cooldown_s=0)
        self.play.fails_with = ""
        self.play.is_reach_known = True
        with redis.Redis.from_url(self.redis_url) as raw:
            raw.flushall()
        self.loop.call_soon_threadsafe(self.air.clear)

    def expire(self) -> None:
        """Put the end of every living code into the past, in the store alone."""
        with redis.Redis.from_url(self.redis_url) as raw:
            for name in raw.scan_iter("stand:*:otp:*"):
                raw.hset(name, "expires_at", 1)

    def close(self) -> None:
        """Let the streams end, as the service does when it stops."""
        self.loop.call_soon_threadsafe(self.closing.set)

    def reopen(self) -> None:
        """Let streams live again."""
        self.loop.call_soon_threadsafe(self.closing.clear)


@contextlib.contextmanager
def standing(redis_url: str) -> Iterator[Stand]:
    """Run a stand for the body of a `with`."""
    ready: Future[Stand] = Future()
    thread = threading.Thread(target=_run, args=(redis_url, ready), name="stand")
    thread.start()
    stand = ready.result(PATIENCE_S)
    try:
        yield stand
    finally:
        stand.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def _run(redis_url: str, ready: "Future[Stand]") -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(redis_url, ready))
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)


async def _serve(redis_url: str, ready: "Future[Stand]") -> None:
    play, loop = Play(), asyncio.get_running_loop()
    stop, closing = asyncio.Event(), asyncio.Event()
    air = CountingAir(play)
    client, keys = RedisClient(redis_url, timeout_s=5, max_connections=8), Keys("stand", 1)
    keyring = Keyring.from_masters(MASTERS)
    hasher = CodeHasher(keyring, "hmac-sha256", ())
    service = OtpService(
        store=RedisOtpStore(client, keys), keyring=keyring, hasher=hasher, texts=Texts(), limits=Limits(), partitions=1,
        checker=GatewayChecks(), reach=play,
    )  # fmt: skip
    queue = RedisMessageQueue(client, keys.partitions[0])
    try:
        with contextlib.closing(bind("127.0.0.1", 0)) as sock:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run_server(_app(service, play, air, closing), sock, stop))
                tasks.create_task(_carry(queue, keyring, play, air, stop))

                def end() -> None:
                    closing.set()
                    stop.set()

                port = sock.getsockname()[1]
                stopper = functools.partial(loop.call_soon_threadsafe, end)
                ready.set_result(Stand(port, redis_url, play, air, loop, closing, stopper))
    finally:
        hasher.close()
        await client.close()


def _app(service: OtpService, play: Play, air: Air, closing: asyncio.Event) -> Edge:
    bodies, errors = BodyReader(max_bytes=4096, timeout_s=2), ErrorAnswers(None)
    app = Litestar(
        route_handlers=[
            phone_router(air, phones=play.states, switch=play.switch, bodies=bodies, closing=closing),
            demo_router(service, lambda: Principal(CLIENT, "test", "dev", play.policy), bodies),
        ],
        exception_handlers={
            ApiError: errors.api_error, HTTPException: errors.http_exception, Exception: errors.unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )  # fmt: skip
    return Edge(app)


async def _carry(queue: RedisMessageQueue, keyring: Keyring, play: Play, air: Air, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if not play.has_phone and not play.fails_with:
            await asyncio.sleep(0.05)
            continue
        for message in (await queue.claim(limit=10, lease_s=60)).messages:
            if play.fails_with:
                await queue.record_final(
                    message.message_id, message.token, MessageStatus.FAILED, reason=play.fails_with
                )
            else:
                await _send(queue, message, keyring, air)
        await asyncio.sleep(0.05)


async def _send(queue: RedisMessageQueue, message: ClaimedMessage, keyring: Keyring, air: Air) -> None:
    bound_to = (message.client_id, message.mode, message.message_id, message.channel)
    plain = keyring.unseal(message.sealed, record_id=message.message_id, count=0, bound_to=bound_to)
    content = msgspec.msgpack.decode(plain, type=Content)
    if await queue.begin(message.message_id, message.token, sender="phones"):
        sms = Sms(
            message_id=message.message_id, to=content.to, text=content.text, device_id=DEVICE, sent_at=datetime.now(UTC)
        )
        air.transmit(sms)
        await queue.record_sent(message.message_id, message.token, sender="phones", provider_id=None)
