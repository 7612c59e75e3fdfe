"""The phone of `otpsvc dev`: a simulated one that is paired at each start, so that codes have somewhere to go.

It is spare: a real phone that the developer pairs goes before it. What it sends arrives on the pages under `/dev`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from otpsvc.devices.model import Tenant
from otpsvc.devices.pairing import PairingService
from otpsvc.devices.service import DeviceService
from otpsvc.errors import ConfigurationError
from otpsvc.handset.air import Air
from otpsvc.handset.simulated import SimulatedPhone

NAME = "Simulated phone"
# So much is enough for a developer's day; that of a real SIM would end after 25 codes.
_BUDGET = {"messages_per_window": 10_000, "window_s": 60, "recipients_per_day": 100_000, "is_spare": True}
_CONNECT_S, _END_S = 15.0, 5.0


class DevPhone:
    """The phone with its switch, and the air that its messages arrive from. It does nothing until `connected`."""

    def __init__(self) -> None:
        self.air = Air()
        self._phone: SimulatedPhone | None = None

    def phones(self) -> Sequence[tuple[str, bool]]:
        """Give the name of each phone, and whether it is on: of this one."""
        return [(NAME, self._phone.is_on)] if self._phone is not None else []

    async def switch(self, name: str, is_on: bool) -> bool:
        """Switch the phone of this name on or off; False if there is none."""
        if name != NAME or self._phone is None:
            return False
        if is_on:
            self._phone.switch_on()
        else:
            self._phone.switch_off()
        return True

    @contextlib.asynccontextmanager
    async def connected(
        self, service: DeviceService, pairing: PairingService, tenant: Tenant, url: str
    ) -> AsyncIterator[None]:
        """Pair it with the service that listens at `url`, and keep it running for the body of an `async with`.

        Those of earlier starts are deleted: what they knew is gone with their process. Raises ConfigurationError if it
        does not come to be connected.
        """
        for known in await service.list_devices(tenant):
            if known.device.name == NAME and known.device.budget.is_spare:
                await service.delete(tenant, known.device.id)
        opened = await pairing.open(tenant, url, is_confirmed_by_itself=True)
        phone = SimulatedPhone(url, login=opened.login, password=opened.password, name=NAME, air=self.air)
        stop = asyncio.Event()
        running = asyncio.create_task(phone.run(stop), name="simulated phone")
        try:
            await _connect(phone, running)
            await service.set_budget(tenant, phone.device_id, _BUDGET)
            self._phone = phone
            yield
        finally:
            stop.set()
            await asyncio.wait({running}, timeout=_END_S)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _connect(phone: SimulatedPhone, running: "asyncio.Task[None]") -> None:
    """Wait until the phone that is `running` is connected; raises ConfigurationError if it ends or is too slow."""
    connecting = asyncio.create_task(phone.connected())
    try:
        await asyncio.wait({connecting, running}, timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        connecting.cancel()
        await asyncio.wait({connecting})
    why = str(running.exception()) if running.done() and not running.cancelled() else "it took too long"
    if connecting.cancelled():
        raise ConfigurationError(f"the simulated phone could not connect to the service itself: {why}")
