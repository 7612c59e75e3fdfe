"""A key that no header takes stops the start; it would otherwise keep every message from leaving."""

from typing import Any

import msgspec
import pytest

from otpsvc.senders.httpsms import HttpSmsSettings
from otpsvc.senders.notificore import NotificoreSettings
from otpsvc.senders.textbee import TextBeeSettings
from otpsvc.senders.zimsend import ZimSendSettings
from otpsvc.settings_values import Given, read_struct

REST: dict[type[msgspec.Struct], dict[str, Any]] = {
    HttpSmsSettings: {"phone": "+33612345678"},
    NotificoreSettings: {"originator": "Acme"},
    TextBeeSettings: {"device_id": "d1"},
    ZimSendSettings: {"client_id": "client_1"},
}


@pytest.mark.parametrize("kind", REST)
@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "tab\tin it"])
def test_a_key_that_no_header_takes_stops_the_start(kind: type[msgspec.Struct], key: str) -> None:
    faults: list[str] = []
    given = {name: Given(value, "here") for name, value in (REST[kind] | {"api_key": key}).items()}
    assert read_struct(kind, given, path="senders.s", faults=faults) is None
    assert faults == ["senders.s: api_key must be of plain ASCII letters, digits and signs, in one line"]


@pytest.mark.parametrize("kind", REST)
def test_ordinary_keys_are_taken(kind: type[msgspec.Struct]) -> None:
    faults: list[str] = []
    given = {name: Given(value, "here") for name, value in (REST[kind] | {"api_key": "zs_live_0+/=:~"}).items()}
    assert read_struct(kind, given, path="senders.s", faults=faults) is not None
    assert faults == []
