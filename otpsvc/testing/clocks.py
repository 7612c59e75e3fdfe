"""A clock that stands still until it is told to move."""


class ManualClock:
    """Both clocks of the process in one hand; starts at a fixed day so that tests repeat."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._start = now
        self._now = now

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._now += seconds

    def monotonic(self) -> float:
        """Return the seconds since this clock was made."""
        return self._now - self._start

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return self._now
