"""The wiring: settings become services, services become an ASGI application. The only file that knows every part."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from litestar import Litestar, Router
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp

from otpsvc.app_delivery import GATE_STATES, Outlets, Stores
from otpsvc.app_devices import Phones, open_phones
from otpsvc.app_stores import keyring_of, open_database_of, open_redis, refuse_old_database, settled_keyring
from otpsvc.clients.auth import Authenticator
from otpsvc.clients.service import ClientService
from otpsvc.clock import SystemClock
from otpsvc.crypto import Keyring
from otpsvc.errors import ApiError, ConfigurationError
from otpsvc.events.drain import run_drain, run_housekeeping
from otpsvc.events.lookup import OtpLookup
from otpsvc.http.bodies import BodyReader
from otpsvc.http.edge import Edge
from otpsvc.http.health import Probe, events_probe, health_router
from otpsvc.http.metrics import metrics_router
from otpsvc.http.mobile.router import MAX_BODY_BYTES as MOBILE_BODY_BYTES
from otpsvc.http.mobile.router import mobile_router
from otpsvc.http.openapi import openapi_config
from otpsvc.http.problems import ErrorAnswers
from otpsvc.http.receipts import receipts_router
from otpsvc.http.v1.devices import devices_router
from otpsvc.http.v1.messages import messages_router
from otpsvc.http.v1.numbers import numbers_router
from otpsvc.http.v1.otp import otp_router
from otpsvc.messages.service import MessageService
from otpsvc.messages.text import Texts
from otpsvc.metrics import GateNumbers, Metrics, Probes, Scrape, open_metrics
from otpsvc.otp.checks import GatewayChecks
from otpsvc.otp.codes import PROFILES, CodeHasher
from otpsvc.otp.erasure import NumberEraser
from otpsvc.otp.service import OtpService
from otpsvc.otp.sweep import run_sweep
from otpsvc.pages.developer import Developer, developer_routers
from otpsvc.pages.docs import ApiPage, docs_router
from otpsvc.postgres.clients import PostgresClients
from otpsvc.postgres.events import PostgresEventLog
from otpsvc.postgres.installation import check_installation, ping
from otpsvc.postgres.listen import KeyNews
from otpsvc.postgres.masters import PostgresMasters
from otpsvc.postgres.messages import PostgresMessageRecords
from otpsvc.postgres.numbers import PostgresNumberRecords
from otpsvc.postgres.pool import Database
from otpsvc.redis.client import RedisClient
from otpsvc.redis.events import RedisEventStream
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue, RedisMessageRecords
from otpsvc.redis.otp import RedisOtpStore
from otpsvc.settings import Settings


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
    lives: RedisOtpStore
    lookup: OtpLookup
    messages: MessageService
    eraser: NumberEraser
    stream: RedisEventStream
    history: PostgresEventLog
    clients: ClientService
    authenticator: Authenticator
    key_news: KeyNews
    metrics: Metrics
    past_messages: PostgresMessageRecords
    checks: GatewayChecks
    phones: Phones

    @property
    def stores(self) -> Stores:
        """What delivery is wired from."""
        return Stores(
            self.settings,
            self.clock,
            self.keyring,
            self.redis,
            self.keys,
            self.past_messages,
            self.metrics,
            self.checks,
            self.phones,
        )


async def client_service(settings: Settings, database: Database) -> ClientService:
    """Make the service behind `otpsvc client` and `otpsvc key`; raises ConfigurationError for a bad keyring."""
    keyring = await settled_keyring(settings, database)
    return ClientService(PostgresClients(database), keyring, settings.otp, SystemClock())


@contextlib.asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    """Connect the stores, check that they fit these settings, and make the services.

    Raises ConfigurationError for whatever would let the service start and then do wrong.
    """
    keyring_of(settings)  # a fault in the keyring is told before anything is connected
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
        keyring = await settled_keyring(settings, database)
        # API keys move to the current master as they are used, but never back to one that was current before it.
        await PostgresMasters(database).note_current(keyring.current.slot)
        partitions = settings.redis.partitions
        await check_installation(database, partitions=partitions, index_key_id=keyring.index_key_id)
        keys = Keys(settings.redis.prefix, partitions)
        redis = await open_redis(settings.redis, keys.barrier, stack)
        metrics = _open_metrics(settings, keyring.index_key_id)
        stack.callback(metrics.close)
        hasher = CodeHasher(keyring, settings.keys.hash_profile, settings.keys.accepted_hash_profiles)
        stack.callback(hasher.close)
        store = PostgresClients(database)
        authenticator = Authenticator(store, keyring, settings.otp, clock, on_lookup=metrics.key_looked_up)
        stack.push_async_callback(authenticator.close)
        is_fenced, is_durable = settings.redis.is_fenced, settings.redis.durable_send
        lives = RedisOtpStore(redis, keys, is_fenced=is_fenced, is_durable=is_durable)
        checks = GatewayChecks()
        phones = await stack.enter_async_context(
            open_phones(settings, keyring=keyring, redis=redis, keys=keys, database=database, clock=clock)
        )
        otp = OtpService(
            store=lives,
            keyring=keyring,
            hasher=hasher,
            texts=Texts(),
            limits=settings.limits,
            partitions=partitions,
            checker=checks,
            reach=phones.reach,
        )
        clients = ClientService(store, keyring, settings.otp, clock)

        async def client_ids() -> list[str]:
            return [client.id for client in await clients.list_clients()]

        kept = settings.history
        history = PostgresEventLog(database, event_days=kept.event_days, message_days=kept.message_days)
        past_messages = PostgresMessageRecords(database)
        yield House(
            settings=settings,
            clock=clock,
            keyring=keyring,
            redis=redis,
            database=database,
            keys=keys,
            otp=otp,
            lives=lives,
            lookup=OtpLookup(otp, history, past_messages, clock),
            messages=MessageService(RedisMessageRecords(redis, keys), past_messages),
            eraser=NumberEraser(
                living=lives,
                history=PostgresNumberRecords(database),
                client_ids=client_ids,
                keyring=keyring,
                partitions=partitions,
            ),
            stream=RedisEventStream(redis, keys),
            history=history,
            clients=clients,
            authenticator=authenticator,
            key_news=KeyNews(settings.database.url.reveal(), authenticator, timeout_s=settings.database.timeout_s),
            metrics=metrics,
            past_messages=past_messages,
            checks=checks,
            phones=phones,
        )


def _open_metrics(settings: Settings, index_key_id: str) -> Metrics:
    directory = settings.metrics.directory
    # Two installations on one machine count apart: their index keys differ, or their names do.
    installation = f"{settings.redis.prefix}-{index_key_id}"
    senders = (*settings.routed_senders, *settings.senders)
    return open_metrics(Path(directory) if directory else None, installation=installation, senders=senders)


async def run_background(house: House, stop: asyncio.Event) -> None:
    """Do until `stop` what is nobody's request: tell of expired codes, move events to PostgreSQL, keep its house."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_sweep(house.lives, house.settings.redis.partitions, stop=stop))
        tasks.create_task(run_drain(house.stream, house.history, stop=stop, clock=house.clock, observer=house.metrics))
        tasks.create_task(run_housekeeping(house.history, stop=stop, clock=house.clock))


