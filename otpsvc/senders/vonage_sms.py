"""The sender `vonage-sms`: Vonage's SMS API, for accounts without an application.

It answers 200 for nearly everything; what became of a message stands in one entry per part. Our message id travels as
`client-ref` and comes back in every receipt, so a message whose answer was lost is still told of. Never log an answer:
it repeats the number.
"""

import re
from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from otpsvc.errors import ConfigurationError
from otpsvc.senders.addresses import check_url
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
    RejectionKind,
    Sender,
    SenderContext,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.receipt_fields import read_fields, seconds_of
from otpsvc.senders.receipt_tokens import has_token, with_token
from otpsvc.senders.vonage_settings import VonageSmsSettings
from otpsvc.senders.vonage_signing import is_signed, signature_of

SHORTEST_TTL_MS = 20_000
LONGEST_TTL_MS = 604_800_000
LONGEST_CALLBACK = 100
HOLDS_FOR_S = 259_200  # without a validity they try for 72 hours

_MESSAGE_ID = re.compile(r"[0-9A-Za-z-]{16,40}")
_CLIENT_REF = re.compile(r"[0-9A-Za-z_-]{1,64}")
_CODE = re.compile(r"[0-9]{1,4}")
# 3GPP TS 23.038, the default alphabet and its extension: what an SMS can carry without becoming twice as long.
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà\f^{}\\[~]|€"
)


class _Part(msgspec.Struct, frozen=True):
    status: Annotated[str, Meta(pattern=r"^[0-9]{1,4}\Z")] | Annotated[int, Meta(ge=0, le=9999)]
    message_id: str | None = msgspec.field(name="message-id", default=None)


class _Answer(msgspec.Struct, frozen=True):
    messages: Annotated[list[_Part], Meta(min_length=1)]


