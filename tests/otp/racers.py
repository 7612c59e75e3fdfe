"""Several racers at once, as a test of OTPs holds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.otp.house import CLIENT
from tests.redis import racing

Call = tuple[str, dict[str, Any]]


class Racers:
    """Processes of their own, each with its own connections to the store."""

    def __init__(self, racers: racing.Racers) -> None:
        self._racers = racers

    def __len__(self) -> int:
        return len(self._racers)

    def race(self, *lanes: list[Call], client: str = CLIENT) -> list[list[Any]]:
        """Give each racer its lane of calls, let all start at the same moment; give all outcomes, lane after lane."""
        assert len(lanes) <= len(self)
        plans = [{"calls": [(call, client, arguments) for call, arguments in lane]} for lane in lanes]
        return [answer for answers in self._racers.race(plans) for answer in answers]

    def share(self, calls: list[Call]) -> list[list[Any]]:
        """Deal the calls out to all racers."""
        return self.race(*(calls[n :: len(self)] for n in range(len(self))))


@contextmanager
def start_racers(redis_url: str, number: int) -> Iterator[Racers]:
    """Start the processes and end them."""
    with racing.started(Path(__file__).with_name("racer.py"), redis_url, number) as racers:
        yield Racers(racers)
