"""The sender `zimsend`: SMS through ZimSend, which sends from the customer's own Android phones.

Its guide and its specification disagree in places; what both allow is sent, what either answers is understood. It takes
no validity and no name of ours, so a call without an answer is never repeated. Webhooks are signed without a time: one
that is replayed tells what was told before, under the same event id.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import (
    MAX_RECEIPT_BYTES,
    NO_MORE_QUESTIONS,
    Failure,
    decoded,
    failure_of,
    fields,
    gateway_id,
    moment,
    our_id,
    outcome_of_answer,
)
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
    RetryLater,
    Secret,
    Sender,
    SenderContext,
    SentMessage,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.proofs import hmac_sha256_hex, matches
from otpsvc.senders.questions import ask_each

# Codes go before everything else on the phone: by the guide, and by the list of errors, which knows words only.
_URGENT, _URGENT_IN_WORDS = 1, "high"
_NEW_WORDS_PAUSE_S = 0.5  # too short for a pause of the whole sender
_LONGEST_TEXT = 1600
_OUR_FIELD = "otpsvc_message_id"


class ZimSendSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table of a `zimsend` sender; docs/gateways/zimsend.md explains it."""

    api_key: Secret
    client_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,100}\Z")]
    device_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,100}\Z")] | None = None
    webhook_secret: Secret | None = None
    url: str = "https://api.zimsend.com/v1"
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8.0
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Refuse a key that no header takes."""
        check_api_key(self.api_key)


class ZimSendSender(Sender[ZimSendSettings]):
    """One account, and one of its phones if `device_id` names it. Where webhooks cannot come it asks for states."""

    Settings = ZimSendSettings

    def __init__(self, name: str, settings: ZimSendSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            can_cancel=True,
            has_receipts=True,
            has_presence=settings.device_id is not None,
            longest_text=_LONGEST_TEXT,
            receipt_within_s=60.0,
            # A webhook that nobody was told of is silence, and silence sends the code again elsewhere.
            polls_every_s=None if settings.webhook_secret and self.receipt_url else 20.0,
        )
        self._url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        self._headers = {"X-API-Key": settings.api_key.reveal(), "X-Client-ID": settings.client_id}
        self._device = {"X-Device-ID": settings.device_id} if settings.device_id is not None else {}
        self._urgent: int | str = _URGENT
        self._codes = GatewayMap.load("zimsend")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)

    async def open(self) -> None:
        """Make the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Queue one SMS before all others; our id rides along and comes back in webhooks."""
        body: dict[str, object] = {
            "to": message.to,
            "message": message.text,
            "priority": self._urgent,
            "metadata": {_OUR_FIELD: message.message_id},
        }
        if self.settings.webhook_secret is not None and self.receipt_url is not None:
            body["webhook_url"] = self.receipt_url
        try:
            answer = await self._call("POST", "/sms/send", body, self._device)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        said = fields(answer.json())
        provider_id = gateway_id(said.get("message_id"))
        if answer.is_success and said.get("success", True) is True and provider_id is not None:
            return Accepted(provider_id)
        code = _code(said)
        if code == "INVALID_PRIORITY" and body["priority"] == _URGENT:
            self._urgent = _URGENT_IN_WORDS
            return RetryLater(_NEW_WORDS_PAUSE_S, f"code {code}")
        if answer.is_success and said.get("success") is not False and self._codes.row("send", code) is None:
            code = None  # whatever stands there in a success, it is no refusal
        return outcome_of_answer(self._codes, code, answer)

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask for each message; stop at one that gets no answer, or that we ask too much."""
        return await ask_each(messages, self._ask)

    async def cancel(self, message: SentMessage) -> bool:
        """Take a message out of the queue; True if it was still in there."""
        provider_id = gateway_id(message.provider_id)
        if provider_id is None:
            return False
        try:
            answer = await self._call("DELETE", f"/sms/{provider_id}")
        except (NotSent, NoAnswer):
            return False
        said = fields(answer.json())
        return answer.is_success and self._codes.status(said.get("status")) is ReceiptStatus.CANCELLED

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the signature, then read one event. Events about phones and codes tell nothing."""
        secret = self.settings.webhook_secret
        if secret is None:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "no webhook_secret is set")
        if len(request.body) > MAX_RECEIPT_BYTES:
            return ReceiptRefusal(RefusalKind.MALFORMED, "too large")
        if not matches(request.headers.get("x-webhook-signature"), hmac_sha256_hex(secret.reveal(), request.body)):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "wrong signature")
        event = fields(decoded(request.body))
        name = event.get("event")
        if not isinstance(name, str):
            return ReceiptRefusal(RefusalKind.MALFORMED, "no event in it")
        if not name.startswith("sms."):
            return Receipts(())
        receipt = self._receipt(fields(event.get("data")), name.removeprefix("sms."), event)
        return Receipts((receipt,)) if receipt else ReceiptRefusal(RefusalKind.MALFORMED, "no message in it")

    async def health(self) -> Health:
        """Say whether the key is taken and, where one phone is chosen, whether it is connected."""
        try:
            answer = await self._call("GET", "/auth/test", None, self._device)
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        said = fields(answer.json())
        if not answer.is_success or said.get("success") is not True:
            outcome = outcome_of_answer(self._codes, _code(said), answer)
            return Health(is_ready=False, detail=getattr(outcome, "detail", "") or f"status {answer.status}")
        is_offline = bool(self._device) and said.get("device_status") != "online"
        return Health(is_ready=not is_offline, detail="the phone is not connected" if is_offline else "")

    async def _ask(self, message: SentMessage) -> Receipt | None:
        provider_id = gateway_id(message.provider_id)
        if provider_id is None:
            return None
        answer = await self._call("GET", f"/sms/status/{provider_id}")
        if answer.status in NO_MORE_QUESTIONS:
            raise NotSent("not to be asked now")
        said = fields(answer.json())
        receipt = self._receipt(said, said.get("status"), None) if answer.is_success else None
        return receipt if receipt is not None and receipt.provider_id == provider_id else None

    def _receipt(self, data: Mapping[str, Any], word: object, event: Mapping[str, Any] | None) -> Receipt | None:
        """Read what is said about a message; `word` is the state by the event's name, or by the answer to a poll."""
        provider_id = gateway_id(data.get("message_id"))
        if provider_id is None:
            return None
        status = self._codes.status(word)
        failure = Failure()
        if status is ReceiptStatus.FAILED:
            failure = failure_of(self._codes, fields(data.get("error")).get("code"))
        times = (data.get(f"{word}_at"), event.get("timestamp") if event else None)
        return Receipt(
            status=status,
            message_id=our_id(fields(data.get("metadata")).get(_OUR_FIELD)),
            provider_id=provider_id,
            receipt_id=gateway_id(event.get("event_id")) if event else None,
            happened_at=next((at for at in map(moment, times) if at is not None), None),
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )

    async def _call(
        self, method: str, path: str, body: object = None, more_headers: Mapping[str, str] | None = None
    ) -> GatewayAnswer:
        headers = {**self._headers, **(more_headers or {})}
        return await self._client.request(method, f"{self._url}{path}", headers=headers, json=body)


def _code(said: Mapping[str, Any]) -> object:
    """Return the error's code in both shapes: an object, or flat beside a text."""
    error = said.get("error")
    return fields(error).get("code") if isinstance(error, dict) else said.get("code")
