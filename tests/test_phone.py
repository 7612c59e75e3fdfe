"""One key per number, or a clear error that says nothing of the number."""

import pickle
import re
import string

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from otpsvc.phone import InvalidNumber, calling_code, mask, normalise, region

no_deadline = settings(deadline=None)  # the first number of a calling code compiles its pattern
E164 = re.compile(r"\+[1-9][0-9]{4,14}")
CODES = sorted(map(str, phonenumbers.supported_calling_codes()))
SAMPLES = sorted(
    phonenumbers.format_number(number, PhoneNumberFormat.E164)
    for country in phonenumbers.SUPPORTED_REGIONS
    for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE)
    if (number := phonenumbers.example_number_for_type(country, kind))
)

FRENCH = "+33612345678"


@pytest.mark.parametrize(
    "raw",
    [
        FRENCH,
        "0033612345678",
        "00 33 6 12 34 56 78",
        "  +33 6 12 34 56 78\r\n",
        "+33 6.12.34.56.78",
        "+33-6-12-34-56-78",
        "(+33) 6/12/34/56/78",
        "+33 (0)6 12 34 56 78",
        "0033 (0) 612345678",
        "+330612345678",
        "\uff0b33612345678",
        "\uff0b\uff13\uff13\uff16\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18",
        "+٣٣٦١٢٣٤٥٦٧٨",
        "۰۰۳۳۶۱۲۳۴۵۶۷۸",
        "+३३ ६१२ ३४५ ६७८",
        "+3361234567८",
        "+33\u00a06\u202f12\u200934\u200356\u300078",
        "+33\u20106\u201112\u201234\u201356\u201478",
        "+33\u22126\uff0d12\ufe6334\u201556\t78",
        "\u202a+33 6 12 34 56 78\u202c",
        "\ufeff\u200e+33\u200b612\u2060345\u00ad678\u200f",
        "\u2066+33612345678\u2069",
        "tel:+33-6-12-34-56-78",
        "TEL:+33612345678",
        "tel:+33612345678;cpc=ordinary",
        " tel:0033612345678 ",
    ],
)
def test_one_key_for_every_spelling(raw: str) -> None:
    assert normalise(raw) == FRENCH


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ("+39 06 6982 1234", "+390669821234"),  # the zero of Italian fixed lines is part of them
        ("+39 (0)2 1234 5678", "+390212345678"),
        ("+39 312 345 6789", "+393123456789"),
        ("+378 0549 886377", "+3780549886377"),
        ("+378 886377", "+3780549886377"),
        ("+225 01 23 45 67 89", "+2250123456789"),
        ("+44 (0)7400 123456", "+447400123456"),
        ("+7 8 912 345-67-89", "+79123456789"),
        ("+36 06 20 123 4567", "+36201234567"),
        ("+1 (650) 253-0000", "+16502530000"),
        ("+1 1 650 253 0000", "+16502530000"),
        ("+54 343 15 555 1212", "+5493435551212"),
        ("+800 1234 5678", "+80012345678"),
        ("+883 5100 12345", "+883510012345"),
        ("+882 16 5555 0123", "+8821655550123"),
        ("+590 690 00 12 34", "+590690001234"),
        ("+590 0690 00 12 34", "+590690001234"),
    ],
)
def test_what_each_country_writes(raw: str, key: str) -> None:
    assert normalise(raw) == key
    assert normalise(key) == key


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "not_a_number"),
        (" \u200e ", "not_a_number"),
        ("+", "not_a_number"),
        ("++33612345678", "not_a_number"),
        ("+33+612345678", "not_a_number"),
        ("33+612345678", "not_a_number"),
        ("+33612345678\x00", "not_a_number"),
        ("+336\x0012345678", "not_a_number"),
        ("+336\n12345678", "not_a_number"),
        ("+336\u202812345678", "not_a_number"),
        ("+33612345678\n+33612345679", "not_a_number"),
        ("+3361234567\u00b2", "not_a_number"),
        ("+3361234567\ud800", "not_a_number"),
        ("%2B33612345678", "not_a_number"),
        ("+33*12345678", "not_a_number"),
        ("+33 612345678 / +33 612345679", "not_a_number"),
        ("+1 650 FLOWERS", "letters"),
        ("+1-800-MICROSOFT", "letters"),
        ("call +33612345678", "letters"),
        ("+33 six", "letters"),
        ("+33612345678x12", "extension"),
        ("+33612345678 ext. 12", "extension"),
        ("+33612345678;ext=12", "extension"),
        ("tel:+33612345678;ext=12", "extension"),
        ("tel:+33612345678;isub=1", "extension"),
        ("+33612345678 #12", "extension"),
        ("+33612345678,,12", "extension"),
        ("+7 912 345-67-89 доб. 12", "extension"),
        ("0612345678", "not_international"),
        ("33612345678", "not_international"),
        ("(650) 253-0000", "not_international"),
        ("011 33 6 12 34 56 78", "not_international"),
        ("tel:612345678;phone-context=+33", "not_international"),
        ("00 0612345678", "unknown_country"),
        ("+0033612345678", "unknown_country"),
        ("+210123456789", "unknown_country"),
        ("+999123456789", "unknown_country"),
        ("+3", "too_short"),
        ("+33", "too_short"),
        ("+3361", "too_short"),
        ("+3361234567", "too_short"),
        ("+336123456789", "too_long"),
        ("+33612345678901234567890", "too_long"),
        ("+33 " + "6" * 61, "too_long"),
        ("+" + "9" * 1_000_000, "too_long"),
        ("+33" + " " * 62 + "612345678", "too_long"),
        ("+33012345678", "not_valid"),
        ("+33000000000", "not_valid"),
        ("+441000000000", "not_valid"),
        ("+12125550", "too_short"),
        ("+11234567890", "not_valid"),
        ("+393", "too_short"),
        ("+34 (0)612 34 56 78", "too_long"),  # Spain has no trunk prefix
        ("+33899123456", "not_allowed_type"),
        ("+19002345678", "not_allowed_type"),
        ("+448712345678", "not_allowed_type"),
        ("+39 0878 12345", "not_allowed_type"),
        ("+979123456789", "not_allowed_type"),
        ("+80812345678", "not_allowed_type"),
    ],
)
def test_anything_else_is_a_clear_error(raw: str, reason: str) -> None:
    with pytest.raises(InvalidNumber) as caught:
        normalise(raw)
    assert caught.value.reason == reason
    assert not any(char.isdigit() for char in str(caught.value) + repr(caught.value))
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (copy.reason, str(copy)) == (reason, str(caught.value))


