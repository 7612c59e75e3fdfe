"""An operator who types `otpsvc device …` on one installation, and has phones register with it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from otpsvc.app import client_service
from otpsvc.app_devices import open_devices
from otpsvc.app_stores import open_database_of
from otpsvc.devices.model import DeviceStatus, Registered, Registration, Sim
from otpsvc.settings import Settings, load

SIMS = (Sim(slot=0, number=1, phone_number="********4567", carrier="Orange"), Sim(slot=1, number=2))


class Said(NamedTuple):
    status: int
    out: str
    err: str


class Operator:
    """Types commands on one installation, and has phones register with it."""

    def __init__(self, call: Callable[..., Said], variables: dict[str, str]) -> None:
        self.call = call
        self.variables = variables

    @property
    def settings(self) -> Settings:
        return load(None, self.variables)

    def done(self, *arguments: str, given: str = "") -> str:
        """Run a command that must do what it was asked to."""
        said = self.call(*arguments, given=given)
        assert said.status == 0, said.out + said.err
        return said.out

    def refused(self, *arguments: str, given: str = "") -> str:
        """Run a command that must refuse in one line."""
        said = self.call(*arguments, given=given)
        assert (said.status, said.out) == (1, ""), said.out
        assert len(said.err.splitlines()) == 1, said.err
        return said.err

    def new_client(self, name: str = "Shop") -> str:
        async def make() -> str:
            async with open_database_of(self.settings) as database:
                return (await (await client_service(self.settings, database)).create_client(name)).id

        return asyncio.run(make())

    def pairing(self, *arguments: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.done("pair", "--json", *arguments))
        return read

    def register(self, code: str, name: str = "Pixel 7") -> Registered:
        async def come() -> Registered:
            async with open_devices(self.settings) as desk:
                return await desk.pairing.register_by_code(code, Registration(name=name, sims=SIMS), "192.0.2.1")

        return asyncio.run(come())

    def come_again(self, registered: Registered, name: str) -> None:
        """Register with the same login as a phone of another name."""

        async def come() -> None:
            async with open_devices(self.settings) as desk:
                registration = Registration(name=name, sims=SIMS)
                password = registered.password or ""
                await desk.pairing.register_by_login(registered.login, password, registration, "192.0.2.1")

        asyncio.run(come())

    def close(self, login: str) -> None:
        async def close() -> None:
            async with open_devices(self.settings) as desk:
                (one,) = await desk.records.all_open_pairings()
                await desk.pairing.close(one.tenant, login)

        asyncio.run(close())

    def phone(self, name: str = "Pixel 7", *arguments: str) -> Registered:
        """A phone that was let in."""
        return self.register(self.pairing("--yes", *arguments)["code"], name)

    def shown(self, which: str, *arguments: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.done("show", which, "--json", *arguments))
        return read

    def lines(self, which: str) -> dict[str, str]:
        return {line[:16].strip(): line[16:].strip() for line in self.done("show", which).splitlines()}

    def status(self, registered: Registered) -> DeviceStatus:
        async def look() -> DeviceStatus:
            async with open_devices(self.settings) as desk:
                return (await desk.service.show(registered.device.tenant, registered.device.id)).device.status

        return asyncio.run(look())
