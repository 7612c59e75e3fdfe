"""The accounting itself: a sound story has no fault, and every kind of broken promise is found.

A checker that cannot fail would let every fault test pass, so each rule is shown a story with one thing wrong in it.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.accounts import faults
from tests.chaos.calls import Answer
from tests.chaos.evidence import EventRow, Evidence, MessageRow, OtpRow
from tests.chaos.journal import Operation
from tests.chaos.ledger import LedgerLine

Change = Callable[[Evidence], None]


def sent(otp_id: str, message_id: str, kind: Any = "send", number: str = "") -> Operation:
    body = {"otp_id": otp_id, "message_id": message_id, "attempts_remaining": 3}
    return Operation(kind, f"{kind}-{message_id}", number or f"+336{otp_id}", otp_id, told=[Answer(200, body, False)])


def told(otp_id: str, key: str, *, is_right: bool | None, valid: bool, left: int = 0) -> Operation:
    body = {"otp_id": otp_id, "valid": valid} | ({} if valid else {"attempts_remaining": left})
    return Operation("guess", key, otp_id=otp_id, is_right=is_right, told=[Answer(200, body, False)])


def refused(kind: Any, otp_id: str, key: str, status: int, code: str) -> Operation:
    return Operation(kind, key, otp_id=otp_id, told=[Answer(status, {"error": {"code": code}}, False)])


def line(message_id: str, answer: str = "accepted", sender: str = "once") -> LedgerLine:
    return LedgerLine(sender, message_id, "+33610000000", "123456 est votre code", 1, answer)


WHY: dict[str, Any] = {
    "message.failed": {"sender": "once", "reason": "unknown_outcome"},
    "message.cancelled": {"reason": "superseded"},
}


def sound() -> Evidence:
    """One OTP verified after a wrong guess and a resend, one locked, one superseded by another, one never answered."""
    operations = [
        sent("A", "a1"),
        told("A", "g1", is_right=False, valid=False, left=2),
        sent("A", "a2", "resend"),
        told("A", "g2", is_right=True, valid=True),
        refused("guess", "A", "g3", 404, "OTP_NOT_FOUND"),
        sent("B", "b1"),
        *(told("B", f"w{left}", is_right=False, valid=False, left=left) for left in (2, 1, 0)),
        refused("guess", "B", "w9", 429, "OTP_MAX_ATTEMPTS"),
        sent("C", "c1", number="+33620000000"),
        sent("D", "d1", number="+33620000000"),
        Operation("guess", "lost", otp_id="D", is_right=True, n_lost=2),
        Operation("send", "lost-send", "+33630000000", n_lost=1),
    ]
    rows = [
        ("otp.sent", "A", "a1", None), ("message.sent", "A", "a1", None), ("otp.rejected", "A", "a1", 1),
        ("otp.resent", "A", "a2", None), ("message.sent", "A", "a2", None), ("otp.verified", "A", "a2", 2),
        ("otp.sent", "B", "b1", None), ("message.failed", "B", "b1", None), ("otp.rejected", "B", "b1", 1),
        ("otp.rejected", "B", "b1", 2), ("otp.rejected", "B", "b1", 3), ("otp.locked", "B", "b1", None),
        ("otp.sent", "C", "c1", None), ("message.cancelled", "C", "c1", None), ("otp.superseded", "C", "c1", None),
        ("otp.sent", "D", "d1", None), ("message.sent", "D", "d1", None),
    ]  # fmt: skip
    messages = [
        MessageRow("a1", "A", "sent", "", "once", 1), MessageRow("a2", "A", "sent", "", "often", 2),
        MessageRow("b1", "B", "failed", "unknown_outcome", "once", 1),
        MessageRow("c1", "C", "cancelled", "superseded", "", 0), MessageRow("d1", "D", "sent", "", "once", 1),
    ]  # fmt: skip
    return Evidence(
        operations=operations,
        ledger=[
            line("a1"),
            line("a2", sender="often"),
            line("a2", sender="often"),
            line("b1"),
            line("d1", "retry_later"),
            line("d1"),
        ],
        events=[
            EventRow(f"evt_{n}", event, otp, msg, 1000 + n, tried, **WHY.get(event, {}))
            for n, (event, otp, msg, tried) in enumerate(rows)
        ],
        messages=messages,
        living_messages=list(messages),
        living_otps=[
            OtpRow("A", "a2", "verified", 2, 1, 9000),
            OtpRow("B", "b1", "locked", 3, 0, 9000),
            OtpRow("C", "c1", "superseded", 0, 0, 9000),
            OtpRow("D", "d1", "pending", 0, 0, 9000),
        ],
        idempotent=frozenset({"often"}),
        now_ms=2000,
    )


def test_a_sound_story_has_no_fault() -> None:
    assert faults(sound()) == []


def test_what_nobody_was_told_may_have_happened_or_not() -> None:
    """D's right guess and one more send were lost: with them done, all is still in order."""
    done = sound()
    done.events.append(EventRow("evt_v", "otp.verified", "D", "d1", 1100, 1))
    done.living_otps[3] = OtpRow("D", "d1", "verified", 1, 0, 9000)
    done.events += [
        EventRow("evt_s", "otp.sent", "E", "e1", 1101),
        EventRow("evt_e", "message.expired", "E", "e1", 1102, reason="code_expired"),
    ]
    done.messages.append(MessageRow("e1", "E", "expired", "code_expired", "", 0))
    assert faults(done) == []


