"""The phone: it keeps the stream of events open, fetches what it has to send, and says what became of it.

It follows the app's plan, not a cleverer one: the server must cope with phones as they are. What it holds outlives
`run`, so that a phone that was switched off in the middle goes on where it stood.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from otpsvc.clock import Clock, SystemClock
from otpsvc.handset.journal import Journal
from otpsvc.handset.link import LinkError, Login, Refused, ServerLink
from otpsvc.handset.membership import Membership
from otpsvc.handset.pace import APP_PACE, MOST_TRIES, Pace
from otpsvc.handset.radio import Radio
from otpsvc.handset.reports import Fate, Reporter
from otpsvc.handset.stream import ServerEvent
from otpsvc.handset.tray import Tray
from otpsvc.handset.wire import (
    CANCELLED_EVENT,
    ENQUEUED_EVENT,
    SETTINGS_EVENT,
    WEBHOOKS_EVENT,
    Report,
    SimCard,
    WireMessage,
)

_CALLS = frozenset({ENQUEUED_EVENT, CANCELLED_EVENT, SETTINGS_EVENT, WEBHOOKS_EVENT})
_LAST_SEND_S, _LAST_WORDS_S = 15.0, 5.0


def no_news(_line: str) -> None:
    """Tell nobody."""


def _nothing_happens(_messages: Sequence[WireMessage]) -> None:
    """Let a pull be a pull."""


def _told_once() -> Sequence[float]:
    """Let each report leave at once, and once."""
    return (0.0,)


class Phone:
    """One phone. `news` hears in plain words what a person would want to know; never a text, number or secret.

    `pulled` hears of the messages of each pull before the phone does anything with them. `pause_s` and `order` (`fifo`
    or `lifo`) are the app's own settings.
    """

    def __init__(
        self,
        link: ServerLink,
        radio: Radio,
        journal: Journal,
        *,
        login: Login,
        name: str,
        sims: Sequence[SimCard],
        passphrase: str = "",
        pause_s: float = 0.0,
        order: str = "fifo",
        pace: Pace = APP_PACE,
        fate: Fate = _told_once,
        pulled: Callable[[Sequence[WireMessage]], None] = _nothing_happens,
        news: Callable[[str], None] = no_news,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._link = link
        self._order = order
        self._pace = pace
        self._pulled = pulled
        self._news = news
        self._membership = Membership(link, journal, login=login, name=name, sims=sims, news=news)
        self._reporter = Reporter(self._tell, pace=pace, clock=clock, fate=fate)
        self._tray = Tray(
            radio,
            journal,
            report=self._reporter.add,
            device_id=lambda: self.device_id,
            sim_numbers=frozenset(sim.sim_number for sim in sims),
            passphrase=passphrase,
            pause_s=pause_s,
            clock=clock,
        )
        self.connected = asyncio.Event()
        self._has_network = asyncio.Event()
        self._has_network.set()
        self._stream: asyncio.Task[str] | None = None
        self._wants_settings = self._wants_webhooks = False
        self._is_called = asyncio.Event()

    @property
    def device_id(self) -> str:
        """Its id at the server, empty before it has registered."""
        return self._membership.device_id

    async def run(self, stop: asyncio.Event) -> None:
        """Be a phone until `stop` is set, then finish what is under way; raises TurnedAwayError, ConfigurationError.

        Cancelled, it ends at once, like a phone whose battery is taken out.
        """
        stopping = asyncio.create_task(stop.wait())
        working: list[asyncio.Task[None]] = []
        try:
            async with self._link:
                try:
                    working.append(asyncio.create_task(self._join()))
                    await asyncio.wait({*working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    if working[0].done():
                        working.pop().result()
                        loops = (self._stay_connected(), self._fetch(), self._tray.run(), self._reporter.run())
                        working.extend([asyncio.create_task(loop) for loop in loops])
                        await asyncio.wait({*working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                        await self._finish(working)
                finally:
                    await _end(working)
        finally:
            self._tray.hold()
            self.connected.clear()
            await _end([stopping])

    def ask(self) -> None:
        """Fetch the messages as soon as possible, as at a call from the server."""
        self._is_called.set()

    def fall_silent(self) -> None:
        """Hand nothing more to the radio and say no good-bye: for a battery that is about to be taken out."""
        self._tray.hold()
        self._link.break_line()

    def lose_network(self) -> None:
        """Have no way to the server from now on; the radio works on."""
        self._has_network.clear()
        self._link.break_line()
        if self._stream is not None:
            self._stream.cancel()

    def find_network(self) -> None:
        """Have a way to the server again."""
        self._has_network.set()

    async def _finish(self, working: Sequence[asyncio.Task[None]]) -> None:
        """Fetch nothing more, let the radio end what it has begun, and tell it; raises what broke the phone."""
        for task in working:
            if task.done():
                task.result()
        self._tray.hold()
        await _end(working[:2])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SEND_S):
                await self._tray.idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._reporter.settled()

    async def _join(self) -> None:
        failed = 0
        while not self._membership.is_registered:
            await self._has_network.wait()
            try:
                await self._membership.join()
            except LinkError as error:
                failed += 1
                await self._pause(failed, str(error))

    async def _stay_connected(self) -> None:
        self._wants_settings = self._wants_webhooks = True
        failed = 0
        while True:
            await self._has_network.wait()
            self._stream = asyncio.create_task(self._follow())
            try:
                await asyncio.wait({self._stream})
            finally:
                await _end([self._stream])
            if self.connected.is_set():
                self.connected.clear()
                failed = 0
            failed += 1
            await self._pause(failed, "the network is gone" if self._stream.cancelled() else self._stream.result())

    async def _follow(self) -> str:
        """Follow the events until that ends, and return why it did."""
        try:
            await self._membership.prove()
            async with contextlib.aclosing(self._link.events(self._membership.token)) as events:
                async for event in events:
                    if event is None:
                        self.connected.set()
                        self._news("connected")
                        self.ask()
                    else:
                        self._take(event)
        except LinkError as error:
            self._note(error)
            return str(error)
        return "the server ended the stream"

    async def _pause(self, failed: int, reason: str) -> None:
        pause_s = self._pace.reconnect_s(failed)
        self._news(f"not connected: {reason}; next try in {pause_s:g} s")
        await asyncio.sleep(pause_s)

    def _take(self, event: ServerEvent) -> None:
        message_id = event.data.get("messageId") if isinstance(event.data, dict) else None
        if event.name == CANCELLED_EVENT and isinstance(message_id, str) and self._tray.cancel(message_id):
            return
        self._wants_settings |= event.name == SETTINGS_EVENT
        self._wants_webhooks |= event.name == WEBHOOKS_EVENT
        if event.name in _CALLS:
            self.ask()

    async def _fetch(self) -> None:
        """Fetch messages when called, and now and then without; a fetch that fails is tried again."""
        tries = 0
        while True:
            pause_s = self._pace.retry_s(tries) if 0 < tries < MOST_TRIES else self._pace.pull_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_called.wait()
            self._is_called.clear()
            await self._has_network.wait()
            try:
                await self._pull()
                await self._read_settings()
            except LinkError as error:
                self._note(error)
                tries += 1
            else:
                tries = 0

    async def _pull(self) -> None:
        messages = await self._link.messages(self._membership.token, order=self._order)
        self._pulled(messages)
        for message in messages:
            self._tray.take(message)

    async def _read_settings(self) -> None:
        """Read what the app would act on; there is nothing in it that this phone does otherwise."""
        if self._wants_settings:
            await self._link.settings(self._membership.token)
            self._wants_settings = False
        if self._wants_webhooks:
            await self._link.webhooks(self._membership.token)
            self._wants_webhooks = False

    async def _tell(self, report: Report) -> None:
        await self._has_network.wait()
        try:
            await self._link.report(self._membership.token, [report])
        except LinkError as error:
            self._note(error)
            raise

    def _note(self, error: LinkError) -> None:
        if isinstance(error, Refused) and error.status == 401:
            self._membership.doubt()


async def _end(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
