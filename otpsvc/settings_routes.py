"""The tables `[routes.<channel>]` and `[routes.<client>.<channel>]`: from TOML to typed routes, with every fault told.

    [routes.sms]
    on_unknown = "next"
    "+39" = ["skebby", { sender = "vonage-eu", quiet = { start = "22:00", end = "07:00", zone = "Europe/Rome" } }]
    "*" = ["phones", "vonage-eu"]

A key that is `*` or begins with a plus is a stretch of numbers, every other one an option of all routes in its table.
Whether the senders exist and can carry the channel is for `messages.router` to say.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from otpsvc.messages.policy import Route, Routes, RouteStep
from otpsvc.settings_values import Given, expected, unknown_key

CHANNELS = ("sms", "voice", "email", "whatsapp")
OPTIONS = [name for name in Route.__struct_fields__ if name != "steps"]

_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}\Z")
_CLIENT = re.compile(r"client_[0-9]{12}\Z")

Table = dict[str, Route]


def read_routes(given: Mapping[str, Given], faults: list[str]) -> Routes:
    """Read everything under `[routes]`; what is wrong is appended as lines that name the key, never its value."""
    table: dict[tuple[str, str], Table] = {}
    for name, value in given.items():
        path = f"routes.{name}"
        if name in CHANNELS:
            _put(table, ("", name), value.value, path, value.origin, faults)
        elif _CLIENT.match(name) and isinstance(value.value, dict):
            for channel, routes in value.value.items():
                if channel in CHANNELS:
                    _put(table, (name, channel), routes, f"{path}.{channel}", value.origin, faults)
                else:
                    faults.append(unknown_key(value.origin, f"{path}.", channel, CHANNELS))
        else:
            faults.append(f"{value.origin}: {path} must be a table of a channel ({', '.join(CHANNELS)}) or of a client")
    return Routes(table)


def _put(
    table: dict[tuple[str, str], Table], key: tuple[str, str], given: Any, path: str, origin: str, faults: list[str]
) -> None:
    if not isinstance(given, dict):
        faults.append(f"{origin}: {path} must be a table: [{path}]")
        return
    found_before = len(faults)
    stretches = {name: value for name, value in given.items() if name == "*" or name.startswith("+")}
    options = {name: value for name, value in given.items() if name not in stretches}
    faults += [unknown_key(origin, f"{path}.", name, OPTIONS) for name in sorted(options.keys() - set(OPTIONS))]
    for name in options.keys() & set(OPTIONS):
        _check(_field(Route, name), options[name], f"{origin}: {path}.{name}", faults)
    if not stretches:
        faults.append(f'{origin}: {path} needs a list of senders for "*" or for a prefix such as "+39"')
    steps = {
        prefix: _steps(value, f"{origin}: {path}.{msgspec.json.encode(prefix).decode()}", faults)
        for prefix, value in stretches.items()
    }
    faults += [
        f"{origin}: {path} has {msgspec.json.encode(prefix).decode()}, which is no prefix: a plus, then 1 to 15 digits"
        for prefix in stretches
        if prefix != "*" and not _PREFIX.match(prefix)
    ]
    if len(faults) == found_before:
        table[key] = {prefix: Route(steps=route, **options) for prefix, route in steps.items()}


def _steps(given: Any, path: str, faults: list[str]) -> tuple[RouteStep, ...]:
    if not isinstance(given, list) or not given:
        faults.append(f"{path} must be a list of senders that is not empty")
        return ()
    steps = [step for number, item in enumerate(given, start=1) if (step := _step(item, number, path, faults))]
    names = [step.sender for step in steps]
    if len(set(names)) != len(names):
        faults.append(f"{path} names one sender twice")
    return tuple(steps)


def _step(item: Any, number: int, path: str, faults: list[str]) -> RouteStep | None:
    if isinstance(item, str):
        return RouteStep(sender=item)
    if not isinstance(item, dict) or not isinstance(item.get("sender"), str):
        faults.append(f"{path}, item {number}: must be the name of a sender, or a table with `sender`")
        return None
    found_before = len(faults)
    known = list(RouteStep.__struct_fields__)
    faults += [unknown_key(f"{path}, item {number}", "", key, known) for key in sorted(item.keys() - set(known))]
    for key in item.keys() & set(known):
        _check(_field(RouteStep, key), item[key], f"{path}, item {number}: {key}", faults)
    return msgspec.convert(item, RouteStep) if len(faults) == found_before else None


def _check(kind: Any, value: Any, where: str, faults: list[str]) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        words = "a table with start, end and zone" if isinstance(value, dict) else expected(kind)
        faults.append(f"{where} must be {words}")


def _field(struct: type[msgspec.Struct], name: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(struct) if field.name == name)
