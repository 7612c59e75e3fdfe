"""The flat record of a receipt request: three forms, nothing twice, nothing nested; and their dates."""

import pytest

from otpsvc.senders.contract import ReceiptRequest
from otpsvc.senders.receipt_fields import query_fields, read_fields, seconds_of


def post(body: bytes) -> ReceiptRequest:
    return ReceiptRequest(method="POST", url="https://codes.example/receipts/a?x=1", headers={}, body=body)


def test_a_form_an_object_and_a_query_say_the_same() -> None:
    assert read_fields(post(b"a=1%2B1&b=&c=%C3%A9")) == {"a": "1+1", "b": "", "c": "é"}
    assert read_fields(post(' {"a": "1+1", "b": null, "c": "é"}'.encode())) == {"a": "1+1", "b": "", "c": "é"}
    assert read_fields(post(b'{"n": 12, "f": 0.5}')) == {"n": "12", "f": "0.5"}
    url = "https://codes.example/receipts/a?a=1%2B1&b=&c=%C3%A9"
    assert read_fields(ReceiptRequest(method="GET", url=url, headers={}, body=b"a=2")) == query_fields(url)
    assert query_fields(url) == {"a": "1+1", "b": "", "c": "é"}


@pytest.mark.parametrize(
    "body",
    [
        b"a=1&a=2",
        b"status=failed&id=1&status=delivered",
        b"\xff\xfe",
        b"a=" + b"x" * 65_536,
        b"&".join(b"k%d=1" % number for number in range(101)),
        b'{"a": {"b": 1}}',
        b'{"a": [1]}',
        b'{"a": true}',
        b'{"a": 1',
        b"{" + b",".join(b'"k%d":1' % number for number in range(101)) + b"}",
    ],
)
def test_what_is_not_one_flat_record_is_none(body: bytes) -> None:
    assert read_fields(post(body)) is None


def test_an_address_that_is_none_has_no_fields() -> None:
    assert query_fields("http://[") is None
    assert query_fields("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "2027-01-15T08:00:00.000Z",
        "2027-01-15T09:00:00+01:00",
        "2027-01-15 08:00:00 +0000",
        "2027-01-15 08:00:00",
        "Fri, 15 Jan 2027 08:00:00 +0000",
    ],
)
def test_dates(text: str) -> None:
    assert seconds_of(text) == 1_800_000_000.0


@pytest.mark.parametrize("text", [None, 5, "", "yesterday", "2027-13-01", "9" * 100])
def test_what_is_no_date(text: object) -> None:
    assert seconds_of(text) is None
