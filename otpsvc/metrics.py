"""Counting what happens, and answering scrapes with what all processes of a machine have counted.

What is counted under which names stands in `metrics_table`; any word that is not there becomes `other`.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from otpsvc import __version__
from otpsvc.metrics_files import SharedNumbers, open_numbers
from otpsvc.metrics_table import (
    BUILD,
    CALL_SECONDS,
    CALLS,
    DEVICES_ONLINE,
    DRAIN_OUTAGES,
    DUPLICATES,
    EVENTS_DRAINED,
    EVENTS_OLDEST,
    EVENTS_OWED,
    EVENTS_UNWRITTEN,
    HANDOVER_SECONDS,
    HANDOVERS,
    HOLDS,
    KEY_LOOKUPS,
    MESSAGES_ENDED,
    OFFERS,
    OTHER,
    PHONE_REPORTS,
    PHONE_SENT_SECONDS,
    QUEUE_MESSAGES,
    QUEUE_OLDEST,
    RECEIPTS,
    SENDER_CALLS,
    SENDER_DEMOTED,
    SENDER_STATE,
    STORE_UP,
    TABLE,
    TAKEOVERS,
    WORDS,
    Row,
)

PROBE_TIMEOUT_S = 2.0

_Answer = TypeVar("_Answer")


class GateNumbers(NamedTuple):
    """What all workers together know of a sender: its breaker (0 closed, 1 half-open, 2 open), its calls under way.

    `is_demoted`: its receipts do not come, so that others of a route are asked before it.
    """

    state: int
    calls: int
    is_demoted: bool = False


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
    gates: Callable[[], Awaitable[Mapping[str, tuple[int, int] | GateNumbers]]]
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
    """Answers scrapes: `await scrape(accept)` gives the text and its media type.

    All who ask at one time for one form get one answer: nobody needs a key for it, and it costs the stores some work.
    """

    def __init__(self, metrics: Metrics, probes: Probes) -> None:
        self._metrics = metrics
        self._probes = probes
        self._answers: dict[bool, asyncio.Task[tuple[bytes, str]]] = {}

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Give all metrics, as OpenMetrics where `accept` names that. Raises OSError."""
        is_modern = openmetrics.CONTENT_TYPE_LATEST.partition(";")[0] in accept
        answer = self._answers.get(is_modern)
        if answer is None or answer.done():
            answer = self._answers[is_modern] = asyncio.create_task(self._answer(is_modern=is_modern), name="metrics")
        # A caller that goes away must not take the others' answer with it.
        return await asyncio.shield(answer)

    async def _answer(self, *, is_modern: bool) -> tuple[bytes, str]:
        found = _Found(await self._look())
        if is_modern:
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
            numbers = {(sender,): GateNumbers(*gate) for sender, gate in gates.items()}
            families += [
                _gauge(SENDER_STATE, {sender: gate.state for sender, gate in numbers.items()}),
                _gauge(SENDER_CALLS, {sender: gate.calls for sender, gate in numbers.items()}),
                _gauge(SENDER_DEMOTED, {sender: float(gate.is_demoted) for sender, gate in numbers.items()}),
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
