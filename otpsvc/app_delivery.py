"""The wiring of delivery: from the settings' senders and routes to a dispatcher, and to who takes receipts.

`app` wires everything else and knows this file; this file knows `app` not.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from otpsvc.app_devices import Phones
from otpsvc.clock import Clock
from otpsvc.crypto import Keyring
from otpsvc.devices.inbox import DeviceInbox
from otpsvc.devices.minder import run_minder
from otpsvc.devices.model import FailureWords
from otpsvc.devices.pool import Pool
from otpsvc.devices.reach import Ways
from otpsvc.messages.breaker import LocalGates, fair_share
from otpsvc.messages.dispatcher import Dispatcher, check_lease
from otpsvc.messages.policy import SenderLimits
from otpsvc.messages.polling import run_polling
from otpsvc.messages.receipts import ReceiptService
from otpsvc.messages.router import Router
from otpsvc.metrics import Metrics
from otpsvc.otp.checks import GatewayChecks
from otpsvc.postgres.messages import PostgresMessageRecords
from otpsvc.redis.client import RedisClient
from otpsvc.redis.gates import RedisGates
from otpsvc.redis.keys import Keys
from otpsvc.redis.messages import RedisMessageQueue
from otpsvc.redis.receipt_index import RedisReceiptIndex
from otpsvc.redis.receipts import RedisReceiptBook
from otpsvc.senders.contract import RULES, Capabilities, Sender, SenderContext
from otpsvc.senders.inbox import InboxSender
from otpsvc.senders.phone_answers import phone_failure
from otpsvc.senders.registry import load_senders, opened
from otpsvc.settings import SenderTable, Settings
from otpsvc.worker import run_worker

_log = logging.getLogger(__name__)

_NO_BOUND = 1_000_000
LEAST_DRAIN_S, _DRAIN_MARGIN_S = 10.0, 1.0

GATE_STATES = ("closed", "half_open", "open")


@dataclass(frozen=True)
class Stores:
    """What delivery needs of the open house."""

    settings: Settings
    clock: Clock
    keyring: Keyring
    redis: RedisClient
    keys: Keys
    past: PostgresMessageRecords
    metrics: Metrics
    checks: GatewayChecks
    phones: Phones


@dataclass(frozen=True)
class Outlets:
    """The senders by name, what guards them, and who takes their receipts; and the developer's inbox, if there is one.

    `mirrors` are those that only get a copy of what another sender took.
    """

    senders: Mapping[str, Sender[Any]]
    mirrors: tuple[Sender[Any], ...]
    gates: RedisGates
    book: RedisReceiptBook
    receipts: ReceiptService
    pool: Pool
    phone_inbox: DeviceInbox
    router: Router
    inbox: InboxSender | None


@dataclass(frozen=True)
class Delivery:
    """What a worker needs: a queue per partition and a dispatcher."""

    queues: tuple[RedisMessageQueue, ...]
    dispatcher: Dispatcher
    outlets: Outlets
    phones: Phones


@contextlib.asynccontextmanager
async def open_outlets(
    stores: Stores, *, is_dev: bool, is_worker: bool, mirrors: Mapping[str, str] | None = None
) -> AsyncIterator[Outlets]:
    """Make the configured senders, and under `dev` the `mirrors` (name to type); raises ConfigurationError.

    A worker's are all opened, those of a process that answers requests only where a guess may have to be checked.
    """
    settings = stores.settings
    index = RedisReceiptIndex(stores.redis, stores.keys)
    book = RedisReceiptBook(stores.redis, stores.keys, index, event_limit=settings.limits.event_limit)
    senders: dict[str, Sender[Any]] = {}
    limits: dict[str, SenderLimits] = {}
    gates = RedisGates(stores.redis, stores.keys, limits, clock=stores.clock)
    receipts = ReceiptService(book=book, past=stores.past, senders=senders, observer=stores.metrics, heard=gates.heard)
    pool = Pool(
        offers=stores.phones.offers,
        receipts=receipts.take,
        keyring=stores.keyring,
        observer=stores.metrics,
    )
    phone_inbox = DeviceInbox(
        offers=stores.phones.offers,
        pool=pool,
        keyring=stores.keyring,
        failure_of=_failure_words,
        observer=stores.metrics,
    )
    context = SenderContext(
        is_dev=is_dev,
        clock=stores.clock,
        public_url=settings.http.public_url,
        phones=pool,
        take_receipts=receipts.take if is_worker else None,
    )
    tables = _tables(settings)
    tables |= {name: SenderTable(name, kind, {}) for name, kind in (mirrors or {}).items()}
    senders |= load_senders(tables, context)
    limits |= {name: _limits_of(senders[name], table.limits) for name, table in tables.items()}
    inbox = next((sender for sender in senders.values() if isinstance(sender, InboxSender)), None)
    copies = tuple(senders[name] for name in mirrors or {})
    mirrored = set(mirrors or {})
    routed = {name: sender for name, sender in senders.items() if name not in mirrored}
    router = Router(settings.routes, settings.delivery.senders, routed)
    stores.phones.reach.use(lambda client_id, channel, to: Ways(*router.ways(client_id, channel, to)))
    try:
        async with opened(one for one in senders.values() if is_worker or one.capabilities.owns_code):
            stores.checks.use(senders)
            yield Outlets(senders, copies, gates, book, receipts, pool, phone_inbox, router, inbox)
    finally:
        phone_inbox.close()


def open_delivery(stores: Stores, outlets: Outlets) -> Delivery:
    """Put a worker's parts together; raises ConfigurationError for routes that cannot work."""
    settings = stores.settings
    delivery = settings.delivery
    _warn_of_patience(outlets.senders, delivery.step_timeout_s)
    mirrored = {mirror.name for mirror in outlets.mirrors}
    routed = {name: sender for name, sender in outlets.senders.items() if name not in mirrored}
    pools = [name for name, sender in routed.items() if sender.capabilities.is_pool]
    dispatcher = Dispatcher(
        keyring=stores.keyring,
        router=outlets.router,
        senders=routed,
        gates=LocalGates(outlets.gates, fair_share(delivery.concurrency, len(routed)), unbounded=pools),
        book=outlets.book,
        take_receipts=outlets.receipts.take,
        mirrors=outlets.mirrors,
        clock=stores.clock,
        lease_s=delivery.lease_s,
        step_timeout_s=delivery.step_timeout_s,
        observer=stores.metrics,
    )
    queues = tuple(
        RedisMessageQueue(
            stores.redis,
            partition,
            is_fenced=settings.redis.is_fenced,
            with_receipts=[name for name, sender in routed.items() if _brings_news(sender.capabilities)],
            with_codes=[name for name, sender in routed.items() if sender.capabilities.owns_code],
        )
        for partition in stores.keys.partitions
    )
    return Delivery(queues, dispatcher, outlets, stores.phones)


