"""What a log line may not show: numbers, keys, passwords, and whatever stands under a telling name."""

import re
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from otpsvc import ids
from otpsvc.messages.text import Texts
from otpsvc.redaction import is_telling, redacted, scrubbed
from tests.logs.conftest import Lines, Objects, log, shared

TELLING = [
    *("code", "guess", "text", "template", "to", "phone", "number", "password", "secret", "token", "authorization"),
    *("x-api-key", "api_key", "cookie", "metadata", "Authorization", "X-API-Key", "apiKey", "newCode", "phoneNumbers"),
    *("set-cookie", "access_token", "Password", "message", "msg", "smsText", "textMessage", "passphrase", "passcode"),
    *("signature", "jwt", "credentials", "pwd", "session"),
]
RESERVED = ("message", "msg")  # names of the library's own
CODE = "4711081512"

_SEPARATORS = st.sampled_from(["", "", " ", "-", ".", " (", ") ", "\u00a0", "\u2011", "/", "%20", " - "])
_PLUS = st.sampled_from(["+", "\uff0b", "%2B", "%2b", "\\u002b", "+ ", "tel:+"])
_FILLER = st.text(st.characters(exclude_categories=["Nd", "Cs"], exclude_characters="+%\\&"), max_size=20)


@st.composite
def _numbers(draw: st.DrawFn) -> tuple[str, str]:
    """The digits of a number, and how somebody wrote it."""
    digits = draw(st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True))
    spelt = "".join(digit + draw(_SEPARATORS) for digit in digits[:-1]) + digits[-1]
    return digits, draw(_PLUS) + spelt


@given(number=_numbers(), before=_FILLER, after=_FILLER)
@shared
def test_a_number_is_masked_however_it_is_written(
    objects: Objects, number: tuple[str, str], before: str, after: str
) -> None:
    digits, spelt = number
    log.info("%s %s %s", before, spelt, after)
    log.info(f"{before} {spelt} {after}")
    log.info("x", extra={"place": [{"deep": spelt}]})
    for line in objects():
        said = f"{line['event']} {line.get('place')}"
        assert digits not in re.sub(r"[^0-9]", "", said), said


def test_a_masked_number_looks_like_all_masked_numbers() -> None:
    assert scrubbed("to +33612345678 now") == "to +336****5678 now"
    assert scrubbed("to 0033612345678.") == "to +336****5678."
    assert scrubbed("GET /x?to=%2B33612345678&y") == "GET /x?to=+336****5678&y"
    assert scrubbed("wa.me/33612345678") == "wa.me/+336****5678"
    assert redacted({"value": 33612345678}) == {"value": "+336****5678"}
    assert scrubbed("+123456789012345678") == "****"


@pytest.mark.parametrize(
    "text",
    [
        "took 1234567890 ms on port 8080",
        "client_123456789012 and otp_00000000001234567890123456",
        "2026-11-22T11:42:44.406Z",
        "code_length=6",
        "msg_0123456789abcdefghjkmnpqrs: sender acme: no answer within 10 s",
        "the stored policy of client_123456789012 is invalid",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrubbed(text) == text


@given(mode=st.sampled_from(["live", "test"]), before=_FILLER, after=_FILLER)
@shared
def test_an_api_key_keeps_its_public_id_alone(
    lines: Lines, mode: Literal["live", "test"], before: str, after: str
) -> None:
    key = f"zs_{mode}_{ids.random_base32(8)}{ids.random_base32(32)}"
    log.info("%s %s %s", before, key, after)
    log.info("x", extra={"header": f"{before}{key}"})
    for line in lines():
        assert key[21:] not in line
        assert key[21:31] not in line
        assert key[:21] in line


@given(before=_FILLER, after=_FILLER)
@shared
def test_a_phones_token_keeps_its_device_alone(lines: Lines, before: str, after: str) -> None:
    token = f"dt_{ids.random_base32(16)}{ids.random_base32(16)}{ids.random_base32(5)}"
    log.info("%s %s %s", before, token, after)
    for line in lines():
        assert token[29:] not in line
        assert token[29:39] not in line


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter22@host:6379/0",
        "rediss+sentinel://:hunter22@h1:1,h2:2/master",
        "postgresql://otpsvc:p@ss/hunter22@host/db",
        "https://hunter22@example.com",
    ],
)
def test_a_url_has_no_password(lines: Lines, url: str) -> None:
    log.info("cannot reach %s", url)
    log.info("cannot reach", extra={"where": [url]})
    for line in lines():
        assert "hunter22" not in line
        assert url.partition(":")[0] in line


_LEAVES = st.none() | st.booleans() | st.integers(0, 9999) | st.text("abc xyz", max_size=5)


@st.composite
def _nested(draw: st.DrawFn) -> dict[str, Any]:
    """Something that holds the code under a telling name, somewhere in it."""
    hidden: Any = draw(st.sampled_from([CODE, int(CODE), [CODE], {"x": CODE}, CODE.encode(), f"it is {CODE}."]))
    found: Any = {draw(st.sampled_from(TELLING)): hidden}
    for _ in range(draw(st.integers(0, 10))):
        beside = draw(st.lists(_LEAVES, max_size=3))
        found = draw(st.sampled_from([{"below": found, "beside": beside}, [found, *beside], (beside, found)]))
    return {"outermost": found}


@given(found=_nested())
@shared
def test_nothing_under_a_telling_name_is_ever_written(lines: Lines, found: dict[str, Any]) -> None:
    log.info("found %s", found)
    log.info("found %(outermost)s", found)
    log.info("found %s and %r", found["outermost"], [found])
    log.info("found", extra=found)
    log.info(found)
    log.info(f"found {found}")
    structlog.get_logger("otpsvc.plugin").info("found", **found)
    found_lines = lines()
    assert len(found_lines) == 7
    for line in found_lines:
        assert CODE not in line, line


@pytest.mark.parametrize("name", TELLING)
def test_telling_names(lines: Lines, name: str) -> None:
    assert is_telling(name)
    log.info("x", extra={"deep": {name: CODE}} if name in RESERVED else {name: CODE})
    log.info("x %s", {name: CODE})
    log.info(f"x { ({name: CODE})!r} y")
    log.info(f"Struct({name}={CODE!r})")
    assert not [line for line in lines() if CODE in line]


@pytest.mark.parametrize("name", ["code_length", "request_id", "tries", "otp_id", "status", ""])
def test_other_names(name: str) -> None:
    assert not is_telling(name)


@pytest.mark.parametrize(
    "text",
    [
        "Your code is 471108", "code: 47 11 08", "guess=471108", "token: 471108", "Authorization: Bearer 471108",
        "Il tuo codice è 471108", "Ваш код: 471108", "471108 is your Acme verification code.",
        "passphrase=471108x", "password: horse&471108", "https://gateway/send?user=u&key=471108x&v=1", "https://gateway/send?sig=471108abc",
        "no answer to Bearer ey471108.x.y", "Basic dTp471108=",
    ],
)  # fmt: skip
def test_words_that_give_it_away(lines: Lines, text: str) -> None:
    log.info(text)
    (line,) = lines()
    assert "471108" not in line
    assert "11 08" not in line


@pytest.mark.parametrize("language", ["en", "fr", "it", "ru"])
def test_no_text_of_ours_shows_its_code(language: str) -> None:
    text = Texts().render(code="471108", ttl_s=300, template=None, locale=language, region=None).text
    assert "471108" in text
    assert "471108" not in scrubbed(f"not taken: {text}")
    assert "471108" not in scrubbed(repr({"error": text}))
