"""The wiring of the clients' own phones: their records, their presence, the pool's store, and who decides over them.

`app` and `app_delivery` know this file; this file knows neither.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from otpsvc.app_stores import open_database_of, open_redis, refuse_old_database, settled_keyring
from otpsvc.clock import Clock, SystemClock
from otpsvc.crypto import Keyring
from otpsvc.devices.access import DeviceAccess
from otpsvc.devices.pairing import PairingService
from otpsvc.devices.passwords import Passwords
from otpsvc.devices.reach import PhoneReach
from otpsvc.devices.service import DeviceService
from otpsvc.postgres.devices import PostgresDevices
from otpsvc.postgres.pool import Database
from otpsvc.redis.calls import RedisCalls
from otpsvc.redis.client import RedisClient
from otpsvc.redis.devices import RedisDevices
from otpsvc.redis.keys import Keys
from otpsvc.redis.offers import RedisOffers
from otpsvc.settings import Settings


@dataclass(frozen=True)
class Phones:
    """Everything about phones that is open while the service runs."""

    records: PostgresDevices
    presence: RedisDevices
    offers: RedisOffers
    calls: RedisCalls
    pairing: PairingService
    access: DeviceAccess
    service: DeviceService
    reach: PhoneReach


@contextlib.asynccontextmanager
async def open_phones(
    settings: Settings, *, keyring: Keyring, redis: RedisClient, keys: Keys, database: Database, clock: Clock
) -> AsyncIterator[Phones]:
    """Put the parts together over open stores."""
    records = PostgresDevices(database)
    presence = RedisDevices(redis, keys, event_limit=settings.limits.event_limit)
    calls = RedisCalls(redis, keys, url=settings.redis.url.reveal(), timeout_s=settings.redis.timeout_s)
    offers = RedisOffers(redis, keys, is_fenced=settings.redis.is_fenced)
    passwords = Passwords()
    access = DeviceAccess(
        records=records, presence=presence, keyring=keyring, clock=clock, online_s=settings.devices.online_s
    )
    try:
        yield Phones(
            records=records,
            presence=presence,
            offers=offers,
            calls=calls,
            pairing=PairingService(
                records=records,
                presence=presence,
                keyring=keyring,
                passwords=passwords,
                settings=settings.devices,
                clock=clock,
            ),
            access=access,
            service=DeviceService(
                records=records,
                presence=presence,
                offers=offers,
                calls=calls,
                keyring=keyring,
                settings=settings.devices,
                clock=clock,
            ),
            reach=PhoneReach(offers, clock),
        )
    finally:
        await access.close()
        passwords.close()


@dataclass(frozen=True)
class DeviceDesk:
    """What the command line needs of devices."""

    service: DeviceService
    pairing: PairingService
    records: PostgresDevices
    presence: RedisDevices


@contextlib.asynccontextmanager
async def open_devices(settings: Settings) -> AsyncIterator[DeviceDesk]:
    """Open the stores for a command about devices; raises ConfigurationError."""
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database_of(settings))
        await refuse_old_database(database)
        keyring = await settled_keyring(settings, database)
        keys = Keys(settings.redis.prefix, settings.redis.partitions)
        redis = await open_redis(settings.redis, keys.barrier, stack)
        phones = await stack.enter_async_context(
            open_phones(settings, keyring=keyring, redis=redis, keys=keys, database=database, clock=SystemClock())
        )
        yield DeviceDesk(phones.service, phones.pairing, phones.records, phones.presence)
