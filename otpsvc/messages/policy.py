"""How messages may leave: routes, what bounds each sender, and the words of their settings. Data, no decisions.

`settings` reads these from the file; `router` chooses by them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

OnUnknown = Literal["next", "stop"]
OnFull = Literal["next", "wait"]
_QUICK_CALL_S, _LEAST_PACE_S = 0.1, 0.002
TimeOfDay = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z", description="a time of day: 07:30")]


class SenderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds one sender over all workers.

    `rate_per_s` is how many calls may begin per second, None for no bound; `concurrency` how many may be under way.
    After `breaker_failures` failures in a row nobody calls it for `breaker_pause_s`, then one call tries.

    After `missed_receipts` numbers in a row from which no receipt came in time, over at least `missed_for_s`, others of
    a route are called before it, but for one message each `demoted_probe_s`; 0 demotes nobody.
    """

    rate_per_s: Annotated[float, Meta(ge=0.01, le=10_000)] | None = None
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16
    breaker_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    breaker_pause_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    missed_receipts: Annotated[int, Meta(ge=0, le=100)] = 10
    missed_for_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    demoted_probe_s: Annotated[float, Meta(ge=1, le=1800)] = 60.0  # well below the hour that a gate is remembered


def best_pace_s(concurrency: int, rate_per_s: float | None = None) -> float:
    """Return how far apart calls within these bounds can begin at best, for a gateway that answers quickly."""
    return max(_LEAST_PACE_S, _QUICK_CALL_S / concurrency, 1 / rate_per_s if rate_per_s else 0.0)


class QuietHours(msgspec.Struct, frozen=True, kw_only=True):
    """When a sender is not to be used: from `start` up to `end`, over midnight where `end` is earlier, in `zone`."""

    start: TimeOfDay
    end: TimeOfDay
    zone: str = "UTC"


class RouteStep(msgspec.Struct, frozen=True, kw_only=True):
    """One sender on a route.

    Steps side by side that have a `weight` change places: who comes first among them is drawn by weight, once per
    message. `price` is what one part costs, in any one currency. `timeout_s` bounds its call, and `receipt_timeout_s`
    is how long its receipt is waited for; None leaves both to the route and the sender.
    """

    sender: str
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    quiet: QuietHours | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    timeout_s: Annotated[float, Meta(ge=1, le=120)] | None = None
    receipt_timeout_s: Annotated[float, Meta(ge=1, le=600)] | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The senders for one stretch of numbers, in the order of trying, and the rules of going on to the next.

    `on_unknown`: whether the next sender may carry a message that an earlier one may have; only after the receipt of
    that one has been waited for. `receipt_timeout_s` is that wait where the step says none. `on_full`: whether a
    message that finds a sender at its bound goes to the next at once, or waits for it until it is `full_wait_s` old.
    `max_senders` bounds how many senders may come to have one message. A step whose price for the whole message is
    above `max_price` is left out; so is one with no price while there is a cap.
    """

    steps: tuple[RouteStep, ...]
    on_unknown: OnUnknown = "next"
    on_full: OnFull = "next"
    full_wait_s: Annotated[float, Meta(ge=1, le=600)] = 30.0
    max_senders: Annotated[int, Meta(ge=1, le=10)] = 2
    max_price: Annotated[float, Meta(ge=0)] | None = None
    receipt_timeout_s: Annotated[float, Meta(ge=1, le=600)] = 20.0


class Routes(msgspec.Struct, frozen=True):
    """All routes: (client id or empty for everybody, channel or empty for every channel) -> {prefix or `*`: route}."""

    table: dict[tuple[str, str], dict[str, Route]] = {}

    @property
    def senders(self) -> tuple[str, ...]:
        """Every sender that a route names, once, in the order of the settings."""
        stretches = (route for table in self.table.values() for route in table.values())
        return tuple(dict.fromkeys(step.sender for route in stretches for step in route.steps))
