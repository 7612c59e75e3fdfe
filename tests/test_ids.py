"""Ids: what they carry comes back, one spelling each, and no text that we could not have made is read."""

import itertools
import re
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otpsvc import ids
from otpsvc.ids import MalformedId, decode_base32, encode_base32, parse_message_id, parse_otp_id

LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


@given(st.binary(max_size=40))
def test_base32_comes_back(data: bytes) -> None:
    text = encode_base32(data)
    assert set(text) <= set(LETTERS)
    assert decode_base32(text, len(data)) == data


@given(st.text(alphabet=LETTERS, min_size=26, max_size=26))
def test_one_spelling_for_each_value(text: str) -> None:
    try:
        data = decode_base32(text, 16)
    except MalformedId:
        assert LETTERS.index(text[-1]) % 4
    else:
        assert encode_base32(data) == text


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_base32_keeps_the_order(left: bytes, right: bytes) -> None:
    assert (left < right) == (encode_base32(left) < encode_base32(right))


@given(st.integers(0, 255), st.binary(min_size=2, max_size=2), st.integers(0, 255))
def test_an_otp_id_carries_partition_slot_and_profile(partition: int, slot: bytes, profile: int) -> None:
    made = ids.new_otp_id(partition=partition, slot=slot, profile=profile)
    assert re.fullmatch(f"otp_[{LETTERS}]{{26}}", made.text)
    assert parse_otp_id(made.text) == made
    assert (made.partition, made.slot, made.profile) == (partition, slot, profile)


@given(st.integers(0, 255))
def test_a_message_id_carries_its_partition(partition: int) -> None:
    made = ids.new_message_id(partition=partition)
    assert parse_message_id(made.text) == made
    assert made.partition == partition


@given(st.text(max_size=40))
@example("")
@example("otp_")
@example("otp_" + "0" * 25)
@example("otp_" + "0" * 27)
@example("otp_" + "0" * 25 + "1")
@example("otp_" + "0" * 25 + "o")
@example("otp_" + "u" * 26)
@example("OTP_" + "0" * 26)
@example("otp_" + "A" * 26)
@example("otp-" + "0" * 26)
@example("otp_" + "\u0660" * 26)
@example("otp_" + "0" * 26 + "\n")
@example(" otp_" + "0" * 26)
@example("otp_" + "0" * 24 + "\u00e9")
@example("otp_" + "0" * 100_000)
def test_nothing_else_is_read(text: str) -> None:
    for parse in (parse_otp_id, parse_message_id):
        with pytest.raises(MalformedId):
            parse(text)


@given(st.data())
def test_a_changed_letter_never_leaves_the_same_id(data: st.DataObject) -> None:
    made = ids.new_otp_id(partition=0, slot=b"ab", profile=1)
    place = data.draw(st.integers(4, 29))
    letter = data.draw(st.characters().filter(lambda letter: letter != made.text[place]))
    changed = made.text[:place] + letter + made.text[place + 1 :]
    with suppress(MalformedId):
        assert parse_otp_id(changed) != made


def test_kinds_do_not_mix() -> None:
    otp, message = ids.new_otp_id(partition=0, slot=b"ab", profile=1).text, ids.new_message_id(partition=0).text
    for parse, text in ((parse_otp_id, message), (parse_message_id, otp), (parse_otp_id, ids.new_event_id())):
        with pytest.raises(MalformedId):
            parse(text)


def test_ids_do_not_repeat_and_every_bit_of_chance_varies() -> None:
    made = [parse_otp_id(ids.new_otp_id(partition=3, slot=b"ab", profile=1).text).text for _ in range(2000)]
    assert len(set(made)) == 2000
    chance = [int.from_bytes(decode_base32(text[4:], 16)[4:], "big") for text in made]
    either = all_ones = chance[0]
    for value in chance:
        either |= value
        all_ones &= value
    assert either == 2**96 - 1
    assert all_ones == 0


def test_event_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1_700_000_000_000)
    monkeypatch.setattr(time, "time", lambda: next(clock) / 1000)
    made = [ids.new_event_id() for _ in range(50)]
    assert made == sorted(made)
    assert all(re.fullmatch(f"evt_[{LETTERS}]{{26}}", text) for text in made)


def test_request_and_client_ids_have_their_shapes() -> None:
    for _ in range(200):
        assert re.fullmatch(r"req_[A-Za-z0-9]{16}", ids.new_request_id())
        assert re.fullmatch(r"client_[1-9]\d{11}", ids.new_client_id())
    assert len({ids.new_client_id() for _ in range(500)}) == 500


@pytest.mark.parametrize(("n_bytes", "letters"), [(1, 2), (5, 8), (10, 16), (16, 26)])
def test_random_text_has_the_length_of_its_bytes(n_bytes: int, letters: int) -> None:
    assert len(ids.random_base32(n_bytes)) == letters
