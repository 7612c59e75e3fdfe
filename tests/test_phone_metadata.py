"""The patterns built from the metadata decide as the library's documented functions do."""

import random
import string
from collections.abc import Iterator
from typing import Any

import phonenumbers
import pytest
from phonenumbers import (
    NumberParseException,
    PhoneMetadata,
    PhoneNumber,
    PhoneNumberDesc,
    PhoneNumberFormat,
    PhoneNumberType,
)

from otpsvc import phone
from otpsvc.phone import InvalidNumber, calling_code, normalise, region

CODES = sorted(map(str, phonenumbers.supported_calling_codes()))


def e164(number: PhoneNumber) -> str:
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def examples() -> Iterator[str]:
    """Every example number of every kind in the metadata, the refused kinds too."""
    for code in map(int, CODES):
        for country in phonenumbers.region_codes_for_country_code(code):
            if country == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY:
                numbers = [phonenumbers.example_number_for_non_geo_entity(code)]
            else:
                kinds = PhoneNumberType.values()
                numbers = [phonenumbers.example_number_for_type(country, kind) for kind in kinds]
            yield from (e164(number) for number in numbers if number)


EXAMPLES = sorted(set(examples()))


def by_library(number: str) -> tuple[str, str | None] | None:
    """What the documented functions of the library say: key and country, or None."""
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException:
        return None
    refused = {PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST}
    if not phonenumbers.is_valid_number(parsed) or phonenumbers.number_type(parsed) in refused:
        return None
    country = phonenumbers.region_code_for_number(parsed)
    key = e164(parsed)
    return (key, None if country == "001" else country) if len(key) <= 16 else None


def stable(answer: tuple[str, str | None] | None) -> tuple[str, str | None] | None:
    """A key that the library itself would turn into another is no key."""
    return answer if answer and by_library(answer[0]) == answer else None


def by_us(number: str) -> tuple[str, str | None] | None:
    try:
        key = normalise(number)
    except InvalidNumber:
        return None
    return key, region(key)


def mutated(rnd: random.Random, number: str) -> str:
    """Change, add or drop up to three digits, or put a likely prefix after the calling code."""
    if rnd.random() < 0.2:
        code = calling_code(number)
        return f"+{code}{rnd.choice(('0', '00', '8', '1', '06', '9', '15'))}{number[1 + len(code) :]}"
    digits = list(number[1:])
    for _ in range(rnd.randint(0, 3)):
        place = rnd.randrange(len(digits))
        digit = rnd.choice(string.digits)
        digits[place : place + rnd.choice((0, 1, 1, 1))] = rnd.choice(([digit], [digit], []))
    return "+" + "".join(digits)


VALID = sorted({key for number in EXAMPLES if (key := (by_library(number) or ("",))[0])})


def test_agrees_with_the_library() -> None:
    rnd = random.Random(20240607)
    numbers = list(EXAMPLES)
    numbers += [mutated(rnd, rnd.choice(EXAMPLES)) for _ in range(3000)]
    for _ in range(1500):
        national = "".join(rnd.choices(string.digits, k=rnd.randint(3, 13)))
        numbers.append(f"+{rnd.choice(CODES)}{national}")
    different = [number for number in numbers if by_us(number) != by_library(number)]
    assert not different
    assert sum(by_us(number) is not None for number in numbers) > 1500


def test_the_patterns_decide_nearly_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = phonenumbers.parse, []

    def counted(number: str) -> PhoneNumber:
        parsed.append(number)
        return parse(number)

    monkeypatch.setattr(phonenumbers, "parse", counted)
    assert [normalise(number) for number in VALID] == VALID
    assert len(parsed) < len(VALID) / 50
    assert "+5491123456789" in VALID
    assert "+5491123456789" not in parsed  # its trunk prefix may be empty


@pytest.fixture
def fresh_patterns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(phone, "_plans", {})
    phone._pattern.cache_clear()
    yield
    phone._pattern.cache_clear()


@pytest.mark.usefixtures("fresh_patterns")
def test_changed_metadata_costs_speed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [*EXAMPLES[::25], "+330612345678", "+390612345678", "+33999999999", "+33899123456"]
    before = [by_us(number) for number in numbers]
    monkeypatch.setattr(phonenumbers, "PhoneMetadata", object())
    monkeypatch.setattr(phone, "_plans", {})
    phone._pattern.cache_clear()
    assert phone._pattern("33").match("+33612345678") is None
    assert [by_us(number) for number in numbers] == before


def numbers_like(pattern: str, *lengths: int) -> PhoneNumberDesc:
    return PhoneNumberDesc(national_number_pattern=pattern, possible_length=lengths)


@pytest.mark.usefixtures("fresh_patterns")
def test_agrees_where_plans_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real plans hardly overlap; here kinds, regions, leading digits and trunk prefixes all do."""
    anything = numbers_like(r"(?!57)[1-9]\d{4,6}", 5, 6, 7)
    plans: dict[str, dict[str, Any]] = {
        "GB": {
            "mobile": numbers_like(r"[12]\d{5}", 6),
            "premium_rate": numbers_like(r"1[1-4]\d{4}", 6),
            "toll_free": numbers_like(r"22\d{4}", 6),
            "shared_cost": numbers_like(r"2[23]\d{4}", 6),
            "fixed_line": numbers_like(r"[89]\d{4,6}", 5, 6, 7),
            "national_prefix_for_parsing": "8|(?:95)?",
        },
        "GG": {"mobile": numbers_like(r"3[0-4]\d{4}", 6), "leading_digits": "3[0-6]"},
        "IM": {"mobile": numbers_like(r"3[4-9]\d{4}|[47]\d{5}", 6), "leading_digits": "3[4-9]|4"},
        "JE": {
            "mobile": numbers_like(r"[1356]\d{5}", 6),
            "fixed_line": numbers_like(r"[1356]\d{4,5}", 5),
            "premium_rate": numbers_like(r"65\d{4}", 6),
        },
    }
    for name, plan in plans.items():
        assert PhoneMetadata.metadata_for_region(name)
        made = PhoneMetadata(id=name, country_code=44, general_desc=anything, register=False, **plan)
        monkeypatch.setitem(PhoneMetadata._region_metadata, name, made)
    rnd = random.Random(44)
    digits = ("".join(rnd.choices(string.digits, k=rnd.choice((5, 6, 6, 7)))) for _ in range(4000))
    numbers = [f"+44{national}" for national in digits]
    assert [n for n in numbers if by_us(n) != stable(by_library(n))] == []
    assert {country for _, country in filter(None, map(by_us, numbers))} == set(plans)
