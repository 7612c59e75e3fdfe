"""Tokens and codes as text: what is made can be read, what was not made here is refused by its text alone."""

import re

import pytest

from otpsvc import ids
from otpsvc.crypto import Keyring
from otpsvc.devices import tokens

KEYRING = Keyring.from_masters({"new": b"n" * 32, "old": b"o" * 32})


def test_a_token_names_its_device_and_is_tagged_under_the_current_master() -> None:
    device_id = ids.new_device_id()
    made = tokens.new_token(device_id, KEYRING)
    assert re.fullmatch(r"dt_[0-9a-hjkmnp-tv-z]{60}", made.text)
    assert len(made.text) == tokens.TOKEN_LENGTH
    assert tokens.read_token(made.text, KEYRING) == device_id
    assert made.auth_key_id == KEYRING.current.slot
    assert made.tag == tokens.tag_of(made.text, KEYRING.current)
    assert made.tag != tokens.tag_of(made.text, KEYRING.index_master)
    assert made.text not in repr(made)
    assert made.tag.hex() not in repr(made)


def test_two_tokens_of_a_device_differ() -> None:
    device_id = ids.new_device_id()
    assert len({tokens.new_token(device_id, KEYRING).text for _ in range(100)}) == 100


def test_a_rotation_changes_nothing_about_the_check() -> None:
    made = tokens.new_token(ids.new_device_id(), Keyring.from_masters({"old": b"o" * 32}))
    assert tokens.read_token(made.text, KEYRING) is not None
    later = Keyring.from_masters({"newest": b"e" * 32, "new": b"n" * 32, "old": b"o" * 32})
    assert tokens.read_token(made.text, later) is not None


def test_every_changed_letter_is_noticed() -> None:
    text = tokens.new_token(ids.new_device_id(), KEYRING).text
    for place in range(len(text)):
        for letter in ("0", "z", "u", "A", "é", ""):
            changed = text[:place] + letter + text[place + 1 :]
            assert changed == text or tokens.read_token(changed, KEYRING) is None


@pytest.mark.parametrize("text", ["", "dt_", "x" * 63, "dt_" + "0" * 60, "dt_" + "0" * 61, "\udc80" * 63, "dt_\n"])
def test_what_is_no_token_is_none(text: str) -> None:
    assert tokens.read_token(text, KEYRING) is None


def test_a_token_of_another_installation_is_none() -> None:
    stranger = Keyring.from_masters({"new": b"n" * 32, "old": b"x" * 32})
    assert tokens.read_token(tokens.new_token(ids.new_device_id(), stranger).text, KEYRING) is None


def test_codes_are_six_digits_over_the_whole_range() -> None:
    codes = [tokens.new_code() for _ in range(3000)]
    assert all(re.fullmatch(r"[0-9]{6}", code) for code in codes)
    assert {code[0] for code in codes} == set("0123456789")


def test_a_codes_tag_stays_over_a_rotation_and_says_nothing_of_the_code() -> None:
    rotated = Keyring.from_masters({"newest": b"e" * 32, "new": b"n" * 32, "old": b"o" * 32})
    tag = tokens.code_tag("000123", KEYRING)
    assert tag == tokens.code_tag("000123", rotated)
    assert tag != tokens.code_tag("000124", KEYRING)
    assert tag is not None
    assert len(tag) == 32


@pytest.mark.parametrize("code", ["", "12345", "1234567", "12345a", "١٢٣٤٥٦", "123456\n", " 123456", "\udc80"])
def test_what_is_no_code_has_no_tag(code: str) -> None:
    assert tokens.code_tag(code, KEYRING) is None
