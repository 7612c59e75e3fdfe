"""What an error of the store means for the call that met it, and one word to the log about each time it is away.

Under load a store that is gone fails thousands of calls in a second. One line at the begin and one at the end tell a
person all there is; how many calls it cost is for the metrics. What was sent must never come into a line: the texts of
the store's errors can hold it, so only their first word is used, and only if it is known.
"""

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger(__name__)

# With these the server says that it ran nothing: the same call may go again (ARCHITECTURE, Redis). The library has a
# class of its own for some and moves the word off their text; the others keep their word in front.
_NOTHING_RAN = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
        "UNKILLABLE",
    }
)
# These come from a replica: the connection leads to a server that is not, or no more, the primary.
_OF_REPLICAS = frozenset({"MASTERDOWN", "READONLY"})
QUIET_S = 5.0


class NotKeptError(RedisError):
    """What a call wrote is not known to be on disk as safely as it was asked for. It may well be done."""


def refusal_word(error: BaseException) -> str | None:
    """Give the word with which the server says that it ran nothing; None if it says something else."""
    if not isinstance(error, (ResponseError, BusyLoadingError)):
        return None
    word = error.status_code or str(error).partition(" ")[0]
    return word if word in _NOTHING_RAN else None


def is_from_replica(error: BaseException) -> bool:
    """Say whether only a replica would answer so: its connection must not be kept."""
    return refusal_word(error) in _OF_REPLICAS


def kind_of(error: Exception) -> str:
    """Name the way in which the store failed a call, for counting: `refused`, `timeout`, `not_kept` or `lost`."""
    if refusal_word(error):
        return "refused"
    if isinstance(error, (RedisTimeoutError, TimeoutError)):
        return "timeout"
    return "not_kept" if isinstance(error, NotKeptError) else "lost"


class Outages:
    """Tells the log when the store is away and when it is back; `on_failure` gets the kind of every failed call.

    The store is back when calls succeed and none has failed for five seconds: a store that is full, for example, still
    answers whoever only reads.
    """

    def __init__(self, on_failure: Callable[[str], None] | None = None) -> None:
        self._on_failure = on_failure
        self._began_at: float | None = None
        self._failed_at = 0.0
        self._failed = 0

    def failed(self, error: Exception) -> str:
        """Note a call that the store did not decide; give the kind of its failure."""
        kind = kind_of(error)
        self._failed_at = asyncio.get_running_loop().time()
        if self._began_at is None:
            self._began_at, self._failed = self._failed_at, 0
            word = refusal_word(error) or type(error).__name__
            log.warning("the store is away (%s): calls that need it are refused until it is back", word)
        self._failed += 1
        if self._on_failure:
            self._on_failure(kind)
        return kind

    def succeeded(self) -> None:
        """Note a call that the store decided."""
        if self._began_at is None or asyncio.get_running_loop().time() < self._failed_at + QUIET_S:
            return
        away_s = self._failed_at - self._began_at
        log.warning("the store is back: calls failed over %.1f s, %d of them", away_s, self._failed)
        self._began_at = None
