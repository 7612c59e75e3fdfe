"""The words of a message: default texts in four languages, a client's own template, and how many SMS parts they make.

What is rendered here holds the plain code, so it is sealed at once by the caller and never logged. Default texts put
the code first (phones offer it for autofill), carry no link, and fit one SMS part whatever the code's length and life.
"""

import unicodedata
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from otpsvc.errors import problem

MAX_TEXT_LENGTH = 1600
MASK = "\N{BULLET}"
_LONGEST_CODE = 10
_PLACEHOLDERS = ("{{code}}", "{code}")
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

# 3GPP TS 23.038 section 6.2.1: the default alphabet, and the extension table whose letters take two septets each.
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_EXTENSION = frozenset("\f^{}\\[~]|€")


class Encoding(StrEnum):
    """How an SMS carries its text (3GPP TS 23.038)."""

    GSM7 = "gsm7"
    UCS2 = "ucs2"


class Text(msgspec.Struct, frozen=True):
    """A rendered text with the number of SMS parts it takes. It holds the plain code; `masked` does not."""

    text: str
    masked: str
    parts: int
    encoding: Encoding

    def __repr__(self) -> str:
        """Hide the text."""
        return f"Text(parts={self.parts}, encoding={self.encoding})"


class Texts:
    """Renders what a person will read."""

    def render(self, *, code: str, ttl_s: int, template: str | None, locale: str | None, region: str | None) -> Text:
        """Put the code into the client's template, or into the default text of the recipient's language.

        `locale` is a BCP-47 tag matched by its language; without a match `region` (the number's, ISO 3166)
        decides, then English. Raises ApiError INVALID_TEMPLATE or MESSAGE_TOO_LONG.
        """
        mask = MASK * len(code)
        if template is None:
            write_default = _DEFAULTS[_language(locale, region)]
            text, masked = (write_default(shown, *_life(ttl_s)) for shown in (code, mask))
        else:
            check_template(template, code_length=len(code))
            text, masked = (template.replace(_placeholder_in(template), shown) for shown in (code, mask))
        parts, encoding = count_parts(text)
        # Masked in its place, never by what it looks like: what is left says nothing of the code to anybody, not even
        # to who knows the template and finds other digits of it missing.
        return Text(text, masked, parts, encoding)


def check_template(template: str, *, code_length: int = _LONGEST_CODE) -> None:
    """Refuse a template that cannot be sent: INVALID_TEMPLATE, MESSAGE_TOO_LONG.

    It holds `{{code}}` or `{code}` exactly once, no control character but the line feed, and at most `MAX_TEXT_LENGTH`
    characters once a code of `code_length` is in it.
    """
    without_double = template.replace("{{code}}", "")
    n_placeholders = template.count("{{code}}") + without_double.count("{code}")
    if n_placeholders != 1:
        raise problem("INVALID_TEMPLATE", details={"field": "template", "placeholders": n_placeholders})
    length = len(template) - len(_placeholder_in(template)) + code_length
    if length > MAX_TEXT_LENGTH:
        raise problem(
            "MESSAGE_TOO_LONG",
            details={"field": "template", "length": length, "max_length": MAX_TEXT_LENGTH},
        )
    for position, letter in enumerate(template):
        if letter != "\n" and unicodedata.category(letter) in _FORBIDDEN_CATEGORIES:
            raise problem("INVALID_TEMPLATE", details={"field": "template", "position": position})


def count_parts(text: str) -> tuple[int, Encoding]:
    """Count the SMS parts of a text: 160 or 153 septets each, or 70 or 67 UTF-16 units where an alphabet needs them.

    Neither an escaped letter nor a surrogate pair is split over two parts, so a long text can take one part more than a
    plain division says.
    """
    if _GSM7.issuperset(text):
        return (1 if len(text) <= 160 else -(-len(text) // 153)), Encoding.GSM7
    if all(letter in _GSM7 or letter in _GSM7_EXTENSION for letter in text):
        sizes = [2 if letter in _GSM7_EXTENSION else 1 for letter in text]
        return _fill(sizes, single=160, linked=153), Encoding.GSM7
    sizes = [2 if ord(letter) > 0xFFFF else 1 for letter in text]
    return _fill(sizes, single=70, linked=67), Encoding.UCS2


def _fill(sizes: list[int], *, single: int, linked: int) -> int:
    if sum(sizes) <= single:
        return 1
    parts, used = 1, 0
    for size in sizes:
        if used + size > linked:
            parts, used = parts + 1, 0
        used += size
    return parts


def _placeholder_in(template: str) -> str:
    double, single = _PLACEHOLDERS
    return double if double in template else single


def _life(ttl_s: int) -> tuple[int, bool]:
    """Say a life in whole minutes, or in seconds where that would cut off much; never more than it is."""
    if ttl_s < 120 and ttl_s % 60:
        return ttl_s, False
    return ttl_s // 60, True


def _english(code: str, count: int, is_minutes: bool) -> str:
    unit = ("minute" if is_minutes else "second") + ("" if count == 1 else "s")
    return f"{code} is your verification code. It expires in {count} {unit}. Never share it."


def _french(code: str, count: int, is_minutes: bool) -> str:
    unit = ("minute" if is_minutes else "seconde") + ("" if count < 2 else "s")
    return f"{code} est votre code de vérification, valable {count} {unit}. Ne le donnez à personne."


def _italian(code: str, count: int, is_minutes: bool) -> str:
    unit = ("minut" if is_minutes else "second") + ("o" if count == 1 else "i")
    return f"{code} è il tuo codice di verifica, valido per {count} {unit}. Non darlo a nessuno."


def _russian(code: str, count: int, is_minutes: bool) -> str:
    one, few, many = ("минуту", "минуты", "минут") if is_minutes else ("секунду", "секунды", "секунд")
    if count % 10 == 1 and count % 100 != 11:
        unit = one
    elif count % 10 in (2, 3, 4) and count % 100 not in (12, 13, 14):
        unit = few
    else:
        unit = many
    return f"{code}: ваш код. Действует {count} {unit}. Никому не сообщайте."


_DEFAULTS: Mapping[str, Callable[[str, int, bool], str]] = {
    "en": _english,
    "fr": _french,
    "it": _italian,
    "ru": _russian,
}

# Regions where one of our languages is the one that most people read; all others get English.
_LANGUAGE_OF_REGION: Mapping[str, str] = {
    **dict.fromkeys(("FR", "MC", "GP", "MQ", "GF", "RE", "YT", "PM", "BL", "MF", "WF", "PF", "NC"), "fr"),
    **dict.fromkeys(("BF", "BJ", "CD", "CF", "CG", "CI", "GA", "GN", "ML", "NE", "SN", "TG"), "fr"),
    **dict.fromkeys(("IT", "SM", "VA"), "it"),
    **dict.fromkeys(("RU", "BY", "KG", "KZ"), "ru"),
}


def _language(locale: str | None, region: str | None) -> str:
    if locale is not None:
        language = locale.replace("_", "-").split("-", 1)[0].lower()
        if language in _DEFAULTS:
            return language
    return _LANGUAGE_OF_REGION.get((region or "").upper(), "en")