@pytest.mark.parametrize(
    ("number", "code", "country"),
    [
        (FRENCH, "33", "FR"),
        ("+16502530000", "1", "US"),
        ("+15062345678", "1", "CA"),
        ("+12684641234", "1", "AG"),
        ("+18092345678", "1", "DO"),
        ("+18002345678", "1", "US"),
        ("+79123456789", "7", "RU"),
        ("+77710009998", "7", "KZ"),
        ("+447400123456", "44", "GB"),
        ("+447781123456", "44", "GG"),
        ("+447797712345", "44", "JE"),
        ("+447624123456", "44", "IM"),
        ("+390669812345", "39", "VA"),
        ("+590690001234", "590", "GP"),
        ("+262692123456", "262", "RE"),
        ("+80012345678", "800", None),
        ("+883510012345", "883", None),
        ("+8821655550123", "882", None),
    ],
)
def test_calling_code_and_country(number: str, code: str, country: str | None) -> None:
    assert normalise(number) == number
    assert calling_code(number) == code
    assert region(number) == country


@pytest.mark.parametrize("text", ["", "+", "33612345678", "+999123456", "+٣٣٦١٢٣٤٥٦٧٨", "nobody"])
def test_no_code_no_country(text: str) -> None:
    assert region(text) is None
    with pytest.raises(InvalidNumber):
        calling_code(text)


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        (FRENCH, "+336****5678"),
        ("+16502530000", "+16*****0000"),
        ("+4915123456789", "+491******6789"),
        ("+37266123456", "+372****3456"),
        ("+3725123456", "+372****456"),
        ("+2908123", "+290****"),
        ("+29061234", "+290****4"),
        ("+431234", "+43****"),
        ("+43123", "+43****"),
        ("", "****"),
        ("0612345678", "****"),
        ("+9991234567", "****"),
        ("+33612345678 ", "****"),
        ("+33 612345678", "****"),
        ("+336****5678", "****"),
        ("+33" + "1" * 14, "****"),
    ],
)
def test_mask(number: str, masked: str) -> None:
    assert mask(number) == masked


@no_deadline
@given(st.sampled_from(SAMPLES))
def test_mask_hides_enough_and_keeps_the_shape(number: str) -> None:
    masked = mask(number)
    code = calling_code(number)
    national = number[1 + len(code) :]
    assert len(masked) == len(number)
    assert masked.count("*") >= min(4, len(national))
    assert all(shown in {"*", digit} for shown, digit in zip(masked, number, strict=True))
    assert re.fullmatch(rf"\+{code}[0-9]?\*+[0-9]{{0,4}}", masked)
    if len(national) >= 8:
        assert masked.endswith(number[-4:])


@no_deadline
@given(st.text(max_size=80) | st.text(alphabet="+0123456789٣\uff13 ()-./x;,#\n\u200e\uff0b", max_size=70))
@example("+" * 64)
@example("ext" * 21)
@example("tel:")
@example("tel:;ext")
@example("x" + "1" * 63)
def test_any_text_ends_in_a_key_or_in_invalid_number(text: str) -> None:
    try:
        key = normalise(text)
    except InvalidNumber as error:
        key = ""
        said = str(error)
    else:
        said = ""
        assert E164.fullmatch(key)
        assert normalise(key) == key
    assert bool(key) != bool(said)
    assert mask(text).count("*") >= 4
    region(text)


@no_deadline
@given(st.sampled_from(CODES), st.text(alphabet=string.digits, min_size=3, max_size=16))
def test_a_key_is_its_own_key(code: str, national: str) -> None:
    try:
        key = normalise(f"+{code}{national}")
    except InvalidNumber:
        return
    assert normalise(key) == key
    assert calling_code(key) == code


SCRIPTS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "".join(map(chr, range(0xFF10, 0xFF1A)))]
BETWEEN = ["", "", "", " ", "-", ".", "/", "(", ")", "\t", "\u00a0", "\u2009", "\u2013", "\u200f"]


@no_deadline
@given(st.data())
def test_decoration_does_not_change_the_key(data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(SAMPLES))
    script = data.draw(st.sampled_from(SCRIPTS))
    start = data.draw(st.sampled_from(["+", "\uff0b", script[0] * 2, "tel:+", " +", "(+"]))
    gaps = data.draw(st.lists(st.sampled_from(BETWEEN), min_size=16, max_size=16))
    pairs = zip(number[1:], gaps, strict=False)
    written = start + "".join(script[int(digit)] + gap for digit, gap in pairs)
    assert normalise(written) == normalise(number) == number
