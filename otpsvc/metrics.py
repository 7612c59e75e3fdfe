"""What is counted, under which names: the table of all metrics, and the one object that counts them.

docs/metrics.md repeats the table, and a test holds the two together. Every label takes its values from a closed list:
any other word becomes `other`, so that nothing a caller or a gateway says can make up a time series. No label may ever
hold a client's id, a number, the id of an OTP or a message, or anything derived from them.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from otpsvc import __version__
from otpsvc.devices.model import OfferStatus
from otpsvc.errors import CATALOGUE
from otpsvc.messages.model import MessageStatus
from otpsvc.metrics_files import SharedNumbers, open_numbers
from otpsvc.senders.contract import ReceiptStatus, RejectionKind

OTHER = "other"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A phone and its network take seconds where a call takes milliseconds, and a code lives five minutes.
PHONE_BOUNDS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
PROBE_TIMEOUT_S = 2.0

_Answer = TypeVar("_Answer")


class Row(NamedTuple):
    """One metric of the table."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    help: str
    bounds_s: tuple[float, ...] = BOUNDS_S


CALLS = Row("otpsvc_calls_total", "counter", ("call", "outcome"), "API calls, by the one word for how each ended.")
CALL_SECONDS = Row("otpsvc_call_seconds", "histogram", ("call",), "Time from the start of a call to its end.")
KEY_LOOKUPS = Row("otpsvc_key_lookups_total", "counter", ("outcome",), "API keys that were asked for in PostgreSQL.")
HANDOVERS = Row(
    "otpsvc_handovers_total", "counter", ("sender", "outcome"), "Calls of senders, by what the sender answered."
)
HANDOVER_SECONDS = Row("otpsvc_handover_seconds", "histogram", ("sender",), "Time that a sender took for one call.")
HOLDS = Row(
    "otpsvc_sender_holds_total", "counter", ("sender", "why"), "Times that a sender was passed over without a call."
)
DUPLICATES = Row(
    "otpsvc_possible_duplicates_total", "counter", ("sender",), "Messages passed on although this sender may have them."
)
RECEIPTS = Row(
    "otpsvc_receipts_total", "counter", ("sender", "status", "outcome"), "Receipts, by what they said and changed."
)
OFFERS = Row("otpsvc_offers_total", "counter", ("sender", "outcome"), "Messages offered to phones, by what came of it.")
TAKEOVERS = Row(
    "otpsvc_takeovers_total",
    "counter",
    ("sender", "why", "may_duplicate"),
    "Messages taken from one phone and offered to another.",
)
PHONE_REPORTS = Row("otpsvc_phone_reports_total", "counter", ("sender", "status"), "What phones said about messages.")
PHONE_SENT_SECONDS = Row(
    "otpsvc_phone_sent_seconds",
    "histogram",
    ("sender",),
    "Time from the acceptance of a message to a phone's word that it was sent.",
    PHONE_BOUNDS_S,
)
DEVICES_ONLINE = Row("otpsvc_devices_online", "gauge", (), "Phones that are connected, of all clients.")
SENDER_STATE = Row(
    "otpsvc_sender_state", "gauge", ("sender",), "The breaker of a sender: 0 closed, 1 half-open, 2 open."
)
SENDER_CALLS = Row("otpsvc_sender_calls", "gauge", ("sender",), "Calls of a sender that are under way, in all workers.")
MESSAGES_ENDED = Row(
    "otpsvc_messages_ended_total", "counter", ("status", "reason"), "Messages that a worker brought to an end."
)
EVENTS_DRAINED = Row("otpsvc_events_drained_total", "counter", ("kind",), "Events written to PostgreSQL.")
DRAIN_OUTAGES = Row(
    "otpsvc_drain_outages_total", "counter", ("store",), "Times that the drain of the events met a store that failed."
)
QUEUE_MESSAGES = Row("otpsvc_queue_messages", "gauge", ("partition",), "Messages that wait or are on their way.")
QUEUE_OLDEST = Row(
    "otpsvc_queue_oldest_seconds", "gauge", ("partition",), "For how long the message most overdue has been due."
)
EVENTS_UNWRITTEN = Row("otpsvc_events_unwritten", "gauge", (), "Events that PostgreSQL does not have yet.")
EVENTS_OWED = Row(
    "otpsvc_events_owed_max", "gauge", (), "Events that wait or are still owed, in the partition that has most of them."
)
EVENTS_OLDEST = Row("otpsvc_events_oldest_seconds", "gauge", (), "Age of the oldest event not yet written.")
STORE_UP = Row("otpsvc_store_up", "gauge", ("store",), "1 if the store answered this scrape, 0 if not.")
BUILD = Row("otpsvc_build_info", "gauge", ("version",), "Always 1; the label has the version.")

