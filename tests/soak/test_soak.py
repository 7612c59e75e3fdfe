"""The long run in small: some thousand codes, and that the tool finds what it is there to find."""

import asyncio
from pathlib import Path

import pytest

from otpsvc.postgres.migrate import migrate
from tests.chaos.stand import open_stand
from tests.chaos.stores import ROLE, restartable_stores
from tests.conftest import run_sql
from tests.soak.run import sender_variables, soak
from tests.soak.verdict import MIB, Sample, compared

SOME = 2000


def samples(**ends: float) -> list[Sample]:
    """A run of a hundred codes in which each size goes evenly from 100 MiB, or from 100, to what is given."""
    starts = {name: 100.0 * MIB if name.endswith("rss") else 100.0 for name in ends}
    return [
        Sample(
            n, n, {name.replace("__", "."): starts[name] + (end - starts[name]) * n / 100 for name, end in ends.items()}
        )
        for n in range(101)
    ]


@pytest.mark.parametrize(
    ("name", "end", "is_flat"),
    [
        ("serve__rss", 100 * MIB, True),
        ("serve__rss", 120 * MIB, True),
        ("worker__rss", 160 * MIB, False),
        ("serve__files", 110, True),
        ("serve__files", 180, False),
        ("postgres__connections", 101, True),
        ("postgres__connections", 110, False),
        ("redis__keys_per_code", 120, True),
        ("redis__keys_per_code", 250, False),
        ("redis__memory_per_code", 2000, False),
        ("redis__keys_without_end", 130, False),
    ],
)
def test_what_grows_is_found(name: str, end: float, is_flat: bool) -> None:
    (found,) = compared(samples(**{name: end}), 100)
    assert found.name == name.replace("__", ".")
    assert found.is_flat is is_flat


def test_a_spike_in_between_is_not_growth() -> None:
    run = samples(serve__rss=100 * MIB)
    run[50] = Sample(50, 50, {"serve.rss": 900.0 * MIB})
    run[95] = Sample(95, 95, {"serve.rss": 900.0 * MIB})
    assert all(one.is_flat for one in compared(run, 100))


def test_a_run_without_samples_is_no_success() -> None:
    with pytest.raises(ValueError, match="too short"):
        compared([], 100)


def test_some_codes_leave_nothing_behind(tmp_path: Path) -> None:
    async def run() -> list[str]:
        with restartable_stores(tmp_path / ".otpsvc") as pair:
            await asyncio.to_thread(run_sql, pair.database_url(), f"CREATE ROLE {ROLE} LOGIN")
            await asyncio.to_thread(run_sql, pair.database_url(), f"CREATE DATABASE soak OWNER {ROLE}")
            url = pair.database_url("soak", role=ROLE)
            await migrate(url)
            directory = tmp_path / "stand"
            async with open_stand(pair, url, directory, sender_variables(directory)) as stand:
                result = await soak(stand, n_codes=SOME, n_serve=1, n_workers=1, seed=1, say=lambda _: None)
        return result.faults

    assert asyncio.run(run()) == []
