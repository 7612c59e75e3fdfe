"""The accounting after a storm: what callers were told, what senders were given and what both stores say must agree.

Pure functions over evidence; each gives one line per fault and nothing else. A fault here is a broken promise of the
product, so nothing may be excused that its rules do not excuse. That each rule can fail is tested in test_accounts.py.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from tests.chaos.endings import message_faults
from tests.chaos.evidence import OTP_ENDS, SENDS, EventRow, Evidence, MessageRow
from tests.chaos.handovers import duplicate_faults, handover_faults, receipt_faults, tried_faults
from tests.chaos.journal import Operation

Rule = Callable[[Evidence], Iterator[str]]

_REFUSALS = {
    "send": {"OTP_COOLDOWN", "OTP_RATE_LIMIT", "OTP_LOCKED_OUT", "RATE_LIMIT_EXCEEDED"},
    "resend": {"OTP_NOT_FOUND", "OTP_EXPIRED", "OTP_MAX_ATTEMPTS", "OTP_RESEND_LIMIT", "OTP_RATE_LIMIT"},
    "guess": {"OTP_NOT_FOUND", "OTP_EXPIRED", "OTP_MAX_ATTEMPTS"},
    "cancel": {"OTP_NOT_FOUND", "OTP_NOT_PENDING"},
}
# What a guess may be told only if the OTP has come to one of these ends.
_TOLD_ENDED = {
    "OTP_NOT_FOUND": {"otp.verified", "otp.superseded", "otp.cancelled"},
    "OTP_EXPIRED": {"otp.expired"},
    "OTP_MAX_ATTEMPTS": {"otp.locked"},
}
_STATUS_OF = {
    "otp.verified": "verified",
    "otp.locked": "locked",
    "otp.superseded": "superseded",
    "otp.expired": "expired",
    "otp.cancelled": "cancelled",
}


def faults(evidence: Evidence) -> list[str]:
    """Every broken promise, a line each."""
    return [line for rule in RULES for line in rule(evidence)]


def unexpected_answers(evidence: Evidence) -> Iterator[str]:
    """Nobody gets an answer that is none of the call's, and nobody gets two different ones for one operation."""
    for operation in evidence.operations:
        for answer in operation.told:
            is_known = answer.code in _REFUSALS[operation.kind] or (answer.status, answer.code) == (
                503,
                "SERVICE_UNAVAILABLE",
            )
            if answer.status != 200 and not is_known:
                yield f"{operation.kind} {operation.key} was told {answer.status} {answer.code}"
        for name in ("otp_id", "message_id", "valid", "attempts_remaining"):
            # A send's answer tells the present state of its OTP, everything else is as it was.
            if operation.kind != "guess" and name == "attempts_remaining":
                continue
            said = {str(answer.body[name]) for answer in operation.told if answer.status == 200 and name in answer.body}
            if len(said) > 1:
                yield f"{operation.kind} {operation.key} was told {name} {' and '.join(sorted(said))}"


def guess_faults(evidence: Evidence) -> Iterator[str]:
    """Right is told for the right code, once per OTP; wrong for a wrong one; the remaining attempts fall one by one."""
    for otp_id, guesses in _guesses(evidence).items():
        told_right = [guess.key for guess in guesses if guess.was_right]
        if len(told_right) > 1:
            yield f"{otp_id}: told right {len(told_right)} times"
        remaining = Counter(
            guess.answer.body["attempts_remaining"]
            for guess in guesses
            if guess.answer is not None and guess.was_counted and not guess.was_right
        )
        for left, count in remaining.items():
            if count > 1:
                yield f"{otp_id}: {count} guesses were told {left} attempts remaining"
        for guess in guesses:
            if guess.was_counted and guess.is_right is not None and guess.was_right != guess.is_right:
                was, told = ("right", "wrong") if guess.is_right else ("wrong", "right")
                yield f"{otp_id}: a {was} guess was told {told}"


