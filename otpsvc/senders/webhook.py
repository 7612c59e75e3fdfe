"""The sender `webhook`: posts each message, signed, to an address of the operator's own choosing.

It is the way out to every gateway that has no sender of its own: somebody writes twenty lines that take the request and
call that gateway. What those lines have to do is in docs/gateways/webhook.md, and what they promise is claimed here:
that the same `webhook-id` twice is one message.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import (
    MAX_RECEIPT_BYTES,
    MAX_RECEIPT_ITEMS,
    Failure,
    failure_of,
    fields,
    gateway_id,
    moment,
    our_id,
    outcome_of_answer,
)
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
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
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.webhook_signing import WebhookSigner

# A replayed receipt changes nothing, so a clock that is ten minutes off need not cost one.
RECEIPT_TOLERANCE_S = 900.0


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of a `webhook` sender. docs/gateways/webhook.md explains each key."""

    url: str
    secret: Secret
    format: Literal["otpsvc", "supabase"] = "otpsvc"
    channels: tuple[Literal["sms", "voice", "email", "whatsapp"], ...] = ("sms",)
    deduplicates: bool | None = None
    honours_expiry: bool = False
    receipts: bool = False
    receipt_within_s: Annotated[float, msgspec.Meta(ge=1, le=600)] | None = None
    allow_private: bool = False
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 8.0


class WebhookSender(Sender[WebhookSettings]):
    """One receiver, by its address and secrets."""

    Settings = WebhookSettings

    def __init__(self, name: str, settings: WebhookSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        # A slash at the end is part of the address: some frameworks answer a redirect without it.
        self._url = settings.url.strip()
        self._signer = WebhookSigner.from_setting(settings.secret.reveal(), key=f"senders.{name}.secret")
        self._codes = GatewayMap.load("webhook")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        is_ours = settings.format == "otpsvc"
        self.capabilities = Capabilities(
            channels=frozenset(map(Channel, settings.channels)) if is_ours else frozenset({Channel.SMS}),
            honours_expiry=settings.honours_expiry and is_ours,
            is_idempotent=is_ours if settings.deduplicates is None else settings.deduplicates,
            has_receipts=settings.receipts,
            receipt_within_s=settings.receipt_within_s if settings.receipts else None,
        )

    async def open(self) -> None:
        """Make the connection pool; nothing is sent."""
        await self._client.open()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Post the message once."""
        tree = _our_body(message) if self.settings.format == "otpsvc" else _supabase_body(message)
        if isinstance(tree, Rejected):
            return tree
        body = msgspec.json.encode(tree)
        headers = self._signer.headers(message.message_id, self.context.clock.time(), body)
        headers["content-type"] = "application/json"
        try:
            answer = await self._client.request("POST", self._url, content=body, headers=headers)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        return self._read(answer)

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Read one receipt, or a list of them, that is signed as our own requests are."""
        if not self.settings.receipts:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED)
        if len(request.body) > MAX_RECEIPT_BYTES:
            return ReceiptRefusal(RefusalKind.MALFORMED, "too large")
        now = self.context.clock.time()
        if not self._signer.is_genuine(request.headers, request.body, now, RECEIPT_TOLERANCE_S):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC)
        try:
            tree = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ReceiptRefusal(RefusalKind.MALFORMED, "not JSON")
        entries = tree if isinstance(tree, list) else [tree]
        if not 0 < len(entries) <= MAX_RECEIPT_ITEMS:
            return ReceiptRefusal(RefusalKind.MALFORMED, "too many or none")
        receipt_id = gateway_id(request.headers["webhook-id"]) if len(entries) == 1 else None
        items = [self._receipt(entry, receipt_id) for entry in entries]
        if None in items:
            return ReceiptRefusal(RefusalKind.MALFORMED, "an id or a status is missing")
        return Receipts(tuple(item for item in items if item is not None))

    def _read(self, answer: GatewayAnswer) -> Outcome:
        said = fields(answer.json())
        # Some languages write every field down: an empty error is none.
        error = said.get("error") or None
        if error is None and answer.is_success:
            return Accepted(gateway_id(said.get("message_id")))
        code = error if isinstance(error, str) else None
        is_kind = code is not None and self._codes.row("send", code) is not None
        status = answer.status
        if answer.is_success:
            # Some receivers can only say 200, and write down the status that they mean.
            meant = fields(error).get("http_code", 400 if isinstance(error, str) else 500)
            status = meant if isinstance(meant, int) and 300 <= meant <= 599 else 500
        if status == 409 and not is_kind and self.capabilities.is_idempotent:
            # It knows this id: an earlier call of ours arrived.
            return Accepted(gateway_id(said.get("message_id")))
        if status == 503 and not is_kind and "retry-after" not in answer.headers:
            # Without a word on when to come back it may as well be a proxy that lost patience with the receiver.
            return Unknown("status 503")
        return outcome_of_answer(self._codes, code, msgspec.structs.replace(answer, status=status))

    def _receipt(self, entry: object, receipt_id: str | None) -> Receipt | None:
        said = fields(entry)
        message_id, provider_id = our_id(said.get("id")), gateway_id(said.get("message_id"))
        word = said.get("status")
        if not isinstance(word, str) or (message_id is None and provider_id is None):
            return None
        status = self._codes.status(word)
        failure = failure_of(self._codes, said.get("error")) if status is ReceiptStatus.FAILED else Failure()
        return Receipt(
            status=status,
            message_id=message_id,
            provider_id=provider_id,
            receipt_id=receipt_id,
            happened_at=moment(said.get("at")),
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )


def _our_body(message: OutboundMessage) -> dict[str, Any]:
    return {
        "id": message.message_id,
        "to": message.to,
        "text": message.text,
        "channel": message.channel.value,
        # Whole seconds, downwards: a code must never look alive after its end.
        "expires_at": f"{datetime.fromtimestamp(int(message.expires_at), UTC):%Y-%m-%dT%H:%M:%SZ}",
        "life_s": int(message.life_s),
        "mode": message.mode,
        "client_id": message.client_id,
        "try_number": message.try_number,
    }


def _supabase_body(message: OutboundMessage) -> dict[str, Any] | Rejected:
    # That form has a place for the code alone, and what we have is the finished text.
    runs = {run for run in re.findall(r"(?<!\d)[0-9]+(?!\d)", message.text) if len(run) == message.code_length}
    if len(runs) != 1:
        return Rejected(RejectionKind.TEXT_REFUSED, "no single code in the text")
    return {"user": {"phone": message.to}, "sms": {"otp": next(iter(runs))}}
