"""Running the HTTP server: the socket, the signals, and the end."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import uvicorn

from otpsvc.errors import ConfigurationError
from otpsvc.http.connections import KEEP_ALIVE_S, Connection
from otpsvc.http.proxies import TrustedProxies

ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_GRACE_S = 10
_BACKLOG = 2048
_PARENT = "OTPSVC_PARENT_PID"
_LOOK_AT_PARENT_EVERY_S = 0.5
_LOOK_AT_CONNECTIONS_EVERY_S = 1.0
# What the library has to say about a bad request, which anybody could make it say without end.
_FAULTS_OF_CALLERS = ("Invalid HTTP request", "Unsupported upgrade request", "No supported WebSocket library")


class PortTakenError(ConfigurationError):
    """Another process listens where this one was told to."""


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Take the port before anything else starts; raises ConfigurationError, PortTakenError if it is in use.

    `is_shared` lets other processes of this service take the same port: the kernel spreads connections over those that
    listen. Such a socket does not listen yet (`listen`): what it got before it can serve, another could have served.
    """
    with _said_in_words(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            if not is_shared:
                sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    sock.setblocking(False)
    return sock


def listen(sock: socket.socket) -> None:
    """Take connections from now on; raises PortTakenError."""
    with _said_in_words(*sock.getsockname()[:2]):
        sock.listen(_BACKLOG)


@contextlib.contextmanager
def _said_in_words(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = PortTakenError if error.errno == errno.EADDRINUSE else ConfigurationError
        raise kind(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` on Ctrl-C, on a TERM, and when the terminal goes, unless we were told to outlive that (`nohup`)."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Cut off in the middle, a sender's call would count as one that may have gone out.
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)


async def watch_parent(stop: asyncio.Event) -> None:
    """Set `stop` when the process named in OTPSVC_PARENT_PID is gone: a killed `make` tells nobody."""
    parent = os.environ.get(_PARENT, "")
    if not parent.isdecimal() or int(parent) < 2:
        return
    while not stop.is_set():
        try:
            os.kill(int(parent), 0)
        except ProcessLookupError:
            stop.set()
        except PermissionError:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_AT_PARENT_EVERY_S)


class _Server(uvicorn.Server):
    """The library's server without its signal handlers, which would end the process before our own parts have."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run_server(
    app: ASGIApp, sock: socket.socket, stop: asyncio.Event, *, trusted_proxies: Sequence[str] = ()
) -> None:
    """Serve until `stop` is set, then let the requests under way end, for ten seconds at most.

    `trusted_proxies`: the addresses and networks whose word on who calls is taken (`http/proxies.py`).
    """
    config = uvicorn.Config(
        TrustedProxies(app, trusted_proxies) if trusted_proxies else app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # The library's own reading of them knows no IPv4 caller on a socket for both families.
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(stop.wait())
    sweeping = asyncio.create_task(_close_late(server))
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        sweeping.cancel()
        stop.set()


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_FAULTS_OF_CALLERS)


async def _close_late(server: uvicorn.Server) -> None:
    while True:
        await asyncio.sleep(_LOOK_AT_CONNECTIONS_EVERY_S)
        _close_those_that_are_late(server)


def _close_those_that_are_late(server: uvicorn.Server) -> None:
    # No part of the loop above: a variable of that one would keep the last connection from one look to the next.
    for connection in list(server.server_state.connections):
        if isinstance(connection, Connection):
            connection.close_if_late()
