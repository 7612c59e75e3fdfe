"""Phones over the real stores, wired as the service wires them, with short ways to pair one and to look at them."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis.asyncio

from otpsvc.clock import Clock, SystemClock
from otpsvc.crypto import Keyring
from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.model import Device, Pairing, Registered, Registration, Sim, Tenant
from otpsvc.devices.pairing import PairingService
from otpsvc.devices.passwords import Passwords
from otpsvc.devices.policy import DeviceSettings
from otpsvc.devices.service import DeviceService
from otpsvc.errors import ApiError
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.devices import PostgresDevices
from otpsvc.postgres.pool import Database, open_database
from otpsvc.redis.calls import RedisCalls
from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from otpsvc.redis.keys import Keys
from otpsvc.redis.offers import RedisOffers

TENANT = Tenant("client_100000000001", "live")
TEST_TENANT = Tenant(TENANT.client_id, "test")
STRANGER = Tenant("client_200000000002", "live")
SERVER_URL = "https://otp.example"
ADDRESS = "192.0.2.7"
SIMS = (
    Sim(slot=0, number=1, phone_number="********1234", carrier="Orange", iccid="***************5678"),
    Sim(slot=1, number=2, phone_number="********9999", carrier="Free", iccid=None),
)
PIXEL = Registration(name="Google/Pixel 7", sims=SIMS)


@dataclass
class DeviceHouse:
    """The parts as the service has them. Address and phone of every call are the same unless a test says otherwise."""

    database: Database
    raw: Any  # the library's types allow for answers of every kind of server
    redis: RedisClient
    keys: Keys
    keyring: Keyring
    settings: DeviceSettings
    clock: Clock
    records: PostgresDevices
    presence: RedisDevices
    offers: RedisOffers
    calls: RedisCalls
    passwords: Passwords
    pairing: PairingService
    access: DeviceAccess
    service: DeviceService
    _more_access: list[DeviceAccess] = field(default_factory=list)

    async def opened(self, tenant: Tenant = TENANT, *, is_confirmed_by_itself: bool = False) -> Pairing:
        """Open a pairing."""
        return await self.pairing.open(tenant, SERVER_URL, is_confirmed_by_itself=is_confirmed_by_itself)

    async def login(
        self, pairing: Pairing, registration: Registration = PIXEL, *, address: str = ADDRESS
    ) -> Registered:
        """Register by login and password, for the first time or again."""
        return await self.pairing.register_by_login(pairing.login, pairing.password, registration, address)

    async def paired(
        self,
        tenant: Tenant = TENANT,
        registration: Registration = PIXEL,
        *,
        is_confirmed: bool = True,
        address: str = ADDRESS,
    ) -> tuple[Pairing, Registered]:
        """Open a pairing, register a phone, and confirm it."""
        pairing = await self.opened(tenant)
        registered = await self.login(pairing, registration, address=address)
        if is_confirmed:
            await self.service.confirm(tenant, registered.device.id)
        return pairing, registered

    async def device(self, registered: Registered) -> Device:
        """The device as it is now."""
        found = await self.records.find(registered.device.tenant, registered.device.id)
        assert found is not None
        return found

    async def comes_in(self, token: str, *, access: DeviceAccess | None = None) -> Device:
        """Make a call with a token, as every call of a phone begins."""
        access = access or self.access
        device = await access.device_of(f"Bearer {token}")
        await access.heard(device)
        return device

    def another_process(self, *, keyring: Keyring | None = None, records: Any = None) -> DeviceAccess:
        """Another process's access to the same stores, with a memory of its own."""
        access = DeviceAccess(
            records=records or self.records,
            presence=self.presence,
            keyring=keyring or self.keyring,
            clock=self.clock,
            online_s=self.settings.online_s,
        )
        self._more_access.append(access)
        return access

    def pairing_service(
        self,
        *,
        clock: Clock | None = None,
        keyring: Keyring | None = None,
        records: PostgresDevices | None = None,
        **settings: Any,
    ) -> PairingService:
        """Another process's pairing over the same stores, where tries are counted anew."""
        return PairingService(
            records=records or self.records,
            presence=self.presence,
            keyring=keyring or self.keyring,
            passwords=self.passwords,
            settings=DeviceSettings(**settings),
            clock=clock or self.clock,
        )

    async def sql(self, statement: str, *values: object) -> list[Any]:
        """Run a statement of the test's own."""
        async with self.database.borrowed_connection("test") as connection:
            return await connection.fetch(statement, *values)

    async def everything(self) -> str:
        """All that both stores hold, as text: what must not be in it is nowhere at rest."""
        parts: list[object] = []
        for table in ("devices", "device_sims", "device_pairings"):
            parts += [str(dict(row)) for row in await self.sql(f"select * from {table}")]  # noqa: S608 - a name of ours
        async for name in self.raw.scan_iter():
            kind = await self.raw.type(name)
            if kind == b"hash":
                parts.append((name, await self.raw.hgetall(name)))
            elif kind == b"zset":
                parts.append((name, await self.raw.zrange(name, 0, -1)))
            elif kind == b"stream":
                parts.append((name, await self.raw.xrange(name)))
            else:
                parts.append((name, await self.raw.get(name)))
        return "\n".join(map(str, parts))

    async def close(self) -> None:
        """End what this house started beyond its first parts."""
        for access in self._more_access:
            await access.close()


