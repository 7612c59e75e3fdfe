"""One SMPP connection: frames out and in, and each answer given to whoever asked.

It keeps the promise that everything else stands on: NotSent only if not one octet of the request was handed to the
network, NoAnswer in every other case without an answer. A `deliver_sm` is answered with what its receiver says, after
the receiver is done. It never connects and never repeats.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from otpsvc.senders import smpp_wire as wire
from otpsvc.senders.addresses import NotSent
from otpsvc.senders.http_client import NoAnswer
from otpsvc.senders.smpp_wire import Command, Frame

# Far more than SMSCs leave unanswered: what comes above is turned away for the moment, so that memory stays bounded.
_MOST_DELIVERIES = 100
_MOST_LATE = 1000
_MOST_UNSENT_BYTES = 1_000_000
_LAST_NUMBER = 0x7FFF_FFFF

Receive = Callable[[Frame], Awaitable[int]]


class Session:
    """A connection, from the bind to its end. `receive` takes a `deliver_sm` and returns the status to answer with."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receive: Receive) -> None:
        self._reader = reader
        self._writer = writer
        self._receive = receive
        self._number = 0
        self._asked: dict[int, asyncio.Future[Frame]] = {}
        self._late: OrderedDict[int, Callable[[Frame], None]] = OrderedDict()
        self._deliveries: set[asyncio.Task[None]] = set()
        self.end_reason = ""
        self.is_doubtful = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self.end_reason) or self._writer.is_closing()

    async def run(self) -> None:
        """Read until the connection ends, then end the session."""
        try:
            while True:
                await self._take(await self._next_frame())
        except (OSError, EOFError):
            self.end("connection cut")
        except wire.Malformed:
            self.end("frame not understood")
        finally:
            self.end("nobody reads any more")

    async def ask(
        self,
        make: Callable[[int], bytes],
        *,
        timeout_s: float,
        on_late: Callable[[Frame], None] | None = None,
    ) -> Frame:
        """Send the frame that `make` makes for a sequence number, and return its answer.

        Raises NotSent or NoAnswer. `on_late` is called, once at most, with an answer that comes after the asker went.
        """
        if self.is_over:
            raise NotSent("link down")
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            raise NotSent("link stalled")
        number = self._number = self._number % _LAST_NUMBER + 1
        data = make(number)
        answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._asked[number] = answered
        try:
            self._writer.write(data)
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            self.is_doubtful.set()
            self._await_late(number, answered, on_late)
            raise NoAnswer("no answer in time") from None
        except asyncio.CancelledError:
            self._await_late(number, answered, on_late)
            raise
        finally:
            del self._asked[number]

    def _await_late(
        self, number: int, answered: asyncio.Future[Frame], on_late: Callable[[Frame], None] | None
    ) -> None:
        if on_late is None:
            return
        if answered.done() and not answered.cancelled() and answered.exception() is None:
            # It came in the very turn of the loop in which its asker was told to give up.
            on_late(answered.result())
            return
        self._late[number] = on_late
        if len(self._late) > _MOST_LATE:
            self._late.popitem(last=False)

    def end(self, reason: str) -> None:
        """Cut the connection and tell everybody who waits for an answer; harmless if it is over already."""
        self.end_reason = self.end_reason or reason
        for answered in self._asked.values():
            if not answered.done():
                answered.set_exception(NoAnswer(self.end_reason))
        for task in self._deliveries:
            task.cancel()
        self._writer.transport.abort()
        self.is_doubtful.set()

    async def _next_frame(self) -> Frame:
        head = await self._reader.readexactly(wire.HEADER.size)
        length, begun = wire.read_header(head)
        return begun._replace(raw=head + await self._reader.readexactly(length - len(head)))

    async def _take(self, frame: Frame) -> None:
        if frame.is_answer:
            self._take_answer(frame)
        elif frame.command == Command.DELIVER_SM:
            self._take_delivery(frame)
        elif frame.command == Command.UNBIND:
            self._write(wire.answer_to(frame))
            self.end("unbound by the other side")
        elif frame.command != Command.ALERT_NOTIFICATION:
            self._write(wire.answer_to(frame))

    def _take_answer(self, frame: Frame) -> None:
        answered = self._asked.get(frame.number)
        if answered is not None:
            if not answered.done():
                answered.set_result(frame)
            return
        on_late = self._late.pop(frame.number, None)
        if on_late is not None:
            on_late(frame)

    def _take_delivery(self, frame: Frame) -> None:
        if len(self._deliveries) >= _MOST_DELIVERIES:
            self._write(wire.answer_to(frame, wire.QUEUE_FULL))
            return
        task = asyncio.create_task(self._deliver(frame))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, frame: Frame) -> None:
        self._write(wire.answer_to(frame, await self._receive(frame)))

    def _write(self, data: bytes) -> None:
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            self.end("the other side reads nothing")
        if not self.is_over:
            self._writer.write(data)
