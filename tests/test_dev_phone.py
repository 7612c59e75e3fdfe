"""The phone of `otpsvc dev` where the service does not let it in: that is told at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from otpsvc import dev_phone
from otpsvc.dev_phone import DevPhone
from otpsvc.devices.model import Tenant
from otpsvc.errors import ConfigurationError
from tests.handset.server import MobileServer

TENANT = Tenant("client_100000000001", "test")


class NoDevices:
    async def list_devices(self, tenant: Tenant) -> list[Any]:
        return []


class Pairings:
    """Opens pairings of which the server has not heard."""

    async def open(self, tenant: Tenant, server_url: str, *, is_confirmed_by_itself: bool) -> Any:
        return SimpleNamespace(login="phone-abcdef", password="a password")


async def test_a_phone_that_is_turned_away_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_phone, "_CONNECT_S", 3600.0)
    phone, service, pairing = DevPhone(), NoDevices(), Pairings()
    async with MobileServer() as server:
        with pytest.raises(ConfigurationError, match=r"refuses to register this phone \(status 401\)"):
            async with phone.connected(service, pairing, TENANT, server.url):  # type: ignore[arg-type]  # doubles
                pass
    assert phone.phones() == []


async def test_a_phone_that_does_not_come_through_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_phone, "_CONNECT_S", 0.05)
    async with MobileServer() as server:
        url = server.url
    with pytest.raises(ConfigurationError, match="it took too long"):
        async with DevPhone().connected(NoDevices(), Pairings(), TENANT, url):  # type: ignore[arg-type]  # doubles
            pass