TABLE = (
    CALLS, CALL_SECONDS, KEY_LOOKUPS, HANDOVERS, HANDOVER_SECONDS, HOLDS, DUPLICATES, RECEIPTS, MESSAGES_ENDED,
    OFFERS, TAKEOVERS, PHONE_REPORTS, PHONE_SENT_SECONDS, DEVICES_ONLINE,
    EVENTS_DRAINED, DRAIN_OUTAGES, SENDER_STATE, SENDER_CALLS,
    QUEUE_MESSAGES, QUEUE_OLDEST, EVENTS_UNWRITTEN, EVENTS_OWED, EVENTS_OLDEST, STORE_UP, BUILD,
)  # fmt: skip

_REJECTIONS = frozenset(kind.value for kind in RejectionKind)
WORDS: Mapping[tuple[Row, str], frozenset[str]] = {
    (CALLS, "call"): frozenset(
        {"send", "verify", "resend", "cancel", "get", "status", "forget", "receipt"}
        | {"device_pair", "device_list", "device_show", "device_change", "device_delete"}
        | {"mobile_register", "mobile_look", "mobile_update", "mobile_pull", "mobile_report", "mobile_stream"}
        | {"mobile_settings", "mobile_webhooks", "mobile_code", "mobile_password"}
    ),
    (CALLS, "outcome"): frozenset(
        {"accepted", "replayed", "right", "wrong", "cancelled", "found", "forgotten", "done", "taken", "disconnected"}
        # What the store's scripts answer where the catalogue's code says less.
        | {"conflict", "locked_out", "cooldown", "number_limit", "live_limit", "ceiling", "address_limit"}
        | {"paired", "changed", "deleted", "registered", "pulled", "empty", "unreachable"}
        | {"closed", "broken", "replaced", "retired", "stopped"}
        | {"resend_limit", "busy", "not_found", "fenced", "expired", "locked", "no_attempts", "format", "ended"}
        # How the store failed to answer.
        | {"store_refused", "store_timeout", "store_not_kept", "store_lost"}
        | {code.lower() for code in CATALOGUE}
    ),
    (KEY_LOOKUPS, "outcome"): frozenset({"known", "unknown", "unreachable", "refused"}),
    (HANDOVERS, "outcome"): _REJECTIONS | {"accepted", "retry_later", "unknown", "unmapped"},
    (HOLDS, "why"): frozenset({"open", "rate", "crowd", "quiet", "price"}),
    (RECEIPTS, "status"): frozenset(status.value for status in ReceiptStatus),
    (RECEIPTS, "outcome"): frozenset({"applied", "repeated", "foreign", "unknown", "parked", "late"}),
    (MESSAGES_ENDED, "status"): frozenset(status.value for status in MessageStatus),
    (MESSAGES_ENDED, "reason"): _REJECTIONS
    | {"none", "no_sender", "no_time_left", "unknown_outcome", "unreadable", "code_ended", "retry_later"},
    (OFFERS, "outcome"): frozenset({"offered", "none", "budget", "empty", "offline", "foreign", "unwanted"}),
    (TAKEOVERS, "why"): frozenset({"not_pulled", "gone", "silent", "failed"}),
    (TAKEOVERS, "may_duplicate"): frozenset({"yes", "no"}),
    (PHONE_REPORTS, "status"): frozenset(status.value for status in OfferStatus),
    (EVENTS_DRAINED, "kind"): frozenset({"new", "repeated"}),
    (DRAIN_OUTAGES, "store"): frozenset({"stream", "history"}),
}


