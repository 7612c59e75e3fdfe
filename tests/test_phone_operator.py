"""The operator of a number, by the tables that come with the metadata: nothing is guessed."""

import subprocess
import sys

import pytest

from otpsvc import phone


def test_an_operator_is_named_by_the_range_of_the_number() -> None:
    assert phone.operator_of("+33612345678") == "SFR"
    assert phone.operator_of("+393331234567") == "TIM"


@pytest.mark.parametrize("number", ["+33142685300", "", "+", "+0", "33612345678", "+336\ud8002", "x" * 9])
def test_what_nobody_can_tell_is_empty(number: str) -> None:
    assert phone.operator_of(number) == ""


def test_who_has_no_phones_does_not_load_the_tables() -> None:
    look = "import sys; import otpsvc.phone; sys.exit('phonenumbers.carrierdata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
