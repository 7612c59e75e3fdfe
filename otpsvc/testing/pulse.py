"""Notices when something holds up the event loop: a call that waits without awaiting stops every other message."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

_BEAT_S = 0.01
_MOST_BEATS = 50  # half a second where the machine is idle; a machine that stands still stops both sides


class Pulse:
    """`most_missed` is how many beats of a thread passed between two turns of the loop."""

    def __init__(self) -> None:
        self.most_missed = 0
        self._n_beats = 0
        self._has_ended = threading.Event()

    @property
    def is_held_up(self) -> bool:
        """Whether the loop stood still for longer than any honest work between two awaits takes."""
        return self.most_missed > _MOST_BEATS

    def beat(self) -> None:
        """Count until the end; runs in a thread, so a loop that is held up does not stop it."""
        while not self._has_ended.wait(_BEAT_S):
            self._n_beats += 1

    async def watch(self) -> None:
        """Take note at every turn of the loop how much was missed since the last one."""
        while True:
            before = self._n_beats
            await asyncio.sleep(_BEAT_S)
            self.most_missed = max(self.most_missed, self._n_beats - before)

    def end(self) -> None:
        """Let the thread return."""
        self._has_ended.set()


@contextlib.asynccontextmanager
async def pulse() -> AsyncIterator[Pulse]:
    """Feel the loop's pulse for the body of a `with`."""
    felt = Pulse()
    thread = threading.Thread(target=felt.beat, daemon=True)
    thread.start()
    watch = asyncio.create_task(felt.watch())
    await asyncio.sleep(0)
    try:
        yield felt
        await asyncio.sleep(2 * _BEAT_S)  # one more turn, for what was held up at the very end
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        felt.end()
        await asyncio.to_thread(thread.join)
