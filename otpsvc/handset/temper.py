"""What a simulated phone does wrong, by lot: the same seed and name, the same phone."""

import random
from collections.abc import Sequence

import msgspec

GENERIC_FAILURE = "Send result: RESULT_ERROR_GENERIC_FAILURE"
NO_SERVICE = "Send result: RESULT_ERROR_NO_SERVICE"
LIMIT_EXCEEDED = "Send result: RESULT_ERROR_LIMIT_EXCEEDED"
NO_CREDIT = "not enough credit for this SMS"


class Temper(msgspec.Struct, frozen=True, kw_only=True):
    """How a phone behaves. All shares are 0 to 1, all times seconds; the default one does everything right.

    `slow_s`: what the radio takes for one SMS, half to one and a half of it. `delivery_s`: how long after `Sent` it is
    delivered. `loses`, `doubles`, `delays`: shares of reports that never leave, leave twice, and leave up to `late_s`
    late, so that others overtake them. `fails`: share of SMS that fail with one of `failures`. `undelivered`: share
    that is sent and never arrives. `limit` SMS in `limit_window_s` and Android refuses more. `credit`: SMS that the SIM
    can still pay. `dies`: share of pulls that bring something after which the battery is empty, for `away_s`, 0: until
    somebody switches it on. `offline_every_s`: about how often its network is gone, for about `offline_for_s`.
    `pause_s`: between ordinary messages, the app's own setting.
    """

    seed: int = 0
    slow_s: float = 0.0
    delivery_s: float = 0.05
    loses: float = 0.0
    doubles: float = 0.0
    delays: float = 0.0
    late_s: float = 5.0
    fails: float = 0.0
    failures: tuple[str, ...] = (GENERIC_FAILURE, NO_SERVICE)
    undelivered: float = 0.0
    limit: int | None = None
    limit_window_s: float = 1800.0
    credit: int | None = None
    dies: float = 0.0
    away_s: float = 0.0
    offline_every_s: float = 0.0
    offline_for_s: float = 10.0
    pause_s: float = 0.0


GOOD_TEMPER = Temper()


class Lots:
    """Draws what a temper leaves to chance."""

    def __init__(self, temper: Temper, name: str) -> None:
        self._temper = temper
        self._random = random.Random(f"{temper.seed} {name}")  # noqa: S311 - a game, and one that must come out the same

    def is_so(self, share: float) -> bool:
        """Say whether something happens that happens in this share of cases."""
        return share > 0 and self._random.random() < share

    def about(self, seconds: float) -> float:
        """Return half to one and a half of it."""
        return seconds * self._random.uniform(0.5, 1.5)

    def failure(self) -> str:
        """Choose why an SMS fails."""
        return self._random.choice(self._temper.failures)

    def report_fate(self) -> Sequence[float]:
        """Return after how many seconds each copy of a report leaves."""
        temper = self._temper
        if self.is_so(temper.loses):
            return ()
        first_s = self._random.uniform(0, temper.late_s) if self.is_so(temper.delays) else 0.0
        return (first_s, first_s + self._random.uniform(0, temper.late_s)) if self.is_so(temper.doubles) else (first_s,)
