"""The gates as one message meets them: asked before a call, told after it, and told of receipts that did not come.

What is to be told is kept until the message is recorded: a gate can wait, a message on its way cannot. What is never
told, because its worker dies, lapses in the gates.
"""

import asyncio
import contextlib
from typing import Any

from otpsvc.messages.breaker import Turns, verdict_of
from otpsvc.messages.lease import Lease
from otpsvc.messages.ports import Admission, SenderGates, Verdict
from otpsvc.senders.contract import Outcome, Sender

_MARGIN_S = 5.0  # a permit outlives its call
_LEAVE_TIMEOUT_S = 1.0
_TEST = "test"


class Permits:
    """What one leased message has been given and still owes; `number` is its number's sign (`SenderGates.missed`)."""

    def __init__(self, gates: SenderGates, turns: Turns, lease: Lease, number: str) -> None:
        self._gates = gates
        self._turns = turns
        self._permit = f"{lease.claimed.message_id}:{lease.claimed.token}"
        self._is_test = lease.claimed.mode == _TEST
        self._number = number
        self._owed: list[tuple[str, Verdict, float]] = []
        self._missed: list[str] = []

    async def ask(self, sender: str, *, timeout_s: float, has_others: bool) -> Admission:
        """Ask to call a sender for at most `timeout_s`; raises ApiError."""
        # A receipt that does not come for a test's message, whose number may be made up, says nothing of the sender.
        admission = await self._gates.admit(
            sender,
            self._permit,
            lapses_in_s=timeout_s + _MARGIN_S,
            has_others=has_others,
            may_probe=not self._is_test,
        )
        if not admission.held:
            self._owed.append((sender, "unclear", 0.0))
        return admission

    def ended(self, sender: Sender[Any], outcome: Outcome) -> None:
        """Take note of how the call went that was let in last."""
        self._owed[-1] = (sender.name, *verdict_of(outcome, is_pool=sender.capabilities.is_pool))

    def missed(self, sender: str) -> None:
        """Take note that no receipt followed a sender's word; not of a test's message."""
        if not self._is_test:
            self._missed.append(sender)

    async def give_back(self) -> None:
        """Tell the gates what they are owed."""
        while self._owed:
            sender, verdict, hold_s = self._owed.pop(0)
            await self._gates.report(sender, self._permit, verdict, hold_s=hold_s)
        while self._missed:
            await self._gates.missed(self._missed.pop(0), self._number)

    async def leave(self) -> None:
        """Tell them once, in little time: the worker is going. What is not told keeps others out until it lapses."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self.give_back()

    def turn(self, sender: str, after_s: float) -> float:
        """Take a turn: in how many seconds to ask for a sender again that cannot be called before `after_s`."""
        return self._turns.next(sender, after_s, self._gates.apart_s(sender))

    def next_turn(self, sender: str, after_s: float) -> float:
        """Return what `turn` would, and take none."""
        return self._turns.look(sender, after_s, self._gates.apart_s(sender))
