"""What gateways say about messages later: which message is meant, and that it is told.

Whoever calls this has checked that the receipts are the gateway's own. All the same a gateway may speak only of
messages that its sender was asked to carry. Nothing in here decides what a receipt changes: that is one step in the
store.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from otpsvc.ids import MalformedId, parse_message_id
from otpsvc.messages.model import ReceiptFact
from otpsvc.messages.ports import HandoverObserver, PastMessages, ReceiptBook
from otpsvc.senders.contract import RULES, Receipt, ReceiptStatus, RejectionKind, Sender

MOST_RECEIPTS = 1000
LAST_WORDS = frozenset({ReceiptStatus.DELIVERED, ReceiptStatus.FAILED, ReceiptStatus.EXPIRED, ReceiptStatus.CANCELLED})
_FAILURES = LAST_WORDS - {ReceiptStatus.DELIVERED}
_MAX_ID_LENGTH = 255

_log = logging.getLogger(__name__)


class ReceiptService:
    """Takes the receipts of `senders`, by name; the mapping may be filled after this is made."""

    def __init__(
        self,
        *,
        book: ReceiptBook,
        past: PastMessages,
        senders: Mapping[str, Sender[Any]],
        observer: HandoverObserver | None = None,
    ) -> None:
        self._book = book
        self._past = past
        self._senders = senders
        self._observer = observer

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        """Take receipts in their order, at most `MOST_RECEIPTS` of them; repeating them all is harmless.

        Raises ApiError SERVICE_UNAVAILABLE where one could not be kept: its gateway should bring them again.
        """
        if sender not in self._senders:
            _log.warning("%d receipts for %s, which is no sender here", len(receipts), sender)
            return
        if len(receipts) > MOST_RECEIPTS:
            _log.warning("sender %s: %d receipts at once, %d are taken", sender, len(receipts), MOST_RECEIPTS)
        for receipt in receipts[:MOST_RECEIPTS]:
            outcome = await self._take(sender, receipt)
            if self._observer is not None:
                self._observer.receipt_taken(sender, receipt.status.value, outcome)

    async def _take(self, sender: str, receipt: Receipt) -> str:
        """Return `applied`, `repeated`, `foreign`, `unknown`, `parked` or `late`."""
        if receipt.status is ReceiptStatus.UNKNOWN:
            return "repeated"
        message_id, provider_id = _ours(receipt.message_id), _theirs(receipt.provider_id)
        if message_id is None and provider_id is None:
            return "unknown"
        fact = _fact(receipt)
        is_parked = False
        if message_id is None:
            message_id = await self._book.find_or_park(sender, receipt)
            is_parked = message_id is None
        if message_id is not None:
            outcome = await self._book.apply(message_id, sender, fact)
            if outcome != "unknown":
                return outcome
        if await self._tell_past(sender, receipt, fact, message_id, provider_id):
            return "late"
        return "parked" if is_parked else "unknown"

    async def _tell_past(
        self, sender: str, receipt: Receipt, fact: ReceiptFact, message_id: str | None, provider_id: str | None
    ) -> bool:
        """Write down what came after the store let go of the message, if that changes anything."""
        if receipt.status not in LAST_WORDS:
            return False
        past = await self._past.find_sent(sender, message_id=message_id, provider_id=provider_id)
        is_delivered = receipt.status is ReceiptStatus.DELIVERED
        if past is None or not (past.may_be_delivered if is_delivered else past.is_open):
            return False
        await self._book.tell(past, sender, fact)
        return True


def _fact(receipt: Receipt) -> ReceiptFact:
    if receipt.status not in _FAILURES:
        return ReceiptFact(status=receipt.status.value)
    kind = receipt.kind or RejectionKind.UNDELIVERABLE
    return ReceiptFact(status=receipt.status.value, kind=kind.value, next_may_try=RULES[kind].next_may_try)


def _ours(message_id: str | None) -> str | None:
    """Return a message id that we could have made; anything else a gateway says there means nothing."""
    try:
        return parse_message_id(message_id).text if message_id else None
    except MalformedId:
        return None


def _theirs(provider_id: str | None) -> str | None:
    return provider_id if provider_id and len(provider_id) <= _MAX_ID_LENGTH else None
