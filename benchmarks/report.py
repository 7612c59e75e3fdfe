"""What was measured, as a table for people and as JSON for comparing runs.

A workload's row is the median of its rounds, with the best beside it where the difference tells of noise. A ratio is
taken within each round first: only its median is worth comparing with another machine's or another day's.
"""

import statistics
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.load import Answers

_WRITTEN_TO = Path(__file__).parent / "latest.json"
_REFERENCE = "no-op"
_PAIR = ("send", "verify")
_HEAD = (
    f"{'':<8}{'req/s':>14}{'p50 ms':>8}{'p99 ms':>8}{'server µs/req':>18}{'in no-ops':>11}"
    f"{'Valkey µs/req':>15}{'trips':>7}{'generator µs':>14}"
)
_BUSY_GENERATOR = 0.85  # of a core: beyond it the generator, not the server, may set the pace


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One workload in one round. `others_cores`: what everybody else kept busy meanwhile, None where unknown."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    server_us: float
    store_us: float
    store_reads: float
    generator_us: float
    server_cores: float
    generator_cores: float
    others_cores: float | None

    @classmethod
    def of(
        cls,
        answers: Answers,
        *,
        server_cpu_s: float,
        store_cpu_s: float,
        store_reads: float,
        others_cpu_s: float | None,
    ) -> "Measured":
        """Work out one round's figures; every figure is per answered request, expected or not."""
        n, elapsed_s = len(answers.latencies_ns), answers.elapsed_s
        ordered = sorted(answers.latencies_ns)
        return cls(
            requests=n,
            requests_per_s=n / elapsed_s,
            p50_ms=ordered[n // 2] / 1e6,
            p99_ms=ordered[n * 99 // 100] / 1e6,
            server_us=server_cpu_s / n * 1e6,
            store_us=store_cpu_s / n * 1e6,
            store_reads=store_reads / n,
            generator_us=answers.cpu_s / n * 1e6,
            server_cores=server_cpu_s / elapsed_s,
            generator_cores=answers.cpu_s / elapsed_s,
            others_cores=max(0.0, others_cpu_s / elapsed_s) if others_cpu_s is not None else None,
        )


class Results:
    """All rounds of all workloads."""

    def __init__(self, plan: dict[str, Any], facts: dict[str, str | int]) -> None:
        self.unexpected: Counter[str] = Counter()
        self._plan = plan
        self._facts = facts
        self._rounds: dict[str, list[Measured]] = {}

    def add(self, name: str, taken: tuple[Answers, Measured]) -> None:
        """Note one workload of one round."""
        answers, measured = taken
        self.unexpected.update(answers.unexpected)
        self._rounds.setdefault(name, []).append(measured)

    def line(self) -> str:
        """Tell the newest round in one line."""
        newest = {name: rounds[-1] for name, rounds in sorted(self._rounds.items())}
        busy = [one.others_cores for one in newest.values() if one.others_cores is not None]
        told = ", ".join(f"{name} {one.server_us:.0f} µs" for name, one in newest.items())
        return told + (f"; others kept {max(busy):.1f} cores busy" if busy else "")

    def ratios(self) -> dict[str, float]:
        """Give the medians over the rounds of what is comparable between machines."""
        no_op, send, verify = (self._rounds[name] for name in (_REFERENCE, *_PAIR))
        rounds = list(zip(no_op, send, verify, strict=True))
        return {
            "send_cpu_in_no_ops": statistics.median(s.server_us / n.server_us for n, s, _ in rounds),
            "verify_cpu_in_no_ops": statistics.median(v.server_us / n.server_us for n, _, v in rounds),
            "pairs_per_no_op": statistics.median(n.server_us / (s.server_us + v.server_us) for n, s, v in rounds),
            "send_p99_in_no_ops": statistics.median(s.p99_ms / n.p99_ms for n, s, _ in rounds),
            "verify_p99_in_no_ops": statistics.median(v.p99_ms / n.p99_ms for n, _, v in rounds),
        }

    def table(self) -> str:
        """Write everything for people."""
        lines = [
            "",
            "median (best) of the rounds",
            _HEAD,
        ]
        lines += [self._row(name) for name in (_REFERENCE, *_PAIR)]
        pairs = self.ratios()["pairs_per_no_op"]
        lines += [
            "",
            f"one send and its verify cost as much server CPU as {1 / pairs:.1f} no-ops ({pairs:.2f} pairs per no-op)",
            f"unexpected answers: {sum(self.unexpected.values())}",
        ]
        busiest = max(one.generator_cores for rounds in self._rounds.values() for one in rounds)
        if busiest > _BUSY_GENERATOR:
            lines.append(f"note: the load generator used {busiest:.2f} of a core, so req/s and latency may be its own;")
            lines.append("      CPU per request is not touched by that")
        return "\n".join(lines) + "\n"

    def write(self) -> str:
        """Write everything as JSON; give the file's place in this checkout."""
        record = {
            "taken_at": datetime.now(UTC).replace(microsecond=0),
            "machine": self._facts,
            "plan": self._plan,
            "unexpected": sum(self.unexpected.values()),
            "ratios": self.ratios(),
            "rounds": self._rounds,
        }
        _WRITTEN_TO.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        return f"{_WRITTEN_TO.parent.name}/{_WRITTEN_TO.name}"

    def _row(self, name: str) -> str:
        rounds, references = self._rounds[name], self._rounds[_REFERENCE]

        def median(field: str) -> float:
            values: list[float] = [getattr(one, field) for one in rounds]
            return statistics.median(values)

        rate = f"{median('requests_per_s'):.0f} ({max(one.requests_per_s for one in rounds):.0f})"
        cpu = f"{median('server_us'):.0f} ({min(one.server_us for one in rounds):.0f})"
        in_no_ops = statistics.median(
            one.server_us / no_op.server_us for one, no_op in zip(rounds, references, strict=True)
        )
        return (
            f"{name:<8}{rate:>14}{median('p50_ms'):>8.1f}{median('p99_ms'):>8.1f}{cpu:>18}{in_no_ops:>11.2f}"
            f"{median('store_us'):>15.0f}{median('store_reads'):>7.2f}{median('generator_us'):>14.0f}"
        )