def create_app(
    house: House,
    outlets: Outlets,
    *,
    closing: asyncio.Event,
    has_inbox: bool = False,
    developer: Developer | None = None,
) -> ASGIApp:
    """Make the ASGI application over an open house and its outlets, with the pages for developers that are wanted.

    What streams ends when `closing` is set: it would hold up the end of the server.
    """
    http = house.settings.http
    bodies = BodyReader(max_bytes=http.max_body_bytes, timeout_s=http.body_timeout_s)
    errors = ErrorAnswers(http.public_url)

    async def ping_database() -> None:
        await ping(house.database)

    async def queues() -> Mapping[int, tuple[int, float]]:
        waiting = [RedisMessageQueue(house.redis, partition).depth() for partition in house.keys.partitions]
        return dict(enumerate(await asyncio.gather(*waiting)))

    async def gates() -> Mapping[str, GateNumbers]:
        states = await outlets.gates.states()
        return {
            name: GateNumbers(GATE_STATES.index(gate.state), gate.calls, gate.is_demoted)
            for name, gate in states.items()
        }

    stores: dict[str, Probe] = {"redis": house.redis.ping, "postgresql": ping_database}
    phones = house.phones
    stream, event_limit = house.stream, house.settings.limits.event_limit
    inbox = outlets.inbox.list if has_inbox and outlets.inbox is not None else None
    probes = Probes(queues, stream.backlog, stream.fullest, stores, gates, phones.presence.n_online)
    routers: list[Router] = [
        otp_router(house.otp, house.lookup, house.authenticator, bodies, house.metrics),
        messages_router(house.messages, house.authenticator, house.metrics),
        numbers_router(house.eraser, house.authenticator, bodies, house.metrics),
        devices_router(
            phones.service,
            phones.pairing,
            house.authenticator,
            bodies,
            public_url=http.public_url,
            metrics=house.metrics,
        ),
        mobile_router(
            phones.pairing,
            phones.access,
            outlets.phone_inbox,
            phones.presence,
            phones.calls,
            settings=house.settings.devices,
            closing=closing,
            bodies=BodyReader(max_bytes=MOBILE_BODY_BYTES, timeout_s=http.body_timeout_s),
            metrics=house.metrics,
        ),
        health_router(
            needed={"redis": house.redis.ping},
            helpful={
                "postgresql": ping_database,
                "events": events_probe(stream.backlog, stream.fullest, limit=event_limit),
            },
        ),
        receipts_router(
            outlets.senders,
            outlets.receipts.take,
            public_url=http.public_url,
            body_timeout_s=http.body_timeout_s,
            metrics=house.metrics,
        ),
        metrics_router(Scrape(house.metrics, probes)),
        *developer_routers(developer, inbox, otp=house.otp, bodies=bodies, closing=closing),
    ]
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
