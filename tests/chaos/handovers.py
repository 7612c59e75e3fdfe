"""The accounting of hand-overs: no phone may ring twice for one message, and what rang must not be told as unsent."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.evidence import Evidence
from tests.chaos.ledger import HANDED, LedgerLine

UNKNOWN_OUTCOME = "unknown_outcome"


def handover_faults(evidence: Evidence) -> Iterator[str]:
    """At most one copy of a message, and a record that fits what its senders saw."""
    messages = {message.message_id: message for message in evidence.messages}
    by_message: dict[str, list[LedgerLine]] = defaultdict(list)
    for line in evidence.ledger:
        by_message[line.message_id].append(line)
    for message_id, lines in by_message.items():
        message = messages.get(message_id)
        if message is None:
            yield f"{message_id}: handed to a sender, and not recorded"
            continue
        copies = _copies(lines, evidence.idempotent)
        if copies > 1:
            yield f"{message_id}: {copies} copies went out: {', '.join(line.sender for line in lines)}"
        accepted = {line.sender for line in lines if line.answer == "accepted"}
        if message.status == "sent" and message.sender not in accepted:
            yield f"{message_id}: recorded as sent by {message.sender or 'nobody'}, who did not take it"
        if accepted and message.status != "sent" and message.reason != UNKNOWN_OUTCOME:
            yield f"{message_id}: a sender took it, it is recorded as {message.status} ({message.reason})"
    for message in evidence.messages:
        if message.status == "sent" and message.message_id not in by_message:
            yield f"{message.message_id}: recorded as sent, and no sender saw it"


def _copies(lines: list[LedgerLine], idempotent: frozenset[str]) -> int:
    handed = [line.sender for line in lines if line.answer in HANDED]
    return sum(1 if sender in idempotent else handed.count(sender) for sender in set(handed))
