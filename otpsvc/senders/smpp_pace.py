"""How many messages may be under way at one SMSC, and how that number shrinks when it says that they are too many.

Nobody waits here: who finds no place is told when to come again, and the dispatcher decides what the message does
meanwhile.
"""

from collections.abc import Callable

from otpsvc.senders.contract import RetryLater

_FULL_S = 0.5
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Pace:
    """A window of `window` places. Being throttled closes it for a while, doubling each time, and halves it.

    It grows back by one place for every window's worth of messages that were taken. `now` counts seconds.
    """

    def __init__(self, window: int, now: Callable[[], float]) -> None:
        self._most = window
        self._now = now
        self._room = float(window)
        self._n_taken = 0
        self._pause_s = _FIRST_PAUSE_S
        self._closed_until = 0.0

    @property
    def room(self) -> int:
        """How many may be under way at present."""
        return int(self._room)

    def enter(self) -> RetryLater | None:
        """Take a place, to be given back with `leave`; or say when to come again."""
        closed_s = self._closed_until - self._now()
        if closed_s > 0:
            return RetryLater(closed_s, "throttled a moment ago")
        if self._n_taken >= self.room:
            return RetryLater(_FULL_S, "window full")
        self._n_taken += 1
        return None

    def leave(self) -> None:
        """Give a place back."""
        self._n_taken -= 1

    def went_well(self) -> None:
        """Take note that the SMSC took a message."""
        self._pause_s = _FIRST_PAUSE_S
        self._room = min(self._room + 1 / self._room, self._most)

    def throttled(self, least_s: float) -> float:
        """Take note that the SMSC wants less; return for how long, at least `least_s`, nothing is sent now.

        Those under way together are refused together; that counts once.
        """
        closed_s = self._closed_until - self._now()
        if closed_s > 0:
            return closed_s
        pause_s = max(self._pause_s, least_s)
        self._closed_until = self._now() + pause_s
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        self._room = max(1.0, self._room / 2)
        return pause_s
