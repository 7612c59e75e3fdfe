"""The accounting of routes and receipts can fail: each rule is shown a sound story with one thing wrong in it."""

from collections.abc import Callable

import pytest

from tests.chaos.accounts import faults
from tests.chaos.evidence import UNKNOWN_OUTCOME, EventRow, Evidence, MessageRow
from tests.chaos.gateways import Name, Telling
from tests.chaos.ledger import LedgerLine

Change = Callable[[Evidence], None]


def line(message_id: str, sender: str, answer: str = "accepted") -> LedgerLine:
    return LedgerLine(sender, message_id, "+33610000000", "123456 est votre code", 1, answer)


def told(sender: str, message_id: str, said: str, name: Name = "ours", status: int = 200) -> Telling:
    return Telling(sender, message_id, said, name, status=status)


def event(
    name: str, message_id: str, sender: str = "", outcome: str = "", *, dup: bool = False, at: int = 0, why: str = ""
) -> EventRow:
    event_id = f"evt_{message_id}_{name}_{sender}_{outcome}_{dup}_{at}"
    return EventRow(event_id, name, message_id.upper(), message_id, 1000 + at, None, sender, outcome, dup, why)


def sound() -> Evidence:
    """Message a went on because the first was silent, b because it failed, c failed in the end, d left in silence.

    Of e the second failed while the first, which took it, said nothing more. Of f, g and h nobody knew the outcome;
    then f was sent and failed, g was sent by the one that was silent, and h was delivered.
    """
    return Evidence(
        ledger=[
            *(line(name, "once") for name in "abcef"), *(line(name, "once", "unknown") for name in "dgh"),
            *(line(name, "often") for name in "abdeg"),
        ],
        tellings=[
            told("often", "a", "delivered"), told("once", "b", "failed"), told("once", "c", "failed"),
            told("once", "d", "delivered", name="theirs"),
            told("often", "e", "failed"), told("once", "f", "failed"), told("often", "g", "failed"),
            told("once", "g", "sent"), told("once", "h", "delivered"),
            Telling("once", "d", "delivered", "ours", is_forged=True, status=401),
        ],
        events=[
            *(event("otp.sent", name) for name in "abcdefgh"),
            *(event("otp.expired", name, at=9) for name in "abcdefgh"),
            event("message.sent", "a", "once"), event("message.tried", "a", "once", "silent", dup=True),
            event("message.sent", "a", "often"), event("message.delivered", "a", "often"),
            event("message.sent", "b", "once"), event("message.tried", "b", "once", "undeliverable"),
            event("message.sent", "b", "often"),
            event("message.sent", "c", "once"), event("message.tried", "c", "once", "undeliverable"),
            event("message.tried", "c", "often", "retry_later"),
            event("message.tried", "c", "often", "retry_later", at=1),
            event("message.failed", "c", why="undeliverable"),
            event("message.tried", "d", "once", "silent"), event("message.tried", "d", "once", "silent", dup=True),
            event("message.sent", "d", "often"),
            event("message.sent", "e", "once"), event("message.tried", "e", "once", "silent", dup=True),
            event("message.sent", "e", "often", at=1),
            event("message.failed", "f", "once", why=UNKNOWN_OUTCOME), event("message.sent", "f", "once", at=1),
            event("message.failed", "f", "once", why="undeliverable", at=2),
            event("message.tried", "g", "once", "silent", dup=True), event("message.sent", "g", "often"),
            event("message.failed", "g", "once", why=UNKNOWN_OUTCOME, at=1), event("message.sent", "g", "once", at=2),
            event("message.failed", "h", "once", why=UNKNOWN_OUTCOME), event("message.delivered", "h", "once", at=1),
        ],
        messages=[
            MessageRow("a", "A", "delivered", "", "often", 2), MessageRow("b", "B", "sent", "", "often", 2),
            MessageRow("c", "C", "failed", "undeliverable", "once", 3), MessageRow("d", "D", "sent", "", "often", 2),
            MessageRow("e", "E", "sent", "", "often", 2), MessageRow("f", "F", "failed", "undeliverable", "once", 1),
            MessageRow("g", "G", "sent", "", "once", 2), MessageRow("h", "H", "delivered", "", "once", 1),
        ],
        idempotent=frozenset({"often"}),
        now_ms=2000,
    )  # fmt: skip


def of_routes(evidence: Evidence) -> list[str]:
    """What is wrong but that nobody asked for these codes."""
    return [fault for fault in faults(evidence) if not fault.startswith("8 OTPs")]


