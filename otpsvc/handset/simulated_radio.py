"""A radio that sends into `Air`: it takes its time and fails as its temper has it, with the words that phones use."""

import asyncio
from collections import deque
from datetime import UTC, datetime

from otpsvc.clock import Clock
from otpsvc.handset.air import Air, Sms
from otpsvc.handset.radio import Outgoing, Told
from otpsvc.handset.temper import LIMIT_EXCEEDED, NO_CREDIT, NO_SERVICE, Lots, Temper
from otpsvc.handset.wire import PhoneState


class SimulatedRadio:
    """Sends one SMS after the other. Without `has_service` each fails, as outside any network's reach.

    What it says failed never arrives; what it says was sent arrives, unless the number is switched off.
    """

    def __init__(self, air: Air, temper: Temper, lots: Lots, clock: Clock) -> None:
        self._air = air
        self._temper = temper
        self._lots = lots
        self._clock = clock
        self._credit = temper.credit
        self._sent_at: deque[float] = deque()
        self._owed: set[asyncio.TimerHandle] = set()
        self.has_service = True

    async def send(self, sms: Outgoing, told: Told) -> None:
        """Send it, in the time that this radio takes."""
        if self._temper.slow_s > 0:
            await asyncio.sleep(self._lots.about(self._temper.slow_s))
        failure = self._failure()
        if failure:
            told(PhoneState.FAILED, failure)
            return
        self._sent_at.append(self._clock.monotonic())
        if self._credit is not None:
            self._credit -= 1
        arrived = not self._lots.is_so(self._temper.undelivered) and self._air.transmit(
            Sms(
                message_id=sms.message_id,
                to=sms.to,
                text=sms.text,
                device_id=sms.device_id,
                sent_at=datetime.fromtimestamp(self._clock.time(), UTC),
            )
        )
        told(PhoneState.SENT, "")
        if arrived:
            self._deliver_later(told)

    def close(self) -> None:
        """Forget what is still to be told."""
        for handle in self._owed:
            handle.cancel()
        self._owed.clear()

    def _failure(self) -> str:
        temper = self._temper
        if not self.has_service:
            return NO_SERVICE
        if self._credit == 0:
            return NO_CREDIT
        if temper.limit is not None:
            begin = self._clock.monotonic() - temper.limit_window_s
            while self._sent_at and self._sent_at[0] <= begin:
                self._sent_at.popleft()
            if len(self._sent_at) >= temper.limit:
                return LIMIT_EXCEEDED
        return self._lots.failure() if self._lots.is_so(temper.fails) else ""

    def _deliver_later(self, told: Told) -> None:
        def deliver() -> None:
            self._owed.discard(handle)
            told(PhoneState.DELIVERED, "")

        handle = asyncio.get_running_loop().call_later(self._lots.about(self._temper.delivery_s), deliver)
        self._owed.add(handle)
