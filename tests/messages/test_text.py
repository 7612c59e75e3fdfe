"""Texts: default ones that fit one part in four languages, templates judged before they are used, parts counted."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpsvc.errors import ApiError
from otpsvc.messages.text import MAX_TEXT_LENGTH, Encoding, Text, Texts, check_template, count_parts

texts = Texts()


def render(
    *,
    code: str = "123456",
    ttl_s: int = 300,
    template: str | None = None,
    locale: str | None = None,
    region: str | None = None,
) -> Text:
    return texts.render(code=code, ttl_s=ttl_s, template=template, locale=locale, region=region)


def code_of(template: str, **more: int) -> str | None:
    try:
        check_template(template, **more)
    except ApiError as error:
        return error.code
    return None


# -- default texts


@pytest.mark.parametrize("locale", ["en", "fr", "it", "ru"])
@pytest.mark.parametrize("code", ["1234", "1234567890"])
def test_a_default_text_is_one_part_for_every_code_and_life(locale: str, code: str) -> None:
    for ttl_s in range(60, 1801):
        text = render(code=code, ttl_s=ttl_s, locale=locale)
        assert text.parts == 1, text.text
        assert text.encoding is (Encoding.UCS2 if locale == "ru" else Encoding.GSM7), text.text
        assert text.text.startswith(code)
        assert "http" not in text.text
        assert not re.search(r"\w\.\w", text.text)


@pytest.mark.parametrize(
    ("locale", "ttl_s", "said"),
    [
        ("en", 60, "in 1 minute."),
        ("en", 61, "in 61 seconds."),
        ("en", 300, "in 5 minutes."),
        ("en", 359, "in 5 minutes."),
        ("fr", 60, "1 minute."),
        ("fr", 90, "90 secondes."),
        ("fr", 120, "2 minutes."),
        ("it", 60, "per 1 minuto."),
        ("it", 90, "per 90 secondi."),
        ("it", 300, "per 5 minuti."),
        ("ru", 60, "1 минуту."),
        ("ru", 120, "2 минуты."),
        ("ru", 240, "4 минуты."),
        ("ru", 300, "5 минут."),
        ("ru", 660, "11 минут."),
        ("ru", 720, "12 минут."),
        ("ru", 840, "14 минут."),
        ("ru", 1260, "21 минуту."),
        ("ru", 1320, "22 минуты."),
        ("ru", 1500, "25 минут."),
        ("ru", 61, "61 секунду."),
        ("ru", 63, "63 секунды."),
        ("ru", 70, "70 секунд."),
        ("ru", 111, "111 секунд."),
        ("ru", 112, "112 секунд."),
    ],
)
def test_a_life_is_said_in_correct_words(locale: str, ttl_s: int, said: str) -> None:
    assert said in render(ttl_s=ttl_s, locale=locale).text


@given(ttl_s=st.integers(60, 1800))
def test_no_text_promises_more_life_than_there_is(ttl_s: int) -> None:
    count, unit = re.findall(r"expires in (\d+) (minute|second)", render(ttl_s=ttl_s).text)[0]
    assert int(count) * (60 if unit == "minute" else 1) <= ttl_s


ENGLISH, FRENCH, ITALIAN, RUSSIAN = "verification code", "votre code", "tuo codice", "ваш код"


@pytest.mark.parametrize(
    ("locale", "region", "said"),
    [
        (None, None, ENGLISH),
        (None, "FR", FRENCH),
        (None, "IT", ITALIAN),
        (None, "RU", RUSSIAN),
        (None, "DE", ENGLISH),
        (None, "", ENGLISH),
        ("fr-CA", None, FRENCH),
        ("FR", None, FRENCH),
        ("fr_FR", "RU", FRENCH),
        ("ru-Cyrl-RU", "FR", RUSSIAN),
        ("en-GB", "FR", ENGLISH),
        ("de-DE", "FR", FRENCH),
        ("de-DE", "DE", ENGLISH),
        ("french", None, ENGLISH),
        ("", "IT", ITALIAN),
    ],
)
def test_the_language_follows_locale_then_region_then_english(
    locale: str | None, region: str | None, said: str
) -> None:
    assert said in render(locale=locale, region=region).text


# -- templates


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Acme: {{code}}", "Acme: 123456"),
        ("Acme: {code}", "Acme: 123456"),
        ("{{code}}", "123456"),
        ("{{{code}}}", "{123456}"),
        ("{ {code} }", "{ 123456 }"),
        ("{{code}} on {{brand}}", "123456 on {{brand}}"),
        ("{{code}}\n\n@acme.example #123456", "123456\n\n@acme.example #123456"),
        ("код {code} \U0001f511", "код 123456 \U0001f511"),
    ],
)
def test_a_template_carries_the_code_once(template: str, text: str) -> None:
    assert render(template=template, locale="ru").text == text


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no placeholder",
        "{{ code }}",
        "{Code}",
        "{{code}} and {{code}}",
        "{code} and {code}",
        "{{code}} and {code}",
        "{{{{code}}}} {code}",
        "{{code}}\x00",
        "{{code}}\x1b[2J",
        "{{code}}\r",
        "\t{{code}}",
        "{{code}}\x7f",
        "{{code}}\x85",
        "{{code}}\u2028",
        "{{code}}\ud800",
    ],
)
def test_a_template_that_cannot_be_sent_is_refused(template: str) -> None:
    assert code_of(template) == "INVALID_TEMPLATE"
    with pytest.raises(ApiError):
        render(template=template)


def test_the_length_counts_with_the_code_in_place() -> None:
    fits = "{{code}}" + "x" * (MAX_TEXT_LENGTH - 6)
    assert len(render(template=fits).text) == MAX_TEXT_LENGTH
    with pytest.raises(ApiError) as caught:
        render(template=fits + "x")
    assert caught.value.code == "MESSAGE_TOO_LONG"
    assert code_of(fits) == "MESSAGE_TOO_LONG"
    assert code_of(fits, code_length=6) is None
    assert code_of("{code}" + "x" * 10_000_000) == "MESSAGE_TOO_LONG"


@given(before=st.text(max_size=50), after=st.text(max_size=50), placeholder=st.sampled_from(["{{code}}", "{code}"]))
def test_any_template_is_refused_or_rendered_whole(before: str, after: str, placeholder: str) -> None:
    template = before + placeholder + after
    if code_of(template) is None:
        text = render(template=template, code="0000000000")
        assert len(text.text) == len(template) - len(placeholder) + 10
        assert text.text.count("0000000000") >= 1
        assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in text.text)


def test_a_refusal_does_not_repeat_the_template() -> None:
    with pytest.raises(ApiError) as caught:
        check_template("our secret campaign")
    assert "campaign" not in f"{caught.value} {caught.value.details}"


def test_a_text_does_not_print_itself() -> None:
    assert "123456" not in f"{render()!r} {render()}"


# -- parts (3GPP TS 23.038)

GSM7_ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)


def test_the_default_alphabet_has_127_letters_and_the_escape() -> None:
    assert len(set(GSM7_ALPHABET)) == 127
    assert count_parts(GSM7_ALPHABET) == (1, Encoding.GSM7)


@pytest.mark.parametrize("letter", ["ç", "ê", "â", "`", "\t", "’", "…", "–", "\u00a0", "я", "\U0001f511"])
def test_one_foreign_letter_turns_the_whole_text(letter: str) -> None:
    assert count_parts("code " + letter) == (1, Encoding.UCS2)


@pytest.mark.parametrize(
    ("text", "parts", "encoding"),
    [
        ("", 1, Encoding.GSM7),
        ("a" * 160, 1, Encoding.GSM7),
        ("a" * 161, 2, Encoding.GSM7),
        ("a" * 306, 2, Encoding.GSM7),
        ("a" * 307, 3, Encoding.GSM7),
        ("€" * 80, 1, Encoding.GSM7),
        ("€" * 81, 2, Encoding.GSM7),
        ("{" * 152, 2, Encoding.GSM7),  # 76 of them and one lost septet in each part
        ("{" * 153, 3, Encoding.GSM7),
        ("a" * 152 + "{" + "a" * 152, 3, Encoding.GSM7),  # 306 septets, but the bracket cannot be split
        ("a" * 153 + "{" + "a" * 151, 2, Encoding.GSM7),
        ("я" * 70, 1, Encoding.UCS2),
        ("я" * 71, 2, Encoding.UCS2),
        ("я" * 134, 2, Encoding.UCS2),
        ("я" * 135, 3, Encoding.UCS2),
        ("\U0001f511" * 35, 1, Encoding.UCS2),
        ("\U0001f511" * 36, 2, Encoding.UCS2),
        ("\U0001f511" * 66, 2, Encoding.UCS2),  # 33 pairs and one lost unit in each part
        ("\U0001f511" * 67, 3, Encoding.UCS2),
        ("{" * 69 + "я", 1, Encoding.UCS2),
    ],
)
def test_parts_are_counted_as_the_network_cuts_them(text: str, parts: int, encoding: Encoding) -> None:
    assert count_parts(text) == (parts, encoding)


@pytest.mark.parametrize("template", [None, "1{code}1", "{{code}}", "1111 {code} 1111", "x{code}1111"])
def test_a_masked_text_says_nothing_of_its_code(template: str | None) -> None:
    """It is the same for every code, so that nobody reads a part of it from what is there, or from what is missing."""
    texts = [
        Texts().render(code=code, ttl_s=300, template=template, locale="en", region=None).masked
        for code in ("1111", "0000", "5678", "1110")
    ]
    assert len(set(texts)) == 1
    assert texts[0].count("••••") == 1
    assert "•" not in texts[0].replace("••••", "")
