"""HTTP calls of the fault suite: one connection, one call at a time, and the truth about what came back.

A library would retry, or wrap a broken connection in something kinder. Here an answer is either all there or it is
lost, and lost means: whoever asked does not know whether it was done.
"""

import asyncio
import contextlib
import json
from typing import Any, NamedTuple

_LONGEST_HEAD = 65_536


class LostAnswer(Exception):
    """The call may have been made or not."""


class NobodyThere(Exception):
    """The call was surely not made: no connection came about."""


class Answer(NamedTuple):
    """What came back whole."""

    status: int
    body: dict[str, Any]
    is_replay: bool

    @property
    def code(self) -> str:
        """The error's code, empty where there is none."""
        error = self.body.get("error")
        return str(error["code"]) if isinstance(error, dict) else ""


class Line:
    """One keep-alive connection to the service on the loopback."""

    def __init__(self, port: int, headers: dict[str, str], *, timeout_s: float) -> None:
        self._port = port
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "chaos", **headers}.items())
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Answer:
        """Make one call; raises LostAnswer or NobodyThere."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n"
        if body is not None:
            head += "Content-Type: application/json\r\n"
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = self._streams or await self._connect()
                self._streams = reader, writer
                writer.write(f"{head}\r\n".encode() + data)
                await writer.drain()
                return await _answer_on(reader)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            raise LostAnswer(type(error).__name__) from None
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection("127.0.0.1", self._port, limit=_LONGEST_HEAD)
        except OSError as error:
            raise NobodyThere(type(error).__name__) from None

    def close(self) -> None:
        """Let go of the connection; the next call makes another."""
        streams, self._streams = self._streams, None
        if streams is not None:
            with contextlib.suppress(OSError):
                streams[1].close()


async def _answer_on(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(fields["content-length"]))
    return Answer(int(head[0].split()[1]), json.loads(body), fields.get("idempotent-replayed") == "true")
