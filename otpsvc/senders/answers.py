"""How senders read what gateways say: statuses without a code, ids, times, why a message failed.

Whatever comes from outside is looked at, turned into a word of ours or left out, and never passed on as it came.
Nothing here raises for what a gateway may send.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from otpsvc.senders.contract import Outcome, Rejected, RejectionKind, Unknown
from otpsvc.senders.error_maps import GatewayMap, shown_code
from otpsvc.senders.http_client import GatewayAnswer

MAX_RECEIPT_BYTES = 65_536
MAX_RECEIPT_ITEMS = 1000
NO_MORE_QUESTIONS = frozenset({401, 403, 429, 503})  # true of every message, not of the one asked about

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_OUR_ID = re.compile(r"msg_[0-9a-z]{26}")


class Failure(NamedTuple):
    """Why a message that was taken failed, `detail` in words that may be shown; `kind` is None if it did not fail.

    `is_unmapped`: no table knows the code that it failed under.
    """

    kind: RejectionKind | None = None
    detail: str = ""
    is_unmapped: bool = False


def outcome_of_answer(
    codes: GatewayMap, code: object, answer: GatewayAnswer, *, pause_s: float | None = None
) -> Outcome:
    """Say what a send came to that was not plainly taken: by the gateway's own code, else by the HTTP status.

    Statuses stand in the map as `http_429` or, for all others of a hundred, `http_4xx`. A fault of the gateway (5xx)
    under a code that nobody knows is Unknown, for it may have happened after the message was taken; any other such
    code is counted. `pause_s` goes before the table's, and the answer's own Retry-After before both.
    """
    after_s = answer.retry_after_s if answer.retry_after_s is not None else pause_s
    has_code = isinstance(code, str | int) and not isinstance(code, bool)
    if has_code and codes.row("send", code) is not None:
        return codes.outcome(code, after_s=after_s)
    exact = f"http_{answer.status}"
    is_exact = codes.row("send", exact) is not None
    if has_code and not is_exact and answer.status < 500:
        return codes.outcome(code)
    status = exact if is_exact else f"http_{answer.status // 100}xx"
    if codes.row("send", status) is None:
        return Unknown(f"status {answer.status}, not understood")
    outcome = codes.outcome(status, detail=f"status {answer.status}", after_s=after_s)
    return unmapped(outcome) if has_code else outcome


def unmapped(outcome: Outcome) -> Outcome:
    """Return what an answer under a code that no table knows came to by its HTTP status, marked as a guess.

    That the call was wrong (400, 422) may be the number's fault as well as ours. Blaming the settings would count
    against the gateway, and whoever types in numbers could shut it for everybody.
    """
    if not isinstance(outcome, Rejected):
        return outcome
    kind = RejectionKind.GATEWAY_ERROR if outcome.kind is RejectionKind.MISCONFIGURED else outcome.kind
    return Rejected(kind, outcome.detail, is_unmapped=True)


def failure_of(codes: GatewayMap, code: object) -> Failure:
    """Say why a message that was taken failed; without a code it is undeliverable."""
    if code is None:
        return Failure(RejectionKind.UNDELIVERABLE)
    row = codes.row("failure", code)
    if row is None:
        return Failure(codes.kind(code), f"unmapped code {shown_code(code)}", is_unmapped=True)
    return Failure(codes.kind(code), f"code {row.code}")


def decoded(body: bytes) -> object:
    """Return a body read as JSON; None where it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def fields(value: object) -> Mapping[str, Any]:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def gateway_id(value: object) -> str | None:
    """Return a gateway's id for a message if it looks like one: what does not could be anything, a number too."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if _ID.fullmatch(text) else None


def our_id(value: object) -> str | None:
    """Return one of our message ids that a gateway gave back."""
    return value if isinstance(value, str) and _OUR_ID.fullmatch(value) else None


def moment(value: object) -> float | None:
    """Return an ISO 8601 time as seconds since 1970; None without an offset, for nobody knows whose time that is."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return time.timestamp() if time is not None and time.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
