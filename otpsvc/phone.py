"""Phone numbers: one key per number, however a caller writes it.

Limits, lockouts and the blind index hang on that key. Two spellings of one number must never give
two keys, and what is not clearly one valid international number is an error: nothing is guessed.
Premium-rate and shared-cost numbers are refused, because whoever owns one earns on every message.

Strict E.164 is decided by one pattern per calling code, compiled on first use from the metadata
inside phonenumbers. Anything else is cleaned first, and the documented functions of phonenumbers
judge what no pattern accepts. A pattern may leave a number to the library; it must never accept
one that the library would refuse or write differently (a test compares the two).

Never put any part of what the caller wrote into an exception, and never remember a number here.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, PhoneNumberType, ValidationResult

LONGEST_INPUT: Final = 64
MOST_DIGITS: Final = 15  # ITU-T E.164: calling code and national number together

Reason = Literal[
    "extension",
    "letters",
    "not_a_number",
    "not_allowed_type",
    "not_international",
    "not_valid",
    "too_long",
    "too_short",
    "unknown_country",
]

_SENTENCES: Final[dict[Reason, str]] = {
    "extension": "an extension cannot receive a code: give the number alone",
    "letters": "letters are not turned into digits: write the number in digits",
    "not_a_number": "not a phone number",
    "not_allowed_type": "premium-rate and shared-cost numbers are not accepted",
    "not_international": "begin the number with + and the country's calling code",
    "not_valid": "no number of this form exists under this calling code",
    "too_long": "too long for a phone number",
    "too_short": "too short for a phone number",
    "unknown_country": "no country or network has this calling code",
}

_CALLING_CODES: Final = frozenset(map(str, phonenumbers.supported_calling_codes()))
_REFUSED_TYPES: Final = frozenset({PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST})
_WRONG_LENGTHS: Final[dict[int, Reason]] = {
    ValidationResult.TOO_SHORT: "too_short",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "too_short",
    ValidationResult.TOO_LONG: "too_long",
}

_PLUS_SIGNS: Final = "+\uff0b"
_PUNCTUATION: Final = "-.()/\t\u2212\uff08\uff09\uff0e\uff0f"
_SPACES_AND_DASHES: Final = frozenset({"Zs", "Pd"})
# Soft hyphen, zero-width and direction marks: address books hand them over with the number.
_INVISIBLE: Final = dict.fromkeys(
    (0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A))
) | {0xFEFF: None}
_EXTENSION: Final = re.compile(r"(?:ext[a-z]*|доб|[x#,;])[\s.:=]*\d+\Z", re.IGNORECASE)
_NOTHING: Final = re.compile(r"(?!)")


class InvalidNumber(ValueError):
    """Raised for text that is not one valid, accepted, international number.

    `reason` is a short machine word (see `Reason`). The message never contains the number.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason

    def __str__(self) -> str:
        return _SENTENCES[self.reason]


class _Plan(NamedTuple):
    code: str
    match: Callable[[str], re.Match[str] | None]


# By "+" and three digits: at most a thousand entries, and never a whole number.
_plans: dict[str, _Plan | None] = {}


def normalise(raw: str) -> str:
    """Return `raw` as E.164, for example "+33612345678".

    Accepted: an international number with `+` (also full-width) or `00`; decimal digits of any
    script; white space, dashes and `. ( ) /` between them; a trunk prefix after the calling code
    (`+33 (0)6 …`); `tel:` before it (RFC 3966). The number must be valid by the metadata of
    phonenumbers, of any type but premium rate and shared cost.

    Raises InvalidNumber.
    """
    if _is_accepted(raw):
        return raw
    if len(raw) > LONGEST_INPUT:
        raise InvalidNumber("too_long")
    number = f"+{_international_digits(raw)}"
    if _is_accepted(number):
        return number
    found = _judged(number)
    # Should the library read its own answer differently, the number has no key to trust.
    if found != number and _judged(found) != found:
        raise InvalidNumber("not_valid")
    return found


def calling_code(e164: str) -> str:
    """Return the calling code of a normalised number, for example "33". Raises InvalidNumber."""
    plan = _plan(e164[:4])
    if plan is None:
        raise InvalidNumber("unknown_country")
    return plan.code


def region(e164: str) -> str | None:
    """Return the ISO 3166 country of a normalised number, None if it has none (such as +883)."""
    plan = _plan(e164[:4])
    if plan is None:
        return None
    if found := plan.match(e164):
        return found.lastgroup
    try:
        country = phonenumbers.region_code_for_number(phonenumbers.parse(e164))
    except NumberParseException:
        return None
    return None if country == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY else country


def operator_of(e164: str) -> str:
    """Name the operator that a normalised number was given out to, empty where nobody can tell.

    A number that was carried over to another operator keeps the name of the first.
    """
    from phonenumbers import carrier  # noqa: PLC0415 - large tables, a moment to load, and most houses have no phones

    try:
        return carrier.name_for_number(phonenumbers.parse(e164), "en")
    except NumberParseException:
        return ""


def mask(e164: str) -> str:
    """Return a normalised number fit for people and logs: "+33612345678" as "+336****5678".

    One `*` per hidden digit. It shows at most the calling code, one digit and the last four,
    and hides at least four, so that short numbers show fewer. Anything but E.164 becomes "****".
    """
    plan = _plan(e164[:4])
    digits = e164[1:]
    if plan is None or len(digits) > MOST_DIGITS or not (digits.isascii() and digits.isdecimal()):
        return "****"
    national = digits[len(plan.code) :]
    first = 1 if len(national) > 8 else 0
    last = min(4, max(0, len(national) - 4))
    hidden = len(national) - first - last
    return f"+{plan.code}{national[:first]}{'*' * max(4, hidden)}{national[first + hidden :]}"


