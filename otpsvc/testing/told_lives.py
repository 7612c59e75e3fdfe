"""Finds in a request how long the gateway was told to keep trying, whatever the field is called and counted in."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from otpsvc.senders.contract import OutboundMessage
from otpsvc.testing.gateways import GatewayRequest

_UNITS = {"seconds": 1.0, "milliseconds": 0.001, "minutes": 60.0}
_LEAST_SHARE = 0.5  # whole minutes may swallow this much of a life, no gateway needs more


class ToldLife(NamedTuple):
    """Where it stands, how it is counted, and what it comes to in seconds from now."""

    field: str
    unit: str
    life_s: float


def told_lives(requests: list[GatewayRequest], message: OutboundMessage) -> list[ToldLife]:
    """List every value of these requests that could be this message's life: up to it, and at least half of it."""
    now = message.expires_at - message.life_s
    return [
        ToldLife(field, unit, life_s)
        for request in requests
        for field, value in _fields(request)
        for unit, life_s in _readings(value, now)
        if message.life_s * _LEAST_SHARE <= life_s <= message.life_s
    ]


def _fields(request: GatewayRequest) -> Iterator[tuple[str, object]]:
    yield from _leaves("query", dict(request.query))
    yield from _leaves("headers", dict(request.headers))
    for read in (request.json, request.form):
        try:
            yield from _leaves("body", read())
        except ValueError:
            continue


def _leaves(path: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(f"{path}[]", inner)
    else:
        yield path, value


def _readings(value: object, now: float) -> Iterator[tuple[str, float]]:
    text = str(value).strip()
    if found := re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)s?", text):
        number = float(found[1])
        yield from ((unit, number * size_s) for unit, size_s in _UNITS.items())
        yield "epoch seconds", number - now
        yield "epoch milliseconds", number / 1000 - now
    elif re.match(r"\d{4}-\d\d-\d\d[T ]", text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return
        yield "a date", (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
