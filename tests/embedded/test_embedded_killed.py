"""However a run ends, nothing of it keeps running and nothing stands in the way of the next."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

import otpsvc
from otpsvc.embedded import EmbeddedError, start_stores
from otpsvc.embedded.data_dir import end_leftovers

PATIENCE_S = 30.0

HOLDER = """
import json, os, signal, sys, time
from pathlib import Path
from otpsvc.embedded import start_stores

signal.signal(signal.SIGINT, lambda *_: None)
running = start_stores(Path(sys.argv[1]), durable=False)
about = {
    "guard": running.guard_pid,
    "servers": running.server_pids,
    "socket_dir": str(running.stores.socket_dir),
    "redis_url": running.redis_url,
}
if sys.argv[2] == "fork":
    forked = os.fork()
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    about["forked"] = forked
print(json.dumps(about), flush=True)
sys.stdin.read()
running.stop()
"""


@dataclass
class Holder:
    """A process that holds running stores until its input ends or it is killed."""

    process: subprocess.Popen[str]
    guard: int
    servers: dict[str, int]
    socket_dir: Path
    redis_url: str
    forked: int

    def is_all_gone(self) -> bool:
        pids = [self.guard, *self.servers.values()]
        return not self.socket_dir.exists() and not any(map(is_alive, pids))


Hold = Callable[..., Holder]


@pytest.fixture
def hold(data_dir: Path) -> Iterator[Hold]:
    started: list[subprocess.Popen[str]] = []

    def start(mode: str = "plain") -> Holder:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(otpsvc.__file__).parents[1],
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        return Holder(
            process=process,
            guard=about["guard"],
            servers=about["servers"],
            socket_dir=Path(about["socket_dir"]),
            redis_url=about["redis_url"],
            forked=about.get("forked", 0),
        )

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    wait_until(lambda: not working_in(data_dir))


def test_kill_of_the_parent_leaves_nothing(hold: Hold, data_dir: Path) -> None:
    holder = hold()
    assert len(working_in(data_dir)) > len(holder.servers)
    holder.process.kill()
    wait_until(holder.is_all_gone)
    wait_until(lambda: not working_in(data_dir))
    assert not (data_dir / "running.json").exists()


def test_kill_of_the_parent_is_seen_though_a_forked_child_holds_the_pipe(hold: Hold) -> None:
    holder = hold("fork")
    try:
        holder.process.kill()
        wait_until(holder.is_all_gone)
        assert is_alive(holder.forked)
    finally:
        os.kill(holder.forked, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_kill_of_the_guard_leaves_no_server(hold: Hold, data_dir: Path) -> None:
    holder = hold()
    os.kill(holder.guard, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, holder.servers.values())))
    wait_until(lambda: not working_in(data_dir))
    holder.process.communicate("", timeout=PATIENCE_S)
    assert holder.process.returncode == 0
    assert not holder.socket_dir.exists()


def test_kill_of_parent_and_guard_is_cleaned_up_by_the_next_start(hold: Hold, data_dir: Path) -> None:
    holder = hold()
    holder.process.kill()
    os.kill(holder.guard, signal.SIGKILL)
    with start_stores(data_dir, durable=False) as running:
        assert answers(running.redis_url)
        assert holder.is_all_gone()


def test_ctrl_c_does_not_reach_the_stores(hold: Hold) -> None:
    holder = hold()
    for _ in range(3):
        os.killpg(holder.process.pid, signal.SIGINT)
        os.kill(holder.guard, signal.SIGINT)
    assert answers(holder.redis_url)
    assert all(map(is_alive, [holder.guard, *holder.servers.values()]))
    holder.process.communicate("", timeout=PATIENCE_S)
    assert holder.process.returncode == 0
    assert holder.is_all_gone()


def test_a_store_that_dies_is_reported_and_the_other_one_stopped(data_dir: Path) -> None:
    with start_stores(data_dir, durable=False) as running:
        assert running.failure() is None
        os.kill(running.server_pids["redis"], signal.SIGKILL)
        lines: list[str] = []
        wait_until(lambda: bool(lines) or collect(running.failure(), lines))
        assert lines == ["Valkey ended by itself (status -9)."]
        wait_until(lambda: not working_in(data_dir))
    with start_stores(data_dir, durable=False) as running:
        assert answers(running.redis_url)


def test_data_written_before_a_kill_is_there_afterwards(hold: Hold, data_dir: Path) -> None:
    holder = hold()
    with redis.Redis.from_url(holder.redis_url) as client:
        client.set("kept", "yes")
    holder.process.kill()
    with (
        start_stores(data_dir, durable=False) as running,
        redis.Redis.from_url(running.redis_url) as client,
    ):
        assert client.get("kept") == b"yes"


def test_a_second_start_names_the_process_that_uses_the_data(hold: Hold, data_dir: Path) -> None:
    holder = hold()
    with pytest.raises(EmbeddedError, match=rf"\(pid {holder.process.pid}\) is using"):
        start_stores(data_dir, durable=False)
    assert answers(holder.redis_url)


def test_a_server_left_behind_is_ended_and_a_foreign_pid_is_not(data_dir: Path) -> None:
    left_behind = sleeper(f"{data_dir}/redis")
    foreign = sleeper("something else")
    record = {"servers": {"redis": left_behind.pid, "other": foreign.pid}, "socket_dir": "/"}
    (data_dir / "running.json").write_text(json.dumps(record))
    # What a container's restart looks like: the old server's id is now another program's.
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}/postgres\n")
    try:
        with start_stores(data_dir, durable=False) as running:
            assert answers(running.redis_url)
            assert left_behind.wait(PATIENCE_S) == -signal.SIGINT
            assert foreign.poll() is None
    finally:
        for process in (left_behind, foreign):
            process.kill()
            process.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "\0", '{"servers": []}', '{"servers": {"redis": "x", "postgres": -1}, "socket_dir": 1}'],
)
def test_a_damaged_record_does_not_stop_the_next_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "running.json").write_text(content)
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "postmaster.pid").write_text(content)
    end_leftovers(tmp_path)
    assert list(tmp_path.glob("running.json")) == []


@pytest.mark.parametrize("name", ["otpsvc-link", "elsewhere"])
def test_a_socket_directory_that_is_not_ours_is_not_removed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "kept").touch()
    named = tmp_path / name
    if name == "elsewhere":
        precious.rename(named)
    else:
        named.symlink_to(precious)
    (tmp_path / "running.json").write_text(json.dumps({"socket_dir": str(named)}))
    end_leftovers(tmp_path)
    assert (named / "kept").exists()


def sleeper(mark: str) -> subprocess.Popen[bytes]:
    code = "import signal, time; signal.signal(2, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, mark], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        output.readline()
    return process


def answers(redis_url: str) -> bool:
    with redis.Redis.from_url(redis_url) as client:
        return bool(client.ping())


def collect(line: str | None, lines: list[str]) -> bool:
    lines.extend([line] if line else [])
    return bool(lines)


def working_in(data_dir: Path) -> list[int]:
    """Return the servers' processes: those whose command or working directory names the data."""
    listed = subprocess.run(["ps", "-axo", "pid=,command="], capture_output=True, text=True, check=True, timeout=10)
    found = []
    for line in listed.stdout.splitlines():
        pid, _, command = line.strip().partition(" ")
        try:
            works_in = str(Path(f"/proc/{pid}/cwd").readlink())
        except OSError:
            works_in = ""
        if f"{data_dir}/" in command or works_in.startswith(f"{data_dir}/"):
            found.append(int(pid))
    return found


def is_alive(pid: int) -> bool:
    """Say whether the process runs; a dead one that was not collected yet does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state = listed.stdout.strip()
    return bool(state) and not state.startswith("Z")


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at, "what was waited for did not come about"
        time.sleep(0.05)