async def run_delivery(delivery: Delivery, settings: Settings, stop: asyncio.Event, clock: Clock) -> None:
    """Deliver messages until `stop`; ask gateways about those that they took and say nothing about; mind the phones."""
    outlets = delivery.outlets
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            run_worker(
                delivery.queues,
                delivery.dispatcher,
                batch=settings.delivery.batch,
                concurrency=settings.delivery.concurrency,
                stop=stop,
                clock=clock,
                # Whoever is cut off in a call may have sent: the longest one that is allowed has time to end.
                drain_s=max(LEAST_DRAIN_S, delivery.dispatcher.longest_call_s + _DRAIN_MARGIN_S),
            )
        )
        tasks.create_task(run_polling(outlets.book, outlets.receipts, outlets.senders, stop, clock))
        phones = delivery.phones
        tasks.create_task(run_minder(outlets.pool, phones.offers, phones.presence, stop=stop, clock=clock))


def check_senders(settings: Settings, clock: Clock) -> None:
    """Raise ConfigurationError if a worker could not deliver by these settings; opens no sender."""
    context = SenderContext(is_dev=False, clock=clock, public_url=settings.http.public_url)
    senders = load_senders(_tables(settings), context)
    delivery = settings.delivery
    router = Router(settings.routes, delivery.senders, senders)
    check_lease(router, lease_s=delivery.lease_s, step_timeout_s=delivery.step_timeout_s)


def _limits_of(sender: Sender[Any], limits: SenderLimits) -> SenderLimits:
    """Bound no calls of a pool: each is one of our own store, and phones have their budgets."""
    return msgspec.structs.replace(limits, concurrency=_NO_BOUND) if sender.capabilities.is_pool else limits


def _failure_words(text: str) -> FailureWords:
    """Say what a phone's words about a failure mean."""
    kind, word, is_unmapped = phone_failure(text)
    return FailureWords(kind.value, RULES[kind].next_may_try, word, is_unmapped)


def _warn_of_patience(senders: Mapping[str, Sender[Any]], step_timeout_s: float) -> None:
    """Say which sender waits for its gateway longer than its step lasts.

    It is cut off before it could say that nothing was sent, so that a gateway which is only slow to let us in counts as
    one that may have the message.
    """
    for name, sender in senders.items():
        timeout_s = getattr(sender.settings, "timeout_s", None)
        if isinstance(timeout_s, int | float) and timeout_s >= step_timeout_s:
            told = (name, timeout_s, step_timeout_s)
            _log.warning("senders.%s.timeout_s (%g s) should be below delivery.step_timeout_s (%g s)", *told)


def _brings_news(can: Capabilities) -> bool:
    return can.has_receipts or can.polls_every_s is not None


def _tables(settings: Settings) -> dict[str, SenderTable]:
    return {name: settings.senders[name] for name in settings.routed_senders}
