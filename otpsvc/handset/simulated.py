"""A whole simulated phone: the faithful client, a radio into `Air`, a battery, a network, and a temper.

A hundred of them run in one process. It sends nothing anywhere but into memory.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence

from otpsvc.clock import Clock, SystemClock
from otpsvc.handset.air import Air
from otpsvc.handset.journal import Journal, MemoryJournal
from otpsvc.handset.link import Login, ServerLink, server_address
from otpsvc.handset.pace import APP_PACE, Pace
from otpsvc.handset.phone import Phone, no_news
from otpsvc.handset.simulated_radio import SimulatedRadio
from otpsvc.handset.temper import GOOD_TEMPER, Lots, Temper
from otpsvc.handset.wire import SimCard, WireMessage

ONE_SIM = (SimCard(slot_index=0, sim_number=1),)


class SimulatedPhone:
    """A phone that registers at `server_url` with login and password, or with a one-time code, and sends into `air`.

    Raises ConfigurationError for an address that a phone would refuse. Set `dies_at_next_pull`, and the battery is
    empty once it has pulled something, before a word is said about it.
    """

    def __init__(
        self,
        server_url: str,
        *,
        login: str = "",
        password: str = "",
        code: str = "",
        name: str = "Simulated phone",
        air: Air | None = None,
        temper: Temper = GOOD_TEMPER,
        sims: Sequence[SimCard] = ONE_SIM,
        passphrase: str = "",
        pace: Pace = APP_PACE,
        journal: Journal | None = None,
        allow_http: bool = False,
        tls: ssl.SSLContext | None = None,
        news: Callable[[str], None] = no_news,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.air = air or Air()
        self.dies_at_next_pull = False
        self._temper = temper
        self._news = news
        self._lots = Lots(temper, name)
        self.radio = SimulatedRadio(self.air, temper, self._lots, clock)
        self._phone = Phone(
            ServerLink(server_address(server_url, allow_http=allow_http), silence_s=pace.silence_s, tls=tls),
            self.radio,
            journal or MemoryJournal(),
            login=Login(login, password, code),
            name=name,
            sims=sims,
            passphrase=passphrase,
            pause_s=temper.pause_s,
            pace=pace,
            fate=self._lots.report_fate,
            pulled=self._pulled,
            news=news,
            clock=clock,
        )
        self._has_power = asyncio.Event()
        self._has_power.set()
        self._life: asyncio.Task[None] | None = None
        self._waking: asyncio.TimerHandle | None = None

    @property
    def device_id(self) -> str:
        """Its id at the server, empty before it has registered."""
        return self._phone.device_id

    @property
    def is_connected(self) -> bool:
        """Whether its stream of events is open."""
        return self._phone.connected.is_set()

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._has_power.is_set()

    async def connected(self) -> None:
        """Wait until its stream of events is open."""
        await self._phone.connected.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Be a phone until `stop` is set; raises TurnedAwayError if the server will not have it. May be cancelled."""
        stopping = asyncio.create_task(stop.wait())
        spells = asyncio.create_task(self._lose_network_now_and_then())
        power: asyncio.Task[object] | None = None
        try:
            while not stop.is_set():
                power = asyncio.create_task(self._has_power.wait())
                await asyncio.wait({power, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    break
                self._life = asyncio.create_task(self._phone.run(stop))
                await asyncio.wait({self._life})
                if not self._life.cancelled():
                    self._life.result()
        finally:
            for task in (stopping, spells, power, self._life):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
            if self._waking is not None:
                self._waking.cancel()
            self.radio.close()

    def switch_off(self) -> None:
        """Take the battery out, at once and without a word. What the phone has written down it knows afterwards."""
        if self.is_on:
            self._news("switched off")
        self._has_power.clear()
        self._phone.fall_silent()
        if self._life is not None:
            self._life.cancel()

    def switch_on(self) -> None:
        """Put the battery back: the phone goes on where it stood."""
        if not self.is_on:
            self._news("switched on")
        self._has_power.set()

    def lose_network(self) -> None:
        """Cut it off from its server; its radio goes on, and what it has to say waits."""
        self._phone.lose_network()

    def find_network(self) -> None:
        """End that."""
        self._phone.find_network()

    def _pulled(self, messages: Sequence[WireMessage]) -> None:
        if messages and (self.dies_at_next_pull or self._lots.is_so(self._temper.dies)):
            self.dies_at_next_pull = False
            self.switch_off()
            if self._temper.away_s > 0:
                away_s = self._lots.about(self._temper.away_s)
                self._waking = asyncio.get_running_loop().call_later(away_s, self.switch_on)

    async def _lose_network_now_and_then(self) -> None:
        temper = self._temper
        while temper.offline_every_s > 0:
            await asyncio.sleep(self._lots.about(temper.offline_every_s))
            self.lose_network()
            try:
                await asyncio.sleep(self._lots.about(temper.offline_for_s))
            finally:
                self.find_network()
