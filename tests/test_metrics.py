"""Metrics: counted by real processes together, in closed words, and as the documents say."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from otpsvc import metrics
from otpsvc import metrics_table as table
from otpsvc.errors import CATALOGUE, problem
from otpsvc.messages import dispatcher, walk
from otpsvc.messages.model import UNKNOWN_OUTCOME
from otpsvc.metrics import GateNumbers, Metrics, Probes, Scrape, open_metrics
from otpsvc.metrics_table import OTHER, TABLE, WORDS
from otpsvc.otp import refusals

PATIENCE_S = 60
ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs/metrics.md").read_text("utf-8")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Metrics]]:
    """Open the metrics of `tmp_path` in this process, as often as wanted."""
    with contextlib.ExitStack() as stack:

        def make() -> Metrics:
            made = open_metrics(tmp_path, installation="otpsvc", senders=("acme",))
            stack.callback(made.close)
            return made

        yield make


async def _nothing() -> None:
    return None


async def _queues() -> dict[int, tuple[int, float]]:
    return {0: (3, 1.5), 7: (0, 0.0)}


async def _events() -> tuple[int, float]:
    return (4, 2.25)


async def _owed() -> int:
    return 9


async def _devices() -> int:
    return 3


async def _gates() -> dict[str, GateNumbers]:
    return {"acme": GateNumbers(2, 3, is_demoted=True), "other": GateNumbers(0, 0)}


WELL = Probes(_queues, _events, _owed, {"redis": _nothing, "postgresql": _nothing}, _gates, _devices)


def scraped(of: Metrics, probes: Probes = WELL, accept: str = "") -> str:
    return asyncio.run(_scraped(of, probes, accept))


async def _scraped(of: Metrics, probes: Probes, accept: str) -> str:
    text, _ = await Scrape(of, probes)(accept)
    return text.decode()


def value(of: Metrics, sample: str) -> float | None:
    """The value of one sample, as a scrape shows it: `name{label="value"}`."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", scraped(of), re.MULTILINE)
    return float(found[1]) if found else None


SENDS = 'otpsvc_calls_total{call="send",outcome="accepted"}'


# -- the table


def rows_of(heading: str) -> list[list[str]]:
    section = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_document_has_the_table() -> None:
    written = [[f"`{row.name}`", row.kind, ", ".join(f"`{label}`" for label in row.labels), row.help] for row in TABLE]
    assert rows_of("The table") == written


def test_the_document_has_every_word() -> None:
    written = {(name.strip("`"), label.strip("`")): words for name, label, words in rows_of("The labels")}
    assert written.keys() == {(row.name, label) for row, label in WORDS}
    outcomes = DOCUMENT.partition("**How a call ends.**")[2].partition("\n## ")[0]
    for (row, label), words in WORDS.items():
        named = set(re.findall(r"`([a-z_]+)`", written[row.name, label]))
        if (row, label) == (table.CALLS, "outcome"):
            codes = {code.lower() for code in CATALOGUE}
            named = set(re.findall(r"`([a-z_]+)`", outcomes))
            assert named - words == set()
            assert words - named <= codes
        else:
            assert named == words


def test_every_label_of_a_counter_is_closed() -> None:
    open_ones = {(row.name, label) for row in TABLE for label in row.labels if row.kind != "gauge"}
    closed = {(row.name, label) for row, label in WORDS} | {
        ("otpsvc_handovers_total", "sender"),  # from the settings
        ("otpsvc_handover_seconds", "sender"),
        ("otpsvc_sender_holds_total", "sender"),
        ("otpsvc_possible_duplicates_total", "sender"),
        ("otpsvc_receipts_total", "sender"),
        ("otpsvc_offers_total", "sender"),
        ("otpsvc_takeovers_total", "sender"),
        ("otpsvc_phone_reports_total", "sender"),
        ("otpsvc_phone_sent_seconds", "sender"),
        ("otpsvc_call_seconds", "call"),  # that of otpsvc_calls_total
    }
    assert open_ones == closed


def test_every_refusal_of_the_store_has_a_word() -> None:
    assert refusals._CODES.keys() <= WORDS[table.CALLS, "outcome"]


def test_every_reason_that_is_given_has_a_word() -> None:
    """A reason that the table does not know would be counted as `other`, however loudly it calls."""
    given = set()
    for path in (ROOT / "otpsvc").rglob("*.py"):
        given |= set(re.findall(r"problem\([^()]*\breason=\"(\w+)\"", path.read_text("utf-8")))
        given |= set(re.findall(r"ended_as\(request, \"(\w+)\"\)", path.read_text("utf-8")))
    assert given >= {"replayed", "empty", "encryption_busy", "keys_unreachable"}
    assert given <= WORDS[table.CALLS, "outcome"]


def test_every_end_of_a_message_has_a_word() -> None:
    reasons = {walk.NO_SENDER, walk.NO_TIME_LEFT, UNKNOWN_OUTCOME, walk.UNWANTED, dispatcher.UNREADABLE}
    assert reasons <= WORDS[table.MESSAGES_ENDED, "reason"]


# -- words


