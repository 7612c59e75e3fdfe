"""The parts of `smpp` that need no link: octets of a text, ids in two bases, the pace, frames that cannot be read."""

import random

import pytest

from otpsvc.messages.text import Encoding, count_parts
from otpsvc.senders import smpp_wire as wire
from otpsvc.senders.contract import RetryLater
from otpsvc.senders.smpp_ids import MessageIds
from otpsvc.senders.smpp_pace import Pace
from otpsvc.senders.smpp_text import GSM7, UCS2, encoded, with_headers
from otpsvc.senders.smpp_wire import Command, Frame

LETTERS = "aZ09@£\n é{}€~^\\|[]"


def test_every_text_has_as_many_parts_as_it_was_counted_and_billed_for() -> None:
    draw = random.Random(7)
    for alphabet in (LETTERS, LETTERS + "Ж😀"):
        for length in (1, 69, 70, 71, 134, 153, 159, 160, 161, 306, 307, 800):
            text = "".join(draw.choice(alphabet) for _ in range(length))
            parts, encoding = count_parts(text)
            made = encoded(text)
            assert (len(made.parts), made.data_coding) == (parts, GSM7 if encoding is Encoding.GSM7 else UCS2)


def test_no_letter_is_cut_in_two() -> None:
    first, *_ = encoded("x" * 152 + "€" * 10).parts
    assert first == b"x" * 152
    first, *_ = encoded("Ж" * 66 + "😀" * 5).parts
    assert first.decode("utf-16-be") == "Ж" * 66


def test_parts_are_numbered_under_one_reference() -> None:
    assert with_headers((b"a", b"b"), 300) == [b"\x05\x00\x03\x2c\x02\x01a", b"\x05\x00\x03\x2c\x02\x02b"]


@pytest.mark.parametrize("text", ["\ud800", "x" * 153 * 256])
def test_what_no_sms_can_carry_is_said_so(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the encoder's own, or ours
        encoded(text)


def test_a_text_is_not_shown() -> None:
    assert "583920" not in repr(encoded("583920 is your code."))


@pytest.mark.parametrize(
    ("base", "answer", "kept", "receipt"),
    [
        ("dec", "0000A1B2", "41394", "41394"),
        ("dec", "a1b2", "41394", "0000041394"),
        ("hex", "0041394", "41394", "a1b2"),
        ("hex", "41394", "41394", "0000A1B2"),
        ("auto", "a1b2", "a1b2", "a1b2"),
        ("auto", "A1B2", "A1B2", "41394"),
        ("auto", "41394", "41394", "a1b2"),
        ("auto", "0000a1b2", "0000a1b2", "A1B2"),
        ("auto", "5f1c-uuid", "5f1c-uuid", "5F1C-UUID"),
        ("hex", "5f1c-uuid", "5f1c-uuid", "5f1c-uuid"),
    ],
)
def test_ids_of_receipts_take_the_form_that_is_kept(base: str, answer: str, kept: str, receipt: str) -> None:
    ids = MessageIds(base)  # type: ignore[arg-type]  # one of the three
    assert ids.submitted(answer) == kept
    assert ids.receipted(receipt, is_parameter=False) == kept
    assert ids.receipted(answer, is_parameter=True) == kept


def test_once_ids_fit_as_they_are_none_is_turned() -> None:
    """Message 1010 of another process, read as binary digits of ours or whatever else, must not become message 4112."""
    ids = MessageIds("auto")
    ids.submitted("4112")
    ids.submitted("4113")
    assert ids.receipted("4113", is_parameter=False) == "4113"
    assert ids.receipted("1010", is_parameter=False) == "1010"


def test_unknown_ids_are_read_in_the_form_that_was_learnt() -> None:
    ids = MessageIds("auto")
    assert ids.receipted("48879", is_parameter=False) == "48879"
    ids.submitted("0000A1B2")
    assert ids.receipted("41394", is_parameter=False) == "0000A1B2"
    assert ids.receipted("48879", is_parameter=False) == "0000BEEF"


@pytest.mark.parametrize("written", [None, "", "+33612345678", "an id", "x" * 65, "é"])
def test_what_does_not_look_like_an_id_is_none(written: str | None) -> None:
    assert MessageIds("auto").submitted(written) is None
    assert MessageIds("hex").receipted(written, is_parameter=False) is None


def test_being_throttled_halves_the_window_and_closes_it_for_longer_each_time() -> None:
    now = [100.0]
    pace = Pace(8, lambda: now[0])
    assert [pace.throttled(1.0), pace.throttled(1.0)] == [1.0, 1.0]  # two of one window count once
    assert pace.room == 4
    assert pace.enter() == RetryLater(1.0, "throttled a moment ago")
    now[0] += 1.5
    assert pace.enter() is None
    pace.leave()
    assert pace.throttled(1.0) == 2.0
    assert pace.room == 2
    for _ in range(10):
        now[0] += 100
        pace.throttled(1.0)
    assert pace.room == 1
    assert pace.throttled(1.0) <= 30


def test_what_is_taken_widens_the_window_again_and_never_beyond_its_size() -> None:
    now = [0.0]
    pace = Pace(4, lambda: now[0])
    pace.throttled(1.0)
    now[0] += 2
    assert pace.room == 2
    for _ in range(100):
        pace.went_well()
    assert pace.room == 4
    assert [pace.enter() for _ in range(4)] == [None] * 4
    assert pace.enter() == RetryLater(0.5, "window full")
    pace.leave()
    assert pace.enter() is None
    now[0] += 10
    assert pace.throttled(1.0) == 1.0  # what went well also forgot how long the pauses were


@pytest.mark.parametrize("length", [0, 15, 65_537, 0xFFFF_FFFF])
def test_a_frame_of_an_impossible_length_is_not_read(length: int) -> None:
    with pytest.raises(wire.Malformed):
        wire.read_header(wire.HEADER.pack(length, 4, 0, 1))


@pytest.mark.parametrize("body", [b"", b"\0" * 5, b"x" * 40])
def test_a_delivery_that_cannot_be_read_is_malformed(body: bytes) -> None:
    raw = wire.frame(Command.DELIVER_SM, 1, body=body)
    with pytest.raises(wire.Malformed):
        wire.read_delivery(Frame(Command.DELIVER_SM, 0, 1, raw))


def test_what_we_do_not_know_is_refused_as_the_protocol_says() -> None:
    assert wire.answer_to(Frame(0x103, 0, 9, b"")) == wire.HEADER.pack(16, Command.GENERIC_NACK, 3, 9)


def test_frames_show_nothing_of_what_they_carry() -> None:
    raw = wire.frame(Command.SUBMIT_SM, 1, body=b"583920 is your code")
    assert "583920" not in repr(Frame(4, 0, 1, raw))
