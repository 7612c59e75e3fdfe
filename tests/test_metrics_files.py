"""Numbers that processes count together: nothing lost, nothing counted twice, nobody else let in."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otpsvc import metrics_files
from otpsvc.errors import ConfigurationError
from otpsvc.metrics import Metrics, open_metrics
from otpsvc.metrics_files import SharedNumbers

PATIENCE_S = 60
COUNTING = """
import sys
from pathlib import Path
from otpsvc.metrics import open_metrics
metrics = open_metrics(Path(sys.argv[1]), installation="otpsvc", senders=("acme",))
for _ in range(int(sys.argv[2])):
    metrics.called("send", "accepted", 0.004)
    metrics.handed_over("acme", "accepted", 20.0)
print("counted", flush=True)
sys.stdin.read()
metrics.close()
"""


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Callable[[int], "subprocess.Popen[str]"]]:
    """Start processes that count so many sends, and then live until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(n_sends: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTING, str(tmp_path), str(n_sends)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Metrics]]:
    """Open the metrics of `tmp_path` in this process, as often as wanted."""
    with contextlib.ExitStack() as stack:

        def make() -> Metrics:
            made = open_metrics(tmp_path, installation="otpsvc", senders=("acme",))
            stack.callback(made.close)
            return made

        yield make


def directory(base: Path) -> Path:
    return base / f"otpsvc-metrics-{os.geteuid()}"


def names(base: Path) -> list[str]:
    """The files of processes."""
    return sorted(path.name for path in directory(base).glob("*.numbers"))


def value(of: Metrics, sample: str) -> float | None:
    """The value of one sample: `name{label="value"}`."""
    for family in of.families():
        for found in family.samples:
            labels = ",".join(f'{name}="{word}"' for name, word in sorted(found.labels.items()))
            if f"{found.name}{{{labels}}}" == sample:
                return float(found.value)
    return None


SENDS = 'otpsvc_calls_total{call="send",outcome="accepted"}'


# -- counting together


def test_processes_count_together(
    counter: Callable[[int], "subprocess.Popen[str]"], opened: Callable[[], Metrics]
) -> None:
    counter(3)
    counter(4)
    reader = opened()
    assert value(reader, SENDS) == 7
    assert value(reader, 'otpsvc_call_seconds_bucket{call="send",le="0.0025"}') == 0
    assert value(reader, 'otpsvc_call_seconds_bucket{call="send",le="0.005"}') == 7
    assert value(reader, 'otpsvc_call_seconds_count{call="send"}') == 7
    assert value(reader, 'otpsvc_call_seconds_sum{call="send"}') == pytest.approx(0.028)
    assert value(reader, 'otpsvc_handover_seconds_bucket{le="10.0",sender="acme"}') == 0
    assert value(reader, 'otpsvc_handover_seconds_bucket{le="+Inf",sender="acme"}') == 7


def test_what_a_killed_process_counted_stays(
    counter: Callable[[int], "subprocess.Popen[str]"], opened: Callable[[], Metrics], tmp_path: Path
) -> None:
    reader = opened()
    reader.called("send", "accepted", 0.1)
    for n_files in (2, 2, 2):
        process = counter(5)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert len(names(tmp_path)) == n_files  # the one before was taken over
    assert value(reader, SENDS) == 16
    assert value(opened(), SENDS) == 16
    assert len(names(tmp_path)) == 2


def test_a_take_over_that_was_killed_counts_nothing_twice(
    counter: Callable[[int], "subprocess.Popen[str]"], opened: Callable[[], Metrics], tmp_path: Path
) -> None:
    reader = opened()
    (own,) = names(tmp_path)
    process = counter(5)
    process.kill()
    process.wait(PATIENCE_S)
    (left,) = set(names(tmp_path)) - {own}
    path = directory(tmp_path) / left
    shutil.copy(path, tmp_path / "kept")
    opened()
    assert not path.exists()
    # The state of a process that was killed after it wrote the sums and before it removed the file.
    shutil.copy(tmp_path / "kept", path)
    assert value(reader, SENDS) == 5
    assert value(opened(), SENDS) == 5
    assert not path.exists()


def test_who_leaves_in_good_order_leaves_its_numbers_and_no_file(
    counter: Callable[[int], "subprocess.Popen[str]"], opened: Callable[[], Metrics], tmp_path: Path
) -> None:
    reader = opened()
    counter(5).communicate(timeout=PATIENCE_S)
    assert len(names(tmp_path)) == 1
    assert value(reader, SENDS) == 5
    reader.close()
    assert [path.name for path in directory(tmp_path).iterdir()] == ["lock"]


def test_a_set_in_which_nobody_lives_begins_at_zero(
    counter: Callable[[int], "subprocess.Popen[str]"], opened: Callable[[], Metrics], tmp_path: Path
) -> None:
    first, second = counter(1), counter(2)
    first.kill()
    first.wait(PATIENCE_S)
    counter(3).communicate(timeout=PATIENCE_S)
    second.kill()
    second.wait(PATIENCE_S)
    reader = opened()
    assert value(reader, SENDS) is None
    assert len(names(tmp_path)) == 1


