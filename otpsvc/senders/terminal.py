"""The sender `terminal`: prints each message on the developer's own screen.

Only a terminal counts as a screen. A pipe or a file would keep the code, so there it refuses; it exists under `dev`
only.
"""

import asyncio
import sys
import time
from typing import ClassVar, TextIO

from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    NoSettings,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    Sender,
    SenderContext,
)


class TerminalSender(Sender[NoSettings]):
    """Writes one line per message to standard output if that is a terminal."""

    is_dev_only: ClassVar[bool] = True
    capabilities = Capabilities(channels=frozenset(Channel))

    def __init__(self, name: str, settings: NoSettings, context: SenderContext, stream: TextIO | None = None) -> None:
        super().__init__(name, settings, context)
        self._stream = stream

    async def send(self, message: OutboundMessage) -> Outcome:
        """Show the message, or reject it as unavailable where nobody looks."""
        stream = self._stream if self._stream is not None else sys.stdout
        if stream is None or stream.closed or not stream.isatty():
            return Rejected(RejectionKind.UNAVAILABLE, "standard output is not a terminal")
        at = time.strftime("%H:%M:%S", time.localtime(self.context.clock.time()))
        line = f"  {at}  {message.channel} to {message.to}  {_printable(message.text)}\n"
        # A person can stop a terminal (Ctrl-S); the service must go on meanwhile.
        await asyncio.to_thread(_write, stream, line)
        return Accepted()


def _printable(text: str) -> str:
    """Keep a text on one line and harmless: line ends become a bar, other control characters a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text.replace("\n", " | "))


def _write(stream: TextIO, line: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "replace").decode(encoding))
    stream.flush()
