"""Which ids of the SMSC's are which messages of ours: one id and one receipt per part there, one message here.

A message is delivered when every part is, and failed when one is. That is known in the memory of the process that sent
it, for its last 10 000 parts. The id that the house keeps for a message of several parts is that of its last part with
a plus at the end, which no receipt bears: so a process that does not know the other parts can say that it failed, but
never that it was delivered.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from otpsvc.senders.contract import Receipt, ReceiptStatus
from otpsvc.senders.smpp_receipts import Told

MARK = "+"
_MOST_PARTS = 10_000
_MOST_EARLY = 1000
_FAILURES = frozenset({ReceiptStatus.FAILED, ReceiptStatus.EXPIRED, ReceiptStatus.CANCELLED})


@dataclass(eq=False)
class Carried:
    """One message of `n_parts` parts, as far as it is sent and reported.

    `provider_id` is what the house knows it by, once all of it is taken; None if the SMSC gave the last part no id.
    """

    message_id: str
    n_parts: int
    n_taken: int = 0
    provider_id: str | None = None
    delivered: set[str] = field(default_factory=set)

    @property
    def is_delivered(self) -> bool:
        """Whether every part is; a part without an id never is."""
        return len(self.delivered) == self.n_parts


class CarriedMessages:
    """What this process sent lately. Nothing in here waits."""

    def __init__(self) -> None:
        self._parts: OrderedDict[str, Carried] = OrderedDict()
        self._early: OrderedDict[str, None] = OrderedDict()
        self._n_open = 0

    def begin(self, message_id: str, n_parts: int) -> Carried:
        """Open a message whose parts are sent now; `end` must follow."""
        self._n_open += n_parts > 1
        return Carried(message_id, n_parts)

    def taken(self, message: Carried, part_id: str | None) -> None:
        """Take note that the SMSC took the next part, under this id."""
        message.n_taken += 1
        if part_id is None:
            return
        if message.n_taken == message.n_parts:
            message.provider_id = part_id if message.n_parts == 1 else part_id + MARK
        self._parts[part_id] = message
        if part_id in self._early:
            message.delivered.add(part_id)
        if len(self._parts) > _MOST_PARTS:
            self._parts.popitem(last=False)

    def end(self, message: Carried) -> None:
        """No more parts of it are sent, whether all were taken or not."""
        self._n_open -= message.n_parts > 1
        if not self._n_open:
            self._early.clear()

    def receipts(self, told: Told) -> Sequence[Receipt]:
        """Say what this means for messages: nothing, where it is one part of several and not the one that decides."""
        message = self._parts.get(told.provider_id)
        if message is None:
            return self._of_unknown(told)
        if told.status is ReceiptStatus.DELIVERED:
            message.delivered.add(told.provider_id)
        is_decisive = told.status in _FAILURES or (told.status is ReceiptStatus.DELIVERED and message.is_delivered)
        if message.n_parts > 1 and not is_decisive:
            return ()
        return (_receipt(told, message.provider_id, message.message_id),)

    def _of_unknown(self, told: Told) -> Sequence[Receipt]:
        if told.status is ReceiptStatus.DELIVERED and self._n_open:
            # It may have come before the answer that would tell of which part it speaks.
            self._early[told.provider_id] = None
            if len(self._early) > _MOST_EARLY:
                self._early.popitem(last=False)
        names = [told.provider_id] + ([told.provider_id + MARK] if told.status in _FAILURES else [])
        return [_receipt(told, name) for name in names]


def _receipt(told: Told, provider_id: str | None, message_id: str | None = None) -> Receipt:
    return Receipt(
        status=told.status,
        message_id=message_id,
        provider_id=provider_id,
        happened_at=told.happened_at,
        kind=told.kind,
        detail=told.detail,
        is_unmapped=told.is_unmapped,
    )
