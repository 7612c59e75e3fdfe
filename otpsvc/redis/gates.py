"""The gate of each sender: breaker, rate, concurrency, missing receipts: one state in the store for all workers.

Decided in the scripts: what one worker learns of a gateway holds for all at once. Remembered here is only what spares
the store a question: that a sender was heard of just now.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

from redis.exceptions import RedisError

from otpsvc.clock import Clock, SystemClock
from otpsvc.errors import ApiError
from otpsvc.messages.policy import SenderLimits, best_pace_s
from otpsvc.messages.ports import Admission, Verdict
from otpsvc.redis.client import RedisClient
from otpsvc.redis.keys import Keys

GateStatus = Literal["closed", "open", "half_open"]

_BURST_S = 1.0  # what may begin at once after a rest is what a whole second would bring
_HEARD_EVERY_S = 0.5  # below the shortest row of missing receipts, so that none of them is demoted in between

_log = logging.getLogger(__name__)


class GateState(NamedTuple):
    """How a sender's gate stands.

    `failures` counts those in a row. `open_for_s` is how long the breaker still lets nobody in, `held_for_s` how long
    the gateway still wants to be left alone, and `calls` how many of all workers are under way. `missed` counts numbers
    in a row from which no receipt came; `is_demoted` says that others are called before it for that.
    """

    state: GateStatus
    failures: int
    open_for_s: float
    held_for_s: float
    calls: int
    missed: int = 0
    is_demoted: bool = False


class RedisGates:
    """Implements `messages.ports.SenderGates`. A sender that `limits` does not name has the default ones."""

    def __init__(
        self, client: RedisClient, keys: Keys, limits: Mapping[str, SenderLimits], *, clock: Clock | None = None
    ) -> None:
        self._client = client
        self._keys = keys
        self._limits = limits
        self._clock = clock or SystemClock()
        self._heard_at: dict[str, float] = {}

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
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
                "has_others": int(has_others),
                "may_probe": int(may_probe),
                "probe_ms": int(limits.demoted_probe_s * 1000) if limits.missed_receipts else 0,
            },
        )
        return Admission() if status == "admitted" else Admission(status, values[0] / 1000)

    async def report(self, sender: str, permit: str, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        """Run `sender_report`; where the store is away, the permit lapses."""
        # Without a permit nobody could tell that it was counted already.
        status, values = await self._report(sender, verdict, permit, hold_s, is_repeatable=bool(permit))
        if status == "opened":
            _log.warning("sender %s fails: nobody calls it for %g s", sender, values[0] / 1000)
        elif status == "closed":
            _log.warning("sender %s works again", sender)

    async def missed(self, sender: str, number: str) -> None:
        """Run `sender_report` for a receipt that did not come in time."""
        status, values = await self._report(sender, "missed", number=number)
        if status == "demoted":
            _log.error("sender %s takes messages, %d receipts are missing: others go before it", sender, values[0])

    async def heard(self, sender: str) -> None:
        """Run `sender_report` for a receipt that says that a message left; never raises.

        Of many in half a second one is told.
        """
        now = self._clock.monotonic()
        if now - self._heard_at.get(sender, -_HEARD_EVERY_S) < _HEARD_EVERY_S:
            return
        self._heard_at[sender] = now
        status, _ = await self._report(sender, "heard")
        if status == "restored":
            _log.warning("sender %s: its receipts come again", sender)

    async def _report(
        self,
        sender: str,
        verdict: str,
        permit: str = "",
        hold_s: float = 0.0,
        *,
        number: str = "",
        is_repeatable: bool = True,
    ) -> tuple[str, list[Any]]:
        limits = self._limits_of(sender)
        try:
            return await self._client.run(
                "sender_report",
                self._names(sender),
                {
                    "permit": permit,
                    "verdict": verdict,
                    "hold_ms": max(0, int(hold_s * 1000)),
                    "max_failures": limits.breaker_failures,
                    "pause_ms": int(limits.breaker_pause_s * 1000),
                    "number": number,
                    "max_missed": limits.missed_receipts,
                    "missed_ms": int(limits.missed_for_s * 1000),
                },
                is_repeatable=is_repeatable,
            )
        except (ApiError, RedisError) as error:
            _log.info("sender %s: a call's end was not reported: %s", sender, type(error).__name__)
            return "unreported", []

    def apart_s(self, sender: str) -> float:
        """Return how far apart those who wait for a sender should ask again."""
        limits = self._limits_of(sender)
        return best_pace_s(limits.concurrency, limits.rate_per_s)

    async def states(self) -> Mapping[str, GateState]:
        """Return how the gates of all known senders stand; raises ApiError SERVICE_UNAVAILABLE."""
        states = await asyncio.gather(*(self._state(sender) for sender in self._limits))
        return dict(zip(self._limits, states, strict=True))

    async def _state(self, sender: str) -> GateState:
        status, values = await self._client.run("sender_state", self._names(sender), {})
        failures, open_ms, held_ms, calls, missed, demoted = values
        # Where it was switched off since, nobody goes by what is still written down.
        is_demoted = demoted == 1 and self._limits_of(sender).missed_receipts > 0
        return GateState(
            cast("GateStatus", status), failures, open_ms / 1000, held_ms / 1000, calls, missed, is_demoted
        )

    def _limits_of(self, sender: str) -> SenderLimits:
        return self._limits.get(sender) or SenderLimits()

    def _names(self, sender: str) -> dict[str, str]:
        return {"gate": self._keys.gate(sender), "calls": self._keys.calls(sender)}
