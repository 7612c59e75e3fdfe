"""The gate of one sender in the hands of a test."""

from typing import Any

from otpsvc.messages.policy import SenderLimits
from otpsvc.messages.ports import Admission, Verdict
from otpsvc.redis.gates import GateState, RedisGates
from tests.otp.house import House

IN = Admission()
LAPSE_S = 20.0


class Gate:
    """One gate, with permits that count themselves."""

    def __init__(self, house: House, name: str = "vonage-eu", **limits: Any) -> None:
        self.house, self.name = house, name
        self.gates = RedisGates(house.client, house.keys, {name: SenderLimits(**limits)})
        self._made = 0

    async def admit(self, permit: str = "", *, lapses_in_s: float = LAPSE_S) -> tuple[str, Admission]:
        self._made += 1
        permit = permit or f"permit{self._made}"
        return permit, await self.gates.admit(self.name, permit, lapses_in_s=lapses_in_s)

    async def held(self) -> str:
        """Ask once without calling; give why nobody was let in, and keep no permit."""
        permit, admission = await self.admit()
        if not admission.held:
            await self.gates.report(self.name, permit, "unclear")
        return admission.held

    async def call(self, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        """Make one call that is let in and goes as told."""
        permit, admission = await self.admit()
        assert admission == IN
        await self.gates.report(self.name, permit, verdict, hold_s=hold_s)

    async def open(self, failures: int) -> None:
        for _ in range(failures):
            await self.call("fails")
        assert await self.held() == "open"

    async def state(self) -> GateState:
        return (await self.gates.states())[self.name]