class Probes(NamedTuple):
    """What is asked at each scrape. A probe that fails or takes over two seconds leaves its metrics out.

    `queues` gives per partition how many messages there are and for how many seconds the most overdue one has been
    due (0.0 if none is); `events` gives how many wait and how old the oldest is, in seconds; `owed` gives how many wait
    or are still owed by living codes and messages in the partition that has most of them, which is what
    `limits.event_limit` bounds; each of `stores` raises if its store is away.
    """

    queues: Callable[[], Awaitable[Mapping[int, tuple[int, float]]]]
    events: Callable[[], Awaitable[tuple[int, float]]]
    owed: Callable[[], Awaitable[int]]
    stores: Mapping[str, Callable[[], Awaitable[object]]]
    gates: Callable[[], Awaitable[Mapping[str, tuple[int, int]]]]
    devices: Callable[[], Awaitable[int]]


class _Counter:
    def __init__(self, numbers: SharedNumbers, row: Row, words: Mapping[str, Collection[str]]) -> None:
        self._numbers = numbers
        self._name = row.name
        self._words = [words[label] for label in row.labels]
        self._slots: dict[tuple[str, ...], int] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1.0) -> None:
        slot = self._slots.get(labels)
        self._numbers.values[self._slot(labels) if slot is None else slot] += amount

    def _slot(self, labels: tuple[str, ...]) -> int:
        # Only words of the list are remembered, or this cache could be made to grow.
        known = tuple(word if word in words else OTHER for word, words in zip(labels, self._words, strict=True))
        slot = self._slots[known] = self._numbers.slot(_key(self._name, known))
        return slot


class _Histogram:
    def __init__(self, numbers: SharedNumbers, row: Row, words: Collection[str]) -> None:
        self._numbers = numbers
        self._name = row.name
        self._words = words
        self._bounds_s = row.bounds_s
        self._slots: dict[str, list[int]] = {}

    def observe(self, label: str, seconds: float) -> None:
        slots = self._slots.get(label) or self._slots_of(label)
        values = self._numbers.values
        values[slots[bisect_left(self._bounds_s, seconds)]] += 1.0
        values[slots[-1]] += seconds

    def _slots_of(self, label: str) -> list[int]:
        known = label if label in self._words else OTHER
        places = [*map(str, range(len(self._bounds_s) + 1)), "sum"]
        slots = self._slots[known] = [self._numbers.slot(_key(self._name, (known, place))) for place in places]
        return slots