@asynccontextmanager
async def open_house(
    redis_url: str,
    database_url: str,
    *,
    keyring: Keyring | None = None,
    settings: DeviceSettings | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[DeviceHouse]:
    """Wire everything about phones over both stores, with two clients that exist."""
    keyring = keyring or Keyring.from_masters({"new": b"n" * 32, "old": b"o" * 32})
    settings = settings or DeviceSettings()
    clock = clock or SystemClock()
    database = await open_database(database_url, max_connections=16)
    client = RedisClient(redis_url, timeout_s=5, max_connections=16)
    raw = redis.asyncio.Redis.from_url(redis_url)
    keys = Keys("test", 1)
    records, presence, passwords = PostgresDevices(database), RedisDevices(client, keys), Passwords()
    offers, calls = RedisOffers(client, keys), RedisCalls(client, keys, url=redis_url, timeout_s=5)
    house = DeviceHouse(
        database=database,
        raw=raw,
        redis=client,
        keys=keys,
        keyring=keyring,
        settings=settings,
        clock=clock,
        records=records,
        presence=presence,
        offers=offers,
        calls=calls,
        passwords=passwords,
        pairing=PairingService(
            records=records, presence=presence, keyring=keyring, passwords=passwords, settings=settings, clock=clock
        ),
        access=DeviceAccess(
            records=records, presence=presence, keyring=keyring, clock=clock, online_s=settings.online_s
        ),
        service=DeviceService(
            records=records,
            presence=presence,
            offers=offers,
            calls=calls,
            keyring=keyring,
            settings=settings,
            clock=clock,
        ),
    )
    stop = asyncio.Event()
    calling = asyncio.create_task(calls.run(stop))
    try:
        clients = PostgresClients(database)
        for tenant in (TENANT, STRANGER):
            await clients.insert_client(client_id=tenant.client_id, name="Shop", policy={})
        yield house
    finally:
        stop.set()
        await calling
        await house.close()
        await house.access.close()
        passwords.close()
        await client.close()
        await raw.aclose()
        await database.close()


async def refusal_of(call: Awaitable[Any]) -> ApiError:
    """Expect a refusal."""
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


async def code_of(call: Awaitable[Any]) -> str:
    """Expect a refusal, and return its code."""
    return (await refusal_of(call)).code


def basic(pairing: Pairing) -> str:
    """The header that a phone shows to register."""
    return "Basic " + base64.b64encode(f"{pairing.login}:{pairing.password}".encode()).decode()
