"""The accounting of messages' ends: what a message may come to, what may follow that, and what must be told at last.

A message that was sent may yet turn out delivered or failed. One that failed without anybody's knowing may turn out
anything that a gateway says later, so that alone is an end that others may follow.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.chaos.evidence import FINAL, MESSAGE_ENDS, SENDS, UNKNOWN_OUTCOME, EventRow, Evidence, MessageRow

_SENT = "message.sent"
# Of these it is known that no gateway has the message.
_UNSENT = frozenset({"message.expired", "message.cancelled"})


def message_faults(evidence: Evidence) -> Iterator[str]:
    """Every message has one row, is final, is what its last end says, and every event of a message has its row.

    It may be sent by one sender after the other, by each once.
    """
    if evidence.waiting:
        yield f"{evidence.waiting} messages still wait"
    made = {row.message_id for row in evidence.events if row.event in SENDS}
    ends = _ends(evidence)
    rows = Counter(message.message_id for message in evidence.messages)
    for message_id in made | ends.keys() | rows.keys():
        if rows[message_id] != 1:
            yield f"{message_id}: {rows[message_id]} rows"
        if message_id not in made:
            yield f"{message_id}: nothing says how it came about"
        mine = ends.get(message_id, [])
        if not _is_in_order(mine):
            yield f"{message_id}: {len(mine)} ends: {', '.join(map(_words, mine))}"
        if any(_is_open(row) and not row.sender for row in mine):
            yield f"{message_id}: nobody knows its outcome, and nobody is named"
    for message in evidence.messages:
        last = _last(ends.get(message.message_id, []))
        if message.status not in FINAL:
            yield f"{message.message_id}: it is {message.status}"
        elif last and not any(_says(row, message) for row in last):
            held = f"{message.status} {message.reason}".strip()
            yield f"{message.message_id}: it is {held}, its end was {' or '.join(map(_words, last))}"


def _ends(evidence: Evidence) -> dict[str, list[EventRow]]:
    """Every message's ends, in the order they came."""
    found: dict[str, list[EventRow]] = defaultdict(list)
    for row in sorted(evidence.events, key=lambda row: row.occurred_at):
        if row.event in MESSAGE_ENDS:
            found[row.message_id].append(row)
    return found


def _is_open(row: EventRow) -> bool:
    return row.event == "message.failed" and row.reason == UNKNOWN_OUTCOME


def _is_closed(row: EventRow) -> bool:
    return row.event != _SENT and not _is_open(row)


def _is_in_order(ends: Sequence[EventRow]) -> bool:
    """Say whether these are a message's ends: one that holds for good at most, and that one the last."""
    closed = [row for row in ends if _is_closed(row)]
    senders = [row.sender for row in ends if row.event == _SENT]
    if not ends or len(closed) > 1 or len(set(senders)) != len(senders):
        return False
    # Only being sent takes an unknown outcome back without ending the message for good.
    if sum(map(_is_open, ends)) > len(senders) + 1:
        return False
    if closed and closed[0].event in _UNSENT:
        return len(ends) == 1
    return all(row.occurred_at <= one.occurred_at for row in ends for one in closed)


def _last(ends: Sequence[EventRow]) -> list[EventRow]:
    """Return the end that holds; more than one where they were told in the same millisecond."""
    closed = [row for row in ends if _is_closed(row)]
    return closed or [row for row in ends if row.occurred_at == ends[-1].occurred_at]


def _says(row: EventRow, message: MessageRow) -> bool:
    # Why a message that was sent came back for its receipt is nothing that its end says.
    is_reason = message.status == "sent" or row.reason == message.reason
    return row.event == f"message.{message.status}" and is_reason


def _words(row: EventRow) -> str:
    return " ".join(filter(None, (row.event, row.reason, row.sender if row.event == _SENT else "")))