def drop(name: str, message_id: str, *, dup: bool | None = None) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.events = [
            row
            for row in evidence.events
            if (row.event, row.message_id) != (name, message_id) or dup not in {None, row.may_duplicate}
        ]

    return change


def add(*facts: EventRow | LedgerLine | Telling) -> Change:
    def change(evidence: Evidence) -> None:
        for fact in facts:
            if isinstance(fact, EventRow):
                evidence.events.append(fact)
            elif isinstance(fact, LedgerLine):
                evidence.ledger.append(fact)
            else:
                evidence.tellings.append(fact)

    return change


def row(number: int, **changes: str) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.messages[number] = evidence.messages[number]._replace(**changes)  # type: ignore[arg-type]  # all are text

    return change


def unsaid(sender: str, message_id: str) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.tellings = [one for one in evidence.tellings if (one.sender, one.message_id) != (sender, message_id)]

    return change


def test_a_sound_story_has_no_fault() -> None:
    assert of_routes(sound()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("message.tried", "a"), "a: once and often have it, of once it is told nothing"),
        (drop("message.tried", "a"), "a: 2 copies, 0 possible duplicates told"),
        (drop("message.tried", "d", dup=True), "d: once and often have it, of once it is told silent"),
        (unsaid("once", "b"), "b: once and often have it, of once it is told undeliverable"),
        (unsaid("once", "b"), "b: 2 copies, 0 possible duplicates told"),
        (add(line("a", "third")), "a: 3 senders have it"),
        (add(line("a", "once")), "a: 2 copies went out by once"),
        (add(event("message.tried", "a", "often", "silent", dup=True)), "a: 2 possible duplicates told"),
        (add(event("message.tried", "a", "once", "silent", dup=True, at=1)), "a: of once silent is told 2 times"),
        (add(event("message.tried", "b", "once", "undeliverable", at=1)), "b: of once undeliverable is told 2 times"),
        (add(event("message.tried", "b", "often", "blocked", dup=True)), "b: often was blocked, and a possible"),
        (add(event("message.sent", "b", "often", at=1)), "b: 3 ends"),
        (add(event("message.expired", "b")), "b: 3 ends"),
        (add(event("message.failed", "a")), "a: 4 ends"),
        (drop("message.delivered", "a"), "a: it is delivered, its end was message.sent"),
        (unsaid("often", "a"), "a: it is delivered by often, who never said so"),
        (row(0, status="sent"), "a: often said that it was delivered, it is sent by often"),
        (row(7, status="failed", reason=UNKNOWN_OUTCOME), "h: once said that it was delivered, it is failed by once"),
        (drop("message.delivered", "h"), "h: it is delivered, its end was message.failed unknown_outcome"),
        (row(6, status="failed", reason=UNKNOWN_OUTCOME), "g: it is failed unknown_outcome, its end was message.sent"),
        (add(event("message.sent", "g", "once", at=3)), "g: 4 ends"),
        (add(*(event("message.failed", "g", "once", why=UNKNOWN_OUTCOME, at=at) for at in (3, 4, 5))), "g: 6 ends"),
        (add(event("message.sent", "h", "once", at=2)), "h: 3 ends"),
        (add(event("message.failed", "h", "once", why=UNKNOWN_OUTCOME, at=2)), "h: 3 ends"),
        (add(event("message.failed", "f", "once", why="blocked", at=3)), "f: 4 ends"),
        (add(event("message.expired", "h", at=2)), "h: 3 ends"),
        (add(event("message.failed", "d", why=UNKNOWN_OUTCOME)), "d: nobody knows its outcome, and nobody is named"),
        (add(told("once", "e", "failed")), "e: often said that it failed, it is sent by often"),
        (row(2, status="sent"), "c: once said that it failed, it is sent by once"),
        (row(1, sender="third"), "b: recorded as sent by third, who did not take it"),
        (
            row(2, status="expired", reason="code_expired", sender=""),
            "c: it is expired code_expired, its end was message.failed",
        ),
        (row(3, status="failed", reason="unavailable"), "d: a sender took it, it is recorded as failed (unavailable)"),
        (add(told("once", "b", "sent", status=0)), "b: a receipt of once was answered 0"),
        (add(told("once", "b", "sent", status=500)), "b: a receipt of once was answered 500"),
        (
            add(Telling("once", "b", "sent", "ours", is_forged=True, status=200)),
            "b: a receipt of once was answered 200",
        ),
    ],
)
def test_a_broken_promise_is_found(change: Change, said: str) -> None:
    evidence = sound()
    change(evidence)
    found = of_routes(evidence)
    assert any(fault.startswith(said) for fault in found), found