def attempt_faults(evidence: Evidence) -> Iterator[str]:
    """Told attempts <= counted ones <= told plus unknown, and both stores count the same."""
    guesses, events = _guesses(evidence), _by_otp(evidence.events)
    in_redis = {otp.otp_id: otp.attempts for otp in evidence.living_otps}
    for otp_id in guesses.keys() | events.keys():
        mine = guesses.get(otp_id, [])
        told = sum(guess.was_counted for guess in mine)
        unknown = sum(guess.is_unknown for guess in mine)
        counting = [row for row in events.get(otp_id, []) if row.event in {"otp.rejected", "otp.verified"}]
        if not told <= len(counting) <= told + unknown:
            yield f"{otp_id}: {len(counting)} attempts counted, {told} told, {unknown} unknown"
        if in_redis.get(otp_id, len(counting)) != len(counting):
            yield f"{otp_id}: {in_redis[otp_id]} attempts in Redis, {len(counting)} in PostgreSQL"
        if sorted(row.attempt or 0 for row in counting) != list(range(1, len(counting) + 1)):
            yield f"{otp_id}: its attempts are numbered {sorted(row.attempt or 0 for row in counting)}"
        if len(counting) > 3:
            yield f"{otp_id}: {len(counting)} guesses were compared"


def event_faults(evidence: Evidence) -> Iterator[str]:
    """Every event once, every OTP sent once and ended at most once, nothing after its end, nothing left unwritten."""
    if evidence.unwritten:
        yield f"{evidence.unwritten} events are unwritten"
    for event_id, count in Counter(row.event_id for row in evidence.events).items():
        if count > 1:
            yield f"event {event_id} is there {count} times"
    for otp_id, rows in _by_otp(evidence.events).items():
        names = Counter(row.event for row in rows)
        if names["otp.sent"] != 1:
            yield f"{otp_id}: {names['otp.sent']} otp.sent"
        ends = [row for row in rows if row.event in OTP_ENDS]
        if len(ends) > 1:
            yield f"{otp_id}: ended {len(ends)} times: {', '.join(sorted(row.event for row in ends))}"
        for end in ends:
            late = [row.event for row in rows if row.event not in OTP_ENDS and row.occurred_at > end.occurred_at]
            if late:
                yield f"{otp_id}: {', '.join(sorted(late))} after {end.event}"


def send_faults(evidence: Evidence) -> Iterator[str]:
    """A send told accepted is there, and none is there that nobody asked for; resends the same."""
    sent = {row.otp_id for row in evidence.events if row.event == "otp.sent"}
    resent = Counter(row.otp_id for row in evidence.events if row.event == "otp.resent")
    sends = [operation for operation in evidence.operations if operation.kind == "send"]
    accepted = [operation for operation in sends if operation.was_accepted]
    unknown = sum(operation.is_unknown for operation in sends)
    for operation in accepted:
        if operation.otp_id not in sent:
            yield f"{operation.otp_id}: told sent, never recorded"
    if len({operation.otp_id for operation in accepted}) != len(accepted):
        yield "two sends were told the same OTP"
    if not len(accepted) <= len(sent) <= len(accepted) + unknown:
        yield f"{len(sent)} OTPs, {len(accepted)} told, {unknown} unknown"
    resends: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.operations:
        if operation.kind == "resend":
            resends[operation.otp_id].append(operation)
    for otp_id in resends.keys() | resent.keys():
        told = sum(operation.was_accepted for operation in resends.get(otp_id, []))
        lost = sum(operation.is_unknown for operation in resends.get(otp_id, []))
        if not told <= resent[otp_id] <= told + lost:
            yield f"{otp_id}: {resent[otp_id]} resends recorded, {told} told, {lost} unknown"


def code_faults(evidence: Evidence) -> Iterator[str]:
    """Every message that was told is recorded, and nobody gets more than ten codes an hour."""
    rows = [row for row in evidence.events if row.event in SENDS]
    made = {row.message_id for row in rows}
    number_of = {}
    for operation in evidence.operations:
        if operation.kind in {"send", "resend"} and operation.was_accepted and operation.answer is not None:
            message_id = operation.answer.body["message_id"]
            if message_id not in made:
                yield f"{message_id}: told accepted, never recorded"
            if operation.kind == "send":
                number_of[operation.otp_id] = operation.to
    for number, count in Counter(number_of[row.otp_id] for row in rows if row.otp_id in number_of).items():
        if count > 10:
            yield f"{count} codes went to one number ({number[:5]}…)"


