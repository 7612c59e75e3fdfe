"""SMPP 3.4 on the wire: frames made and read. No other file knows the library smpp34, or the order of a frame's fields.

The library's codec is used for the two long ones, `submit_sm` and `deliver_sm`. Its client is not: it answers a
`deliver_sm` before anybody has kept what it says, tells a time-out and a refusal in the same words, and asks the
resolver by itself. The few short frames that a session needs besides are written here.

A frame holds the text, the number or the password: nothing here shows one.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from otpsvc.errors import ConfigurationError

MAX_FRAME_BYTES = 65_536
HEADER = struct.Struct(">IIII")

OK = 0x00
INVALID_COMMAND = 0x03
NOT_BOUND = 0x04
QUEUE_FULL = 0x14
THROTTLED = 0x58
TEMPORARY = 0x64  # ESME_RX_T_APPN: the other side brings it again
PERMANENT = 0x65  # ESME_RX_P_APPN: bringing it again is of no use

_RESPONSE = 0x8000_0000
_VERSION = 0x34
_UDH_INDICATOR = 0x40
_MESSAGE_PAYLOAD = 0x0424
_RECEIPTED_MESSAGE_ID = 0x001E
_MESSAGE_STATE = 0x0427
_NETWORK_ERROR_CODE = 0x0423
_SAR_REFERENCE, _SAR_COUNT, _SAR_PLACE = 0x020C, 0x020E, 0x020F


class Command(IntEnum):
    """The requests of a session like ours, either way."""

    BIND_RECEIVER = 0x01
    BIND_TRANSMITTER = 0x02
    SUBMIT_SM = 0x04
    DELIVER_SM = 0x05
    UNBIND = 0x06
    BIND_TRANSCEIVER = 0x09
    ENQUIRE_LINK = 0x15
    ALERT_NOTIFICATION = 0x0102
    GENERIC_NACK = 0x8000_0000


class Frame(NamedTuple):
    """One whole frame: what it is, its status, its sequence number, and all its bytes."""

    command: int
    status: int
    number: int
    raw: bytes

    @property
    def is_answer(self) -> bool:
        """Whether it answers a request instead of being one."""
        return bool(self.command & _RESPONSE)

    def __repr__(self) -> str:
        """Hide what it carries."""
        return f"Frame({self.command:#010x}, {self.status:#010x}, {self.number})"


class Address(NamedTuple):
    """A number or a name, with its type of number and numbering plan."""

    text: str
    ton: int
    npi: int


class Segment(NamedTuple):
    """Which part of a long message this is, told in parameters (`sar_…`) and not in the body. Places count from 1."""

    reference: int
    n_parts: int
    place: int


class Submit(NamedTuple):
    """The fields of a `submit_sm` that are not always the same. `body` begins with a header if `has_header`.

    `is_payload`: the body goes into the parameter `message_payload`, which takes long texts whole.
    """

    source: Address
    to: Address
    body: bytes
    data_coding: int
    has_header: bool
    is_payload: bool
    validity_period: str
    registered_delivery: int
    service_type: str
    segment: Segment | None = None

    def __repr__(self) -> str:
        """Hide the number and the text."""
        return "Submit()"


class Delivery(NamedTuple):
    """What matters of a `deliver_sm`. The optional parameters are None where they are not there or cannot be read."""

    esm_class: int
    body: bytes
    receipted_message_id: str | None
    message_state: int | None
    network_error_code: tuple[int, int] | None

    def __repr__(self) -> str:
        """Hide what a person may have written."""
        return "Delivery()"


class Malformed(Exception):
    """A frame cannot be read."""


def require_library() -> None:
    """Raise ConfigurationError, with what to do, where the library is not installed."""
    try:
        import smpp34  # noqa: F401, PLC0415 - an extra: whoever has no such sender does without it
    except ImportError:
        raise ConfigurationError("a sender of type smpp needs the library smpp34: pip install otpsvc[smpp]") from None


def frame(command: int, number: int, *, status: int = OK, body: bytes = b"") -> bytes:
    """Make a frame."""
    return HEADER.pack(HEADER.size + len(body), command, status, number) + body


def answer_to(request: Frame, status: int = OK) -> bytes:
    """Make the answer to a request; one that we do not know is refused as the protocol says."""
    if request.command not in {Command.DELIVER_SM, Command.ENQUIRE_LINK, Command.UNBIND}:
        return frame(Command.GENERIC_NACK, request.number, status=INVALID_COMMAND)
    # Of all of these only deliver_sm_resp has a body: a message id that is not used.
    body = b"\0" if request.command == Command.DELIVER_SM else b""
    return frame(request.command | _RESPONSE, request.number, status=status, body=body)


def read_header(head: bytes) -> tuple[int, Frame]:
    """Return the length of a whole frame, and the frame as far as it is known; raise Malformed."""
    length, command, status, number = HEADER.unpack(head)
    if not HEADER.size <= length <= MAX_FRAME_BYTES:
        raise Malformed
    return length, Frame(command, status, number, head)


def bind_body(system_id: str, password: str, system_type: str) -> bytes:
    """Make the body of any of the three binds; the range of addresses is left to the other side."""
    words = b"".join(word.encode("latin-1") + b"\0" for word in (system_id, password, system_type))
    return words + bytes((_VERSION, 0, 0)) + b"\0"


def submit_frame(submit: Submit, number: int) -> bytes:
    """Make a `submit_sm`."""
    import smpp34  # noqa: PLC0415 - an extra

    return smpp34.SubmitSm(
        submit.source.text,
        submit.to.text,
        b"" if submit.is_payload else submit.body,
        service_type=submit.service_type,
        source_addr_ton=submit.source.ton,
        source_addr_npi=submit.source.npi,
        dest_addr_ton=submit.to.ton,
        dest_addr_npi=submit.to.npi,
        esm_class=_UDH_INDICATOR if submit.has_header else 0,
        validity_period=submit.validity_period,
        registered_delivery=submit.registered_delivery,
        data_coding=submit.data_coding,
        tlvs=[smpp34.Tlv(tag, value) for tag, value in _optional(submit)],
        sequence_number=number,
    ).encode()


def _optional(submit: Submit) -> Iterator[tuple[int, bytes]]:
    if submit.is_payload:
        yield _MESSAGE_PAYLOAD, submit.body
    if submit.segment is not None:
        yield _SAR_REFERENCE, submit.segment.reference.to_bytes(2, "big")
        yield _SAR_COUNT, bytes((submit.segment.n_parts,))
        yield _SAR_PLACE, bytes((submit.segment.place,))


def is_taken(answer: Frame) -> bool:
    """Whether this is a `submit_sm_resp` that says yes."""
    return answer.status == OK and answer.command == Command.SUBMIT_SM | _RESPONSE


def submitted_id(answer: Frame) -> str | None:
    """Return the message id of a `submit_sm_resp`; None where there is none that can be read."""
    text, end, _ = answer.raw[HEADER.size :].partition(b"\0")
    return _ascii(text) if end else None


def read_delivery(request: Frame) -> Delivery:
    """Read a `deliver_sm`; raise Malformed."""
    import smpp34  # noqa: PLC0415 - an extra

    try:
        pdu = smpp34.decode(request.raw)
    except smpp34.SmppError:
        raise Malformed from None
    if not isinstance(pdu, smpp34.DeliverSm):
        raise Malformed
    # Of a parameter that stands twice the first one counts.
    optional = {tlv.tag: tlv.value for tlv in reversed(pdu.tlvs)}
    state = optional.get(_MESSAGE_STATE, b"")
    network = optional.get(_NETWORK_ERROR_CODE, b"")
    return Delivery(
        esm_class=pdu.esm_class,
        body=pdu.short_message or optional.get(_MESSAGE_PAYLOAD, b""),
        receipted_message_id=_ascii(optional.get(_RECEIPTED_MESSAGE_ID, b"").rstrip(b"\0")),
        message_state=state[0] if len(state) == 1 else None,
        network_error_code=(network[0], int.from_bytes(network[1:], "big")) if len(network) == 3 else None,
    )


def _ascii(text: bytes) -> str | None:
    return text.decode("ascii") if text and text.isascii() else None
