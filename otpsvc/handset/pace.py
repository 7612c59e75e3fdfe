"""When a phone tries again: the app's own plan, in one place, so that tests can run it faster."""

from typing import NamedTuple

MOST_TRIES = 10
_MOST_PAUSE_S = 300.0


class Pace(NamedTuple):
    """How patient a phone is. `scale` shortens every pause of the plan alike; only tests should touch it."""

    scale: float = 1.0
    pull_every_s: float = 900.0
    report_again_s: float = 1.0
    silence_s: float = 3600.0

    def reconnect_s(self, failed: int) -> float:
        """Return the pause before the next connection, after so many that failed or broke in a row (from 1)."""
        return (5.0 if failed <= 5 else 30.0 if failed <= 10 else 60.0) * self.scale

    def retry_s(self, tries: int) -> float:
        """Return the pause before a call is made again, after so many tries of it: twice as long each time."""
        return min(self.report_again_s * 2.0 ** (tries - 1), _MOST_PAUSE_S) * self.scale

    @property
    def pull_s(self) -> float:
        """How often a phone asks for messages without being called."""
        return self.pull_every_s * self.scale


APP_PACE = Pace()
