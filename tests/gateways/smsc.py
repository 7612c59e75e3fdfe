"""An SMSC to test against: the library's own server, behind a wire that misbehaves when it is told to.

The server is another's reading of the protocol than the sender's, so both cannot be wrong in the same way. It can do
little but accept and refuse, so everything that goes wrong on the way goes wrong in the wire before it.
"""

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self

import smpp34

from otpsvc.testing.gateways import Fault, GatewayDouble, GatewayRequest

SYSTEM_ID = "esme-one"
PASSWORD = "kqZ7-bind"

_HEADER = struct.Struct(">IIII")
_BINDS = {0x01: "receiver", 0x02: "transmitter", 0x09: "transceiver"}
_SUBMIT, _SUBMIT_RESP, _UNBIND, _ENQUIRE, _TRANSCEIVER_RESP = 0x04, 0x80000004, 0x06, 0x15, 0x80000009
_MESSAGE_PAYLOAD, _RECEIPTED_MESSAGE_ID, _MESSAGE_STATE, _NETWORK_ERROR_CODE = 0x0424, 0x001E, 0x0427, 0x0423
_SAR = {0x020C: 2, 0x020E: 1, 0x020F: 1}  # reference, count, place, and the octets of each
_RECEIVER, _DELIVER = 0x01, 0x05
_WAIT_S = 10.0
_GSM7 = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_MORE = {0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|", 0x65: "€"}


class BindSeen(NamedTuple):
    """A bind as it arrived."""

    kind: str
    system_id: str
    password: str
    system_type: str


class Taken(NamedTuple):
    """A `submit_sm` that the server accepted, under this id."""

    message_id: str
    event: smpp34.SubmitSmEvent


class Smsc(GatewayDouble):
    """An SMSC for the body of an `async with`, at `port`. Ids count up from `first_id`, written by `write_id`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.binds: list[BindSeen] = []
        self.submits: list[smpp34.SubmitSm] = []
        self.taken: list[Taken] = []
        self.n_unbinds = 0
        self.n_enquiries = 0
        self.n_reports = 0
        self.bind_status = 0
        self.refusals: list[int] = []
        self.answers_enquiries = True
        self.answers_binds = True
        self.answers_unbinds = True
        self.write_id: Callable[[int], str] = lambda number: f"{number:08x}"
        self.before_accept: Callable[[str], Awaitable[object]] | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.until_ready: Callable[[], Awaitable[object]] | None = None
        self._numbers = itertools.count(0xA1B2)
        self._statuses: list[int] = []
        self._can_report = asyncio.Event()
        self._is_hurried = asyncio.Event()
        self._esmes: dict[str, smpp34.Esme] = {}
        self._wires: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._kinds: dict[asyncio.StreamWriter, int] = {}

    @property
    def port(self) -> int:
        return self._port

    @property
    def is_listening(self) -> bool:
        return self._door is not None

    async def __aenter__(self) -> Self:
        self._server, self._inner_port = await _started()
        self._serving = asyncio.create_task(self._serve())
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._shut()
        self.answering.set()
        self._is_hurried.set()
        self._serving.cancel()
        talks = list(self._talks)
        for task in talks:
            task.cancel()
        results = await asyncio.gather(self._serving, *talks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        await self._server.stop()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def restore(self) -> None:
        """Misbehave no more, listen again, and wait until whoever is to be bound is."""
        self._faults.clear()
        self._is_hurried.set()
        if self._door is None:
            self._door = await asyncio.start_server(self._wire, "127.0.0.1", self._port, ssl=self._tls)
            self._servers.append(self._door)
            self._port = self._door.sockets[0].getsockname()[1]
        if self.until_ready is not None:
            async with asyncio.timeout(_WAIT_S):
                await self.until_ready()

    def cut_idle(self) -> None:
        """End every connection at once."""
        for writer in self._wires:
            writer.transport.abort()

    def texts(self) -> list[str]:
        """The messages that were taken, parts put together, in the order in which they were whole."""
        texts: list[str] = []
        parts: dict[tuple[str, int], dict[int, str]] = {}
        for _, event in self.taken:
            optional = {tlv.tag: tlv.value for tlv in event.tlvs}
            body = event.short_message or optional[_MESSAGE_PAYLOAD]
            if event.esm_class & 0x40:
                assert body[:3] == b"\x05\x00\x03"
                (reference, count, place), body = body[3:6], body[6:]
            elif optional.keys() >= _SAR.keys():
                assert {tag: len(optional[tag]) for tag in _SAR} == _SAR
                reference, count, place = (int.from_bytes(optional[tag], "big") for tag in _SAR)
            else:
                texts.append(_read(body, event.data_coding))
                continue
            together = parts.setdefault((event.destination_addr, reference), {})
            together[place] = _read(body, event.data_coding)
            if len(together) == count:
                texts.append("".join(together[number] for number in range(1, count + 1)))
                del parts[event.destination_addr, reference]
        return texts

    async def report(
        self,
        message_id: str | None,
        stat: str = "DELIVRD",
        *,
        err: str = "000",
        state: int | None = None,
        parameter_id: str | None = None,
        esm_class: int = 0x04,
        text: bytes | None = None,
        network_error: bytes | None = None,
    ) -> int:
        """Bring a receipt, and return the status it was answered with."""
        said = (
            f"id:{message_id} sub:001 dlvrd:001 submit date:2601021530 done date:2601021531 stat:{stat} err:{err} "
            "text:583920 is your"
        )
        tlvs = []
        if parameter_id is not None:
            tlvs.append(smpp34.Tlv(_RECEIPTED_MESSAGE_ID, parameter_id.encode() + b"\0"))
        if state is not None:
            tlvs.append(smpp34.Tlv(_MESSAGE_STATE, bytes((state,))))
        if network_error is not None:
            tlvs.append(smpp34.Tlv(_NETWORK_ERROR_CODE, network_error))
        body = text if text is not None else b"" if message_id is None else said.encode()
        async with asyncio.timeout(_WAIT_S):
            await self._can_report.wait()
            esme = next(esme for esme in reversed(self._esmes.values()) if esme.can_receive)
            answer = await esme.deliver_sm("OTP", body, source_addr="33612345600", esm_class=esm_class, tlvs=tlvs)
        return answer.command_status

    async def _serve(self) -> None:
        while True:
            event = await self._server.next()
            match event:
                case smpp34.Esme():
                    self._esmes[event.session_id] = event
                    if event.can_receive:
                        self._can_report.set()
                case smpp34.Unbound():
                    self._esmes.pop(event.session_id, None)
                case smpp34.SubmitSmEvent():
                    if self.refusals:
                        self._statuses.append(self.refusals.pop(0))
                        event.reject()
                        continue
                    message_id = self.write_id(next(self._numbers))
                    self.taken.append(Taken(message_id, event))
                    if self.before_accept is not None:
                        await self.before_accept(message_id)
                    event.accept(message_id)

    async def _wire(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks[task] = writer
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner_port)
        self._wires[writer] = inner_writer
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, inner_writer, lambda f: self._inbound(f, writer, inner_writer)))
                pumps.create_task(self._pump(inner_reader, writer, lambda f: self._outbound(f, writer)))
        except* (OSError, EOFError):
            pass  # one of the two is gone
        finally:
            del self._talks[task], self._wires[writer]
            for each in (writer, inner_writer):
                each.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        meet: Callable[[bytes], Awaitable[bool]],
    ) -> None:
        while True:
            head = await reader.readexactly(_HEADER.size)
            frame = head + await reader.readexactly(_HEADER.unpack(head)[0] - len(head))
            if await meet(frame):
                writer.write(frame)

    async def _inbound(self, frame: bytes, writer: asyncio.StreamWriter, inner: asyncio.StreamWriter) -> bool:
        """Look at a frame of the sender's; False if it goes no further."""
        _, command, _, number = _HEADER.unpack(frame[:16])
        if command in _BINDS:
            words = [word.decode() for word in frame[16:].split(b"\0")[:3]]
            self.binds.append(BindSeen(_BINDS[command], *words))
            if self.bind_status:
                writer.write(_HEADER.pack(16, command | 0x80000000, self.bind_status, number))
            elif self.answers_binds:
                # The library's server takes no answers on a pure receiver, so to it that is a transceiver.
                self._kinds[writer] = command
                inner.write(frame[:4] + struct.pack(">I", 0x09 if command == _RECEIVER else command) + frame[8:])
            return False
        if command == _SUBMIT:
            submit = smpp34.decode(frame)
            assert isinstance(submit, smpp34.SubmitSm)
            self.submits.append(submit)
            self.requests.append(
                GatewayRequest(method="SUBMIT_SM", path=submit.destination_addr, query={}, headers={}, body=frame)
            )
            self._is_hurried.clear()
        if command == _UNBIND:
            self.n_unbinds += 1
            return self.answers_unbinds
        if command == _ENQUIRE:
            self.n_enquiries += 1
            return self.answers_enquiries
        return True

    async def _outbound(self, frame: bytes, writer: asyncio.StreamWriter) -> bool:
        """Look at a frame of the server's; False if it goes no further, or went in another way."""
        _, command, status, number = _HEADER.unpack(frame[:16])
        if command == _TRANSCEIVER_RESP:
            writer.write(_HEADER.pack(len(frame), self._kinds[writer] | 0x80000000, status, number) + frame[16:])
            return False
        if command == _DELIVER:
            self.n_reports += 1
        if command != _SUBMIT_RESP:
            return True
        if status:
            # It refuses with statuses of the standard only, an SMSC with whatever it likes.
            frame = _HEADER.pack(16, command, self._statuses.pop(0), number)
        await self.answering.wait()
        match self._faults.pop(0) if self._faults else None:
            case Fault.HANG:
                return False
            case Fault.CLOSE_MID_BODY:
                writer.write(frame[:10])
                await asyncio.sleep(0)
                writer.close()
                return False
            case Fault.HUGE:
                writer.write(_HEADER.pack(10_000_000, *_HEADER.unpack(frame[:16])[1:]))
                return False
            case Fault.NOT_JSON:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                return False
            case Fault.SLOW_DRIP:
                for byte in frame:
                    writer.write(bytes((byte,)))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self._is_hurried.wait()
                return False
        writer.write(frame)
        return False


def _read(body: bytes, data_coding: int) -> str:
    if data_coding == 8:
        return body.decode("utf-16-be")
    assert data_coding == 0
    letters = iter(body)
    return "".join(_GSM7_MORE[next(letters)] if value == 0x1B else _GSM7[value] for value in letters)


async def _started() -> tuple[smpp34.Server, int]:
    """Start the library's server, which wants to be told a port and finds none by itself."""
    for _ in range(20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = smpp34.Server("127.0.0.1", port, system_id="SMSC")
        with contextlib.suppress(smpp34.SmppError):
            await server.start()
            return server, port
    raise RuntimeError("no free port")
