"""The four stories of the product: send, verify, resend, cancel; and get, to look at one OTP.

Framework-free: a decoded request in, an outcome out, every refusal an ApiError of the catalogue. This file prepares
what the store needs to decide in one step (hashes, indexes, sealed text) and turns the decision into an answer. It
never reads something and then decides on it: only the scripts do, atomically.
"""

import secrets
from typing import NamedTuple

import msgspec

from otpsvc import phone
from otpsvc.clients.model import Principal
from otpsvc.crypto import Keyring, UnsealError
from otpsvc.errors import problem
from otpsvc.ids import OtpId, new_message_id, new_otp_id
from otpsvc.messages.model import Content
from otpsvc.otp import fields
from otpsvc.otp.codes import CodeHasher, new_code, normalise_guess
from otpsvc.otp.judging import judged
from otpsvc.otp.model import (
    OtpView,
    ResendRequest,
    SealedRecipient,
    SendRequest,
    SentOtp,
    VerifiedOtp,
    VerifyRequest,
    WrongGuess,
)
from otpsvc.otp.policy import MAX_CODE_LENGTH, MIN_CODE_LENGTH, Limits, is_purpose
from otpsvc.otp.ports import (
    Accepted,
    CodeChecker,
    Operation,
    OtpStore,
    Reach,
    Refusal,
    Replayed,
    ResendCommand,
    Right,
    SendCommand,
    SendLimits,
    Tenant,
    TextRenderer,
    VerifyCommand,
)
from otpsvc.otp.refusals import refusal_problem, refuse_unreachable

CHANNEL = "sms"


class NewCode(NamedTuple):
    """What is kept of a code: its hash, its sealed message, the text with the code masked, how many SMS it takes."""

    hash: str
    sealed_text: bytes
    masked_text: str
    parts: int