class Metrics:
    """Counts for this process. Its methods take about a microsecond, never raise and never wait; one event loop only.

    It is what delivery and receipts (messages.ports.HandoverObserver), the pool of phones (devices.ports.PoolObserver)
    and the drain of the events tell what they do.
    """

    def __init__(self, numbers: SharedNumbers, senders: Iterable[str]) -> None:
        self._numbers = numbers
        words: dict[Row, dict[str, Collection[str]]] = {}
        for (row, label), closed in WORDS.items():
            words.setdefault(row, {})[label] = closed
        for row in (HANDOVERS, HOLDS, DUPLICATES, RECEIPTS, OFFERS, TAKEOVERS, PHONE_REPORTS):
            words.setdefault(row, {})["sender"] = frozenset(senders)
        self._counters = {row: _Counter(numbers, row, words[row]) for row in TABLE if row.kind == "counter"}
        self._calls = self._counters[CALLS]
        self._call_seconds = _Histogram(numbers, CALL_SECONDS, words[CALLS]["call"])
        self._handover_seconds = _Histogram(numbers, HANDOVER_SECONDS, words[HANDOVERS]["sender"])
        self._phone_sent_seconds = _Histogram(numbers, PHONE_SENT_SECONDS, words[OFFERS]["sender"])
        # Alarms need to see these from zero on.
        for row in (EVENTS_DRAINED, DRAIN_OUTAGES):
            for word in words[row][row.labels[0]]:
                self._counters[row].add((word,), 0.0)

    def called(self, call: str, outcome: str, seconds: float) -> None:
        """Count one API call."""
        self._calls.add((call, outcome))
        self._call_seconds.observe(call, seconds)

    def key_looked_up(self, outcome: str) -> None:
        """Count one API key that was asked for in PostgreSQL: `known`, `unknown`, `unreachable`, or `refused`."""
        self._counters[KEY_LOOKUPS].add((outcome,))

    def handed_over(self, sender: str, outcome: str, seconds: float) -> None:
        """Count one call of a sender."""
        self._counters[HANDOVERS].add((sender, outcome))
        self._handover_seconds.observe(sender, seconds)

    def ended(self, status: str, reason: str) -> None:
        """Count one message that came to its end; an empty reason is shown as `none`."""
        self._counters[MESSAGES_ENDED].add((status, reason or "none"))

    def held(self, sender: str, why: str) -> None:
        """Count a sender that was passed over."""
        self._counters[HOLDS].add((sender, why))

    def may_duplicate(self, sender: str) -> None:
        """Count a message that went to the next sender although this one may have it."""
        self._counters[DUPLICATES].add((sender,))

    def receipt_taken(self, sender: str, status: str, outcome: str) -> None:
        """Count a receipt."""
        self._counters[RECEIPTS].add((sender, status, outcome))

    def offered(self, sender: str, outcome: str) -> None:
        """Count a message that was offered to the phones."""
        self._counters[OFFERS].add((sender, outcome))

    def taken_over(self, sender: str, why: str, *, may_duplicate: bool) -> None:
        """Count a message that went from one phone to another."""
        self._counters[TAKEOVERS].add((sender, why, "yes" if may_duplicate else "no"))

    def reported(self, sender: str, status: str, seconds: float | None) -> None:
        """Count what a phone said, and how long a message took that it says it has sent."""
        self._counters[PHONE_REPORTS].add((sender, status))
        if seconds is not None:
            self._phone_sent_seconds.observe(sender, seconds)

    def drained(self, n_new: int, n_repeated: int) -> None:
        """Count events that PostgreSQL took: those it did not have, and those it had."""
        self._counters[EVENTS_DRAINED].add(("new",), n_new)
        self._counters[EVENTS_DRAINED].add(("repeated",), n_repeated)

    def outage(self, store: str) -> None:
        """Count one outage of the `stream` or the `history` that the drain met."""
        self._counters[DRAIN_OUTAGES].add((store,))

    def families(self) -> list[Metric]:
        """Give what all processes of this machine counted. Reads files: not for the event loop. Raises OSError."""
        totals = self._numbers.totals()
        counted: dict[str, dict[tuple[str, ...], float]] = {}
        for key in sorted(totals):
            name, *labels = key.split("\t")
            counted.setdefault(name, {})[tuple(labels)] = totals[key]
        rows = [row for row in TABLE if row.kind != "gauge"]
        return [_family(row, counted.get(row.name, {})) for row in rows] + [_gauge(BUILD, {(__version__,): 1.0})]

    def close(self) -> None:
        """Stop counting; what was counted stays for the other processes."""
        self._numbers.close()


