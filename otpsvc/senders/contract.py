"""What a sender is: the one door through which a message leaves, the same for ours and for a stranger's.

A sender turns one message into one call to one gateway and says truthfully what became of it. It never retries, never
picks another gateway and never looks at codes: that is the dispatcher's work. The contract is final: it grows only by
fields with defaults and by methods with defaults, so a sender written today loads tomorrow. How to write one:
docs/senders.md.

No string made here or by a sender (details, provider ids, exceptions, log lines) may hold the text or the number.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import msgspec

from otpsvc.clock import Clock
from otpsvc.senders.rejections import ERROR_OF, RULES, RejectionKind, Rule
from otpsvc.settings_values import Secret

if TYPE_CHECKING:
    from otpsvc.senders.ports import PhonePool

__all__ = (
    "ERROR_OF",
    "RULES",
    "Accepted",
    "Capabilities",
    "Channel",
    "CheckOutcome",
    "Health",
    "NoSettings",
    "OutboundMessage",
    "Outcome",
    "Receipt",
    "ReceiptRefusal",
    "ReceiptRequest",
    "ReceiptStatus",
    "Receipts",
    "RefusalKind",
    "Rejected",
    "RejectionKind",
    "RetryLater",
    "Rule",
    "Secret",
    "Sender",
    "SenderContext",
    "SentMessage",
    "Unknown",
)


class Channel(StrEnum):
    """The ways a message can travel."""

    SMS = "sms"
    VOICE = "voice"
    EMAIL = "email"
    WHATSAPP = "whatsapp"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender can do, as its gateway really behaves; where in doubt the weaker answer is the safe one.

    `honours_expiry`: the gateway is told `expires_at` and drops the message then. `max_lifetime_s`: the longest a
    gateway may hold a message before it goes out or dies, None if nobody knows. `is_idempotent`: the gateway itself
    recognises our message id, so that the same call made twice sends one message. `can_cancel`, `has_receipts` and
    `has_presence` promise that `cancel`, `parse_receipt` or `poll`, and `health` really tell. `longest_text` counts
    characters, None for no limit below ours. `receipt_within_s`: a receipt that the message has left normally comes
    within so many seconds, so that its absence means something; None where nobody should wait for one.
    `polls_every_s`: how often `poll` is asked about a message that has no last receipt yet; None: never. `owns_code`:
    the gateway makes a code of its own, sends that instead of our text, and `check` compares a guess with it.
    `is_pool`: the sender chooses among ways of each client's own (phones) and passes the bad ones itself, so no breaker
    counts its failures, which would hurt other clients; and a message can be pinned to one of them (`device_id`).
    """

    channels: frozenset[Channel]
    honours_expiry: bool = False
    max_lifetime_s: int | None = None
    is_idempotent: bool = False
    can_cancel: bool = False
    has_receipts: bool = False
    has_presence: bool = False
    longest_text: int | None = None
    receipt_within_s: float | None = None
    polls_every_s: float | None = None
    owns_code: bool = False
    is_pool: bool = False


class OutboundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message to hand over now. It holds the plain code: pass it to the gateway and to nothing else.

    `to` is E.164 with the plus. `expires_at` is when its code ends (seconds since 1970) and `life_s` how much of that
    was left at the call: a gateway that takes a validity gets it from here. `try_number` starts at 1. `mode` is `live`
    or `test`. `code_length` and `max_attempts` are for gateways that make the code themselves (0: not known).
    `device_id` names the one phone that may carry it, empty for any.
    """

    message_id: str
    client_id: str
    mode: str
    channel: Channel
    to: str
    text: str
    expires_at: float
    life_s: float
    try_number: int
    code_length: int = 0
    max_attempts: int = 0
    device_id: str = ""

    def __repr__(self) -> str:
        """Name the message, hide the number and the text."""
        return f"OutboundMessage({self.message_id}, {self.channel})"


class Accepted(msgspec.Struct, frozen=True):
    """The gateway took the message. `provider_id` is its own id for it, `parts` what it counted, where it says so."""

    provider_id: str | None = None
    parts: int | None = None


class Rejected(msgspec.Struct, frozen=True):
    """The message was surely not sent, and asking this sender again would not help.

    `is_unmapped`: the gateway's code is in no table, so `kind` is a guess that somebody should look at.
    """

    kind: RejectionKind
    detail: str = ""
    is_unmapped: bool = False


class RetryLater(msgspec.Struct, frozen=True):
    """The message was surely not sent, and this sender may take it after `after_s` seconds (throttled, restarting).

    `is_fault`: the gateway is not busy but out of order, so that it counts against it (the breaker).
    """

    after_s: float
    detail: str = ""
    is_fault: bool = False


class Unknown(msgspec.Struct, frozen=True):
    """The request may have arrived, and nobody can say what became of it: no answer, or one that cannot be read."""

    detail: str = ""


Outcome = Accepted | Rejected | RetryLater | Unknown


class SentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message this sender accepted earlier, for `poll` and `cancel`. `sent_at`: seconds since 1970.

    `client_id` and `mode` say whose it is, where that is known: for `cancel` always.
    """

    message_id: str
    provider_id: str | None
    channel: Channel
    sent_at: float
    client_id: str = ""
    mode: str = ""


class CheckOutcome(StrEnum):
    """What a gateway that owns the code says about one guess."""

    RIGHT = "right"
    WRONG = "wrong"
    ENDED = "ended"  # its session is over: expired there, too many tries, cancelled, unknown
    UNKNOWN = "unknown"  # no answer that can be read; the guess may have been counted there