def drop(event: str, otp_id: str) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.events = [row for row in evidence.events if (row.event, row.otp_id) != (event, otp_id)]

    return change


def add(event: str, otp_id: str, message_id: str = "", attempt: int | None = None, at: int = 1500) -> Change:
    return lambda evidence: evidence.events.append(EventRow(f"evt_{event}", event, otp_id, message_id, at, attempt))


def row(number: int, **changes: Any) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.messages[number] = evidence.messages[number]._replace(**changes)
        evidence.living_messages = list(evidence.messages)

    return change


def otp(number: int, **changes: Any) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.living_otps[number] = evidence.living_otps[number]._replace(**changes)

    return change


def operation(added: Operation) -> Change:
    return lambda evidence: evidence.operations.append(added)


def ledger(*lines: LedgerLine) -> Change:
    return lambda evidence: evidence.ledger.extend(lines)


def more(**changes: Any) -> Change:
    def change(evidence: Evidence) -> None:
        for name, value in changes.items():
            setattr(evidence, name, value)

    return change


def doubled(evidence: Evidence) -> None:
    evidence.events.append(evidence.events[3])


def second_answer(valid: bool) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.operations[3].told.append(Answer(200, {"otp_id": "A", "valid": valid}, True))

    return change


def other_otp(evidence: Evidence) -> None:
    evidence.operations[0].told.append(Answer(200, {"otp_id": "Z", "message_id": "z1"}, True))


def wrong_told_right(evidence: Evidence) -> None:
    evidence.operations[3].is_right = False


def lost_row(evidence: Evidence) -> None:
    del evidence.messages[1]


def lost_ledger(evidence: Evidence) -> None:
    evidence.ledger = [one for one in evidence.ledger if one.message_id != "a1"]


def no_longer_idempotent(evidence: Evidence) -> None:
    evidence.idempotent = frozenset()


