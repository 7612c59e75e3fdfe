"""The accounting of hand-overs: no phone may ring twice for one message but by the route's rule, and then it is told.

What rang must not be told as unsent, and what a gateway said and we took must show.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from tests.chaos.evidence import TRIED, UNKNOWN_OUTCOME, EventRow, Evidence
from tests.chaos.gateways import Telling
from tests.chaos.ledger import HANDED, LedgerLine

UNDELIVERABLE = "undeliverable"
MAX_SENDERS = 2  # what a route allows if it says nothing


def handover_faults(evidence: Evidence) -> Iterator[str]:
    """At most one copy of a message by one sender, and a record that fits what its senders saw and said."""
    messages = {message.message_id: message for message in evidence.messages}
    said, seen = _said(evidence), _lines(evidence)
    for message_id, lines in seen.items():
        message = messages.get(message_id)
        if message is None:
            yield f"{message_id}: handed to a sender, and not recorded"
            continue
        for sender, copies in Counter(line.sender for line in lines if line.answer in HANDED).items():
            if copies > 1 and sender not in evidence.idempotent:
                yield f"{message_id}: {copies} copies went out by {sender}"
        # Who gave no answer may have said by a receipt that he took it.
        took = {line.sender for line in lines if line.answer == "accepted"}
        took |= {line.sender for line in lines if said[line.sender, message_id] - {"failed"}}
        failed = {line.sender for line in lines if "failed" in said[line.sender, message_id]}
        if message.status in {"sent", "delivered"} and message.sender not in took:
            yield f"{message_id}: recorded as {message.status} by {message.sender or 'nobody'}, who did not take it"
        is_open = message.status in {"sent", "delivered"} or message.reason == UNKNOWN_OUTCOME
        if took - failed and not is_open:
            yield f"{message_id}: a sender took it, it is recorded as {message.status} ({message.reason})"
    for message in evidence.messages:
        if message.status in {"sent", "delivered"} and message.message_id not in seen:
            yield f"{message.message_id}: recorded as sent, and no sender saw it"


def duplicate_faults(evidence: Evidence) -> Iterator[str]:
    """Another sender has a message only where the first is told as failed, or as silent and a possible duplicate."""
    said, tried = _said(evidence), _tried(evidence)
    for message_id, lines in _lines(evidence).items():
        senders = list(dict.fromkeys(line.sender for line in lines if line.answer in HANDED))
        if len(senders) > MAX_SENDERS:
            yield f"{message_id}: {len(senders)} senders have it"
        for sender in senders[:-1]:
            mine = [row for row in tried[message_id] if row.sender == sender]
            is_owned_up_to = any(row.outcome == "silent" and row.may_duplicate for row in mine)
            has_failed = any(row.outcome == UNDELIVERABLE for row in mine) and "failed" in said[sender, message_id]
            if not is_owned_up_to and not has_failed:
                told = ", ".join(row.outcome for row in mine) or "nothing"
                yield f"{message_id}: {' and '.join(senders)} have it, of {sender} it is told {told}"
        copies = sum("failed" not in said[sender, message_id] for sender in senders)
        owned_up_to = sum(row.may_duplicate for row in tried[message_id])
        if copies - 1 > owned_up_to:
            yield f"{message_id}: {copies} copies, {owned_up_to} possible duplicates told"
        if owned_up_to > MAX_SENDERS - 1:
            yield f"{message_id}: {owned_up_to} possible duplicates told"


def tried_faults(evidence: Evidence) -> Iterator[str]:
    """What becomes of a sender is told once; only that it was silent is told again if that led to another's call."""
    for message_id, rows in _tried(evidence).items():
        for (sender, outcome, is_duplicate), count in Counter(
            (row.sender, row.outcome, row.may_duplicate) for row in rows
        ).items():
            may_come_again = outcome == "retry_later" or outcome.startswith("held_")
            if count > 1 and not may_come_again:
                yield f"{message_id}: of {sender} {outcome} is told {count} times"
            if is_duplicate and outcome != "silent":
                yield f"{message_id}: {sender} was {outcome}, and a possible duplicate"


def receipt_faults(evidence: Evidence) -> Iterator[str]:
    """A proved receipt is taken and shows, a forged one is refused, and nothing is delivered that nobody said was."""
    messages = {message.message_id: message for message in evidence.messages}
    said, heard, lines = _said(evidence), _heard(evidence), _lines(evidence)
    for telling in evidence.tellings:
        if telling.status != (401 if telling.is_forged else 200):
            yield f"{telling.message_id}: a receipt of {telling.sender} was answered {telling.status}"
    for (sender, message_id), words in heard.items():
        message = messages.get(message_id)
        if message is None:
            continue
        is_late = message.status == "sent" or (message.reason == UNKNOWN_OUTCOME and "failed" not in words)
        if "delivered" in words and is_late:
            yield f"{message_id}: {sender} said that it was delivered, it is {message.status} by {message.sender}"
        # That it left is said at another time, and which of the two came last cannot be told from here.
        is_failure = "failed" in words and not said[sender, message_id] & {"sent", "delivered"}
        # Where another has taken it and has not said that it failed, it stays sent.
        may_have = any(
            "failed" not in said[line.sender, message_id]
            and (line.answer == "accepted" or said[line.sender, message_id])
            for line in lines[message_id]
            if line.sender != sender
        )
        if is_failure and message.status == "sent" and message.sender == sender and not may_have:
            yield f"{message_id}: {sender} said that it failed, it is sent by {sender}"
    for message in evidence.messages:
        if message.status == "delivered" and "delivered" not in said[message.sender, message.message_id]:
            yield f"{message.message_id}: it is delivered by {message.sender}, who never said so"


def _lines(evidence: Evidence) -> dict[str, list[LedgerLine]]:
    found: dict[str, list[LedgerLine]] = defaultdict(list)
    for line in evidence.ledger:
        found[line.message_id].append(line)
    return found


def _tried(evidence: Evidence) -> dict[str, list[EventRow]]:
    found: dict[str, list[EventRow]] = defaultdict(list)
    for row in evidence.events:
        if row.event == TRIED:
            found[row.message_id].append(row)
    return found


def _said(evidence: Evidence) -> dict[tuple[str, str], set[str]]:
    """What each gateway said of each message, whether or not anybody could know which message was meant."""
    return _words(telling for telling in evidence.tellings if not telling.is_forged)


def _heard(evidence: Evidence) -> dict[tuple[str, str], set[str]]:
    """What was taken and could be understood for sure: under our id."""
    return _words(
        telling
        for telling in evidence.tellings
        if telling.status == 200 and not telling.is_forged and telling.name != "theirs"
    )


def _words(tellings: Iterable[Telling]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for telling in tellings:
        found[telling.sender, telling.message_id].add(telling.said)
    return found
