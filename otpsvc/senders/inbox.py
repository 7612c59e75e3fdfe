"""The sender `inbox`: keeps the last messages in memory, for the developer's inbox page and for tests.

It shows plain codes to whoever can open that page, so it exists under `dev` only and never writes anything down.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar

import msgspec

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

KEPT_MESSAGES = 1000


class InboxEntry(msgspec.Struct, frozen=True):
    """One message as a developer reads it."""

    message_id: str
    to: str
    text: str
    sent_at: datetime

    def __repr__(self) -> str:
        """Name the message, hide the number and the text."""
        return f"InboxEntry({self.message_id})"


class InboxSender(Sender[NoSettings]):
    """A ring of the last `KEPT_MESSAGES` messages."""

    is_dev_only: ClassVar[bool] = True
    capabilities = Capabilities(channels=frozenset(Channel), is_idempotent=True)

    def __init__(self, name: str, settings: NoSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self._entries: dict[str, InboxEntry] = {}

    async def send(self, message: OutboundMessage) -> Outcome:
        """Keep the message; the same id a second time changes nothing."""
        if message.message_id not in self._entries:
            sent_at = datetime.fromtimestamp(self.context.clock.time(), UTC)
            entry = InboxEntry(message.message_id, message.to, message.text, sent_at)
            self._entries[message.message_id] = entry
            if len(self._entries) > KEPT_MESSAGES:
                del self._entries[next(iter(self._entries))]
        return Accepted(provider_id=message.message_id)

    def list(self, to: str | None = None) -> Sequence[InboxEntry]:
        """Return what is kept, newest first; `to` (E.164) keeps one number's only."""
        newest_first = reversed(self._entries.values())
        return [entry for entry in newest_first if to is None or entry.to == to]