def eleventh_code(evidence: Evidence) -> None:
    for n in range(9):
        evidence.operations.append(sent(f"N{n}", f"n{n}", number="+33620000000"))
        evidence.events += [
            EventRow(f"evt_n{n}", "otp.sent", f"N{n}", f"n{n}", 1200),
            EventRow(f"evt_m{n}", "message.sent", f"N{n}", f"n{n}", 1201),
        ]
        evidence.messages.append(MessageRow(f"n{n}", f"N{n}", "sent", "", "once", 1))
        evidence.ledger.append(line(f"n{n}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (doubled, "event evt_3 is there 2 times"),
        (drop("otp.rejected", "A"), "A: 1 attempts counted, 2 told, 0 unknown"),
        (add("otp.rejected", "A", attempt=3, at=1004), "A: 3 attempts counted, 2 told"),
        (otp(0, attempts=1), "A: 1 attempts in Redis, 2 in PostgreSQL"),
        (add("otp.rejected", "D", attempt=2), "D: its attempts are numbered [2]"),
        (add("otp.rejected", "B", attempt=4, at=1011), "B: 4 guesses were compared"),
        (drop("otp.locked", "B"), "B: locked in Redis, no end in PostgreSQL"),
        (drop("otp.locked", "B"), "B: told OTP_MAX_ATTEMPTS, recorded as None"),
        (add("otp.expired", "B"), "B: ended 2 times"),
        (add("otp.verified", "B", attempt=3), "B: ended 2 times"),
        (add("otp.rejected", "C", attempt=1), "C: otp.rejected after otp.superseded"),
        (drop("otp.sent", "C"), "C: 0 otp.sent"),
        (drop("otp.sent", "C"), "C: told sent, never recorded"),
        (drop("otp.verified", "A"), "A: told right, recorded as None"),
        (drop("otp.resent", "A"), "A: 0 resends recorded, 1 told"),
        (drop("otp.resent", "A"), "a2: told accepted, never recorded"),
        (otp(0, resends=2), "A: 2 resends in Redis"),
        (otp(3, expires_at=1999), "D: its life is over"),
        (otp(3, status="expired"), "D: expired in Redis, no end in PostgreSQL"),
        (drop("message.sent", "D"), "d1: 0 ends"),
        (add("message.cancelled", "D", "d1"), "d1: 2 ends"),
        (add("message.sent", "D", "d1"), "d1: 2 ends"),
        (add("message.sent", "X", "x1"), "x1: nothing says how it came about"),
        (row(4, status="processing"), "d1: it is processing"),
        (row(4, status="expired"), "d1: it is expired, its end was message.sent"),
        (lost_row, "a2: 0 rows"),
        (lost_row, "a2: in Redis only"),
        (more(living_messages=[MessageRow("a1", "A", "sent", "", "often", 1)]), "in Redis, MessageRow"),
        (more(living_messages=[MessageRow("a1", "A", "sent", "", "once", 0)]), "in Redis, MessageRow"),
        (more(immortal=["otpsvc:{p00}:otp:x"]), "otpsvc:{p00}:otp:x never ends"),
        (more(unwritten=3), "3 events are unwritten"),
        (more(waiting=2), "2 messages still wait"),
        (ledger(line("d1")), "d1: 2 copies went out"),
        (ledger(line("a1", "unknown")), "a1: 2 copies went out"),
        (ledger(line("a1", sender="often")), "a1: once and often have it, of once it is told nothing"),
        (no_longer_idempotent, "a2: 2 copies went out"),
        (ledger(line("y1")), "y1: handed to a sender, and not recorded"),
        (lost_ledger, "a1: recorded as sent, and no sender saw it"),
        (row(0, sender="often"), "a1: recorded as sent by often"),
        (row(2, reason="unavailable"), "b1: it is failed unavailable, its end was message.failed unknown_outcome"),
        (row(2, reason="unavailable"), "b1: a sender took it, it is recorded as failed (unavailable)"),
        (ledger(line("c1")), "c1: a sender took it, it is recorded as cancelled"),
        (operation(told("A", "g9", is_right=True, valid=True)), "A: told right 2 times"),
        (operation(told("A", "g9", is_right=False, valid=False, left=2)), "A: 2 guesses were told 2 attempts"),
        (operation(told("D", "g9", is_right=True, valid=False, left=2)), "D: a right guess was told wrong"),
        (wrong_told_right, "A: a wrong guess was told right"),
        (second_answer(valid=False), "was told valid False and True"),
        (other_otp, "was told otp_id A and Z"),
        (operation(refused("guess", "A", "g9", 500, "INTERNAL_ERROR")), "guess g9 was told 500"),
        (operation(refused("guess", "A", "g9", 401, "INVALID_API_KEY")), "guess g9 was told 401"),
        (operation(refused("guess", "D", "g9", 404, "OTP_NOT_FOUND")), "D: told OTP_NOT_FOUND, recorded as None"),
        (operation(refused("guess", "D", "g9", 400, "OTP_EXPIRED")), "D: told OTP_EXPIRED, recorded as None"),
        (operation(sent("D", "d1", "cancel")), "D: told cancelled, recorded as None"),
        (operation(refused("cancel", "D", "c9", 409, "OTP_NOT_PENDING")), "D: told OTP_NOT_PENDING, recorded as None"),
        (operation(sent("D", "d1", number="+33640000000")), "two sends were told the same OTP"),
        (eleventh_code, "11 codes went to one number"),
    ],
)
def test_a_broken_promise_is_found(change: Change, said: str) -> None:
    evidence = sound()
    change(evidence)
    found = faults(evidence)
    assert found
    assert any(said in fault for fault in found), found


def test_a_send_too_many_is_found() -> None:
    """One send was lost, so one more OTP is in order; two are not."""
    evidence = sound()
    for n in range(2):
        evidence.events += [
            EventRow(f"evt_x{n}", "otp.sent", f"X{n}", f"x{n}", 1200),
            EventRow(f"evt_y{n}", "message.expired", f"X{n}", f"x{n}", 1201),
        ]
        evidence.messages.append(MessageRow(f"x{n}", f"X{n}", "expired", "", "", 0))
    assert faults(evidence) == ["6 OTPs, 4 told, 1 unknown"]
