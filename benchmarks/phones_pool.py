"""A client's phones and codes in an empty store, and a stop-watch for what is done with them: the store's CPU and ours.

CPU is read for some calls at a time, and the cheapest of a few such stretches counts: others use the machine too. After
each stretch come as many bare calls, of a script that does nothing but write as many keys.
"""

import asyncio
import gc
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from benchmarks.stand import StandError
from otpsvc import ids
from otpsvc.clients.model import Principal
from otpsvc.crypto import Keyring
from otpsvc.devices.model import Device, DeviceStatus, Sim, Tenant
from otpsvc.devices.policy import Budget
from otpsvc.messages.text import Texts
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import CodeHasher
from otpsvc.otp.model import SendRequest
from otpsvc.otp.policy import Limits, Policy
from otpsvc.otp.service import OtpService
from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.redis.offers import RedisOffers
from otpsvc.redis.otp import RedisOtpStore

UNDER_WAY = 16
STRETCHES, PER_STRETCH = 4, 80
CALLER = Principal("client_100000000001", "live", "bench", Policy(cooldown_s=0))
TENANT = Tenant(CALLER.client_id, CALLER.mode)
ROOMY = Budget(messages_per_window=10_000, recipients_per_day=100_000)
ONE_SIM = (Sim(slot=0, number=1),)
_SENDER = "phones"
_SEALED = bytes(200)  # about what number and text of a code come to
SLOTS = (_SEALED[:2],)  # of the masters that could open it
_FIRST_NUMBER = 33_610_000_000
# One plain write per key, of a value like the smaller ones that a script of ours writes.
_BARE = "for place = 1, #KEYS do redis.call('SET', KEYS[place], ARGV[1], 'PX', 300000) end return {'done'}"
_BARE_VALUE = "x" * 60

Call = Callable[[], Awaitable[object]]


class Cost(NamedTuple):
    """CPU of one call in µs: the store's, and the caller's."""

    store_us: float
    own_us: float

    def least(self, other: "Cost") -> "Cost":
        """Take the better of each."""
        return Cost(*map(min, self, other))


_UNKNOWN = Cost(float("inf"), float("inf"))


class Row(NamedTuple):
    """One case beside its ceiling: a bare call that writes `n_keys`."""

    name: str
    n_keys: int
    ours: Cost
    bare: Cost


