"""What the accounting looks at: the callers' journal, the sender's ledger, what both stores say. Plain values only."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.gateways import Telling
from tests.chaos.journal import Operation
from tests.chaos.ledger import LedgerLine

OTP_ENDS = frozenset({"otp.verified", "otp.locked", "otp.superseded", "otp.expired", "otp.cancelled"})
SENDS = frozenset({"otp.sent", "otp.resent"})
MESSAGE_ENDS = frozenset(
    {"message.sent", "message.delivered", "message.failed", "message.expired", "message.cancelled"}
)
TRIED = "message.tried"
UNKNOWN_OUTCOME = "unknown_outcome"
FINAL = frozenset({"sent", "delivered", "failed", "expired", "cancelled"})


class EventRow(NamedTuple):
    """One row of the table `events`. `occurred_at` in ms; what follows `attempt` is for events about a message."""

    event_id: str
    event: str
    otp_id: str
    message_id: str
    occurred_at: int
    attempt: int | None = None
    sender: str = ""
    outcome: str = ""
    may_duplicate: bool = False
    reason: str = ""


class MessageRow(NamedTuple):
    """One message, as either store has it; empty text where a store says nothing."""

    message_id: str
    otp_id: str
    status: str
    reason: str
    sender: str
    tries: int


class OtpRow(NamedTuple):
    """One OTP as Redis has it. `expires_at` in ms."""

    otp_id: str
    message_id: str
    status: str
    attempts: int
    resends: int
    expires_at: int


@dataclass
class Evidence:
    """Everything of one client, once all is quiet.

    `unwritten` counts what the streams still hold for the drain, `waiting` the messages in the due-sets. `idempotent`
    are the senders whose gateway recognises a message that it gets again. `tellings` are the receipts brought,
    `immortal` the names of keys without an end that no table allows for. `now_ms` is the store's clock.
    """

    operations: list[Operation] = field(default_factory=list)
    ledger: list[LedgerLine] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    living_messages: list[MessageRow] = field(default_factory=list)
    living_otps: list[OtpRow] = field(default_factory=list)
    idempotent: frozenset[str] = frozenset()
    tellings: list[Telling] = field(default_factory=list)
    immortal: list[str] = field(default_factory=list)
    unwritten: int = 0
    waiting: int = 0
    now_ms: int = 0
