"""The messages in a phone: each is handed to the radio once, in its turn, while it is worth sending.

The same id again is never a second SMS: the phone says how far it is, no more. That an SMS goes to the radio is written
down before it does, so that a phone which dies in between rather sends none than two.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable
from typing import NamedTuple

from otpsvc.clock import Clock
from otpsvc.handset.journal import Handled, Journal
from otpsvc.handset.radio import Outgoing, Radio
from otpsvc.handset.wire import CANCELLING, PhoneState, RecipientReport, Report, WireMessage, moment
from otpsvc.phone_encryption import decrypted

TTL_EXPIRED = "TTL expired"

_ORDER = {state: place for place, state in enumerate(PhoneState)}
_MOST_KNOWN = 5000
_KEPT_S, _KEPT_AFTER_END_S = 86_400.0, 3600.0
_LAST = {PhoneState.FAILED, PhoneState.CANCELLED, PhoneState.DELIVERED}


class _Known:
    """One message that this phone has seen. `message` is gone once the radio has had it."""

    def __init__(self, message_id: str, state: PhoneState, until: float) -> None:
        self.id = message_id
        self.state = state
        self.until = until
        self.message: WireMessage | None = None
        self.recipients: dict[str, tuple[PhoneState, str]] = {}
        self.states: dict[str, str] = {}


class _Turn(NamedTuple):
    """A place in the queue: expedited messages first, then by arrival."""

    is_ordinary: bool
    number: int
    known: _Known


class Tray:
    """What a phone has to send and what it has sent. `pause_s` lies between ordinary messages, never expedited ones."""

    def __init__(
        self,
        radio: Radio,
        journal: Journal,
        *,
        report: Callable[[Report], None],
        device_id: Callable[[], str],
        sim_numbers: frozenset[int],
        passphrase: str,
        pause_s: float,
        clock: Clock,
    ) -> None:
        self._radio = radio
        self._journal = journal
        self._report = report
        self._device_id = device_id
        self._sim_numbers = sim_numbers
        self._passphrase = passphrase
        self._pause_s = pause_s
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._ready: list[_Turn] = []
        self._later: list[tuple[float, int, _Known]] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._ordinary_from = 0.0
        self._is_held = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        for handled in journal.kept.handled.values():
            self._known[handled.id] = _Known(handled.id, PhoneState(handled.state), handled.until)

    def take(self, message: WireMessage) -> None:
        """Queue a message, or say again how far this phone is with it."""
        known = self._known.get(message.id)
        is_cancelling = message.state == CANCELLING
        if known is None:
            known = self._add(message)
            if is_cancelling:
                self._move(known, PhoneState.CANCELLED)
            else:
                known.message = message
                self._queue(known)
            return
        if not known.recipients:  # from the journal, which keeps no numbers
            known.recipients = dict.fromkeys(message.phone_numbers, (known.state, ""))
        if not (is_cancelling and self.cancel(message.id)):
            self._tell(known)

    def cancel(self, message_id: str) -> bool:
        """Drop a message that the radio has not had yet; False where it is too late or there is none."""
        known = self._known.get(message_id)
        if known is None or known.state is not PhoneState.PENDING:
            return False
        known.message = None
        self._move(known, PhoneState.CANCELLED)
        return True

    def hold(self) -> None:
        """Begin nothing more until `run` is called again."""
        self._is_held = True

    async def run(self) -> None:
        """Hand the messages to the radio, one after the other, until cancelled."""
        self._is_held = False
        while True:
            turn = await self._next()
            self._is_idle.clear()
            try:
                await self._send(turn.known)
            finally:
                self._is_idle.set()
                if turn.known.message is not None:  # cut off before the radio had it
                    self._push(turn)
            if turn.is_ordinary:
                self._ordinary_from = self._clock.monotonic() + self._pause_s

    async def idle(self) -> None:
        """Wait until the radio has nothing under way."""
        await self._is_idle.wait()

    async def _send(self, known: _Known) -> None:
        message = known.message
        if message is None:
            return
        if message.valid_until is not None and message.valid_until.timestamp() <= self._clock.time():
            self._fail(known, TTL_EXPIRED)
            return
        if not message.phone_numbers:
            self._fail(known, "no number")
            return
        if message.sim_number is not None and message.sim_number not in self._sim_numbers:
            self._fail(known, f"SIM {message.sim_number} not found")
            return
        try:
            text, numbers = await self._opened(message)
        except ValueError:
            self._fail(known, "cannot decrypt")
            return
        if known.message is None:  # cancelled meanwhile
            return
        known.message = None
        self._move(known, PhoneState.PROCESSED)
        for shown, number in zip(message.phone_numbers, numbers, strict=True):

            def told(state: PhoneState, error: str = "", shown: str = shown) -> None:
                if message.with_delivery_report or state is not PhoneState.DELIVERED:
                    self._heard(known, shown, state, error)

            await self._radio.send(
                Outgoing(
                    message_id=known.id,
                    device_id=self._device_id(),
                    to=number,
                    text=text,
                    sim_number=message.sim_number,
                ),
                told,
            )

    async def _opened(self, message: WireMessage) -> tuple[str, list[str]]:
        if not message.is_encrypted:
            return message.text, list(message.phone_numbers)
        text = await asyncio.to_thread(decrypted, message.text, self._passphrase)
        return text, [await asyncio.to_thread(decrypted, number, self._passphrase) for number in message.phone_numbers]

    def _heard(self, known: _Known, shown: str, state: PhoneState, error: str) -> None:
        before, _ = known.recipients[shown]
        if before in _LAST or _ORDER[state] <= _ORDER[before]:
            return
        known.recipients[shown] = (state, error)
        going_on = [one for one, _ in known.recipients.values() if one is not PhoneState.FAILED]
        self._reach(known, min(going_on, key=_ORDER.__getitem__, default=PhoneState.FAILED))

    def _fail(self, known: _Known, error: str) -> None:
        known.message = None
        self._move(known, PhoneState.FAILED, error)

    def _move(self, known: _Known, state: PhoneState, error: str = "") -> None:
        known.recipients = dict.fromkeys(known.recipients, (state, error))
        self._reach(known, state)

    def _reach(self, known: _Known, state: PhoneState) -> None:
        now = self._clock.time()
        known.state = state
        known.states.setdefault(state, moment(now))
        self._journal.note(Handled(known.id, state, known.until), now)
        self._tell(known)

    def _tell(self, known: _Known) -> None:
        recipients = tuple(
            RecipientReport(phone_number=number, state=state, error=error or None)
            for number, (state, error) in known.recipients.items()
        )
        self._report(Report(id=known.id, state=known.state, recipients=recipients, states=dict(known.states)))

    def _add(self, message: WireMessage) -> _Known:
        now = self._clock.time()
        ends_at = message.valid_until.timestamp() + _KEPT_AFTER_END_S if message.valid_until else now + _KEPT_S
        known = _Known(message.id, PhoneState.PENDING, ends_at)
        known.recipients = dict.fromkeys(message.phone_numbers, (PhoneState.PENDING, ""))
        known.states[PhoneState.PENDING] = moment(now)
        if len(self._known) >= _MOST_KNOWN:
            self._forget(now)
        self._known[message.id] = known
        return known

    def _forget(self, now: float) -> None:
        """Make room: what is over goes first, then the oldest that is not queued."""
        self._known = {one.id: one for one in self._known.values() if one.until > now or one.message is not None}
        for one in [one for one in self._known.values() if one.message is None]:
            if len(self._known) < _MOST_KNOWN:
                break
            del self._known[one.id]

    def _queue(self, known: _Known) -> None:
        message = known.message
        if message is None:
            return
        starts_at = message.schedule_at.timestamp() if message.schedule_at else 0.0
        if starts_at > self._clock.time():
            heapq.heappush(self._later, (starts_at, next(self._numbers), known))
            self._changed.set()
        else:
            self._push(_Turn(not message.is_expedited, next(self._numbers), known))

    def _push(self, turn: _Turn) -> None:
        heapq.heappush(self._ready, turn)
        self._changed.set()

    async def _next(self) -> _Turn:
        while True:
            wait_s = self._wait_s()
            if wait_s is not None and wait_s <= 0:
                return heapq.heappop(self._ready)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    def _wait_s(self) -> float | None:
        """How long until the next turn; 0 for now, None until something changes."""
        if self._is_held:
            return None
        now = self._clock.time()
        while self._later and self._later[0][0] <= now:
            _, number, known = heapq.heappop(self._later)
            if known.message is not None:
                self._push(_Turn(not known.message.is_expedited, number, known))
        waits = [max(self._later[0][0] - now, 0.01)] if self._later else []
        if self._ready:
            is_ordinary = self._ready[0].is_ordinary
            waits.append(max(self._ordinary_from - self._clock.monotonic(), 0.0) if is_ordinary else 0.0)
        return min(waits, default=None)