class Pool:
    """The phones and the messages of one client, in a store that nobody else uses."""

    def __init__(self, client: RedisClient, keys: Keys, otp: OtpService, bare_sha: str) -> None:
        self.offers = RedisOffers(client, keys)
        self._client = client
        self._names = keys.devices(CALLER.client_id)
        self._presence = RedisDevices(client, keys)
        self._queue = RedisMessageQueue(client, keys.partitions[0])
        self._otp = otp
        self._bare_sha = bare_sha
        self._numbers = itertools.count(_FIRST_NUMBER)

    async def phones(
        self, count: int, *, sims: tuple[Sim, ...] = ONE_SIM, used: tuple[int, int] = (0, 0), n_roomy: int = 0
    ) -> list[Device]:
        """Let phones come online; `used` messages and recipients stand in the windows of each SIM.

        Then all but `n_roomy` of them have the default budget; unused ones have a wide one.
        """
        is_used = used != (0, 0)
        budgets = [Budget() if is_used and number >= n_roomy else ROOMY for number in range(count)]
        devices = [_device(sims, budget) for budget in budgets]
        await some_at_a_time([partial(self.seen, device) for device in devices])
        if is_used:
            fills = [partial(self._fill, device, sim.slot, used) for device in devices for sim in sims]
            await some_at_a_time(fills)
        return devices

    async def seen(self, device: Device, *, is_pull: bool = False) -> None:
        """Let a phone be heard of."""
        stream = "" if is_pull else "s1"
        if await self._presence.seen(device, stream=stream, is_pull=is_pull, online_s=3600) is None:
            raise StandError("a phone was turned away: no result")

    async def messages(self, count: int) -> list[str]:
        """Let codes be sent and a worker begin with them; give the messages."""
        requests = [SendRequest(to=f"+{next(self._numbers)}") for _ in range(count)]
        await some_at_a_time([partial(self._otp.send, CALLER, request) for request in requests])
        found: list[str] = []
        while claimed := (await self._queue.claim(limit=256, lease_s=3600)).messages:
            begins = [partial(self._queue.begin, one.message_id, one.token, sender=_SENDER) for one in claimed]
            await some_at_a_time(begins)
            found += [one.message_id for one in claimed]
        return found

    async def offer(
        self, message_id: str, *, operator: str = "", pinned: str = "", pull_ms: int = 60_000, comes_to: str = "offered"
    ) -> None:
        """Offer a message; raises StandError if that comes to something else."""
        offer = await self.offers.offer(
            message_id=message_id,
            tenant=TENANT,
            sender=_SENDER,
            recipient=message_id,
            operator=operator,
            sealed=_SEALED,
            expires_at_ms=int(time.time() * 1000) + 240_000,
            pull_within_ms=pull_ms,
            report_within_ms=60_000,
            give_up_ms=240_000,
            pinned=pinned,
        )
        if offer.outcome != comes_to:
            raise StandError(f"an offer came to {offer.outcome}, not {comes_to}: no result")

    async def forget_spent(self) -> None:
        """Let the next offer look at all phones, as after a second without one."""
        await self._client.command("DEL", self._names.spent_base + TENANT.mode)

    async def timed(self, name: str, n_keys: int, calls: Sequence[Call], *, under_way: int = UNDER_WAY) -> Row:
        """Time calls in `STRETCHES` stretches, each followed by bare calls."""
        ours = bare = _UNKNOWN
        length = max(1, len(calls) // STRETCHES)
        for start in range(0, len(calls) - length + 1, length):
            ours = ours.least(await self._cost(calls[start : start + length], under_way))
            bare = bare.least(await self._cost([partial(self._bare_call, n_keys)] * PER_STRETCH, under_way))
        return Row(name, n_keys, ours, bare)

    async def _fill(self, device: Device, slot: int, used: tuple[int, int]) -> None:
        now_ms = int(time.time() * 1000)
        for base, count in zip((self._names.sim_base, self._names.recipients_base), used, strict=True):
            members: list[int | str] = []
            for number in range(count):
                members += [now_ms - number, f"m{number}"]
            await self._client.command("ZADD", f"{base}{device.id}:{slot}", *members)

    async def _bare_call(self, n_keys: int) -> None:
        place = next(self._numbers)
        names = [f"bare:{place}:{number}" for number in range(n_keys)]
        await self._client.command("EVALSHA", self._bare_sha, n_keys, *names, _BARE_VALUE)

    async def _cost(self, calls: Sequence[Call], under_way: int) -> Cost:
        gc.collect()
        store_from_s, own_from_s = await self._store_cpu_s(), time.process_time()
        await some_at_a_time(calls, under_way)
        own_s = time.process_time() - own_from_s
        store_s = await self._store_cpu_s() - store_from_s
        return Cost(store_s / len(calls) * 1e6, own_s / len(calls) * 1e6)

    async def _store_cpu_s(self) -> float:
        said: Any = await self._client.command("INFO", "cpu")
        text = said.decode() if isinstance(said, bytes) else str(said)
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


@asynccontextmanager
async def open_pools(redis_url: str) -> AsyncIterator[Callable[[], Awaitable[Pool]]]:
    """Give a way to make one pool after the other; each empties the store."""
    client = RedisClient(redis_url, timeout_s=30, max_connections=4)
    keys = Keys("bench", 1)
    keyring = Keyring.from_masters({"bench": os.urandom(32)})
    hasher = CodeHasher(keyring, "hmac-sha256")
    otp = OtpService(
        store=RedisOtpStore(client, keys),
        keyring=keyring,
        hasher=hasher,
        texts=Texts(),
        limits=Limits(),
        partitions=1,
        checker=GatewayChecks(),
    )
    bare_sha = (await client.command("SCRIPT", "LOAD", _BARE)).decode()

    async def make() -> Pool:
        await client.command("FLUSHDB")
        return Pool(client, keys, otp, bare_sha)

    try:
        yield make
    finally:
        hasher.close()
        await client.close()


async def some_at_a_time(calls: Sequence[Call], under_way: int = UNDER_WAY) -> None:
    """Make the calls, so many of them under way."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(work() for _ in range(under_way)))


def _device(sims: tuple[Sim, ...], budget: Budget) -> Device:
    return Device(
        id=ids.new_device_id(),
        client_id=TENANT.client_id,
        mode=TENANT.mode,
        name="bench",
        status=DeviceStatus.ACTIVE,
        version=1,
        login="phone-bench",
        sims=sims,
        budget=budget,
        created_at=datetime.now(UTC),
    )