def ending_faults(evidence: Evidence) -> Iterator[str]:
    """What a caller was told about an end is what the records say."""
    ends = {row.otp_id: row.event for row in evidence.events if row.event in OTP_ENDS}
    for operation in evidence.operations:
        end = ends.get(operation.otp_id)
        if operation.was_right and end != "otp.verified":
            yield f"{operation.otp_id}: told right, recorded as {end}"
        if operation.kind == "cancel" and operation.was_accepted and end != "otp.cancelled":
            yield f"{operation.otp_id}: told cancelled, recorded as {end}"
        if _told(operation) == "OTP_NOT_PENDING" and end in {None, "otp.cancelled"}:
            yield f"{operation.otp_id}: told OTP_NOT_PENDING, recorded as {end}"
        allowed = _TOLD_ENDED.get(_told(operation))
        if operation.kind == "guess" and allowed is not None and end not in allowed:
            yield f"{operation.otp_id}: told {_told(operation)}, recorded as {end}"


def two_sided_faults(evidence: Evidence) -> Iterator[str]:
    """What Redis still holds, PostgreSQL holds too, and they say the same."""
    rows = {message.message_id: message for message in evidence.messages}
    for message in evidence.living_messages:
        row = rows.get(message.message_id)
        if row is None:
            yield f"{message.message_id}: in Redis only"
        # That nobody else was asked for one that was sent is no event, so its last lease may not be in the history.
        elif _comparable(row) != _comparable(message) or row.tries > message.tries:
            yield f"{message.message_id}: {message} in Redis, {row} in PostgreSQL"
    events = _by_otp(evidence.events)
    for otp in evidence.living_otps:
        mine = events.get(otp.otp_id, [])
        ends = {_STATUS_OF[row.event] for row in mine if row.event in OTP_ENDS}
        if not mine:
            yield f"{otp.otp_id}: in Redis only"
        elif ends != ({otp.status} - {"pending"}):
            yield f"{otp.otp_id}: {otp.status} in Redis, {', '.join(sorted(ends)) or 'no end'} in PostgreSQL"
        if mine and sum(row.event == "otp.resent" for row in mine) != otp.resends:
            yield f"{otp.otp_id}: {otp.resends} resends in Redis"
        if otp.status == "pending" and otp.expires_at < evidence.now_ms:
            yield f"{otp.otp_id}: its life is over, and nobody said so"


def _comparable(message: MessageRow) -> MessageRow:
    """What both stores must agree on. Why one that was sent came back for its receipt is nothing the history knows."""
    return message._replace(tries=0, reason="" if message.status == "sent" else message.reason)


def lasting_faults(evidence: Evidence) -> Iterator[str]:
    """Nothing stays in Redis for ever but what is bounded."""
    for name in evidence.immortal:
        yield f"{name} never ends"


def _told(operation: Operation) -> str:
    """The error that an operation was told, empty where none."""
    return operation.answer.code if operation.answer is not None else ""


def _guesses(evidence: Evidence) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.operations:
        if operation.kind == "guess":
            found[operation.otp_id].append(operation)
    return found


def _by_otp(rows: Sequence[EventRow]) -> dict[str, list[EventRow]]:
    """The events about an OTP itself, not those about its messages."""
    found: dict[str, list[EventRow]] = defaultdict(list)
    for row in rows:
        if row.event.startswith("otp."):
            found[row.otp_id].append(row)
    return found


RULES: tuple[Rule, ...] = (
    unexpected_answers,
    guess_faults,
    attempt_faults,
    event_faults,
    send_faults,
    code_faults,
    ending_faults,
    message_faults,
    two_sided_faults,
    handover_faults,
    duplicate_faults,
    tried_faults,
    receipt_faults,
    lasting_faults,
)
