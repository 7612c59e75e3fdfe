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
        self._limits = SenderLimits(**limits)
        self.gates = RedisGates(house.client, house.keys, {name: self._limits})
        self._made = 0

    async def admit(
        self, permit: str = "", *, lapses_in_s: float = LAPSE_S, has_others: bool = False, may_probe: bool = True
    ) -> tuple[str, Admission]:
        self._made += 1
        permit = permit or f"permit{self._made}"
        admission = await self.gates.admit(
            self.name, permit, lapses_in_s=lapses_in_s, has_others=has_others, may_probe=may_probe
        )
        return permit, admission

    async def held(self, *, has_others: bool = False, may_probe: bool = True) -> str:
        """Ask once without calling; give why nobody was let in, and keep no permit."""
        permit, admission = await self.admit(has_others=has_others, may_probe=may_probe)
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

    async def miss(self, *numbers: int) -> None:
        """Miss a receipt of a message to each of these numbers."""
        for number in numbers:
            await self.gates.missed(self.name, f"{number:08x}")

    async def demote(self, missed: int = 3) -> None:
        await self.miss(*range(missed))
        await self.house.age(60)
        await self.miss(0)
        assert (await self.state()).is_demoted

    async def hear(self) -> None:
        """Hear of a message that left; as another process would, which heard of none before."""
        limits = {self.name: self._limits}
        await RedisGates(self.house.client, self.house.keys, limits).heard(self.name)

    async def state(self) -> GateState:
        return (await self.gates.states())[self.name]
