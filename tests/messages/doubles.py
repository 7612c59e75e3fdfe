"""What stands around a dispatcher in its tests, kept in memory: gates opened and closed by hand, and a receipt book."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from otpsvc.messages.dispatcher import Dispatcher
from otpsvc.messages.model import PastMessage, ReceiptFact
from otpsvc.messages.policy import Route, Routes, RouteStep
from otpsvc.messages.ports import Admission, HandoverObserver, Verdict
from otpsvc.messages.receipts import ReceiptService
from otpsvc.messages.router import Router
from otpsvc.senders.contract import Receipt, Sender, SentMessage
from otpsvc.testing import MemoryQueue


class HandGates:
    """Admits everybody but whom `closed` and `demoted` name; remembers what it was asked and told."""

    def __init__(self) -> None:
        self.closed: dict[str, Admission] = {}
        self.asked: list[str] = []
        self.probing: list[bool] = []
        self.under_way: set[tuple[str, str]] = set()
        self.reports: list[tuple[str, Verdict, float]] = []
        self.missing: list[tuple[str, str]] = []
        self.demoted: set[str] = set()
        self.fails_with: Exception | None = None

    async def admit(
        self, sender: str, permit: str, *, lapses_in_s: float, has_others: bool = False, may_probe: bool = True
    ) -> Admission:
        assert permit
        assert lapses_in_s > 0
        if self.fails_with is not None:
            raise self.fails_with
        self.asked.append(sender)
        self.probing.append(may_probe)
        admission = self.closed.get(sender, Admission())
        if has_others and sender in self.demoted and not admission.held:
            return Admission("demoted")
        if not admission.held:
            self.under_way.add((sender, permit))
        return admission

    async def report(self, sender: str, permit: str, verdict: Verdict, *, hold_s: float = 0.0) -> None:
        if permit:
            self.under_way.discard((sender, permit))
        self.reports.append((sender, verdict, hold_s))

    async def missed(self, sender: str, number: str) -> None:
        assert len(number) == 8
        self.missing.append((sender, number))

    def apart_s(self, sender: str) -> float:
        return 0.0


class MemoryBook:
    """Gateways' ids in front of the messages of a MemoryQueue; what comes too early is parked until it is expected."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.expected: dict[tuple[str, str], SentMessage] = {}
        self.parked: dict[tuple[str, str], list[Receipt]] = defaultdict(list)
        self.polls: dict[str, list[SentMessage]] = defaultdict(list)
        self.ended: list[SentMessage] = []
        self.told: list[tuple[str, str, ReceiptFact]] = []
        self.fails_with: Exception | None = None
        self._queue = queue

    async def expect(
        self, sent: SentMessage, *, sender: str, expires_at_ms: int, poll_in_s: float | None
    ) -> Sequence[Receipt]:
        self._raise_if_down()
        assert sent.provider_id
        assert expires_at_ms > sent.sent_at * 1000
        self.expected[sender, sent.provider_id] = sent
        if poll_in_s is not None:
            self.polls[sender].append(sent)
        return self.parked.pop((sender, sent.provider_id), [])

    async def find_or_park(self, sender: str, receipt: Receipt) -> str | None:
        self._raise_if_down()
        assert receipt.provider_id
        key = sender, receipt.provider_id
        if key in self.expected:
            return self.expected[key].message_id
        self.parked[key].append(receipt)
        return None

    async def apply(self, message_id: str, sender: str, fact: ReceiptFact) -> str:
        self._raise_if_down()
        return await self._queue.apply(message_id, sender, fact)

    async def tell(self, past: PastMessage, sender: str, fact: ReceiptFact) -> None:
        self._raise_if_down()
        self.told.append((past.message_id, sender, fact))

    async def due_polls(self, sender: str, *, limit: int, again_in_s: float) -> Sequence[SentMessage]:
        self._raise_if_down()
        return self.polls[sender][:limit]

    async def end_polls(self, sender: str, messages: Sequence[SentMessage]) -> None:
        self.ended += messages
        self.polls[sender] = [one for one in self.polls[sender] if one not in messages]

    def _raise_if_down(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with


class Observer:
    """Remembers calls and ends in `told`, the rest in lists of their own."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.seconds: list[float] = []
        self.holds: list[tuple[str, str]] = []
        self.duplicates: list[str] = []
        self.receipts: list[tuple[str, str, str]] = []

    def handed_over(self, sender: str, outcome: str, seconds: float) -> None:
        self.told.append((sender, outcome))
        self.seconds.append(seconds)

    def ended(self, status: str, reason: str) -> None:
        self.told.append((status, reason))

    def held(self, sender: str, why: str) -> None:
        self.holds.append((sender, why))

    def may_duplicate(self, sender: str) -> None:
        self.duplicates.append(sender)

    def receipt_taken(self, sender: str, status: str, outcome: str) -> None:
        self.receipts.append((sender, status, outcome))


class NoHistory:
    """A history that knows nothing."""

    async def find_sent(self, sender: str, *, message_id: str | None, provider_id: str | None) -> PastMessage | None:
        return None


def one_route(steps: Sequence[RouteStep], **rules: Any) -> Routes:
    """A route for every client, channel and number."""
    return Routes({("", ""): {"*": Route(steps=tuple(steps), **rules)}}) if steps else Routes()


def dispatcher_of(
    senders: Sequence[Sender[Any]],
    *,
    queue: MemoryQueue | None = None,
    book: MemoryBook | None = None,
    gates: HandGates | None = None,
    steps: Mapping[str, RouteStep] | None = None,
    rules: Mapping[str, Any] | None = None,
    observer: HandoverObserver | None = None,
    **parts: Any,
) -> Dispatcher:
    """A dispatcher whose one route asks `senders` in their order, with its parts kept in memory.

    `steps` replaces what the route says of single senders, `rules` are those of the route.
    """
    names = {sender.name: sender for sender in senders}
    book = book or MemoryBook(queue) if queue is not None else book
    assert book is not None
    route = one_route([(steps or {}).get(name, RouteStep(sender=name)) for name in names], **(rules or {}))
    receipts = ReceiptService(book=book, past=NoHistory(), senders=names, observer=observer)
    return Dispatcher(
        router=Router(route, (), names),
        senders=names,
        gates=gates or HandGates(),
        book=book,
        take_receipts=receipts.take,
        observer=observer,
        **parts,
    )
