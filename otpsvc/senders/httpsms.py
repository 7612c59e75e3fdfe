"""httpSMS: one Android phone per number, behind the public server or one's own.

It takes no lifetime and does not know a message again, so a call that may have arrived must never be made twice, and
the phone's own expiry (a setting there) has to be short. The proof of its receipts is a token that does not cover the
body: only the ids in it are used, and they are worth something only if the store knows them as ours.
"""

import asyncio
import base64
import hashlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from msgspec import Meta

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import Failure, fields, gateway_id, moment, our_id
from otpsvc.senders.api_keys import check_api_key
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    Health,
    OutboundMessage,
    Outcome,
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    Rejected,
    RejectionKind,
    Secret,
    Sender,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.phone_answers import PhoneMap, first_of, object_in, stop_if_unwelcome, too_large
from otpsvc.senders.proofs import bearer_of, jwt_claims
from otpsvc.senders.questions import ask_each, gateway_time

LONGEST_CONTENT = 2048
LONGEST_SEALED_TEXT = (LONGEST_CONTENT // 4 * 3 - 16) // 4  # in base64, behind 16 bytes, four bytes a letter at worst
ABSENT_AFTER_S = 20 * 60.0  # a phone reports every 15 minutes
LONGEST_EXPIRY_S = 300  # what a code lives by default: a phone that keeps it longer sends codes that are dead
_TOKEN_AGE_S = 600.0
_OPEN_TIMEOUT_S = 3.0
# The events about messages of ours, and the field of each that holds the message's id.
_ID_FIELDS: Mapping[str, str] = {
    "message.phone.sent": "id",
    "message.phone.delivered": "id",
    "message.send.failed": "id",
    "message.send.expired": "message_id",
}

_log = logging.getLogger(__name__)


class HttpSmsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One phone, named by its number."""

    api_key: Secret
    phone: Annotated[str, Meta(pattern=r"^\+[1-9][0-9]{6,14}\Z", description="a number such as +33612345678")]
    url: str = "https://api.httpsms.com"
    signing_key: Secret = Secret()
    issuer: str = "api.httpsms.com"
    encryption_key: Secret = Secret()
    allow_private: bool = False
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8.0

    def __post_init__(self) -> None:
        """Refuse a key that no header takes."""
        check_api_key(self.api_key)


class HttpSmsSender(Sender[HttpSmsSettings]):
    """Hands messages to one phone."""

    Settings = HttpSmsSettings

    def __init__(self, name: str, settings: HttpSmsSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self._url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._map = PhoneMap("httpsms")
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            has_receipts=True,
            has_presence=True,
            longest_text=LONGEST_SEALED_TEXT if settings.encryption_key else LONGEST_CONTENT,
            receipt_within_s=30.0,
            polls_every_s=10.0,
        )

    async def open(self) -> None:
        """Make the connections, and look once whether the phone lets go of messages in time; say so if it does not."""
        await self._client.open()
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                answer = await self._call("GET", "/v1/phones?limit=20")
        except (NotSent, NoAnswer, TimeoutError):
            return
        found = fields(answer.json()).get("data")
        phones = [fields(phone) for phone in found] if answer.is_success and isinstance(found, list) else []
        for phone in phones:
            if phone.get("phone_number") == self.settings.phone and not _lets_go(phone):
                _log.warning(
                    "sender %s: the phone may send a message later than %d s: set its message_expiration_seconds "
                    "to 60..120 and its max_send_attempts to 1",
                    self.name,
                    LONGEST_EXPIRY_S,
                )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message to the phone once."""
        body: dict[str, Any] = {
            "from": self.settings.phone,
            "to": message.to,
            "content": message.text,
            "request_id": message.message_id,
        }
        if self.settings.encryption_key:
            body |= {"content": encrypted(message.text, self.settings.encryption_key.reveal()), "encrypted": True}
        if len(body["content"]) > LONGEST_CONTENT:
            return Rejected(RejectionKind.TOO_LONG, "longer than 2048 letters")
        try:
            answer = await self._call("POST", "/v1/messages/send", body)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        found = fields(answer.json())
        data = fields(found.get("data"))
        if not answer.is_success:
            wrong_fields = [f"{answer.status} {field}" for field in data] if answer.status == 422 else []
            return self._map.refusal(answer, *wrong_fields)
        provider_id = gateway_id(data.get("id"))
        return Accepted(provider_id) if provider_id is not None else Unknown("answer without an id")

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the token: made with our key, for our address, by this server, not long ago. Then read the ids."""
        address, key = self.receipt_url, self.settings.signing_key.reveal()
        if not key or address is None:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "signing_key or http.public_url is not set")
        if refusal := too_large(request):
            return refusal
        claims = jwt_claims(
            bearer_of(request.headers.get("authorization")),
            key,
            self.context.clock.time(),
            max_age_s=_TOKEN_AGE_S,
            audience=address,
            issuer=self.settings.issuer,
        )
        if claims is None or "exp" not in claims:
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "token is missing or wrong")
        event = object_in(request.body)
        if event is None or not isinstance(event.get("type"), str):
            return ReceiptRefusal(RefusalKind.MALFORMED, "not an event")
        receipt = self._told_by(event, fields(event.get("data")))
        return Receipts((receipt,) if receipt is not None else ())

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask the server how far each message is: it brings a receipt twice and then forgets it."""
        return await ask_each([message for message in messages if message.provider_id], self._ask)

    async def health(self) -> Health:
        """Say whether the phone reported lately."""
        try:
            answer = await self._call("GET", f"/v1/heartbeats?owner={quote(self.settings.phone, safe='')}&limit=1")
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        if not answer.is_success:
            return Health(is_ready=False, detail=f"status {answer.status}")
        beat_at = moment(first_of(fields(answer.json()).get("data")).get("timestamp"))
        if beat_at is None:
            return Health(is_ready=False, detail="the phone never reported")
        is_recent = gateway_time(answer, self.context.clock.time()) - beat_at <= ABSENT_AFTER_S
        return Health(is_ready=is_recent, detail="" if is_recent else "not seen for 20 minutes")

    async def _call(self, method: str, path: str, body: object = None) -> GatewayAnswer:
        headers = {"x-api-key": self.settings.api_key.reveal()}
        return await self._client.request(method, self._url + path, json=body, headers=headers)

    def _told_by(self, event: Mapping[str, Any], data: Mapping[str, Any]) -> Receipt | None:
        word = event["type"]
        provider_id = gateway_id(data.get(_ID_FIELDS.get(word, "")))
        # Expired, but not for good: the server may give it to the phone once more.
        is_undecided = word == "message.send.expired" and data.get("is_final") is not True
        # A webhook can be several phones': another may have had the same message from another sender.
        is_ours = data.get("owner") in (None, self.settings.phone)
        if provider_id is None or is_undecided or not is_ours:
            return None
        return self._receipt(
            word,
            provider_id,
            message_id=our_id(data.get("request_id")),
            reason=data.get("error_message"),
            receipt_id=gateway_id(event.get("id")),
            happened_at=moment(data.get("timestamp")),
        )

    async def _ask(self, message: SentMessage) -> Receipt | None:
        answer = await self._call("GET", f"/v1/messages/{quote(message.provider_id or '', safe='')}")
        stop_if_unwelcome(answer)
        data = fields(fields(answer.json()).get("data"))
        word = data.get("status")
        if not answer.is_success or not isinstance(word, str) or not message.provider_id:
            return None
        if word == "expired" and not _has_no_try_left(data):
            return None
        return self._receipt(
            word,
            message.provider_id,
            message_id=message.message_id,
            reason=data.get("failure_reason"),
            receipt_id=None,
            happened_at=moment(data.get(f"{word}_at")),
        )

    def _receipt(
        self,
        word: str,
        provider_id: str,
        *,
        message_id: str | None,
        reason: object,
        receipt_id: str | None,
        happened_at: float | None,
    ) -> Receipt:
        status, failure = self._map.status(word), Failure()
        if status is ReceiptStatus.FAILED:
            failure = self._map.failure(reason)
        return Receipt(
            status=status,
            message_id=message_id,
            provider_id=provider_id,
            receipt_id=receipt_id,
            happened_at=happened_at,
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )


def encrypted(text: str, key: str) -> str:
    """Hide a text as the app reads it: AES-256-CFB under SHA-256 of the key, behind a fresh vector, in base64.

    The app fixes the scheme: nothing tells a changed text from a genuine one, and the number stays in the open.
    """
    vector = secrets.token_bytes(16)
    encryptor = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), CFB(vector)).encryptor()
    return base64.b64encode(vector + encryptor.update(text.encode()) + encryptor.finalize()).decode("ascii")


def _lets_go(phone: Mapping[str, Any]) -> bool:
    """Say whether the phone has given every message up before a code of ordinary life ends."""
    expiry_s, attempts = phone.get("message_expiration_seconds"), phone.get("max_send_attempts")
    if not isinstance(expiry_s, int) or expiry_s <= 0:
        return False
    return expiry_s * max(1, attempts if isinstance(attempts, int) else 1) <= LONGEST_EXPIRY_S


def _has_no_try_left(data: Mapping[str, Any]) -> bool:
    done, most = data.get("send_attempt_count"), data.get("max_send_attempts")
    return isinstance(done, int) and isinstance(most, int) and done >= most