def test_made_up_words_are_other(opened: Callable[[], Metrics]) -> None:
    reader = opened()
    for number in range(1000):
        reader.called(f"call{number}", f'x"\n\t{number}', 0.1)
        reader.handed_over(f"sender{number}", f"word{number}", 0.1)
        reader.ended(f"status{number}", f"reason{number}")
        reader.key_looked_up(f"+3361234{number:04d}")
        reader.outage(f"store{number}")
    text = scraped(reader)
    assert value(reader, f'otpsvc_calls_total{{call="{OTHER}",outcome="{OTHER}"}}') == 1000
    assert value(reader, f'otpsvc_handovers_total{{outcome="{OTHER}",sender="{OTHER}"}}') == 1000
    assert value(reader, f'otpsvc_messages_ended_total{{reason="{OTHER}",status="{OTHER}"}}') == 1000
    assert value(reader, f'otpsvc_key_lookups_total{{outcome="{OTHER}"}}') == 1000
    assert value(reader, f'otpsvc_drain_outages_total{{store="{OTHER}"}}') == 1000
    assert len(text.splitlines()) < 150
    assert sum(len(counter._slots) for counter in reader._counters.values()) < 20


def test_what_delivery_and_the_drain_do_is_counted(opened: Callable[[], Metrics]) -> None:
    reader = opened()
    reader.handed_over("acme", "no_credit", 0.1)
    reader.ended("sent", "")
    reader.ended("failed", "no_credit")
    reader.drained(5, 2)
    reader.outage("stream")
    reader.key_looked_up("known")
    assert value(reader, 'otpsvc_handovers_total{outcome="no_credit",sender="acme"}') == 1
    assert value(reader, 'otpsvc_messages_ended_total{reason="none",status="sent"}') == 1
    assert value(reader, 'otpsvc_messages_ended_total{reason="no_credit",status="failed"}') == 1
    assert value(reader, 'otpsvc_events_drained_total{kind="new"}') == 5
    assert value(reader, 'otpsvc_events_drained_total{kind="repeated"}') == 2
    assert value(reader, 'otpsvc_drain_outages_total{store="stream"}') == 1
    assert value(reader, 'otpsvc_drain_outages_total{store="history"}') == 0
    assert value(reader, 'otpsvc_key_lookups_total{outcome="known"}') == 1


# -- scrapes


def test_probes_become_gauges(opened: Callable[[], Metrics]) -> None:
    reader = opened()
    assert value(reader, 'otpsvc_queue_messages{partition="0"}') == 3
    assert value(reader, 'otpsvc_queue_oldest_seconds{partition="0"}') == 1.5
    assert value(reader, 'otpsvc_queue_messages{partition="7"}') == 0
    assert value(reader, "otpsvc_events_unwritten") == 4
    assert value(reader, "otpsvc_events_oldest_seconds") == 2.25
    assert value(reader, "otpsvc_events_owed_max") == 9
    assert value(reader, 'otpsvc_store_up{store="redis"}') == 1
    assert value(reader, 'otpsvc_sender_state{sender="acme"}') == 2
    assert value(reader, 'otpsvc_sender_calls{sender="acme"}') == 3
    assert value(reader, 'otpsvc_sender_demoted{sender="acme"}') == 1
    assert value(reader, 'otpsvc_sender_demoted{sender="other"}') == 0


def test_a_store_that_is_away_is_left_out(opened: Callable[[], Metrics], monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails() -> Any:
        raise problem("SERVICE_UNAVAILABLE")

    async def hangs() -> tuple[int, float]:
        await asyncio.sleep(PATIENCE_S)
        return (1, 1.0)

    monkeypatch.setattr(metrics, "PROBE_TIMEOUT_S", 0.05)
    text = scraped(opened(), Probes(fails, hangs, _owed, {"redis": fails, "postgresql": hangs}, fails, fails))
    assert "otpsvc_queue" not in text
    assert "otpsvc_events_unwritten" not in text
    assert "otpsvc_events_owed_max 9.0" in text
    assert 'otpsvc_store_up{store="redis"} 0.0' in text
    assert 'otpsvc_store_up{store="postgresql"} 0.0' in text
    text = scraped(opened(), WELL._replace(owed=fails))
    assert "otpsvc_events_owed_max" not in text
    assert "otpsvc_events_unwritten 4.0" in text


async def test_scrapes_at_one_time_share_one_look(
    opened: Callable[[], Metrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_asked = n_written = 0
    write = generate_latest

    def counted(found: Any) -> bytes:
        nonlocal n_written
        n_written += 1
        return write(found)

    monkeypatch.setattr(metrics, "generate_latest", counted)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def counts() -> tuple[int, float]:
        nonlocal n_asked
        n_asked += 1
        begun.set()
        await gate.wait()
        return (1, 1.0)

    scrape = Scrape(opened(), WELL._replace(events=counts))
    waiting = [asyncio.create_task(scrape("")) for _ in range(10)]
    await begun.wait()
    waiting[0].cancel()
    gate.set()
    texts = await asyncio.gather(*waiting[1:])
    assert (n_asked, n_written) == (1, 1)
    assert len(set(texts)) == 1
    await scrape("")
    assert (n_asked, n_written) == (2, 2)


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain;version=1.0.0", "application/openmetrics-text;version=x\u00e9"]
)
def test_the_text_can_be_read(opened: Callable[[], Metrics], accept: str) -> None:
    reader = opened()
    reader.called("send", "accepted", 0.1)
    text = scraped(reader, accept=accept)
    is_modern = "openmetrics" in accept
    assert text.endswith("# EOF\n") == is_modern
    read = (openmetrics_parser if is_modern else parser).text_string_to_metric_families
    names = {family.name for family in read(text)}
    assert names == {row.name.removesuffix("_total") for row in TABLE}