class Scrape:
    """Answers scrapes: `await scrape(accept)` gives the text and its media type. Scrapes at one time share one look."""

    def __init__(self, metrics: Metrics, probes: Probes) -> None:
        self._metrics = metrics
        self._probes = probes
        self._looking: asyncio.Task[list[Metric]] | None = None

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Give all metrics, as OpenMetrics where `accept` names that. Raises OSError."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="metrics")
        # A caller that goes away must not take the others' answer with it.
        found = _Found(await asyncio.shield(self._looking))
        if openmetrics.CONTENT_TYPE_LATEST.partition(";")[0] in accept:
            return await asyncio.to_thread(openmetrics.generate_latest, found), openmetrics.CONTENT_TYPE_LATEST
        return await asyncio.to_thread(generate_latest, found), CONTENT_TYPE_PLAIN_0_0_4

    async def _look(self) -> list[Metric]:
        probes = self._probes
        queues, events, owed, (gates, devices), families, up = await asyncio.gather(
            _asked(probes.queues),
            _asked(probes.events),
            _asked(probes.owed),
            asyncio.gather(_asked(probes.gates), _asked(probes.devices)),
            asyncio.to_thread(self._metrics.families),
            asyncio.gather(*(_is_up(probe) for probe in probes.stores.values())),
        )
        families.append(_gauge(STORE_UP, {(name,): value for name, value in zip(probes.stores, up, strict=True)}))
        if queues is not None:
            families += [
                _gauge(QUEUE_MESSAGES, {(str(partition),): n for partition, (n, _) in queues.items()}),
                _gauge(QUEUE_OLDEST, {(str(partition),): age_s for partition, (_, age_s) in queues.items()}),
            ]
        if events is not None:
            families += [_gauge(EVENTS_UNWRITTEN, {(): events[0]}), _gauge(EVENTS_OLDEST, {(): events[1]})]
        if gates is not None:
            families += [
                _gauge(SENDER_STATE, {(sender,): state for sender, (state, _) in gates.items()}),
                _gauge(SENDER_CALLS, {(sender,): calls for sender, (_, calls) in gates.items()}),
            ]
        if devices is not None:
            families.append(_gauge(DEVICES_ONLINE, {(): devices}))
        if owed is not None:
            families.append(_gauge(EVENTS_OWED, {(): owed}))
        return families


def open_metrics(base: Path | None, *, installation: str, senders: Iterable[str] = ()) -> Metrics:
    """Count together with this user's other processes of an installation (docs/metrics.md).

    `base` is where their private directory is, None for the directory of temporary files. `senders` are the names that
    the label `sender` may have. Raises ConfigurationError where there is no such directory to be had.
    """
    return Metrics(open_numbers(base, installation), senders)


class _Found(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def _asked(probe: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await probe()
    except Exception:  # noqa: BLE001 - what cannot be told is left out, the rest is still worth having
        return None


async def _is_up(probe: Callable[[], Awaitable[object]]) -> float:
    async def answers() -> float:
        await probe()
        return 1.0

    return await _asked(answers) or 0.0


def _key(name: str, labels: tuple[str, ...]) -> str:
    return "\t".join((name, *labels))


def _family(row: Row, counted: Mapping[tuple[str, ...], float]) -> Metric:
    if row.kind == "counter":
        counter = CounterMetricFamily(row.name, row.help, labels=row.labels)
        for labels, number in counted.items():
            if len(labels) == len(row.labels):
                counter.add_metric(labels, number)
        return counter
    histogram = HistogramMetricFamily(row.name, row.help, labels=row.labels)
    for label in dict.fromkeys(labels[0] for labels in counted):
        so_far = 0.0
        buckets: list[tuple[str, float]] = []
        for place, bound in enumerate((*row.bounds_s, "+Inf")):
            so_far += counted.get((label, str(place)), 0.0)
            buckets.append((str(bound), so_far))
        histogram.add_metric((label,), buckets, counted.get((label, "sum"), 0.0))
    return histogram


def _gauge(row: Row, values: Mapping[tuple[str, ...], float]) -> Metric:
    gauge = GaugeMetricFamily(row.name, row.help, labels=row.labels)
    for labels, value in values.items():
        gauge.add_metric(labels, value)
    return gauge
