"""A sender that does what a test tells it, and the arguments every sender takes."""

import asyncio
from collections.abc import Callable, Iterable

from otpsvc.clock import Clock
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    NoSettings,
    OutboundMessage,
    Outcome,
    Sender,
    SenderContext,
)
from otpsvc.testing.clocks import ManualClock

SMS_ONLY = Capabilities(channels=frozenset({Channel.SMS}))


def sender_context(*, is_dev: bool = True, clock: Clock | None = None) -> SenderContext:
    """Return what a sender is made with."""
    return SenderContext(is_dev=is_dev, clock=clock if clock is not None else ManualClock())


def outbound_message(
    *,
    message_id: str = "msg_00000000000000000000000000",
    to: str = "+33612345678",
    text: str = "123456 is your verification code.",
    channel: Channel = Channel.SMS,
    life_s: float = 300.0,
    try_number: int = 1,
    now: float = 1_800_000_000.0,
) -> OutboundMessage:
    """Return a message as a sender gets it."""
    return OutboundMessage(
        message_id=message_id,
        client_id="client_100000000001",
        mode="live",
        channel=channel,
        to=to,
        text=text,
        expires_at=now + life_s,
        life_s=life_s,
        try_number=try_number,
    )


class RecordingSender(Sender[NoSettings]):
    """Keeps what it was given in `sent` and answers from a script, then with Accepted.

    A step of the script is an outcome to answer, an exception to raise, or a function of the message that returns or
    raises one. `began` is set by the first send. While `gate` is closed every send waits for it after recording.
    """

    def __init__(
        self,
        name: str = "recording",
        script: Iterable[Outcome | Exception | Callable[[OutboundMessage], Outcome]] = (),
        *,
        capabilities: Capabilities = SMS_ONLY,
        context: SenderContext | None = None,
    ) -> None:
        super().__init__(name, NoSettings(), context if context is not None else sender_context())
        self.capabilities = capabilities
        self.sent: list[OutboundMessage] = []
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self._script = iter(script)

    async def send(self, message: OutboundMessage) -> Outcome:
        """Record the message and play the next step."""
        self.sent.append(message)
        self.began.set()
        await self.gate.wait()
        step = next(self._script, None)
        if step is None:
            return Accepted(f"{self.name}-{len(self.sent)}")
        if isinstance(step, Exception):
            raise step
        return step(message) if callable(step) else step
