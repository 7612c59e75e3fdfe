"""The guard: a small process that owns the servers and outlives whoever asked for them.

Run as a plain script, ``python -I -S guard.py [SOCKET_DIR]``, so that it starts fast; it may therefore import the
standard library only. It reads one line from standard input, the plan, and then waits for the end of that input, which
comes however its parent ends, ``kill -9`` included. It then stops the servers, removes the directory of their sockets
and ends. It knows nothing of Valkey or PostgreSQL. It must never wait without a bound and never hand its standard input
to a child, or the end would not be seen.

Plan: ``{"parent_pid": 1, "record": "…/running.json" or null, "servers": [{"name": "postgres", "command": […], "input":
"", "log": "…/postgres.log", "stop_signals": [2, 3, 9]}]}``. A program that ends by itself, such as initdb, is guarded
the same way.
Answers, one JSON object per line on standard output: ``{"started": {name: pid}}`` once, and
``{"ended": name, "status": n}`` when a server ends by itself, which ends the guard too.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PARENT_PID = "OTPSVC_EMBEDDED_PARENT_PID"
STOP_WAITS_S = (10.0, 5.0, 5.0)
PARENT_CHECK_S = 1.0


class Server:
    """One running server process and the signals that stop it, gentlest first."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.name: str = plan["name"]
        self.stop_signals: list[int] = plan["stop_signals"]
        log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.process = subprocess.Popen(
                plan["command"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, PARENT_PID: str(os.getpid())},
                start_new_session=True,
            )
        finally:
            os.close(log)
        if self.process.stdin is not None:
            with suppress(BrokenPipeError), self.process.stdin as stream:
                stream.write(plan["input"].encode())

    def has_ended(self) -> bool:
        """Say whether the process is gone, and collect it if so."""
        return self.process.poll() is not None

    def send(self, number: int) -> None:
        """Send a signal; the one that cannot be caught goes to the children in its group too."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)


def main(socket_dir: str | None) -> None:
    """Serve one plan from its first line to the end of standard input."""
    wake = watch_signals()
    try:
        with os.fdopen(os.dup(0), "rb", buffering=0) as lifeline:
            line = lifeline.readline()
        if line.endswith(b"\n"):
            serve(json.loads(line), socket_dir, wake)
    finally:
        if socket_dir is not None:
            shutil.rmtree(socket_dir, ignore_errors=True)


def serve(plan: dict[str, Any], socket_dir: str | None, wake: int) -> None:
    """Start the servers, wait for an end of any kind, and stop them."""
    servers: list[Server] = []
    try:
        for server_plan in plan["servers"]:
            servers.append(Server(server_plan))
            write_record(plan["record"], socket_dir, servers)
        tell({"started": {server.name: server.process.pid for server in servers}})
        wait_for_an_end(plan["parent_pid"], servers, wake)
    finally:
        stop(servers)
        if plan["record"] is not None and all(server.has_ended() for server in servers):
            Path(plan["record"]).unlink(missing_ok=True)


def watch_signals() -> int:
    """Turn signals into bytes on the returned descriptor; none of them ends the guard at once.

    Handlers, not "ignore": a server would inherit ignored signals and could not be stopped by them.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def wait_for_an_end(parent_pid: int, servers: list[Server], wake: int) -> None:
    """Return when the parent ends or lets go, SIGTERM comes, or a server ends by itself.

    The parent's id is looked at as well, because a forked child of the parent may hold a copy of
    the pipe's other end and so keep the end of input from coming.
    """
    while os.getppid() == parent_pid:
        for server in servers:
            if server.has_ended():
                tell({"ended": server.name, "status": server.process.returncode})
                return
        readable, _, _ = select.select([0, wake], [], [], PARENT_CHECK_S)
        if 0 in readable and not os.read(0, 4096):
            return
        if wake in readable and signal.SIGTERM in os.read(wake, 4096):
            return


def stop(servers: list[Server]) -> None:
    """Stop all servers at once, each harder than before when it does not end in time."""
    for step, wait_s in enumerate(STOP_WAITS_S):
        for server in servers:
            if not server.has_ended():
                server.send(server.stop_signals[step])
        give_up_at = time.monotonic() + wait_s
        while not all(server.has_ended() for server in servers):
            if time.monotonic() > give_up_at:
                break
            time.sleep(0.01)
        else:
            return


def write_record(record: str | None, socket_dir: str | None, servers: list[Server]) -> None:
    """Write down what runs, for the next start in case this process is killed."""
    if record is None:
        return
    running = {
        "socket_dir": socket_dir,
        "servers": {server.name: server.process.pid for server in servers},
    }
    fresh = Path(f"{record}.new")
    fresh.write_text(json.dumps(running), encoding="utf-8")
    fresh.replace(record)


def tell(answer: dict[str, Any]) -> None:
    """Write one line to the parent; it may be gone already."""
    try:
        os.write(1, json.dumps(answer).encode() + b"\n")
    except OSError:
        return


if __name__ == "__main__":
    os.umask(0o077)
    main(sys.argv[1] if len(sys.argv) > 1 else None)
