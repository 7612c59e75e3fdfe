"""textbee: an Android phone behind the public server or one's own.

The weakest of the phone gateways: it takes no id of ours and no lifetime, the text passes through its server and
Google's push in the clear, and a message that the push could not bring may leave hours later. So nothing is ever
repeated here.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import Failure, fields, gateway_id, moment
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
    Secret,
    Sender,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.phone_answers import PhoneMap, first_of, object_in, stop_if_unwelcome, too_large
from otpsvc.senders.proofs import hmac_sha256_hex, matches
from otpsvc.senders.questions import ask_each, gateway_time

LONGEST_WAIT_S = 72 * 3600  # how long its push holds a message for a phone that is away
ABSENT_AFTER_S = 40 * 60.0  # a phone reports every 30 minutes
_EVENTS = frozenset({"MESSAGE_SENT", "MESSAGE_DELIVERED", "MESSAGE_FAILED", "UNKNOWN_STATE"})
_TIMES: Mapping[ReceiptStatus, str] = {
    ReceiptStatus.DISPATCHED: "dispatchedAt",
    ReceiptStatus.SENT: "sentAt",
    ReceiptStatus.DELIVERED: "deliveredAt",
    ReceiptStatus.FAILED: "failedAt",
}


class TextBeeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One phone. `signing_secret` is the webhook's, 20 letters or more there."""

    api_key: Secret
    device_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="a device id")]
    url: str = "https://api.textbee.dev/api/v1"
    sim_subscription_id: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    signing_secret: Secret = Secret()
    allow_private: bool = False
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8.0

    def __post_init__(self) -> None:
        """Refuse a key that no header takes."""
        check_api_key(self.api_key)


class TextBeeSender(Sender[TextBeeSettings]):
    """Hands messages to one phone."""

    Settings = TextBeeSettings
    capabilities = Capabilities(
        channels=frozenset({Channel.SMS}),
        max_lifetime_s=LONGEST_WAIT_S,
        has_receipts=True,
        has_presence=True,
        receipt_within_s=30.0,
        polls_every_s=10.0,
    )

    def __init__(self, name: str, settings: TextBeeSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self._url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._map = PhoneMap("textbee")
        self._device_path = f"/gateway/devices/{settings.device_id}"
        self._send_path = "/gateway/send-sms"

    async def open(self) -> None:
        """Make the connections."""
        await self._client.open()

    async def close(self) -> None:
        """Let go of them."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message to the phone once."""
        body: dict[str, Any] = {
            "deviceId": self.settings.device_id,
            "recipients": [message.to],
            "message": message.text,
        }
        if self.settings.sim_subscription_id is not None:
            body["simSubscriptionId"] = self.settings.sim_subscription_id
        try:
            answer = await self._call("POST", self._send_path, body)
            if answer.status == 404 and str(fields(answer.json()).get("message")).startswith("Cannot POST"):
                # A server from before this address existed; it never looked at the message.
                self._send_path = f"{self._device_path}/send-sms"
                answer = await self._call("POST", self._send_path, body)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        found = fields(answer.json())
        if answer.is_success:
            return _taken(fields(found.get("data")))
        limit = "hasReachedLimit" if found.get("hasReachedLimit") is True else None
        return self._map.refusal(answer, limit, found.get("code"), found.get("error"), found.get("message"))

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the signature over the body, then read it. It bears no time; an old one says nothing new."""
        secret = self.settings.signing_secret.reveal()
        if not secret:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "signing_secret is not set")
        if refusal := too_large(request):
            return refusal
        if not matches(request.headers.get("x-signature"), hmac_sha256_hex(secret, request.body)):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "signature is wrong")
        event = object_in(request.body)
        if event is None:
            return ReceiptRefusal(RefusalKind.MALFORMED, "not a JSON object")
        word, batch_id = event.get("webhookEvent"), gateway_id(event.get("smsBatchId"))
        # The webhook is the account's, not the phone's.
        is_ours = event.get("deviceId") in (None, self.settings.device_id)
        if not isinstance(word, str) or word not in _EVENTS or batch_id is None or not is_ours:
            return Receipts(())
        receipt = self._receipt(word, event, provider_id=batch_id, receipt_id=gateway_id(event.get("idempotencyKey")))
        return Receipts((receipt,))

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask the server how far each message is: first receipts are known to get lost."""
        return await ask_each([message for message in messages if message.provider_id], self._ask)

    async def health(self) -> Health:
        """Say whether the phone is switched on and reported lately."""
        try:
            answer = await self._call("GET", self._device_path)
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        device = fields(fields(answer.json()).get("data"))
        if not answer.is_success or not device:
            return Health(is_ready=False, detail=f"status {answer.status}")
        if device.get("enabled") is not True:
            return Health(is_ready=False, detail="switched off")
        beat_at = moment(device.get("lastHeartbeat"))
        if beat_at is None or gateway_time(answer, self.context.clock.time()) - beat_at > ABSENT_AFTER_S:
            return Health(is_ready=False, detail="not seen for 40 minutes")
        return Health(is_ready=True)

    async def _call(self, method: str, path: str, body: object = None) -> GatewayAnswer:
        headers = {"x-api-key": self.settings.api_key.reveal()}
        return await self._client.request(method, self._url + path, json=body, headers=headers)

    async def _ask(self, message: SentMessage) -> Receipt | None:
        batch_id = message.provider_id or ""
        answer = await self._call("GET", f"{self._device_path}/sms-batch/{quote(batch_id, safe='')}")
        stop_if_unwelcome(answer)
        # The batch is `completed` once the push was asked to bring it: only its message tells what the phone did.
        found = first_of(fields(fields(answer.json()).get("data")).get("messages"))
        word = found.get("status")
        if not answer.is_success or not isinstance(word, str):
            return None
        return self._receipt(word, found, provider_id=batch_id, message_id=message.message_id)

    def _receipt(
        self,
        word: str,
        told: Mapping[str, Any],
        *,
        provider_id: str,
        message_id: str | None = None,
        receipt_id: str | None = None,
    ) -> Receipt:
        status, failure = self._map.status(word), Failure()
        if status is ReceiptStatus.FAILED:
            failure = self._map.failure(told.get("errorCode"), told.get("errorMessage"))
        return Receipt(
            status=status,
            message_id=message_id,
            provider_id=provider_id,
            receipt_id=receipt_id,
            happened_at=moment(told.get(_TIMES.get(status, ""))),
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )


def _taken(data: Mapping[str, Any]) -> Outcome:
    """Read a success. A server without a queue shows what its push said, and has no id for the message."""
    batch_id = gateway_id(data.get("smsBatchId"))
    n_pushed = data.get("successCount")
    if batch_id is not None or data.get("success") is True:
        return Accepted(batch_id)
    if isinstance(n_pushed, int) and n_pushed >= 1:
        return Accepted()
    return Unknown("success without a word about the message")
