"""One form for the names of operators, wherever they come from."""

import pytest

from otpsvc.devices.operators import operator_word


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Orange F", "orange"),
        ("ORANGE", "orange"),
        ("  Orange  France ", "orange"),
        ("T-Mobile CZ", "tmobile"),
        ("O2", "o"),
        ("Telefónica", "telefonica"),
        ("МТС", "мтс"),
        ("", ""),
        (None, ""),
        ("42", ""),
        ("****nge F", ""),
        ("•••ange", ""),
    ],
)
def test_a_name_has_one_form(text: str | None, word: str) -> None:
    assert operator_word(text) == word


def test_the_form_of_a_form_is_itself() -> None:
    for text in ("Orange F", "T-Mobile", "Straße", "İstanbul", "ﬁne"):
        assert operator_word(operator_word(text)) == operator_word(text)