class ReceiptStatus(StrEnum):
    """What a receipt says, in the order a message lives through it. A word no table knows is UNKNOWN, never a guess."""

    ACCEPTED = "accepted"
    DISPATCHED = "dispatched"  # a phone pulled it, an operator's centre has it
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One statement about one message: named by our id, by the gateway's, or by both.

    `receipt_id` is the gateway's id of this statement, the same when it is repeated. `happened_at`: seconds since
    1970 by the gateway's clock. `kind` says why, for FAILED. `is_unmapped`: it failed under a code that is in no table,
    so `kind` is a guess that somebody should look at.
    """

    status: ReceiptStatus
    message_id: str | None = None
    provider_id: str | None = None
    receipt_id: str | None = None
    happened_at: float | None = None
    kind: RejectionKind | None = None
    detail: str = ""
    is_unmapped: bool = False


class ReceiptRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request that claims to carry receipts.

    `url` is the public address it was sent to, query included: some gateways sign it. Header names are lower case. The
    body may hold the text we sent, so it is hidden.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Hide everything a gateway may have echoed."""
        return f"ReceiptRequest({self.method})"


class Receipts(msgspec.Struct, frozen=True):
    """Authentic receipts, and the body the gateway wants to read for them (most want none)."""

    items: tuple[Receipt, ...]
    answer: bytes = b""


class RefusalKind(StrEnum):
    """Why a receipt request was not believed."""

    UNSUPPORTED = "unsupported"  # this sender has no receipts
    UNAUTHENTIC = "unauthentic"  # missing, wrong or outdated proof
    MALFORMED = "malformed"


class ReceiptRefusal(msgspec.Struct, frozen=True):
    """The request was refused; nothing in it may be used."""

    kind: RefusalKind
    detail: str = ""


class Health(msgspec.Struct, frozen=True):
    """Whether a sender could send now, as far as it can tell without sending."""

    is_ready: bool
    detail: str = ""


class NoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a sender that has none."""


@dataclass(frozen=True, kw_only=True)
class SenderContext:
    """What the house lends to a sender.

    `is_dev` is true under `otpsvc dev` only. `public_url` is where the house is reached from outside, None if nobody
    has said. `phones` is the pool of the clients' own phones. `take_receipts` is for receipts that come over a
    connection of the sender's own; it raises ApiError where they could not be kept, so that the gateway can be made to
    repeat them. None where this process only checks settings or answers requests.
    """

    is_dev: bool
    clock: Clock
    public_url: str | None = None
    phones: "PhonePool | None" = None
    take_receipts: Callable[[str, Sequence[Receipt]], Awaitable[None]] | None = None


SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)


class Sender(ABC, Generic[SettingsT]):
    """One configured way out. The registry makes it, `open` is awaited once before the first send, `close` once after.

    `Settings` is the struct its table in the settings file is read into; keys, tokens and passwords are `Secret`, which
    does not print. `capabilities` may be a class attribute,
    or set in `__init__` where it depends on the settings. A sender that shows codes to whoever looks sets `is_dev_only`
    and is refused outside `dev`.
    """

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    is_dev_only: ClassVar[bool] = False
    capabilities: Capabilities

    def __init__(self, name: str, settings: SettingsT, context: SenderContext) -> None:
        self.name = name
        self.settings = settings
        self.context = context

    def __repr__(self) -> str:
        """Name the sender, hide its settings."""
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def receipt_url(self) -> str | None:
        """Where the gateway can bring receipts for this sender; None if the house has no public address."""
        base = self.context.public_url
        return f"{base}/receipts/{self.name}" if base else None

    async def open(self) -> None:
        """Take what sending needs (a pool, a connection). Raise ConfigurationError for settings that cannot work.

        A gateway that is down at this moment must not raise: the house starts without it, and `health` tells. Workers
        open every sender; processes that answer requests open only those that own the code, so `parse_receipt` must do
        without.
        """

    async def close(self) -> None:
        """Let go of what `open` took; must be safe after a failed `open`."""

    @abstractmethod
    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message to the gateway once and say what became of it.

        May be cancelled at the step time-out, called many times at once, and called again with the same message id only
        if `is_idempotent`. Anything raised counts as Unknown: catch what surely happened before the request left and
        answer Rejected(UNAVAILABLE) or RetryLater instead.
        """

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:  # noqa: ARG002 - for those who override it
        """Check the proof of a receipt request, then read it. Never raise for what a stranger may send."""
        return ReceiptRefusal(RefusalKind.UNSUPPORTED)

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:  # noqa: ARG002 - for those who override it
        """Ask the gateway about messages it accepted; leave out those it says nothing new about."""
        return ()

    async def check(self, message: SentMessage, code: str) -> CheckOutcome:  # noqa: ARG002 - for those who override it
        """Ask a gateway that owns the code whether `code` is it; never repeat inside.

        Called once for each counted guess, and where that said nothing twice more at most. RIGHT only if these digits
        are right: a session that was verified before says nothing about them.
        """
        return CheckOutcome.UNKNOWN

    async def cancel(self, message: SentMessage) -> bool:  # noqa: ARG002 - for those who override it
        """Try to stop a message; True only if the gateway promises that it will not go out."""
        return False

    async def health(self) -> Health:
        """Say whether a send could work now."""
        return Health(is_ready=True)
