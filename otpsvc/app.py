"""The wiring: settings become services, services become an ASGI application. The only file that knows every part."""

import contextlib
import gc
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Router
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp

from otpsvc.clients.auth import Authenticator
from otpsvc.clients.service import ClientService
from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring, KeyringError
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.http.bodies import BodyReader
from otpsvc.http.edge import Edge
from otpsvc.http.health import health_router
from otpsvc.http.openapi import openapi_config
from otpsvc.http.problems import ErrorAnswers
from otpsvc.http.v1.otp import otp_router
from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.text import Texts
from otpsvc.otp.codes import PROFILES, CodeHasher
from otpsvc.otp.service import OtpService
from otpsvc.pages.docs import ApiPage, docs_router
from otpsvc.pages.inbox import inbox_router
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.installation import check_installation, ping, recorded_index_key_id
from otpsvc.postgres.migrate import pending
from otpsvc.postgres.pool import Database, open_database
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.redis.otp import RedisOtpStore
from otpsvc.senders.contract import Sender, SenderContext
from otpsvc.senders.inbox import InboxSender
from otpsvc.senders.registry import load_senders, opened
from otpsvc.settings import SenderTable, Settings


@dataclass(frozen=True)
class House:
    """Everything that is open while the service runs."""

    settings: Settings
    clock: SystemClock
    keyring: Keyring
    redis: RedisClient
    database: Database
    keys: Keys
    otp: OtpService
    clients: ClientService
    authenticator: Authenticator


@contextlib.asynccontextmanager
async def open_database_of(settings: Settings) -> AsyncIterator[Database]:
    """Open PostgreSQL alone, for the commands that need nothing else; raises ConfigurationError."""
    database = await open_database(
        settings.database.url.reveal(),
        min_connections=settings.database.min_connections,
        max_connections=settings.database.max_connections,
        timeout_s=settings.database.timeout_s,
    )
    try:
        yield database
    finally:
        await database.close()


async def refuse_old_database(database: Database) -> None:
    """Raise ConfigurationError if the database lacks a migration."""
    waiting = await pending(database)
    if waiting:
        raise ConfigurationError(f"the database lacks {', '.join(waiting)}: run `otpsvc migrate`")


def client_service(settings: Settings, database: Database) -> ClientService:
    """Make the service behind `otpsvc client` and `otpsvc key`; raises ConfigurationError for a bad keyring."""
    return ClientService(PostgresClients(database), keyring_of(settings), settings.otp, SystemClock())


def keyring_of(settings: Settings) -> Keyring:
    """Make the keyring; raises ConfigurationError."""
    try:
        return Keyring.from_masters(settings.keys.masters, index_master=settings.keys.index_master)
    except KeyringError as error:
        raise ConfigurationError(f"keys.masters: {error}") from None


@contextlib.asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    """Connect the stores, check that they fit these settings, and make the services.

    Raises ConfigurationError for whatever would let the service start and then do wrong.
    """
    keyring = keyring_of(settings)
    known = [profile.name for profile in PROFILES]
    given = [("hash_profile", settings.keys.hash_profile)]
    given += [("accepted_hash_profiles", name) for name in settings.keys.accepted_hash_profiles]
    for key, name in given:
        if name not in known:
            raise ConfigurationError(f"keys.{key}: {name!r} is none of {', '.join(known)}")
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database_of(settings))
        await refuse_old_database(database)
        if settings.keys.index_master is None:
            # The indexes stay with the master that they began with, wherever a rotation has put it in the list.
            recorded = await recorded_index_key_id(database)
            keyring = (recorded and keyring.indexed_by(recorded)) or keyring
        partitions = settings.redis.partitions
        await check_installation(database, partitions=partitions, index_key_id=keyring.index_key_id)
        redis = RedisClient(
            settings.redis.url.reveal(),
            timeout_s=settings.redis.timeout_s,
            max_connections=settings.redis.max_connections,
        )
        stack.push_async_callback(redis.close)
        try:
            await redis.check_server(needs_append_only=settings.redis.persistence == "append_only")
        except ApiError:
            raise ConfigurationError("redis.url: the server does not answer") from None
        keys = Keys(settings.redis.prefix, partitions)
        hasher = CodeHasher(keyring, settings.keys.hash_profile, settings.keys.accepted_hash_profiles)
        stack.callback(hasher.close)
        store = PostgresClients(database)
        authenticator = Authenticator(store, keyring, settings.otp, clock)
        stack.push_async_callback(authenticator.close)
        otp = OtpService(
            store=RedisOtpStore(redis, keys),
            keyring=keyring,
            hasher=hasher,
            texts=Texts(),
            limits=settings.limits,
            partitions=partitions,
        )
        clients = ClientService(store, keyring, settings.otp, clock)
        yield House(settings, clock, keyring, redis, database, keys, otp, clients, authenticator)