def prepare() -> None:
    """Compile the patterns of every calling code now (about half a second), so that no request waits for one."""
    for code in _CALLING_CODES:
        _pattern(code)


def _plan(start: str) -> _Plan | None:
    """Return what is known of numbers that begin with this "+" and three digits."""
    if start in _plans:
        return _plans[start]
    if len(start) != 4 or start[0] != "+" or not (start.isascii() and start[1:].isdecimal()):
        return None
    codes = (start[1:end] for end in (2, 3, 4))
    code = next((code for code in codes if code in _CALLING_CODES), None)
    plan = _plans[start] = _Plan(code, _pattern(code).match) if code else None
    return plan


def _is_accepted(number: str) -> bool:
    plan = _plan(number[:4])
    return plan is not None and plan.match(number) is not None


def _international_digits(raw: str) -> str:
    """Return calling code and national number as ASCII digits, not yet judged."""
    text = raw.translate(_INVISIBLE).strip()
    if text[:4].lower() == "tel:":
        text = _without_parameters(text[4:])
    if _EXTENSION.search(text):
        raise InvalidNumber("extension")
    digits, has_plus = "", False
    for char in text:
        if char.isdecimal():
            digits += str(unicodedata.decimal(char))
        elif char in _PLUS_SIGNS and not (digits or has_plus):
            has_plus = True
        elif char not in _PUNCTUATION and unicodedata.category(char) not in _SPACES_AND_DASHES:
            raise InvalidNumber("letters" if char.isalpha() else "not_a_number")
    if not digits:
        raise InvalidNumber("not_a_number")
    if has_plus:
        return digits
    if not digits.startswith("00"):
        raise InvalidNumber("not_international")
    return digits[2:]


def _without_parameters(text: str) -> str:
    """Drop what may follow a `tel:` number, but refuse what changes who is reached (RFC 3966)."""
    number, *parameters = text.split(";")
    for parameter in parameters:
        name = parameter.partition("=")[0].strip().lower()
        if name in {"ext", "isub"}:
            raise InvalidNumber("extension")
        if name == "phone-context":
            raise InvalidNumber("not_international")
    return number


def _judged(number: str) -> str:
    """Return "+" and digits as the library writes them in E.164. Raises InvalidNumber."""
    if _plan(number[:4]) is None:
        raise InvalidNumber("unknown_country" if len(number) > 3 else "too_short")
    parsed = None
    reason: Reason = "too_short"
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException as problem:
        if problem.error_type == NumberParseException.TOO_LONG:
            reason = "too_long"
    if parsed is None:  # raised out here, so that no traceback carries the library's exception
        raise InvalidNumber(reason)
    found = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
    if not phonenumbers.is_valid_number(parsed):
        length = phonenumbers.is_possible_number_with_reason(parsed)
        raise InvalidNumber(_WRONG_LENGTHS.get(length, "not_valid"))
    if phonenumbers.number_type(parsed) in _REFUSED_TYPES:
        raise InvalidNumber("not_allowed_type")
    if len(found) > MOST_DIGITS + 1:
        raise InvalidNumber("too_long")
    return found


@cache
def _pattern(code: str) -> re.Pattern[str]:
    """Compile the numbers of one calling code; the last group of a match names the country.

    The metadata classes are outside the documented interface of phonenumbers. Should their shape
    change, the pattern matches nothing and the library judges every number: slower, same answers.
    """
    try:
        return re.compile(_source(code), re.ASCII)
    except (AttributeError, LookupError, TypeError, ValueError, re.error):
        return _NOTHING


def _source(code: str) -> str:
    """Write the library's rule as a pattern: the first region to claim a number decides on it."""
    regions = phonenumbers.region_codes_for_country_code(int(code))
    find: Any = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code
    plans = [find(int(code), name) for name in regions]
    guards = [_kinds(plan, code, "premium_rate", "shared_cost") for plan in plans]
    if plans[0].national_prefix_for_parsing:
        # What the library may read as a trunk prefix, unless that is empty, is left to it.
        guards.append(rf"(?:{plans[0].national_prefix_for_parsing})(?<!\+{code})")
    claims, taken = [], ""
    for name, plan in zip(regions, plans, strict=True):
        lead = plan.leading_digits or ""
        kinds = ["fixed_line", "toll_free", "voip", "personal_number", "pager", "uan", "voicemail"]
        if not plan.same_mobile_and_fixed_line_pattern:
            kinds.insert(0, "mobile")
        allowed = f"(?={lead})(?={_kinds(plan, code, 'general_desc')}){_kinds(plan, code, *kinds)}"
        claims.append(f"(?P<{name}>{taken}{allowed})" if name.isalpha() else f"{taken}{allowed}")
        taken += f"(?!{lead})" if lead else ""
    return rf"\+{code}(?!{'|'.join(guards)})(?:{'|'.join(claims)})\Z"


def _kinds(plan: Any, code: str, *kinds: str) -> str:
    """Return a pattern for national numbers of these kinds, up to their end and E.164's length."""
    most = MOST_DIGITS - len(code)
    choices = []
    for numbers in (getattr(plan, kind) for kind in kinds):
        if numbers is not None and numbers.national_number_pattern:
            lengths = (n for n in numbers.possible_length or range(1, most + 1) if n <= most)
            length = "|".join(rf"\d{{{n}}}" for n in lengths)
            choices.append(rf"(?=(?:{length})\Z)(?:{numbers.national_number_pattern})\Z")
    return f"(?:{'|'.join(choices) or '(?!)'})"