class VonageSmsSender(Sender[VonageSmsSettings]):
    """One Vonage account and one sender id."""

    Settings: ClassVar[type[msgspec.Struct]] = VonageSmsSettings

    def __init__(self, name: str, settings: VonageSmsSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        base = check_url(settings.base_url, allow_private=settings.allow_private, key=f"senders.{name}.base_url")
        self._url = f"{base}/sms/json"
        self._balance_url = f"{base}/account/get-balance"
        self._map = GatewayMap.load("vonage-sms")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._has_receipts = settings.receipt_secret is not None or settings.receipt_token is not None
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            honours_expiry=True,
            max_lifetime_s=HOLDS_FOR_S,
            has_receipts=self._has_receipts,
        )
        if len(self.receipt_url or "") > LONGEST_CALLBACK:
            raise ConfigurationError(
                f"senders.{name}: its receipts address is longer than the {LONGEST_CALLBACK} characters that Vonage "
                "takes; shorten the public URL, the sender's name or receipt_token"
            )

    @property
    def receipt_url(self) -> str | None:
        """Where Vonage brings receipts; None if nothing could prove them, or the house has no public address."""
        if not self._has_receipts:
            return None
        return with_token(super().receipt_url, None if self.settings.receipt_secret else self.settings.receipt_token)

    async def open(self) -> None:
        """Open the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message over in one call."""
        try:
            answer = await self._client.request("POST", self._url, form=self._form(message), basic=self._basic())
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        return self._outcome(answer)

    async def health(self) -> Health:
        """Say whether key and secret are taken, by asking for the balance; signed calls are proved by sending only."""
        basic = self._basic()
        if basic is None:
            return Health(is_ready=True, detail="not asked: only a message shows whether its signature is right")
        try:
            answer = await self._client.request("GET", self._balance_url, basic=basic)
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        return Health(is_ready=answer.is_success, detail="" if answer.is_success else f"status {answer.status}")

    def _basic(self) -> tuple[str, str] | None:
        secret = self.settings.api_secret
        return (self.settings.api_key, secret.reveal()) if secret is not None else None

    def _form(self, message: OutboundMessage) -> dict[str, str]:
        ttl_ms = min(max(int(message.life_s * 1000), SHORTEST_TTL_MS), LONGEST_TTL_MS)
        form = {
            "from": self.settings.origin,
            "to": message.to.removeprefix("+"),
            "text": message.text,
            "type": "text" if _GSM7.issuperset(message.text) else "unicode",
            "ttl": str(ttl_ms),
            "client-ref": message.message_id,
            "status-report-req": "true" if self._has_receipts else "false",
        }
        if self.receipt_url is not None:
            form["callback"] = self.receipt_url
        if self.settings.api_secret is None and (secret := self.settings.signature_secret) is not None:
            form |= {"api_key": self.settings.api_key, "timestamp": str(int(self.context.clock.time()))}
            form["sig"] = signature_of(form, secret, self.settings.signature_method)
        return form

    def _outcome(self, answer: GatewayAnswer) -> Outcome:
        if answer.status >= 500:
            return Unknown(f"status {answer.status}")
        if not answer.is_success:
            return self._map.outcome(
                f"http-{answer.status}", detail=f"status {answer.status}", after_s=answer.retry_after_s
            )
        try:
            parts = msgspec.json.decode(answer.body, type=_Answer).messages
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Unknown("answer cannot be read")
        return self._of_parts(parts, answer.retry_after_s)

    def _of_parts(self, parts: list[_Part], after_s: float | None) -> Outcome:
        """Sum the parts up. When only some were taken, a phone may show nothing, or half: nobody can say."""
        outcomes = [self._map.outcome(part.status, detail=f"status {part.status}", after_s=after_s) for part in parts]
        if all(isinstance(outcome, Accepted) for outcome in outcomes):
            return Accepted(_readable_id(part.message_id for part in parts), parts=len(parts))
        n_taken = sum(isinstance(outcome, Accepted) for outcome in outcomes)
        if n_taken:
            return Unknown(f"{n_taken} of {len(parts)} parts taken")
        return next((outcome for outcome in outcomes if isinstance(outcome, Unknown)), outcomes[0])

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check `sig` or the token in the path, then read one receipt from the query, a form or JSON."""
        if not self._has_receipts:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED)
        secret = self.settings.receipt_secret
        if secret is None and not has_token(request, self.settings.receipt_token):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "token")
        fields = read_fields(request)
        if fields is None:
            return ReceiptRefusal(RefusalKind.MALFORMED)
        if secret is not None and not is_signed(
            fields,
            secret,
            self.settings.signature_method,
            now=self.context.clock.time(),
            tolerance_s=self.settings.tolerance_s,
        ):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "sig")
        if fields.get("api-key", self.settings.api_key) != self.settings.api_key:
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "account")
        # Nothing but its time, the last of what they send, shows that an unsigned form came whole.
        is_whole = secret is not None or seconds_of(fields.get("message-timestamp")) is not None
        if not is_whole or not _MESSAGE_ID.fullmatch(fields.get("messageId", "")):
            return ReceiptRefusal(RefusalKind.MALFORMED)
        # A message from a phone comes to the same address where people set it so: it has an id, and no status.
        return Receipts((self._receipt(fields),) if "status" in fields else ())

    def _receipt(self, fields: dict[str, str]) -> Receipt:
        client_ref, code = fields.get("client-ref", ""), fields.get("err-code", "")
        status, kind = self._map.status(fields["status"]), None
        is_told, is_unmapped = _CODE.fullmatch(code) is not None and code != "0", False
        if status is ReceiptStatus.FAILED:
            kind = self._map.kind(code) if is_told else RejectionKind.UNDELIVERABLE
            is_unmapped = is_told and self._map.row("failure", code) is None
        return Receipt(
            status=status,
            message_id=client_ref if _CLIENT_REF.fullmatch(client_ref) else None,
            provider_id=fields["messageId"],
            happened_at=seconds_of(fields.get("message-timestamp")),
            kind=kind,
            detail=f"err-code {code}" if is_told else "",
            is_unmapped=is_unmapped,
        )


def _readable_id(ids: Iterable[str | None]) -> str | None:
    """Return the first part's id, if it looks like one of theirs."""
    first = next(iter(ids), None)
    return first if first is not None and _MESSAGE_ID.fullmatch(first) else None
