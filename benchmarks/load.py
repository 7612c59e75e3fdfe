"""A closed-loop HTTP/1.1 client: every connection sends its next request when the last answer has come.

It reads an answer's status, length and one expected piece of its body, and nothing more, so that it costs little beside
the server that it measures. An answer that is not the expected one is counted by what it was, never dropped. Loopback
only; one request in flight per connection.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import cast

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_OK = b"HTTP/1.1 200 "
_SLACK_S = 30.0


class LoadError(Exception):
    """The server did not answer any more, or did not speak HTTP as this client reads it."""


@dataclass
class Answers:
    """What came back. Latencies are in ns, in the order of the answers; `bodies` is filled only where asked for."""

    latencies_ns: list[int] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_s: float = 0.0


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], expected: bytes, answers: Answers, *, keeps_bodies: bool) -> None:
        self._requests = requests
        self._expected = expected
        self._answers = answers
        self._keeps_bodies = keeps_bodies
        self._rest = b""
        self._sent_at_ns = 0
        self._deadline_ns = 0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports behave like asyncio's but do not inherit from them.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(f"the server closed a connection: {exc or 'end of file'}"))

    def start(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._next(time.perf_counter_ns())

    def close(self) -> None:
        self.done.cancel()
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        body_at = data.find(_HEAD_END) + len(_HEAD_END)
        if body_at < len(_HEAD_END):
            self._rest = data
            return
        length_at = data.find(_LENGTH, 0, body_at) + len(_LENGTH)
        if length_at < len(_LENGTH):
            self._fail("an answer without content-length")
            return
        end = body_at + int(data[length_at : data.index(b"\r", length_at)])
        if len(data) < end:
            self._rest = data
            return
        self._rest = data[end:]
        now_ns = time.perf_counter_ns()
        answers = self._answers
        answers.latencies_ns.append(now_ns - self._sent_at_ns)
        if not data.startswith(_OK) or data.find(self._expected, body_at) < 0:
            # Our answers hold masked numbers and ids, never a code: safe to show.
            answers.unexpected[f"{data[9:12].decode()} {data[body_at:end][:160].decode(errors='replace')}"] += 1
        elif self._keeps_bodies:
            answers.bodies.append(data[body_at:end])
        self._next(now_ns)

    def _next(self, now_ns: int) -> None:
        request = next(self._requests, None) if now_ns < self._deadline_ns else None
        if request is None or self._transport is None:
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent_at_ns = now_ns
        self._transport.write(request)

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(reason))


async def drive(
    port: int,
    requests: Iterator[bytes],
    *,
    expected: bytes,
    n_connections: int,
    seconds: float,
    keeps_bodies: bool = False,
) -> Answers:
    """Send `requests` over `n_connections` until `seconds` are over or none is left; wait for every answer.

    The clock starts when all connections are open and stops at the last answer. Raises LoadError.
    """
    answers = Answers()
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []
    try:
        async with asyncio.timeout(seconds + _SLACK_S):
            for _ in range(n_connections):
                _, connection = await loop.create_connection(
                    lambda: _Connection(requests, expected, answers, keeps_bodies=keeps_bodies), "127.0.0.1", port
                )
                connections.append(connection)
            cpu_from_s, from_ns = time.process_time(), time.perf_counter_ns()
            for connection in connections:
                connection.start(from_ns + int(seconds * 1e9))
            await asyncio.gather(*(connection.done for connection in connections))
            answers.elapsed_s = (time.perf_counter_ns() - from_ns) / 1e9
            answers.cpu_s = time.process_time() - cpu_from_s
    except TimeoutError:
        raise LoadError("the server stopped answering") from None
    except OSError as error:
        raise LoadError(f"the server does not answer: {error.strerror}") from None
    finally:
        for connection in connections:
            connection.close()
    return answers


async def fetch(port: int, path: str) -> bytes:
    """Give the body of one GET; raises LoadError."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    one = await drive(port, iter([request]), expected=b"", n_connections=1, seconds=_SLACK_S, keeps_bodies=True)
    if not one.bodies:
        raise LoadError(f"{path} answered {next(iter(one.unexpected), 'nothing')}")
    return one.bodies[0]


def forever(request: bytes) -> Iterator[bytes]:
    """Give the same request again and again."""
    return repeat(request)
