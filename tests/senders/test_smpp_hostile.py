"""The sender `smpp` against an SMSC that is broken or means harm: nothing hangs, or is sent twice."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import pytest

from otpsvc.senders.contract import Accepted, Outcome, Rejected, RejectionKind, Unknown
from otpsvc.senders.smpp import SmppSender
from otpsvc.testing import outbound_message
from tests.senders.smpp_days import House, make, ready, until

HEADER = struct.Struct(">IIII")
SUBMIT, UNBIND, TRANSCEIVER, ENQUIRE, DATA_SM, OUTBIND = 0x04, 0x06, 0x09, 0x15, 0x103, 0x0B
RESPONSE, NACK = 0x8000_0000, 0x8000_0000

Answer = Callable[[int], bytes]


def frame(command: int, number: int, status: int = 0, body: bytes = b"") -> bytes:
    return HEADER.pack(16 + len(body), command, status, number) + body


def taken(number: int) -> bytes:
    return frame(SUBMIT | RESPONSE, number, body=b"id-1\0")


class Rogue:
    """Binds whoever comes, and answers each `submit_sm` with the next of `answers`, then with a plain yes.

    `seen` are the frames that came, as command, status and number; `greeting` goes out in place of the first answer.
    """

    def __init__(self, *answers: Answer, greeting: bytes = b"") -> None:
        self.answers = list(answers)
        self.greeting = greeting
        self.seen: list[tuple[int, int, int]] = []
        self.port = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()

    def count(self, command: int) -> int:
        return sum(seen == command for seen, _, _ in self.seen)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self._talks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, command, status, number = HEADER.unpack(await reader.readexactly(16))
        await reader.readexactly(length - 16)
        self.seen.append((command, status, number))
        if command == TRANSCEIVER and self.greeting:
            said, self.greeting = self.greeting, b""
        elif command == SUBMIT:
            said = self.answers.pop(0)(number) if self.answers else taken(number)
        elif command & RESPONSE:
            return
        else:
            said = frame(command | RESPONSE, number)
        writer.write(said)
        await writer.drain()


@asynccontextmanager
async def facing(rogue: Rogue) -> AsyncIterator[SmppSender]:
    async with rogue:
        sender = make(rogue.port, House())
        await sender.open()
        try:
            yield sender
        finally:
            await sender.close()


async def sent(sender: SmppSender) -> Outcome:
    async with asyncio.timeout(10):
        return await sender.send(outbound_message())


async def is_sent(sender: SmppSender) -> bool:
    return isinstance(await sent(sender), Accepted)


NOT_UNDERSTOOD = Unknown("frame not understood")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (lambda n: frame(NACK, n, 0x02), Rejected(RejectionKind.MISCONFIGURED, "status 0x00000002")),
        (lambda n: frame(NACK, n), Unknown("answer not understood")),
        (lambda n: frame(ENQUIRE | RESPONSE, n), Unknown("answer not understood")),
        (lambda n: taken(n) + frame(SUBMIT | RESPONSE, n, 0x45), Accepted("id-1", parts=1)),
        (lambda n: taken(n + 7) + taken(0) + taken(n), Accepted("id-1", parts=1)),
        (lambda n: frame(SUBMIT | RESPONSE, n), Accepted(None, parts=1)),
        (lambda n: frame(SUBMIT | RESPONSE, n, body=b"no end"), Accepted(None, parts=1)),
        (lambda n: frame(SUBMIT | RESPONSE, n, body=b"+33612345678\0"), Accepted(None, parts=1)),
        (lambda n: frame(SUBMIT | RESPONSE, n, body=b"\xff" * 9000 + b"\0"), Accepted(None, parts=1)),
        (lambda n: b"".join(frame(ENQUIRE, at) for at in range(9000)) + taken(n), Accepted("id-1", parts=1)),
        (lambda _: frame(UNBIND, 5), Unknown("unbound by the other side")),
        (lambda n: HEADER.pack(15, SUBMIT | RESPONSE, 0, n), NOT_UNDERSTOOD),
        (lambda n: HEADER.pack(0xFFFF_FFFF, SUBMIT | RESPONSE, 0, n), NOT_UNDERSTOOD),
        (lambda _: b"\0" * 64, NOT_UNDERSTOOD),
        (lambda n: taken(n)[:-3], Unknown("no answer in time")),
        (lambda n: frame(NACK, 0, 0x02), Unknown("no answer in time")),
    ],
)
async def test_whatever_it_answers_the_message_left_once_and_the_next_one_goes_out(
    answer: Answer, outcome: Outcome
) -> None:
    rogue = Rogue(answer)
    async with facing(rogue) as sender:
        assert await sent(sender) == outcome
        assert rogue.count(SUBMIT) == 1
        await until(lambda: is_sent(sender))
        await ready(sender)


async def test_what_it_asks_is_answered_under_its_own_number() -> None:
    asked = frame(ENQUIRE, 77) + frame(DATA_SM, 78, body=b"x" * 40) + frame(OUTBIND, 79) + frame(UNBIND, 80)
    rogue = Rogue(lambda _: asked)
    async with facing(rogue) as sender:
        await sent(sender)
        await until(lambda: (UNBIND | RESPONSE, 0, 80) in rogue.seen)
        assert [one for one in rogue.seen if one[0] & RESPONSE][:3] == [
            (ENQUIRE | RESPONSE, 0, 77),
            (NACK, 3, 78),
            (NACK, 3, 79),
        ]


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n"])
async def test_what_is_no_smsc_is_told_as_one_that_is_not_understood(greeting: bytes) -> None:
    rogue = Rogue(greeting=greeting)
    async with facing(rogue) as sender:
        assert (await sender.health()).is_ready is False
        assert rogue.count(SUBMIT) == 0
