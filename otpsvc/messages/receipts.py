"""What gateways say about messages later: which message is meant, and that it is told.

Whoever calls this has checked that the receipts are the gateway's own. All the same a gateway may speak only of
messages that its sender was asked to carry. Nothing in here decides what a receipt changes: that is one step in the
store.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from otpsvc.ids import MalformedId, parse_message_id
from otpsvc.messages.model import ReceiptFact
from otpsvc.messages.ports import HandoverObserver, PastMessages, ReceiptBook
from otpsvc.senders.contract import RULES, Receipt, ReceiptStatus, RejectionKind, Sender

MOST_RECEIPTS = 1000
LAST_WORDS = frozenset({ReceiptStatus.DELIVERED, ReceiptStatus.FAILED, ReceiptStatus.EXPIRED, ReceiptStatus.CANCELLED})
_FAILURES = LAST_WORDS - {ReceiptStatus.DELIVERED}
_HAS_LEFT = frozenset({ReceiptStatus.SENT, ReceiptStatus.DELIVERED})
_UNHELD = frozenset({"unknown", "parked"})
_IS_NEWS = frozenset({"applied", "late"})
_MAY_BE_NEWS = _IS_NEWS | {"parked"}
_MAX_ID_LENGTH = 255
_MAX_DETAIL_LENGTH = 80
_MOST_DIGITS = 5  # more of them could be a code of ours, or a number

_log = logging.getLogger(__name__)


class ReceiptService:
    """Takes the receipts of `senders`, by name; the mapping may be filled after this is made.

    `heard` is told of each sender whose receipt says for the first time that a message has left; it never raises.
    """

    def __init__(
        self,
        *,
        book: ReceiptBook,
        past: PastMessages,
        senders: Mapping[str, Sender[Any]],
        observer: HandoverObserver | None = None,
        heard: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._book = book
        self._past = past
        self._senders = senders
        self._observer = observer
        self._heard = heard

    async def take(self, sender: str, receipts: Sequence[Receipt]) -> None:
        """Take receipts in their order, at most `MOST_RECEIPTS` of them; repeating them all is harmless.

        Raises ApiError SERVICE_UNAVAILABLE where one could not be kept: its gateway should bring them again.
        """
        if sender not in self._senders:
            _log.warning("%d receipts for %s, which is no sender here", len(receipts), sender)
            return
        if len(receipts) > MOST_RECEIPTS:
            _log.warning("sender %s: %d receipts at once, %d are taken", sender, len(receipts), MOST_RECEIPTS)
        unheld = []
        for receipt in receipts[:MOST_RECEIPTS]:
            message_id, outcome = await self._apply(sender, receipt)
            if outcome in _UNHELD and receipt.status in LAST_WORDS:
                unheld.append((receipt, message_id, outcome))
            else:
                await self._note(sender, receipt, outcome)
        # A history that is away must not keep what the store holds from being heard.
        for receipt, message_id, outcome in unheld:
            is_told = await self._tell_past(sender, receipt, message_id)
            await self._note(sender, receipt, "late" if is_told else outcome)

    async def _apply(self, sender: str, receipt: Receipt) -> tuple[str | None, str]:
        """Return the message that is meant, and `applied`, `repeated`, `foreign`, `unknown` or `parked`."""
        if receipt.status is ReceiptStatus.UNKNOWN:
            return None, "repeated"
        message_id = _ours(receipt.message_id)
        if message_id is None and _theirs(receipt.provider_id) is not None:
            message_id = await self._book.find_or_park(sender, receipt)
            if message_id is None:
                return None, "parked"
        if message_id is None:
            return None, "unknown"
        return message_id, await self._book.apply(message_id, sender, _fact(receipt))

    async def _tell_past(self, sender: str, receipt: Receipt, message_id: str | None) -> bool:
        """Write down what came after the store let go of the message, if that changes anything."""
        provider_id = _theirs(receipt.provider_id)
        if message_id is None and provider_id is None:
            return False
        past = await self._past.find_sent(sender, message_id=message_id, provider_id=provider_id)
        is_delivered = receipt.status is ReceiptStatus.DELIVERED
        if past is None or not (past.may_be_delivered if is_delivered else past.is_open):
            return False
        await self._book.tell(past, sender, _fact(receipt))
        return True

    async def _note(self, sender: str, receipt: Receipt, outcome: str) -> None:
        word = outcome
        if receipt.is_unmapped is True and receipt.status in _FAILURES and outcome in _MAY_BE_NEWS:
            word = "unmapped"
            _log.warning("sender %s: a message failed under a code that no table knows: %s", sender, _shown(receipt))
        if self._observer is not None:
            self._observer.receipt_taken(sender, receipt.status.value, word)
        if self._heard is not None and receipt.status in _HAS_LEFT and outcome in _IS_NEWS:
            await self._heard(sender)


def _fact(receipt: Receipt) -> ReceiptFact:
    if receipt.status not in _FAILURES:
        return ReceiptFact(status=receipt.status.value)
    kind = receipt.kind or RejectionKind.UNDELIVERABLE
    return ReceiptFact(status=receipt.status.value, kind=kind.value, next_may_try=RULES[kind].next_may_try)


def _shown(receipt: Receipt) -> str:
    """Return a receipt's detail if it can be logged: a stranger's may hold the number, or digits of the text."""
    detail: object = receipt.detail
    if not isinstance(detail, str) or len(detail) > _MAX_DETAIL_LENGTH or not detail.isprintable():
        return "(not shown)"
    return detail if sum(map(str.isdigit, detail)) <= _MOST_DIGITS else "(not shown)"


def _ours(message_id: str | None) -> str | None:
    """Return a message id that we could have made; anything else a gateway says there means nothing."""
    try:
        return parse_message_id(message_id).text if message_id else None
    except MalformedId:
        return None


def _theirs(provider_id: str | None) -> str | None:
    is_usable = provider_id and len(provider_id) <= _MAX_ID_LENGTH and provider_id.isprintable()
    return provider_id if is_usable else None
