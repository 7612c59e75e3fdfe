"""What message delivery needs from the outside; `redis` implements the queue, `redis` and `postgres` the records."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from otpsvc.ids import MessageId
from otpsvc.messages.model import (
    ClaimedBatch,
    MessageStatus,
    MessageView,
    PastMessage,
    ReceiptFact,
    Tried,
)
from otpsvc.senders.contract import Receipt, SentMessage

# How a call went for the breaker: the gateway works, it does not, or nobody can tell.
Verdict = Literal["works", "fails", "unclear"]


class MessageQueue(Protocol):
    """The due-set of one partition and the records behind it. Every call is one atomic step in the store.

    A call that raises ApiError may have run all the same. `record_sent`, `record_final` and `release` may therefore be
    repeated: the token that settled a lease is known, and is told True again.
    """

    async def wait(self, timeout_s: float) -> None:
        """Return when new work may be due, at the latest after `timeout_s`. Raises ApiError SERVICE_UNAVAILABLE."""
        ...

    async def rewake(self) -> None:
        """Leave a wake token for another worker: a `wait` that was cancelled may have taken one with it."""
        ...

    async def claim(self, *, limit: int, lease_s: float) -> ClaimedBatch:
        """Lease up to `limit` due messages under fresh tokens.

        A message whose code is no longer wanted (verified, superseded, cancelled, replaced) or has under 30 s of life
        is not handed out: it ends as `cancelled` or `expired` within the same step.
        """
        ...

    async def begin(
        self, message_id: str, token: str, *, sender: str, tried: Sequence[Tried] = (), may_duplicate: bool = False
    ) -> bool:
        """Write down that the call of `sender` begins now, in place of any sender written there before.

        To be asked before every call of a sender. `tried` are the steps that are over and not yet written down;
        `may_duplicate` says that another sender may have the message already. False, and nothing is written, where the
        lease was lost, the code is no longer wanted, or a receipt has settled the message. Who gets no answer must not
        send.
        """
        ...

    async def record_sent(
        self,
        message_id: str,
        token: str,
        *,
        sender: str,
        provider_id: str | None,
        tried: Sequence[Tried] = (),
        receipt_in_s: float | None = None,
    ) -> bool:
        """Record that `sender` took the message; False if the token is stale (nothing changed).

        With `receipt_in_s` the text is kept so long: the message falls due again (`awaiting`) if by then no receipt has
        said that it left, and at once if one says that it failed. A receipt that came before this counts as well.
        """
        ...

    async def record_kept(self, message_id: str, token: str, *, tried: Sequence[Tried] = ()) -> bool:
        """Leave a message that was sent as it is: nobody else will be asked. False if the token is stale."""
        ...

    async def record_final(
        self, message_id: str, token: str, status: MessageStatus, *, reason: str, tried: Sequence[Tried] = ()
    ) -> bool:
        """End the message as `failed`, `expired` or `cancelled` with a reason; False if the token is stale."""
        ...

    async def release(
        self,
        message_id: str,
        token: str,
        *,
        due_in_s: float,
        reason: str,
        begun_by: str = "",
        tried: Sequence[Tried] = (),
    ) -> bool:
        """Give the message back, due again after `due_in_s`; False if the token is stale.

        `begun_by` replaces what `begin` wrote: the sender whose outcome is still unknown, empty where there is none. A
        receipt that has settled that question meanwhile is obeyed instead.
        """
        ...


class ReceiptBook(Protocol):
    """Which message a gateway means, and what its receipts change. Every call is one atomic step in the store.

    All raise ApiError SERVICE_UNAVAILABLE where the store cannot be asked.
    """

    async def expect(
        self, sent: SentMessage, *, sender: str, expires_at_ms: int, poll_in_s: float | None
    ) -> Sequence[Receipt]:
        """Note the gateway's id of a message that a sender has just accepted; may be repeated.

        To be done before `record_sent`, so that no crash can leave a message that nobody finds. Returns the receipts
        that came earlier than this and were parked. With `poll_in_s` the message is polled, first after so long.
        """
        ...

    async def find_or_park(self, sender: str, receipt: Receipt) -> str | None:
        """Return the id of the message that `receipt.provider_id` names, or park the receipt for two minutes."""
        ...

    async def apply(self, message_id: str, sender: str, fact: ReceiptFact) -> str:
        """Tell the message what was said about it. States only move forward.

        Returns `applied`; `repeated`: nothing new; `foreign`: this sender was never asked to carry it; `unknown`: the
        store does not hold it (any more). Raises ApiError SERVICE_UNAVAILABLE also while too many events wait.
        """
        ...

    async def tell(self, past: PastMessage, sender: str, fact: ReceiptFact) -> None:
        """Write the event of a receipt about a message that only the history knows."""
        ...

    async def due_polls(self, sender: str, *, limit: int, again_in_s: float) -> Sequence[SentMessage]:
        """Return accepted messages to poll now, each claimed for `again_in_s`; those past their time are let go."""
        ...

    async def end_polls(self, sender: str, messages: Sequence[SentMessage]) -> None:
        """Poll these no more."""
        ...


class PastMessages(Protocol):
    """Messages in the history, found for a receipt."""

    async def find_sent(self, sender: str, *, message_id: str | None, provider_id: str | None) -> PastMessage | None:
        """Return the message of these ids that this sender carried, None if there is none. Raises ApiError."""
        ...


class Admission(NamedTuple):
    """Whether a sender may be called now. `held` is empty if so, else `open`, `rate` or `crowd`, then for `after_s`.

    `demoted` says only that others should go first.
    """

    held: str = ""
    after_s: float = 0.0


class SenderGates(Protocol):
    """Breaker, rate and concurrency of each sender, and whether its receipts come: one state for all workers."""

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
        """Ask to call `sender` once. The permit counts as under way until it is reported or has lapsed.

        With `has_others` another sender could carry the message, so that one whose receipts do not come is held as
        `demoted`, but for a try now and then; `may_probe` says whether this message would do as one. Raises ApiError
        SERVICE_UNAVAILABLE.
        """
        ...

    async def report(self, sender: str, permit: str, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        """Give a permit back and say how the call went; never raises: a permit that is not given back lapses.

        `hold_s`: the gateway asked to be left alone so long. `permit` may be empty for a fault that is no call's.
        """
        ...

    async def missed(self, sender: str, number: str) -> None:
        """Take note that no receipt of a message came in time; never raises.

        `number` is a sign of eight letters, the same for the same number: in a row each counts once.
        """
        ...

    def apart_s(self, sender: str) -> float:
        """Return how far apart those who wait for `sender` should ask again: as often as it could take one."""
        ...


class MessageRecords(Protocol):
    """Messages as they can be looked up: the living ones, or the history."""

    async def find(self, client_id: str, mode: str, message_id: MessageId) -> MessageView | None:
        """Return the client's message; None for one that is unknown, another client's or of the other mode."""
        ...


class HandoverObserver(Protocol):
    """Counts what delivery does. Its methods must be quick and must not raise: they run in the middle of it."""

    def handed_over(self, sender: str, outcome: str, seconds: float) -> None:
        """Take note of one call of a sender, by its one word: `telling.word_of`."""
        ...

    def ended(self, status: str, reason: str) -> None:
        """Take note of a message that a worker brought to its end; `reason` is empty for one that was sent."""
        ...

    def held(self, sender: str, why: str) -> None:
        """Take note of a call that was not made, by `Admission.held`, or of a step left out: `quiet`, `price`."""
        ...

    def may_duplicate(self, sender: str) -> None:
        """Take note that a message was given to the next sender although `sender` may have it."""
        ...

    def receipt_taken(self, sender: str, status: str, outcome: str) -> None:
        """Take note of a receipt: its status and `applied`, `repeated`, `foreign`, `unknown`, `parked`, `late`."""
        ...
