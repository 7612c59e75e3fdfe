"""The process's clocks, injectable so that tests can move them.

Rules about codes never ask these: they use the store's own clock inside the script that decides (ARCHITECTURE, Redis).
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What a part that measures time needs."""

    def monotonic(self) -> float:
        """Return seconds that only grow, for ages and time-outs."""
        ...

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC, for what people read."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return time.time()
