"""The air between simulated phones and the people they write to: what arrived, for a screen and for tests.

It holds plain codes. It exists in memory only, for `dev`, the command `device simulate` and tests; nothing in here may
write anything down.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime

import msgspec

KEPT_SMS = 1000
_MOST_BEHIND = 100


class Sms(msgspec.Struct, frozen=True, kw_only=True):
    """One SMS as it arrived. `device_id` is the phone that sent it, `sent_at` is UTC."""

    message_id: str
    to: str
    text: str
    device_id: str
    sent_at: datetime

    def __repr__(self) -> str:
        """Name the message, hide the number and the text."""
        return f"Sms({self.message_id})"


class Air:
    """A ring of the last `kept` SMS that arrived anywhere. The same message twice is there twice, as on a phone."""

    def __init__(self, *, kept: int = KEPT_SMS) -> None:
        self._arrived: deque[Sms] = deque(maxlen=kept)
        self._readers: dict[asyncio.Queue[Sms], str | None] = {}
        self._unreachable: set[str] = set()

    def list(self, to: str | None = None) -> Sequence[Sms]:
        """Return what arrived, newest first; `to` (E.164) keeps one number's only."""
        return [sms for sms in reversed(self._arrived) if to is None or sms.to == to]

    def transmit(self, sms: Sms) -> bool:
        """Let an SMS arrive; False where the number is switched off, so that it never does."""
        if sms.to in self._unreachable:
            return False
        self._arrived.append(sms)
        for queue, to in self._readers.items():
            if to is None or to == sms.to:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(sms)
        return True

    def switch_off(self, number: str) -> None:
        """Let nothing arrive at this number from now on: SMS to it are sent and never delivered."""
        self._unreachable.add(number)

    def switch_on(self, number: str) -> None:
        """Let SMS arrive at this number again; what was sent meanwhile is lost."""
        self._unreachable.discard(number)

    @contextlib.contextmanager
    def subscribe(self, to: str | None = None) -> Iterator[AsyncIterator[Sms]]:
        """Follow what arrives from now on, for the body of a `with`. Who reads too slowly misses the oldest."""
        queue: asyncio.Queue[Sms] = asyncio.Queue(_MOST_BEHIND)
        self._readers[queue] = to
        try:
            yield _Feed(queue)
        finally:
            del self._readers[queue]


class _Feed:
    def __init__(self, queue: asyncio.Queue[Sms]) -> None:
        self._queue = queue

    def __aiter__(self) -> AsyncIterator[Sms]:
        return self

    async def __anext__(self) -> Sms:
        return await self._queue.get()
