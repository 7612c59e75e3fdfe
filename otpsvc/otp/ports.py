"""What the OTP service needs from the outside: a store that decides atomically, and texts."""

from typing import NamedTuple, Protocol

import msgspec

from otpsvc.ids import MessageId, OtpId


class Tenant(NamedTuple):
    """Whose data a call may touch: client and mode are part of every name, record and hash."""

    client_id: str
    mode: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The store said no. `status` is the script's word; times are ms on the store's clock."""

    status: str
    now: int
    allowed_at: int | None = None
    otp_id: str | None = None
    otp_status: str | None = None
    code_length: int | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The store took a send or resend."""

    now: int
    expires_at: int
    resend_at: int
    attempts_remaining: int


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The store had taken it before under the same Idempotency-Key."""

    now: int
    otp_id: str
    message_id: str
    purpose: str
    channel: str
    code_length: int
    expires_at: int
    resend_at: int
    status: str
    attempts_remaining: int


class Right(msgspec.Struct, frozen=True, kw_only=True):
    """The guess was right and the OTP is consumed."""

    to: str
    purpose: str
    metadata: str
    verified_at: int
    is_replay: bool


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """The guess was wrong and is counted."""

    attempts_remaining: int
    is_replay: bool


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The guess is counted and is not our code; the gateway that carried the message made one of its own.

    `sent_at` is ms since 1970, `provider_id` the gateway's name for its session. `is_repeat`: the gateway was asked
    about this very guess before, and nobody wrote its answer down.
    """

    sender: str
    provider_id: str
    message_id: str
    sent_at: int
    is_repeat: bool = False


class StoredOtp(msgspec.Struct, frozen=True, kw_only=True):
    """An OTP as read for its owner; `number` and `to_sealed` serve a resend."""

    now: int
    status: str
    message_id: str
    message_status: str
    message_parts: int | None
    message_reason: str
    to: str
    purpose: str
    channel: str
    code_length: int
    attempts: int
    max_attempts: int
    created_at: int
    expires_at: int
    resend_at: int
    ended_at: int | None
    metadata: str
    session: str
    number: str
    to_sealed: bytes
    resends: int
    ttl_ms: int


class Swept(NamedTuple):
    """What one sweep of a partition saw: how many lives were over, and in how many ms the next one is (None: none)."""

    n_seen: int
    next_in_ms: int | None


class Operation(NamedTuple):
    """A caller's Idempotency-Key and request, as fingerprints; both empty where the call has no key."""

    key: str
    request: str


class SendLimits(NamedTuple):
    """What the limits shared by send and resend need; None switches a limit off."""

    cooldown_ms: int
    max_sends: int
    max_address_sends: int | None
    address: str
    max_ceiling_sends: int | None
    queue_limit: int
    event_limit: int
    idempotency_ms: int


class SendCommand(NamedTuple):
    """Everything the store needs to accept a new OTP.

    `to_index` is the number's blind index in hex, `text` the rendered text with the code masked. Without `is_reachable`
    nobody could deliver it: only a repeated operation is accepted then, for what it was the first time.
    """

    tenant: Tenant
    otp_id: OtpId
    message_id: MessageId
    to_index: str
    purpose: str
    session: str
    to: str
    to_sealed: bytes
    metadata: str
    channel: str
    text: str
    parts: int
    code_hash: str
    code_length: int
    sealed_text: bytes
    ttl_ms: int
    max_attempts: int
    max_wrong_guesses: int
    max_live: int
    limits: SendLimits
    operation: Operation
    is_reachable: bool = True


class ResendCommand(NamedTuple):
    """Everything the store needs to put a fresh code on an OTP."""

    tenant: Tenant
    otp_id: OtpId
    message_id: MessageId
    to_index: str
    purpose: str
    session: str
    channel: str
    text: str
    parts: int
    code_hash: str
    sealed_text: bytes
    grace_ms: int
    max_resends: int
    limits: SendLimits
    operation: Operation
    is_reachable: bool = True


class VerifyCommand(NamedTuple):
    """One guess. `to_index`, `purpose` and `session` are empty where the caller did not send them."""

    tenant: Tenant
    otp_id: OtpId
    to_index: str
    purpose: str
    session: str
    code_hash: str
    code_length: int
    operation: str
    guess: str
    event_limit: int


class CheckCommand(NamedTuple):
    """What a gateway said about a guess that was counted before, named as it was then."""

    tenant: Tenant
    otp_id: OtpId
    operation: str
    guess: str
    is_right: bool


class CodeChecker(Protocol):
    """Puts guesses to gateways that make their own codes."""

    async def check(self, ask: Ask, code: str) -> bool:
        """Say whether `code` is what the gateway sent; raises ApiError SERVICE_UNAVAILABLE where it does not say."""
        ...


class OtpStore(Protocol):
    """Each call is one atomic decision. All raise ApiError SERVICE_UNAVAILABLE when the store cannot decide."""

    async def send(self, command: SendCommand) -> Accepted | Replayed | Refusal:
        """Accept a new OTP and its message, or refuse."""
        ...

    async def resend(self, command: ResendCommand) -> Accepted | Replayed | Refusal:
        """Put a fresh code on a pending OTP, or refuse."""
        ...

    async def verify(self, command: VerifyCommand) -> Right | Wrong | Ask | Refusal:
        """Count and compare one guess."""
        ...

    async def check(self, command: CheckCommand) -> Right | Wrong | Refusal:
        """Take a gateway's answer about a counted guess."""
        ...

    async def cancel(self, tenant: Tenant, otp_id: OtpId, *, event_limit: int) -> Refusal | None:
        """End a pending OTP; None when it is cancelled."""
        ...

    async def get(self, tenant: Tenant, otp_id: OtpId) -> StoredOtp | None:
        """Read an OTP; None for an unknown one and for another owner's."""
        ...


class LifeStore(Protocol):
    """Where lives end by themselves; raises ApiError SERVICE_UNAVAILABLE when the store cannot decide."""

    async def sweep(self, partition: int, *, limit: int) -> Swept:
        """Tell of up to `limit` OTPs of a partition whose life is over that they expired, each once."""
        ...


class RenderedText(Protocol):
    """A text as the renderer gives it."""

    @property
    def text(self) -> str:
        """The words that go out, with the code in them."""
        ...

    @property
    def masked(self) -> str:
        """The same words with the code masked."""
        ...

    @property
    def parts(self) -> int:
        """How many SMS they take."""
        ...


class TextRenderer(Protocol):
    """Puts a code into words."""

    def render(
        self, *, code: str, ttl_s: int, template: str | None, locale: str | None, region: str | None
    ) -> RenderedText:
        """Give the text with the code in it; raises ApiError INVALID_TEMPLATE or MESSAGE_TOO_LONG."""
        ...


class Reach(Protocol):
    """Whether a message could leave at all, where only the client's own phones may carry it."""

    async def refusal(self, tenant: Tenant, channel: str, to: str, device_id: str) -> str:
        """Return the catalogue's code for why it could not leave now, empty where it could.

        `to` is E.164, `device_id` the one phone it is meant for, or empty. INVALID_DEVICE_ID, DEVICE_OFFLINE,
        NO_DEVICE_AVAILABLE. Raises ApiError SERVICE_UNAVAILABLE.
        """
        ...
