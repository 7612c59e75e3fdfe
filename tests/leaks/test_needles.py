"""The search finds a secret in every dress that it could wear by accident, and nothing else."""

import base64
import hashlib
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from tests.leaks.needles import Needles

CODE, SHORT_CODE, NUMBER = "5926535897", "271828", "+447911123987"
TOKEN, PASSWORD, PASSPHRASE = "7hq2m0c4w8z1x5k9d3vbn6jtgp", "m7kq2wxe9abrtc", "correct horse & battery"


@pytest.fixture
def needles() -> Needles:
    return Needles(
        codes=[CODE, SHORT_CODE],
        numbers=[NUMBER],
        words=["zs_live_x", b"\xff\x00"],
        credentials=[TOKEN, PASSWORD, PASSPHRASE],
    )


@pytest.mark.parametrize(
    "dressed",
    [
        b"5926535897", b"id5926535897x", b"15926535897", b"sent 592 653 58 97.", b"5-926-535-897",
        b"5\x009\x002\x006\x005\x003\x005\x008\x009\x007\x00", b"\\x35393236353335383937",
        b"x NTkyNjUzNTg5Nw== y", b"x eDU5MjY1MzU4OTc y", b"eHg1OTI2NTM1ODk3",
        hashlib.sha256(CODE.encode()).hexdigest().encode(),
        b"the code is 271828.", b'{"code":271828}', b"code=271828&to=",
        b"Authorization: Code 271828", b"$2 = '\\x323731383238'",
        hashlib.md5(b"271828", usedforsecurity=False).hexdigest().encode(),
        b'"to": "+447911123987"', b"447911123987", b"00447911123987", b"07911 123987", b"+44 (0)7911-123987",
        hashlib.sha1(NUMBER.encode(), usedforsecurity=False).hexdigest().encode(), b"zs_live_x", b"\x01\xff\x00\x01",
    ],
)  # fmt: skip
def test_a_thin_disguise_does_not_hide_it(needles: Needles, dressed: bytes) -> None:
    assert list(needles.found_in(dressed))


@pytest.mark.parametrize("secret", [TOKEN, PASSWORD, PASSPHRASE])
@pytest.mark.parametrize(
    "dress",
    [
        lambda secret: f"Bearer dt_{'0' * 26}{secret}abcdefgh",
        lambda secret: "Basic " + base64.b64encode(f"phone-abcdef:{secret}".encode()).decode(),
        lambda secret: base64.b64encode(f"phone-abcdef:x{secret}x".encode()).decode(),
        lambda secret: base64.b64encode(f"phone-abcdef:xx{secret}xx".encode()).decode(),
        lambda secret: f"$1 = '\\\\x00{secret.encode().hex()}ff'",
        lambda secret: f"GET /mobile/v1/message?token={quote(secret)}",
        lambda secret: f"passphrase={quote_plus(secret)}",
        lambda secret: hashlib.sha256(secret.encode()).hexdigest(),
    ],
)  # fmt: skip
def test_a_credential_is_found_in_every_dress(needles: Needles, secret: str, dress: Callable[[str], str]) -> None:
    assert [name for name, _ in needles.found_in(dress(secret).encode()) if name.endswith(secret)]


@pytest.mark.parametrize(
    "innocent",
    [
        b"2026-11-22T11:29:05.271828Z", b"took 0.271828 s", b"otp_271828abc", b"1271828", b"x271828", b"+447****3987",
        b"592653589", b"7911123", b"",
    ],
)  # fmt: skip
def test_chance_is_no_leak(needles: Needles, innocent: bytes) -> None:
    assert not list(needles.found_in(innocent))


def test_raw_pages_are_searched_for_what_is_sure(needles: Needles) -> None:
    assert list(needles.found_in(b"\0\x14" + CODE.encode() + b"\0", is_binary=True))
    assert list(needles.found_in(b"\0\x14" + TOKEN.encode() + b"\0", is_binary=True))
    assert not list(needles.found_in(b"\0 271828 \0", is_binary=True))
