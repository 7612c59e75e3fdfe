"""Phones of the clients' own, as indiscreet as they come, in a thread of the test's own process.

No search looks into that process. Whatever lets one of them in, and every number and text that reaches one, is noted
here as a secret: from then on it must stand nowhere else.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from otpsvc.handset.air import Air
from otpsvc.handset.journal import Credentials, MemoryJournal
from otpsvc.handset.link import Login, ServerLink, server_address
from otpsvc.handset.pace import Pace
from otpsvc.handset.phone import Phone
from otpsvc.handset.radio import Outgoing, Told
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import GOOD_TEMPER, Temper
from otpsvc.handset.wire import PhoneState, SimCard
from tests.programs import PATIENCE_S

# Which senders the numbers of a prefix go through, in their order.
ROUTES = {"+33616": ("phones",), "+33617": ("phones", "first")}
SETTINGS = """[devices]
online_s = 10
keep_alive_s = 1
[senders.phones]
pull_within_s = 3
report_within_s = 5
wait_s = 6
receipt_within_s = 8
breaker_failures = 1000
"""
_TOKEN_LENGTH, _SECRET = 63, slice(29, 55)  # before the secret stands the phone's id, behind it a check
_PACE = Pace(scale=0.1)
_FAILURES = ("Send result: RESULT_ERROR_GENERIC_FAILURE", "cannot send", "no service")

T = TypeVar("T")


@dataclass(frozen=True)
class Secrets:
    """What phones and their clients know and nobody else may: enrolment codes are codes too."""

    codes: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    credentials: set[str] = field(default_factory=set)

    def note_token(self, token: str) -> None:
        """Note the part of a token that is secret."""
        assert len(token) == _TOKEN_LENGTH
        self.credentials.add(token[_SECRET])

    def note_sms(self, to: str, text: str) -> None:
        """Note what a phone was given to send."""
        self.numbers.add(to)
        self.texts.add(text)


class Notebook(MemoryJournal):
    """A phone's memory of who it is; it confides in us."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def identify(self, credentials: Credentials) -> None:
        """Remember who the phone is now."""
        super().identify(credentials)
        self._secrets.note_token(credentials.token)
        self._secrets.credentials.add(credentials.password)

    @property
    def token(self) -> str:
        """The token that the phone shows now."""
        assert self.kept.credentials is not None
        return self.kept.credentials.token

    @property
    def password(self) -> str:
        """The password of its login, as far as the phone knows."""
        assert self.kept.credentials is not None
        return self.kept.credentials.password


class IndiscreetRadio:
    """Sends nothing, and says at length what it did not send to whom."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._words = itertools.cycle(_FAILURES)

    async def send(self, sms: Outgoing, told: Told) -> None:
        """Fail."""
        self._secrets.note_sms(sms.to, sms.text)
        told(PhoneState.FAILED, f"{next(self._words)}: {sms.text} to {sms.to}")

    def close(self) -> None:
        """Have nothing to forget."""


class Park:
    """All phones that are switched on, and what arrived from them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.secrets = Secrets()
        self.air = Air(kept=100_000)
        self._news = folder / "news.txt"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stop = asyncio.Event()
        self._lives: dict[SimulatedPhone | Phone, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self._thread.start()

    def close(self) -> None:
        """End it, and all of them."""
        self.switch_off()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def switch_off(self, *phones: SimulatedPhone | Phone) -> None:
        """Switch these off for good, all of them if none is named."""

        async def end() -> None:
            lives = [self._lives.pop(phone) for phone in phones or list(self._lives)]
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)

        self._on_loop(end())

    def phone(
        self, url: str, login: Login, *, sims: Sequence[SimCard], passphrase: str = "", temper: Temper = GOOD_TEMPER
    ) -> tuple[SimulatedPhone, Notebook]:
        """Switch on a phone whose SMS arrive; it may be turned away, and is not waited for."""
        notebook = Notebook(self.secrets)

        async def make() -> SimulatedPhone:
            phone = SimulatedPhone(
                url,
                login=login.login,
                password=login.password,
                code=login.code,
                name=f"phone {next(self._numbers)}",
                air=self.air,
                temper=temper,
                sims=sims,
                passphrase=passphrase,
                pace=_PACE,
                journal=notebook,
                news=self._tell,
            )
            self._lives[phone] = asyncio.create_task(phone.run(self._stop))
            return phone

        return self._on_loop(make()), notebook

    def broken_phone(self, url: str, login: Login, *, sims: Sequence[SimCard]) -> Phone:
        """Switch on a phone whose radio is indiscreet."""

        async def make() -> Phone:
            phone = Phone(
                ServerLink(server_address(url)),
                IndiscreetRadio(self.secrets),
                Notebook(self.secrets),
                login=login,
                name=f"phone {next(self._numbers)}",
                sims=sims,
                pace=_PACE,
                news=self._tell,
            )
            self._lives[phone] = asyncio.create_task(phone.run(self._stop))
            return phone

        return self._on_loop(make())

    def do(self, what: Callable[[], T]) -> T:
        """Do something to a phone where it lives."""

        async def done() -> T:
            return what()

        return self._on_loop(done())

    def arrived(self) -> dict[str, str]:
        """Give the texts that arrived, by message."""
        return {sms.message_id: sms.text for sms in self.do(self.air.list)}

    def learn(self) -> Secrets:
        """Note all that arrived, and give every secret there is."""
        for sms in self.do(self.air.list):
            self.secrets.note_sms(sms.to, sms.text)
        return self.secrets

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def _tell(self, line: str) -> None:
        with self._news.open("a") as file:
            file.write(f"{line}\n")


@contextlib.contextmanager
def running_park(folder: Path) -> Iterator[Park]:
    """Have a park for the body of a `with`."""
    park = Park(folder)
    try:
        yield park
    finally:
        park.close()
