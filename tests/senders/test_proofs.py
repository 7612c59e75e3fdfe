"""The proofs of receipts: genuine ones pass, everything else does not, and nothing raises."""

import base64
import json
from typing import Any

import jwt
import pytest

from otpsvc.senders.proofs import bearer_of, hmac_sha256_hex, is_fresh, jwt_claims, matches, path_token

NOW = 1_800_000_000.0
SECRET = "a-secret-of-thirty-two-characters"


def signed(claims: object, secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.PyJWS().encode(json.dumps(claims).encode(), secret, algorithm=algorithm)


def test_hmac_is_the_published_one() -> None:
    """RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hmac_sha256_hex("Jefe", b"what do ya want for nothing?") == expected
    assert hmac_sha256_hex(b"Jefe", b"what do ya want for nothing?") == expected


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("abc", "abc", True),
        ("abc", "abd", False),
        ("ab", "abc", False),
        ("", "", False),
        (None, None, False),
        (None, "", False),
        (None, "abc", False),
        ("abc", None, False),
        ("ключ", "ключ", True),
        ("\udcff", "\udcff", True),
        ("abc\x00", "abc", False),
    ],
)
def test_matches(given: str | None, expected: str | None, same: bool) -> None:
    assert matches(given, expected) is same


@pytest.mark.parametrize(
    ("timestamp", "fresh"),
    [
        (NOW, True),
        (str(int(NOW)), True),
        (NOW - 900, True),
        (NOW + 900, True),
        (NOW - 901, False),
        (NOW + 901, False),
        (str(NOW * 1000), False),
        ("nan", False),
        ("inf", False),
        ("", False),
        ("x", False),
        (None, False),
        ("9" * 400, False),
    ],
)
def test_is_fresh(timestamp: float | str | None, fresh: bool) -> None:
    assert is_fresh(timestamp, NOW) is fresh


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("https://otp.example/receipts/phones/abcDEF-123", "abcDEF-123"),
        ("https://otp.example/base/receipts/phones/abc/?x=/receipts/phones/other", "abc"),
        ("https://otp.example/receipts/phones/a%2Bb", "a+b"),
        ("https://otp.example/receipts/phones", None),
        ("https://otp.example/receipts/phones/", None),
        ("https://otp.example/receipts/phones/a/b", None),
        ("https://otp.example/other/phones/abc", None),
        ("http://[", None),
        ("", None),
    ],
)
def test_path_token(url: str, token: str | None) -> None:
    assert path_token(url) == token


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), ("Bearer ", None), ("", None), (None, None)],
)
def test_bearer_of(header: str | None, token: str | None) -> None:
    assert bearer_of(header) == token


def test_genuine_claims_are_read() -> None:
    claims = {"exp": NOW + 600, "nbf": NOW - 10, "iat": NOW, "aud": ["x", "us"], "iss": "them", "n": 1}
    assert jwt_claims(signed(claims), SECRET, NOW, audience="us", issuer="them", max_age_s=60) == claims
    assert jwt_claims(signed(claims | {"aud": "us"}), SECRET, NOW, audience="us") == claims | {"aud": "us"}
    assert jwt_claims(signed({}), SECRET, NOW) == {}


def test_a_short_key_works_without_a_word() -> None:
    """Warnings are errors here, and some gateways hand out keys of sixteen characters."""
    key = base64.b64encode(b"0123456789")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(b'{"sub":"x"}').rstrip(b"=")
    signature = bytes.fromhex(hmac_sha256_hex(key, head + b"." + body))
    token = b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()
    assert jwt_claims(token, key.decode(), NOW) == {"sub": "x"}
    assert jwt_claims(token, "another key of some sixteen", NOW) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 61},
        {"nbf": NOW + 61},
        {"iat": NOW + 61},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": True},
        {"nbf": [1]},
        {"aud": "other", "exp": NOW},
    ],
)
def test_untimely_or_foreign_claims(claims: dict[str, Any]) -> None:
    assert jwt_claims(signed({"aud": "us"} | claims), SECRET, NOW, audience="us") is None


def test_a_clock_a_little_off_is_forgiven() -> None:
    assert jwt_claims(signed({"exp": NOW - 59, "nbf": NOW + 59}), SECRET, NOW) is not None
    assert jwt_claims(signed({"exp": NOW - 59}), SECRET, NOW, leeway_s=10) is None


@pytest.mark.parametrize("claims", [{}, {"iat": NOW - 61}, {"iat": "now"}, {"iat": False}])
def test_where_an_age_is_asked_for_it_must_be_there(claims: dict[str, Any]) -> None:
    assert jwt_claims(signed(claims), SECRET, NOW, max_age_s=60) is None
    assert jwt_claims(signed({"iat": NOW - 60}), SECRET, NOW, max_age_s=60) is not None


def test_what_is_asked_for_must_be_there() -> None:
    assert jwt_claims(signed({"exp": NOW}), SECRET, NOW, audience="us") is None
    assert jwt_claims(signed({"exp": NOW}), SECRET, NOW, issuer="them") is None


def unsigned(algorithm: str) -> str:
    def part(value: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': algorithm})}.{part({'sub': 'x'})}."


@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "x",
        "a.b.c",
        "..",
        unsigned("none"),
        unsigned("None"),
        unsigned("HS256"),
        signed({"a": 1}, "another-secret-of-thirty-two-char"),
        signed({"a": 1}, SECRET * 2, "HS512"),
        signed([1]),
        signed("text"),
        signed({"a": 1})[:-2],
        "\udcff.\udcff.\udcff",
        "é.é.é",
        "A" * 9000,
        base64.urlsafe_b64encode(b"[" * 4000).decode() + ".e30.AAAA",
    ],
)
def test_forged_tokens(token: str | None) -> None:
    assert jwt_claims(token, SECRET, NOW) is None


def test_no_secret_proves_nothing() -> None:
    assert jwt_claims(signed({"a": 1}), "", NOW) is None