def test_sums_survive_takeovers_in_the_middle_of_reading(opened: Callable[[], Metrics], tmp_path: Path) -> None:
    async def read_on(reader: Metrics, stop: asyncio.Event) -> list[float]:
        seen = []
        while not stop.is_set():
            totals = await asyncio.to_thread(reader._numbers.totals)
            seen.append(totals["otpsvc_calls_total\tsend\taccepted"])
        return seen

    async def main() -> list[float]:
        reader, stop = opened(), asyncio.Event()
        reader.called("send", "accepted", 0.1)
        reading = asyncio.create_task(read_on(reader, stop))
        for _ in range(100):
            other = open_metrics(tmp_path, installation="otpsvc")
            other.called("send", "accepted", 0.1)
            other.close()
            await asyncio.sleep(0)
        stop.set()
        return await reading

    seen = asyncio.run(main())
    assert seen == sorted(seen)
    assert seen[-1] <= 101
    assert value(opened(), SENDS) == 101


def test_a_take_over_between_two_looks_hides_nothing(
    opened: Callable[[], Metrics], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read what has ended, then the files: what ends in between would be in neither, and a counter would go back."""
    reader, other = opened(), open_metrics(tmp_path, installation="otpsvc")
    for one in (reader, other):
        one.called("send", "accepted", 0.1)
    read = SharedNumbers._files
    n_reads = 0

    def ends_first(numbers: SharedNumbers) -> list[Path]:
        nonlocal n_reads
        n_reads += 1
        if n_reads == 1:
            other.close()
        return read(numbers)

    monkeypatch.setattr(SharedNumbers, "_files", ends_first)
    assert reader._numbers.totals()["otpsvc_calls_total\tsend\taccepted"] == 2


def test_without_its_directory_a_process_tells_what_it_counted_itself(
    opened: Callable[[], Metrics], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody tidied up the temporary files: a scrape that fails would take the queues and the stores with it."""
    reader, other = opened(), opened()
    for one in (reader, other, reader):
        one.called("send", "accepted", 0.1)
    shutil.rmtree(directory(tmp_path))
    for _ in range(3):
        assert value(reader, SENDS) == 2
    newcomer = opened()
    newcomer.called("send", "accepted", 0.1)
    assert value(newcomer, SENDS) == 1
    assert value(reader, SENDS) == 3, "the new directory lacks what it counted"
    assert caplog.text.count("is gone") == 1


def test_another_installation_counts_for_itself(opened: Callable[[], Metrics], tmp_path: Path) -> None:
    opened().called("send", "accepted", 0.1)
    other = open_metrics(tmp_path, installation="second")
    assert value(other, SENDS) is None
    other.close()


def test_counting_after_the_end_is_harmless(opened: Callable[[], Metrics]) -> None:
    closed, reader = opened(), opened()
    closed.called("send", "accepted", 0.1)
    closed.close()
    closed.called("send", "accepted", 0.1)
    closed.called("verify", "wrong", 0.1)
    closed.close()
    assert value(reader, SENDS) == 1


def test_a_full_file_fails_nobody(opened: Callable[[], Metrics], caplog: pytest.LogCaptureFixture) -> None:
    reader = opened()
    for number in range(5000):
        slot = reader._numbers.slot(f"{'x' * 90}\t{number}")
        reader._numbers.values[slot] += 1
    reader.called("verify", "right", 0.1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert value(reader, 'otpsvc_calls_total{call="verify",outcome="right"}') is None
    assert value(reader, SENDS) is None
    assert len(reader.families()) > 5


# -- the directory


def test_the_directory_is_ours_alone(opened: Callable[[], Metrics], tmp_path: Path) -> None:
    opened()
    assert stat.S_IMODE(directory(tmp_path).stat().st_mode) == 0o700
    for path in directory(tmp_path).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_a_directory_that_others_enter_is_refused(tmp_path: Path, mode: int) -> None:
    directory(tmp_path).mkdir()
    directory(tmp_path).chmod(mode)
    with pytest.raises(ConfigurationError, match="only this user"):
        open_metrics(tmp_path, installation="otpsvc")


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    directory(tmp_path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="only this user"):
        open_metrics(tmp_path, installation="otpsvc")


def test_a_foreign_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another = os.geteuid() + 1
    (tmp_path / f"otpsvc-metrics-{another}").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: another)
    with pytest.raises(ConfigurationError, match="only this user"):
        open_metrics(tmp_path, installation="otpsvc")


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"metrics\.directory.*No such file"):
        open_metrics(tmp_path / "missing", installation="otpsvc")


def test_a_lock_that_is_never_given_back_is_not_waited_for(
    opened: Callable[[], Metrics], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    monkeypatch.setattr(metrics_files, "_LOCK_TIMEOUT_S", 0.05)
    with (
        metrics_files._locked(directory(tmp_path) / "lock"),
        pytest.raises(ConfigurationError, match="another process holds"),
    ):
        open_metrics(tmp_path, installation="otpsvc")
