"""API keys as text: their form is exact, and the tag covers all of it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpsvc.clients.keys import KEY_LENGTH, PUBLIC_ID_SLICE, make_key, read_key, tag_of
from otpsvc.clients.model import Mode
from otpsvc.crypto import Keyring

MASTER = Keyring.from_masters({"a": b"a" * 32}).current


@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_new_key_has_the_promised_form(mode: Mode) -> None:
    text = make_key(mode)
    assert re.fullmatch(rf"zs_{mode}_[0-9a-z]{{65}}", text)
    assert len(text) == KEY_LENGTH
    read = read_key(text)
    assert read is not None
    assert read == (mode, text[PUBLIC_ID_SLICE])


def test_keys_do_not_repeat() -> None:
    made = [make_key("live") for _ in range(1000)]
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
    assert read_key(change(make_key("live"))) is None


@given(st.text(max_size=80))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert read_key(text) is None


def test_the_tag_covers_mode_public_id_secret_and_master() -> None:
    key = make_key("live")
    tag = tag_of(key, MASTER)
    flipped = "0" if key[-1] != "0" else "1"
    others = [
        key.replace("zs_live_", "zs_test_"),
        key[:8] + ("0" if key[8] != "0" else "1") + key[9:],
        key[:-1] + flipped,
    ]
    assert len(tag) == 32
    assert tag == tag_of(key, MASTER)
    assert tag not in [tag_of(other, MASTER) for other in others]
    assert tag != tag_of(key, Keyring.from_masters({"b": b"b" * 32}).current)
