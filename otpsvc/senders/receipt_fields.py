"""Reads the one flat record that a receipt request carries, and its times, for gateways that send form, query or JSON.

It reads and believes nothing: the proof is the sender's to check. A name that stands twice is refused, because a
signature would cover one of them and a reader might take the other.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from otpsvc.senders.contract import ReceiptRequest

MAX_BODY_BYTES = 65_536
_MAX_FIELDS = 100
_FORMS = ("%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S", "%a, %d %b %Y %H:%M:%S %z")


def read_fields(request: ReceiptRequest) -> dict[str, str] | None:
    """Return the fields of the query (GET) or of the body (form or JSON object) as text; None if they are not flat."""
    if request.method == "GET":
        return query_fields(request.url)
    if len(request.body) > MAX_BODY_BYTES:
        return None
    if request.body.lstrip()[:1] == b"{":
        return _json_fields(request.body)
    try:
        return _flat(request.body.decode("utf-8"))
    except UnicodeDecodeError:
        return None


def query_fields(url: str) -> dict[str, str] | None:
    """Return the fields of a URL's query; None if a name stands twice or they are too many."""
    try:
        return _flat(urlsplit(url).query)
    except ValueError:
        return None


def seconds_of(text: object) -> float | None:
    """Return a date as gateways write it in seconds since 1970, UTC where it names no offset; None if it is none."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        return _seconds(datetime.fromisoformat(text))
    except ValueError:
        pass
    for form in _FORMS:
        try:
            return _seconds(datetime.strptime(text, form))  # noqa: DTZ007 - where no offset stands, UTC is added
        except ValueError:
            continue
    return None


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _flat(text: str) -> dict[str, str] | None:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None


def _json_fields(body: bytes) -> dict[str, str] | None:
    try:
        read: Any = msgspec.json.decode(body, type=dict[str, str | int | float | None])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(read) > _MAX_FIELDS:
        return None
    return {name: "" if value is None else str(value) for name, value in read.items()}
