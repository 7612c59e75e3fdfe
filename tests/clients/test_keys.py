"""API keys as text: their form is exact, and the tag covers all of it."""

import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpsvc.clients.keys import KEY_LENGTH, PUBLIC_ID_SLICE, make_key, read_key, tag_of
from otpsvc.clients.model import Mode
from otpsvc.crypto import Keyring

KEYRING = Keyring.from_masters({"b": b"b" * 32, "a": b"a" * 32})
MASTER = KEYRING.current
LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_new_key_has_the_promised_form(mode: Mode) -> None:
    text = make_key(mode, KEYRING)
    assert re.fullmatch(rf"zs_{mode}_[0-9a-z]{{73}}", text)
    assert len(text) == KEY_LENGTH
    read = read_key(text, KEYRING)
    assert read is not None
    assert read == (mode, text[PUBLIC_ID_SLICE])


def test_keys_do_not_repeat() -> None:
    made = [make_key("live", KEYRING) for _ in range(1000)]
    assert len({text[PUBLIC_ID_SLICE] for text in made}) == 1000
    assert len({text[21:] for text in made}) == 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key[:-1],
        lambda key: key + "0",
        str.upper,
        lambda key: key.replace("zs_live_", "zs_prod_"),
        lambda key: key.replace("zs_live_", "ZS_live_"),
        lambda key: key[:-1] + "u",
        lambda key: key[:-1] + "é",
        lambda key: key[:-1] + "\udc80",
        lambda key: key[:-1] + "٣",
        lambda key: "",
    ],
)
def test_other_forms_are_not_keys(change: "object") -> None:
    assert callable(change)
    assert read_key(change(make_key("live", KEYRING)), KEYRING) is None


def test_any_changed_letter_makes_it_none_of_ours() -> None:
    key = make_key("live", KEYRING)
    for place in range(8, KEY_LENGTH):
        for letter in LETTERS:
            changed = key[:place] + letter + key[place + 1 :]
            assert (read_key(changed, KEYRING) is not None) == (changed == key)
    assert read_key(key.replace("zs_live_", "zs_test_"), KEYRING) is None


def test_the_check_is_that_of_the_index_master_over_every_rotation() -> None:
    key = make_key("test", KEYRING)
    rotated = Keyring.from_masters({"d": b"d" * 32, "a": b"a" * 32, "c": b"c" * 32}, index_master="a")
    assert read_key(key, rotated) is not None
    assert read_key(make_key("test", rotated), KEYRING) is not None
    assert read_key(key, Keyring.from_masters({"a": b"a" * 32, "b": b"b" * 32})) is None


def test_the_check_compares_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def watching(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    key = make_key("live", KEYRING)
    monkeypatch.setattr(hmac, "compare_digest", watching)
    assert read_key(key, KEYRING) is not None
    assert read_key(key[:-1] + ("0" if key[-1] != "0" else "1"), KEYRING) is None
    assert [len(left) for left, _ in compared] == [8, 8]


@given(st.text(max_size=88))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert read_key(text, KEYRING) is None


def test_the_tag_covers_mode_public_id_secret_and_master() -> None:
    key = make_key("live", KEYRING)
    tag = tag_of(key, MASTER)
    flipped = "0" if key[72] != "0" else "1"
    others = [
        key.replace("zs_live_", "zs_test_"),
        key[:8] + ("0" if key[8] != "0" else "1") + key[9:],
        key[:72] + flipped + key[73:],
    ]
    assert len(tag) == 32
    assert tag == tag_of(key, MASTER)
    assert tag not in [tag_of(other, MASTER) for other in others]
    assert tag != tag_of(key, Keyring.from_masters({"c": b"c" * 32}).current)