class OtpService:
    """Send, verify, resend, cancel and get, for an authenticated client."""

    def __init__(
        self,
        *,
        store: OtpStore,
        keyring: Keyring,
        hasher: CodeHasher,
        texts: TextRenderer,
        limits: Limits,
        partitions: int,
        checker: CodeChecker,
        reach: Reach | None = None,
    ) -> None:
        self._store = store
        self._reach = reach
        self._checker = checker
        self._keyring = keyring
        self._hasher = hasher
        self._texts = texts
        self._limits = limits
        # What guesses write is bounded by the codes that were sent, and a person with a code in hand goes first.
        self._verify_event_limit = limits.event_limit * 5 // 4
        self._partitions = partitions

    async def send(self, caller: Principal, request: SendRequest, idempotency_key: str | None = None) -> SentOtp:
        """Make a code for a number and put its message on the way.

        Raises ApiError: VALIDATION_ERROR, INVALID_PHONE_NUMBER, INVALID_TEMPLATE, MESSAGE_TOO_LONG for the request;
        OTP_LOCKED_OUT, OTP_COOLDOWN, OTP_RATE_LIMIT, RATE_LIMIT_EXCEEDED for the limits; IDEMPOTENCY_CONFLICT;
        INVALID_DEVICE_ID, DEVICE_OFFLINE, NO_DEVICE_AVAILABLE where only phones may carry it; SERVICE_UNAVAILABLE.
        """
        policy = caller.policy
        tenant = Tenant(caller.client_id, caller.mode)
        purpose = fields.purpose(request.purpose, policy)
        code_length = fields.code_length(request.code_length, policy)
        ttl_s = fields.ttl_s(request.ttl_s, policy)
        metadata = fields.metadata(request.metadata)
        session = self._session(tenant, request.session)
        limits = self._send_limits(caller, request.end_user_ip)
        operation = self._operation(tenant, "send", idempotency_key, request)
        to = fields.number(request.to)
        device_id = fields.device_id(request.device_id)
        unreachable = await self._unreachable(tenant, to, device_id)
        otp_id = new_otp_id(
            partition=self._keyring.partition(to, self._partitions),
            slot=self._keyring.current.slot,
            profile=self._hasher.profile.number,
        )
        message_id = new_message_id(partition=otp_id.partition)
        masked = phone.mask(to)
        recipient = SealedRecipient(to, request.template, fields.locale(request.locale), device_id)
        code = await self._new_code(tenant, otp_id, message_id.text, recipient, code_length, ttl_s)
        outcome = await self._store.send(
            SendCommand(
                tenant=tenant,
                otp_id=otp_id,
                message_id=message_id,
                to_index=self._index(to),
                purpose=purpose,
                session=session,
                to=masked,
                to_sealed=self._seal(recipient, otp_id.text, tenant, otp_id.text),
                metadata=metadata,
                channel=CHANNEL,
                text=code.masked_text,
                parts=code.parts,
                code_hash=code.hash,
                code_length=code_length,
                sealed_text=code.sealed_text,
                ttl_ms=ttl_s * 1000,
                max_attempts=policy.max_attempts,
                max_wrong_guesses=self._limits.wrong_guesses_per_hour,
                max_live=self._limits.live_sessions,
                limits=limits,
                operation=operation,
                is_reachable=not unreachable,
            )
        )
        refuse_unreachable(outcome, unreachable)
        return self._sent(caller, outcome, otp_id.text, message_id.text, masked, purpose, code_length)

    async def resend(self, caller: Principal, request: ResendRequest, idempotency_key: str | None = None) -> SentOtp:
        """Put a fresh code with a fresh life on a pending OTP; used attempts stay used.

        Raises ApiError: OTP_NOT_FOUND, OTP_EXPIRED, OTP_MAX_ATTEMPTS, OTP_RESEND_LIMIT for the OTP, and what `send`
        raises for the limits.
        """
        policy = caller.policy
        tenant = Tenant(caller.client_id, caller.mode)
        limits = self._send_limits(caller, request.end_user_ip)
        operation = self._operation(tenant, "resend", idempotency_key, request)
        session = self._session(tenant, request.session)
        otp_id = self._known(request.otp_id)
        stored = await self._store.get(tenant, otp_id)
        if stored is None or (session and session != stored.session):
            raise problem("OTP_NOT_FOUND")
        recipient = self._unseal(stored.to_sealed, tenant, otp_id.text)
        unreachable = await self._unreachable(tenant, recipient.to, recipient.device_id)
        message_id = new_message_id(partition=otp_id.partition)
        code = await self._new_code(
            tenant, otp_id, message_id.text, recipient, stored.code_length, stored.ttl_ms // 1000
        )
        outcome = await self._store.resend(
            ResendCommand(
                tenant=tenant,
                otp_id=otp_id,
                message_id=message_id,
                to_index=self._index(recipient.to),
                purpose=stored.purpose,
                session=stored.session,
                channel=stored.channel,
                text=code.masked_text,
                parts=code.parts,
                code_hash=code.hash,
                sealed_text=code.sealed_text,
                grace_ms=policy.grace_s * 1000,
                max_resends=policy.max_resends,
                limits=limits,
                operation=operation,
                is_reachable=not unreachable,
            )
        )
        refuse_unreachable(outcome, unreachable)
        return self._sent(caller, outcome, otp_id.text, message_id.text, stored.to, stored.purpose, stored.code_length)

    async def verify(
        self, caller: Principal, request: VerifyRequest, idempotency_key: str | None = None
    ) -> VerifiedOtp | WrongGuess:
        """Count one guess and compare it; a right one consumes the OTP.

        Raises ApiError: INVALID_OTP_FORMAT, OTP_NOT_FOUND, OTP_EXPIRED, OTP_MAX_ATTEMPTS, IDEMPOTENCY_CONFLICT,
        INVALID_PHONE_NUMBER (for a number that is sent along), SERVICE_UNAVAILABLE.
        """
        tenant = Tenant(caller.client_id, caller.mode)
        guess = normalise_guess(request.code)
        if guess is None or not MIN_CODE_LENGTH <= len(guess) <= MAX_CODE_LENGTH:
            raise problem("INVALID_OTP_FORMAT")
        session = self._session(tenant, request.session)
        if request.purpose is not None and not is_purpose(request.purpose):
            # No OTP could have it. The store would take an empty one for none, and show any other in its logs.
            raise problem("OTP_NOT_FOUND")
        to_index = self._index(fields.number(request.to)) if request.to is not None else ""
        otp_id = fields.otp_id(request.otp_id)
        code_hash = await self._hasher.hash(otp_id, client_id=tenant.client_id, mode=tenant.mode, code=guess)
        master = self._keyring.by_slot(otp_id.slot)
        if master is None or not self._hasher.knows(otp_id):
            raise problem("OTP_NOT_FOUND", reason="unknown_master")
        operation = idempotency_key if idempotency_key is not None else secrets.token_hex(16)
        command = VerifyCommand(
            tenant=tenant,
            otp_id=otp_id,
            to_index=to_index,
            purpose=request.purpose or "",
            session=session,
            code_hash=code_hash,
            code_length=len(guess),
            operation=master.fingerprint_of("operation", *tenant, operation),
            guess=master.fingerprint_of("guess", otp_id.text, guess),
            event_limit=self._verify_event_limit,
        )
        outcome = await judged(command, guess, store=self._store, checker=self._checker)
        if isinstance(outcome, Refusal):
            raise refusal_problem(outcome, caller.policy, self._limits)
        if isinstance(outcome, Right):
            return VerifiedOtp(
                otp_id=otp_id.text,
                to=outcome.to,
                purpose=outcome.purpose,
                metadata=fields.metadata_of(outcome.metadata),
                verified_at=outcome.verified_at,
                is_replay=outcome.is_replay,
            )
        return WrongGuess(
            otp_id=otp_id.text, attempts_remaining=outcome.attempts_remaining, is_replay=outcome.is_replay
        )

    async def cancel(self, caller: Principal, otp_id: str) -> OtpView:
        """End a pending OTP; cancelling twice is the same as once.

        Raises ApiError: OTP_NOT_FOUND, OTP_NOT_PENDING (its details say what it is), SERVICE_UNAVAILABLE.
        """
        tenant = Tenant(caller.client_id, caller.mode)
        refusal = await self._store.cancel(tenant, self._known(otp_id), event_limit=self._verify_event_limit)
        if refusal is not None:
            raise refusal_problem(refusal, caller.policy, self._limits)
        return await self.get(caller, otp_id)

    async def get(self, caller: Principal, otp_id: str) -> OtpView:
        """Give one OTP as its owner may see it; raises ApiError OTP_NOT_FOUND, SERVICE_UNAVAILABLE."""
        parsed = self._known(otp_id)
        stored = await self._store.get(Tenant(caller.client_id, caller.mode), parsed)
        if stored is None:
            raise problem("OTP_NOT_FOUND")
        return OtpView(
            otp_id=parsed.text,
            message_id=stored.message_id,
            message_status=stored.message_status or None,
            message_parts=stored.message_parts,
            message_reason=stored.message_reason or None,
            to=stored.to,
            purpose=stored.purpose,
            status=stored.status,
            channel=stored.channel,
            code_length=stored.code_length,
            attempts_remaining=stored.max_attempts - stored.attempts,
            resends_remaining=max(0, caller.policy.max_resends - stored.resends),
            created_at=stored.created_at,
            expires_at=stored.expires_at,
            resend_at=stored.resend_at,
            ended_at=stored.ended_at,
            metadata=fields.metadata_of(stored.metadata),
        )

    async def _new_code(
        self,
        tenant: Tenant,
        otp_id: OtpId,
        message_id: str,
        recipient: SealedRecipient,
        length: int,
        ttl_s: int,
    ) -> NewCode:
        """Make a code; give all that may be known of it. The code itself does not leave this function."""
        code = new_code(length)
        rendered = self._texts.render(
            code=code,
            ttl_s=ttl_s,
            template=recipient.template,
            locale=recipient.locale,
            region=phone.region(recipient.to),
        )
        code_hash = await self._hasher.hash(otp_id, client_id=tenant.client_id, mode=tenant.mode, code=code)
        content = Content(recipient.to, rendered.text, recipient.device_id)
        return NewCode(
            hash=code_hash,
            sealed_text=self._seal(content, message_id, tenant, message_id, CHANNEL),
            masked_text=rendered.masked,
            parts=rendered.parts,
        )

    async def _unreachable(self, tenant: Tenant, to: str, device_id: str) -> str:
        """Say why nobody could carry a message now; empty where somebody could."""
        if self._reach is None:
            return "INVALID_DEVICE_ID" if device_id else ""
        return await self._reach.refusal(tenant, CHANNEL, to, device_id)

    def _seal(self, content: msgspec.Struct, record_id: str, tenant: Tenant, *bound_to: str) -> bytes:
        plain = msgspec.msgpack.encode(content)
        return self._keyring.seal(plain, record_id=record_id, count=0, bound_to=(*tenant, *bound_to))

    def _unseal(self, sealed: bytes, tenant: Tenant, otp_id: str) -> SealedRecipient:
        try:
            plain = self._keyring.unseal(sealed, record_id=otp_id, count=0, bound_to=(*tenant, otp_id))
        except UnsealError:
            raise problem("OTP_NOT_FOUND") from None
        return msgspec.msgpack.decode(plain, type=SealedRecipient)

    def _index(self, to: str) -> str:
        return self._keyring.index("number", to).hex()

    def _session(self, tenant: Tenant, session: str | None) -> str:
        checked = fields.session(session)
        return self._keyring.index("session", *tenant, checked).hex() if checked is not None else ""

    def _known(self, otp_id: str) -> OtpId:
        """Parse an id whose code we could hash; any other looks like an unknown one."""
        parsed = fields.otp_id(otp_id)
        if not self._hasher.knows(parsed):
            raise problem("OTP_NOT_FOUND", reason="unknown_master")
        return parsed

    def _operation(self, tenant: Tenant, call: str, key: str | None, request: msgspec.Struct) -> Operation:
        if key is None:
            return Operation("", "")
        return Operation(
            self._keyring.index("idempotency", *tenant, key).hex(),
            self._keyring.index("request", call, msgspec.json.encode(request, order="sorted")).hex(),
        )

    def _sent(
        self,
        caller: Principal,
        outcome: Accepted | Replayed | Refusal,
        otp_id: str,
        message_id: str,
        to: str,
        purpose: str,
        code_length: int,
    ) -> SentOtp:
        if isinstance(outcome, Refusal):
            raise refusal_problem(outcome, caller.policy, self._limits)
        if isinstance(outcome, Replayed):
            return SentOtp(
                otp_id=outcome.otp_id,
                message_id=outcome.message_id,
                to=to,
                purpose=outcome.purpose,
                status=outcome.status,
                channel=outcome.channel,
                code_length=outcome.code_length,
                expires_at=outcome.expires_at,
                resend_at=outcome.resend_at,
                attempts_remaining=outcome.attempts_remaining,
                is_replay=True,
            )
        return SentOtp(
            otp_id=otp_id,
            message_id=message_id,
            to=to,
            purpose=purpose,
            status="pending",
            channel=CHANNEL,
            code_length=code_length,
            expires_at=outcome.expires_at,
            resend_at=outcome.resend_at,
            attempts_remaining=outcome.attempts_remaining,
        )

    def _send_limits(self, caller: Principal, end_user_ip: str | None) -> SendLimits:
        network = fields.end_user_network(end_user_ip)
        address = self._keyring.index("address", caller.client_id, caller.mode, network).hex() if network else ""
        return SendLimits(
            cooldown_ms=caller.policy.cooldown_s * 1000,
            max_sends=caller.policy.sends_per_hour,
            max_address_sends=self._limits.end_user_ip_sends_per_hour,
            address=address,
            max_ceiling_sends=self._limits.service_sends_per_hour or None,
            queue_limit=self._limits.queue_limit,
            event_limit=self._limits.event_limit,
            idempotency_ms=self._limits.idempotency_ttl_s * 1000,
        )
