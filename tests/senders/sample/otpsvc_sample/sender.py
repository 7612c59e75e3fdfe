"""The sender `sample`: one call to the gateway per message, and the receipts that it brings later.

The gateway here is invented. Its API takes `POST /messages` with a bearer token, recognises our id (`reference`), drops
a message after `valid_for` seconds, and signs its receipts. Nothing in this file may repeat a call or write down the
text or the number.
"""

from pathlib import Path
from typing import Annotated

import msgspec

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
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    Sender,
    SenderContext,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.proofs import hmac_sha256_hex, is_fresh, matches

CODES = GatewayMap.from_csv("sample", Path(__file__).with_name("codes.csv").read_text("utf-8"))
LARGEST_RECEIPT_BYTES = 65_536


class SampleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Its table in the settings. A `Secret` does not print, and may be given as a file: `token_file = "…"`."""

    base_url: str
    token: Secret
    origin: Annotated[str, msgspec.Meta(min_length=1, max_length=11)] = "Example"
    receipt_secret: Secret = Secret()
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 8.0
    allow_private: bool = False


class _Taken(msgspec.Struct):
    id: str
    parts: int | None = None


class _Refused(msgspec.Struct):
    error: str


class _Said(msgspec.Struct):
    """A receipt, as the gateway writes it."""

    id: str
    reference: str
    status: str
    at: float
    error: str = ""


class SampleSender(Sender[SampleSettings]):
    """Hands messages to the gateway and reads its receipts."""

    Settings = SampleSettings
    capabilities = Capabilities(
        channels=frozenset({Channel.SMS}),
        honours_expiry=True,
        is_idempotent=True,
        has_receipts=True,
        receipt_within_s=20,
        longest_text=1000,
    )

    def __init__(self, name: str, settings: SampleSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        key = f"senders.{name}.base_url"
        self._base = check_url(settings.base_url, allow_private=settings.allow_private, key=key)
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)

    async def open(self) -> None:
        """Make the connection pool; nothing is called yet."""
        await self._client.open()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message over with one call, and say what its answer means."""
        body = {
            "reference": message.message_id,
            "from": self.settings.origin,
            "to": message.to,
            "text": message.text,
            "valid_for": int(message.life_s),
        }
        try:
            answer = await self._client.request(
                "POST", f"{self._base}/messages", json=body, bearer=self.settings.token.reveal()
            )
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        return _meaning(answer)

    async def health(self) -> Health:
        """Ask the gateway whether the token is good; no message is sent by this."""
        try:
            answer = await self._client.request("GET", f"{self._base}/account", bearer=self.settings.token.reveal())
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        return Health(is_ready=answer.is_success, detail=f"status {answer.status}")

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the signature over time and body first; read only what it proves."""
        if not self.settings.receipt_secret:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "receipt_secret is not set")
        if len(request.body) > LARGEST_RECEIPT_BYTES:
            return ReceiptRefusal(RefusalKind.MALFORMED, "too large")
        stamp = request.headers.get("x-timestamp", "")
        signed = stamp.encode("utf-8", "replace") + b"." + request.body
        expected = hmac_sha256_hex(self.settings.receipt_secret.reveal(), signed)
        is_genuine = matches(request.headers.get("x-signature"), expected)
        if not is_genuine or not is_fresh(stamp, self.context.clock.time()):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC)
        try:
            said = msgspec.json.decode(request.body, type=_Said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ReceiptRefusal(RefusalKind.MALFORMED)
        status = CODES.status(said.status)
        has_failed = status is ReceiptStatus.FAILED
        receipt = Receipt(
            status=status,
            message_id=said.reference,
            provider_id=said.id,
            happened_at=said.at,
            kind=CODES.kind(said.error) if has_failed else None,
            is_unmapped=has_failed and said.error != "" and CODES.row("failure", said.error) is None,
        )
        return Receipts((receipt,))


def _meaning(answer: GatewayAnswer) -> Outcome:
    """Say what an answer means for the message; what cannot be read is Unknown, never a guess."""
    if answer.status == 429:
        return RetryLater(answer.retry_after_s or 5.0, "status 429")
    if answer.status in {401, 403}:
        return Rejected(RejectionKind.UNAUTHORISED, f"status {answer.status}")
    if 300 <= answer.status < 400:
        return Rejected(RejectionKind.MISCONFIGURED, "redirected: is base_url right?")
    try:
        if answer.is_success:
            taken = msgspec.json.decode(answer.body, type=_Taken)
            return Accepted(taken.id, taken.parts)
        if answer.status < 500:
            return CODES.outcome(msgspec.json.decode(answer.body, type=_Refused).error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return Unknown(f"status {answer.status}")
