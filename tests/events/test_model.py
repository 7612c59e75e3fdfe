"""Reading stream entries: what the scripts write, and whatever else may stand there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpsvc.events.model import END_OF_TIME_MS, UnreadableEvent, event_of, event_or_stand_in, stand_in
from tests.events.samples import NOON, SEALED, fields_of, life, of_message, sent

BEGUN = sent()


@pytest.mark.parametrize("event", [*life(), of_message("message.failed", BEGUN, 1, reason="rejected")])
def test_what_was_written_is_read(event: object) -> None:
    assert event_of(fields_of(event)) == event  # type: ignore[arg-type]  # parametrize has no types


def test_only_the_sealed_number_may_be_no_text() -> None:
    event = event_of(fields_of(BEGUN) | {b"to_sealed": SEALED})
    assert event.to_sealed == SEALED
    assert "to_sealed" not in event.data
    for key in (b"event_id", b"client", b"purpose"):
        with pytest.raises(UnreadableEvent, match=f"^{key.decode()} is not UTF-8$"):
            event_of(fields_of(BEGUN) | {key: SEALED})


@pytest.mark.parametrize("key", [b"event_id", b"event", b"otp_id", b"message_id", b"client", b"mode", b"occurred_at"])
def test_a_missing_field_is_named(key: bytes) -> None:
    fields = fields_of(BEGUN)
    del fields[key]
    with pytest.raises(UnreadableEvent, match=f"^{key.decode()} is missing$"):
        event_of(fields)


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"1.5", b"1e3", b" 1", b"0x1", "١".encode(), b"253370764800000", b"9" * 400]
)
@pytest.mark.parametrize("key", ["occurred_at", "created_at"])
def test_a_time_is_whole_ms_before_the_year_9999(text: bytes, key: str) -> None:
    fields = fields_of(of_message("message.sent", BEGUN, 1)) | {key.encode(): text}
    with pytest.raises(UnreadableEvent, match=f"^{key} is not a time in ms$"):
        event_of(fields)


def test_the_last_moment_is_read() -> None:
    assert event_of(fields_of(BEGUN) | {b"occurred_at": b"253370764799999"}).occurred_at == END_OF_TIME_MS - 1


def test_a_message_event_says_when_its_message_was_made() -> None:
    fields = fields_of(of_message("message.sent", BEGUN, 1))
    del fields[b"created_at"]
    with pytest.raises(UnreadableEvent, match="created_at"):
        event_of(fields)


def test_a_stand_in_keeps_the_ids_and_nothing_else() -> None:
    plain = event_or_stand_in(fields_of(BEGUN) | {b"purpose": b"\xff"}, partition=3, entry_id=f"{NOON}-5")
    assert (plain.event_id, plain.otp_id, plain.message_id) == (BEGUN.event_id, BEGUN.otp_id, BEGUN.message_id)
    assert plain.data == {"is_unreadable": "true"}
    assert plain.to_sealed == b""
    assert plain.occurred_at == NOON


def test_stand_ins_without_ids_differ_by_their_place() -> None:
    places = [(0, "1-0"), (0, "1-1"), (1, "1-0"), (0, "2-0"), (0, "not an entry id")]
    stand_ins = [event_or_stand_in({}, partition=partition, entry_id=entry_id) for partition, entry_id in places]
    assert len({plain.event_id for plain in stand_ins}) == len(places)
    assert [plain.occurred_at for plain in stand_ins] == [1, 1, 1, 2, 0]


KEYS = st.sampled_from(sorted(fields_of(life()[2]) | fields_of(BEGUN))) | st.binary(max_size=8)
VALUES = (
    st.binary(max_size=200) | st.integers().map(lambda n: str(n).encode()) | st.sampled_from([b"\x00", b"\xed\xa0\x80"])
)


@given(
    fields=st.dictionaries(KEYS, VALUES),
    known=st.sampled_from([{}, fields_of(BEGUN), fields_of(life()[2])]),
    entry_id=st.text(max_size=30) | st.integers(0, 10**30).map(lambda ms: f"{ms}-0"),
)
def test_any_entry_becomes_an_event_always_the_same(
    fields: dict[bytes, bytes], known: dict[bytes, bytes], entry_id: str
) -> None:
    event = event_or_stand_in(known | fields, partition=0, entry_id=entry_id)
    assert event == event_or_stand_in(known | fields, partition=0, entry_id=entry_id)
    assert event.event_id
    assert 0 <= event.occurred_at < END_OF_TIME_MS
    plain = stand_in(event)
    assert plain == stand_in(plain)
    for text in (plain.event_id, plain.name, plain.client_id, plain.mode, plain.otp_id, plain.message_id):
        assert len(text) <= 100
        assert text.isascii()
        assert text.isprintable() or not text


def test_nothing_personal_is_printed() -> None:
    assert "•" not in repr(BEGUN)
    assert "0123456789abcdef" not in repr(BEGUN)
