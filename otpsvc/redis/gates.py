"""The gate of each sender: breaker, rate and concurrency, one state in the store for all workers.

Decided in the scripts. Here nothing is remembered: what one worker learns of a gateway holds for all at once.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from redis.exceptions import RedisError

from otpsvc.errors import ApiError
from otpsvc.messages.policy import SenderLimits
from otpsvc.messages.ports import Admission, Verdict
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys

GateStatus = Literal["closed", "open", "half_open"]

_BURST_S = 1.0  # what may begin at once after a rest is what a whole second would bring

_log = logging.getLogger(__name__)


class GateState(NamedTuple):
    """How a sender's gate stands.

    `failures` counts those in a row. `open_for_s` is how long the breaker still lets nobody in, `held_for_s` how long
    the gateway still wants to be left alone, and `calls` how many of all workers are under way.
    """

    state: GateStatus
    failures: int
    open_for_s: float
    held_for_s: float
    calls: int


class RedisGates:
    """Implements `messages.ports.SenderGates`. A sender that `limits` does not name has the default ones."""

    def __init__(self, client: RedisClient, keys: Keys, limits: Mapping[str, SenderLimits]) -> None:
        self._client = client
        self._keys = keys
        self._limits = limits

    async def admit(self, sender: str, permit: str, *, lapses_in_s: float) -> Admission:
        """Run `sender_admit`. The same permit again gets the same answer; none counts for longer than five minutes.

        Raises ValueError for an empty permit, ApiError SERVICE_UNAVAILABLE.
        """
        if not permit:
            raise ValueError("a call needs a permit")
        limits = self._limits_of(sender)
        status, values = await self._client.run(
            "sender_admit",
            self._names(sender),
            {
                "permit": permit,
                "lapse_ms": max(1, int(lapses_in_s * 1000)),
                "concurrency": limits.concurrency,
                "rate_per_s": str(limits.rate_per_s or 0),
                "burst": str(max(1.0, (limits.rate_per_s or 0) * _BURST_S)),
            },
        )
        return Admission() if status == "admitted" else Admission(status, values[0] / 1000)

    async def report(self, sender: str, permit: str, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        """Run `sender_report`; where the store is away, the permit lapses."""
        limits = self._limits_of(sender)
        try:
            status, values = await self._client.run(
                "sender_report",
                self._names(sender),
                {
                    "permit": permit,
                    "verdict": verdict,
                    "hold_ms": max(0, int(hold_s * 1000)),
                    "max_failures": limits.breaker_failures,
                    "pause_ms": int(limits.breaker_pause_s * 1000),
                },
                # Without a permit nobody could tell that it was counted already.
                is_repeatable=bool(permit),
            )
        except (ApiError, RedisError) as error:
            _log.info("sender %s: a call's end was not reported: %s", sender, type(error).__name__)
            return
        if status == "opened":
            _log.warning("sender %s fails: nobody calls it for %g s", sender, values[0] / 1000)
        elif status == "closed":
            _log.warning("sender %s works again", sender)

    async def states(self) -> Mapping[str, GateState]:
        """Return how the gates of all known senders stand; raises ApiError SERVICE_UNAVAILABLE."""
        states = await asyncio.gather(*(self._state(sender) for sender in self._limits))
        return dict(zip(self._limits, states, strict=True))

    async def _state(self, sender: str) -> GateState:
        status, (failures, open_ms, held_ms, calls) = await self._client.run("sender_state", self._names(sender), {})
        return GateState(cast("GateStatus", status), failures, open_ms / 1000, held_ms / 1000, calls)

    def _limits_of(self, sender: str) -> SenderLimits:
        return self._limits.get(sender) or SenderLimits()

    def _names(self, sender: str) -> dict[str, str]:
        return {"gate": self._keys.gate(sender), "calls": self._keys.calls(sender)}
