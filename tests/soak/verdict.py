"""Whether a long run was flat: the middle of it held against its end. Pure arithmetic over samples.

What is allowed, and why:

- A process of ours may grow by 3 % and 12 MiB. CPython and the allocator settle late and never give everything back;
  12 MiB over the 50 000 codes between middle and end of 100 000 is 250 bytes a code, over those of ten million 3 bytes.
- Redis is judged per living code (those of the last two minutes, all that the tool lets it keep), because a machine
  that is shared does not run at one speed: a quarter more is noise, one more key that stays for each code is not. What
  counts is what it has given out; what its allocator keeps beside that follows the busiest moment so far.
- Connections and open files may differ by a few that were just being made.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

MIB = 1024 * 1024


class Sample(NamedTuple):
    """What was measured at one moment: `n_codes` done so far, and sizes by name."""

    at_s: float
    n_codes: int
    sizes: Mapping[str, float]


class Tolerance(NamedTuple):
    """How much more is still flat: a share of it, plus a fixed amount."""

    share: float
    amount: float

    def allows(self, before: float, after: float) -> bool:
        return after <= before * (1 + self.share) + self.amount


TOLERANCES: Mapping[str, Tolerance] = {
    "rss": Tolerance(0.03, 12 * MIB),
    "files": Tolerance(0.0, 16),
    "connections": Tolerance(0.0, 2),
    "keys_per_code": Tolerance(0.25, 0.5),
    "memory_per_code": Tolerance(0.25, 256),
    "keys_without_end": Tolerance(0.0, 4),
}
_SHARE_LOOKED_AT = 0.1


class Comparison(NamedTuple):
    """One size in the middle and at the end."""

    name: str
    before: float
    after: float
    is_flat: bool

    def __str__(self) -> str:
        return f"{self.name}: {shown(self.name, self.before)} -> {shown(self.name, self.after)}"


def compared(samples: Sequence[Sample], n_codes: int) -> list[Comparison]:
    """Compare the medians of the samples about the middle and at the end, for each size that both have.

    Raises ValueError where there is nothing to compare.
    """
    middle = _between(samples, n_codes * (0.5 - _SHARE_LOOKED_AT / 2), n_codes * (0.5 + _SHARE_LOOKED_AT / 2))
    end = _between(samples, n_codes * (1 - _SHARE_LOOKED_AT), n_codes)
    names = sorted(middle.keys() & end.keys())
    if not names:
        raise ValueError("the run was too short to have a middle and an end")
    return [
        Comparison(name, middle[name], end[name], TOLERANCES[kind_of(name)].allows(middle[name], end[name]))
        for name in names
    ]


def _between(samples: Sequence[Sample], least: float, most: float) -> dict[str, float]:
    chosen = [sample for sample in samples if least <= sample.n_codes <= most]
    # A short run may have none there: the nearest one then stands for it.
    chosen = chosen or sorted(samples, key=lambda sample: abs(sample.n_codes - (least + most) / 2))[:1]
    names = {name for sample in chosen for name in sample.sizes}
    return {name: median(sample.sizes[name] for sample in chosen if name in sample.sizes) for name in names}


def kind_of(name: str) -> str:
    """A size is named `<whose>.<kind>`."""
    return name.rpartition(".")[2]


def shown(name: str, size: float) -> str:
    """Write a size for people."""
    return f"{size / MIB:.1f} MiB" if kind_of(name) == "rss" else f"{size:.1f}"