@dataclass(frozen=True)
class Delivery:
    """What a worker needs: a queue per partition and a dispatcher; and the developer's inbox, where there is one."""

    queues: tuple[RedisMessageQueue, ...]
    dispatcher: Dispatcher
    inbox: InboxSender | None


@contextlib.asynccontextmanager
async def open_delivery(
    house: House, *, is_dev: bool, mirrors: Mapping[str, str] | None = None
) -> AsyncIterator[Delivery]:
    """Open the configured senders, and under `dev` the `mirrors` (name to type); raises ConfigurationError."""
    settings = house.settings
    tables = {name: settings.senders[name] for name in settings.delivery.senders}
    tables |= {name: SenderTable(name, kind, {}) for name, kind in (mirrors or {}).items()}
    senders = load_senders(tables, SenderContext(is_dev=is_dev, clock=house.clock))
    route: list[Sender[Any]] = [senders[name] for name in settings.delivery.senders]
    dispatcher = Dispatcher(
        keyring=house.keyring,
        senders=route,
        mirrors=[senders[name] for name in mirrors or {}],
        clock=house.clock,
        lease_s=settings.delivery.lease_s,
        step_timeout_s=settings.delivery.step_timeout_s,
    )
    queues = tuple(RedisMessageQueue(house.redis, partition) for partition in house.keys.partitions)
    async with opened(senders.values()):
        inbox = next((sender for sender in senders.values() if isinstance(sender, InboxSender)), None)
        yield Delivery(queues, dispatcher, inbox)


def check_senders(settings: Settings) -> None:
    """Raise ConfigurationError if a worker could not deliver by these settings; opens no sender."""
    tables = {name: settings.senders[name] for name in settings.delivery.senders}
    load_senders(tables, SenderContext(is_dev=False, clock=SystemClock()))


def create_app(house: House, *, inbox: InboxSender | None = None) -> ASGIApp:
    """Make the ASGI application over an open house, with the developer's inbox if one is given."""
    http = house.settings.http
    bodies = BodyReader(max_bytes=http.max_body_bytes, timeout_s=http.body_timeout_s)
    errors = ErrorAnswers(http.public_url)

    async def ping_database() -> None:
        await ping(house.database)

    routers: list[Router] = [
        otp_router(house.otp, house.authenticator, bodies),
        health_router(needed={"redis": house.redis.ping}, helpful={"postgresql": ping_database}),
    ]
    if inbox is not None:
        routers.append(inbox_router(inbox.list))
    app = Litestar(
        route_handlers=routers,
        openapi_config=openapi_config(ApiPage(), docs_router()),
        exception_handlers={
            ApiError: errors.api_error,
            HTTPException: errors.http_exception,
            Exception: errors.unexpected,
        },
        logging_config=None,
        pdb_on_exception=False,
        debug=False,
    )
    return Edge(app)


def settle_memory() -> None:
    """Take what was made at start out of the garbage collector's way (benchmarks/README.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
