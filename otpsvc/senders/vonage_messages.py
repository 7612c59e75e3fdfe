"""The sender `vonage-messages`: Vonage's Messages API, by SMS and WhatsApp.

Calls carry key and secret, or the token of an application. Errors are told by the last part of a URL, by a number, or
by the HTTP status alone. Never log an answer or a webhook: both repeat numbers.
"""

import email.utils
import re
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec

from otpsvc.errors import ConfigurationError
from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import fields, unmapped
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
    Sender,
    SenderContext,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.receipt_fields import MAX_BODY_BYTES, seconds_of
from otpsvc.senders.receipt_tokens import has_token, with_token
from otpsvc.senders.vonage_settings import VonageMessagesSettings
from otpsvc.senders.vonage_signing import ApplicationToken, is_webhook_signed

SHORTEST_TTL_S = 20
LONGEST_TTL_S = 604_800
HOLDS_FOR_S = 259_200  # without a validity they try for 72 hours
LONGEST_TEXT = 1000
SUBMITTED_WITHIN_S = 60.0
NOTABLE_SKEW_S = 60.0

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CLIENT_REF = re.compile(r"[0-9A-Za-z_-]{1,100}")
_SLUG = re.compile(r"[a-z][a-z-]{1,39}|[0-9]{1,5}")
# What they say to a call without a message whose credentials are right.
_EMPTY_CALL = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})


class _Taken(msgspec.Struct, frozen=True):
    message_uuid: str


class _Problem(msgspec.Struct, frozen=True):
    """What is wrong, in the current form (`type`, `title`) or the one before it (`code`)."""

    type: Any = None
    title: Any = None
    code: Any = None
    invalid_parameters: Any = None


class _Status(msgspec.Struct, frozen=True):
    message_uuid: str
    status: str | None = None
    client_ref: str | None = None
    timestamp: str | None = None
    error: _Problem | None = None


class VonageMessagesSender(Sender[VonageMessagesSettings]):
    """One Vonage account or application."""

    Settings: ClassVar[type[msgspec.Struct]] = VonageMessagesSettings

    def __init__(self, name: str, settings: VonageMessagesSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        base = check_url(settings.base_url, allow_private=settings.allow_private, key=f"senders.{name}.base_url")
        self._url = f"{base}/v1/messages"
        self._map = GatewayMap.load("vonage-messages")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._token = self._application_token()
        self._origins = {
            channel: origin
            for channel, origin in ((Channel.SMS, settings.origin), (Channel.WHATSAPP, settings.whatsapp_origin))
            if origin is not None
        }
        self._has_receipts = settings.signature_secret is not None or settings.receipt_token is not None
        self.capabilities = Capabilities(
            channels=frozenset(self._origins),
            # WhatsApp takes no validity for a plain text.
            honours_expiry=settings.whatsapp_origin is None,
            max_lifetime_s=HOLDS_FOR_S if settings.whatsapp_origin is None else None,
            has_receipts=self._has_receipts,
            longest_text=LONGEST_TEXT,
            receipt_within_s=SUBMITTED_WITHIN_S if self.receipt_url else None,
        )

    @property
    def receipt_url(self) -> str | None:
        """Where Vonage brings receipts; None if nothing could prove them, or the house has no public address."""
        if not self._has_receipts:
            return None
        return with_token(super().receipt_url, None if self.settings.signature_secret else self.settings.receipt_token)

    async def open(self) -> None:
        """Open the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message over in one call."""
        if message.channel not in self._origins:
            return Rejected(RejectionKind.UNSUPPORTED, "channel not set up")
        try:
            answer = await self._post(self._body(message))
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        return self._outcome(answer)

    async def health(self) -> Health:
        """Say whether the credentials are taken, by a call that has no message in it and so sends none."""
        try:
            answer = await self._post({})
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        said = self._outcome(answer) if not answer.is_success and answer.status not in _EMPTY_CALL else None
        return Health(is_ready=said is None, detail=getattr(said, "detail", ""))

    async def _post(self, body: dict[str, Any]) -> GatewayAnswer:
        settings, basic = self.settings, None
        if settings.api_key is not None and settings.api_secret is not None:
            basic = (settings.api_key, settings.api_secret.reveal())
        bearer = self._token.current() if self._token is not None else None
        return await self._client.request("POST", self._url, json=body, basic=basic, bearer=bearer)

    def _application_token(self) -> ApplicationToken | None:
        settings = self.settings
        if settings.application_id is None or settings.private_key is None:
            return None
        try:
            return ApplicationToken(settings.application_id, settings.private_key, self.context.clock)
        except ValueError as error:
            raise ConfigurationError(f"senders.{self.name}.private_key {error}") from None

    def _body(self, message: OutboundMessage) -> dict[str, Any]:
        body: dict[str, Any] = {
            "channel": message.channel.value,
            "message_type": "text",
            "to": message.to.removeprefix("+"),
            "from": self._origins[message.channel],
            "text": message.text,
            "client_ref": message.message_id,
        }
        if message.channel is Channel.SMS:
            body["ttl"] = min(max(int(message.life_s), SHORTEST_TTL_S), LONGEST_TTL_S)
            body["sms"] = {"encoding_type": self.settings.encoding}
        if self.receipt_url is not None:
            body |= {"webhook_url": self.receipt_url, "webhook_version": "v1"}
        return body

    def _outcome(self, answer: GatewayAnswer) -> Outcome:
        if answer.is_success:
            try:
                taken = msgspec.json.decode(answer.body, type=_Taken)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return Unknown("answer cannot be read")
            return Accepted(taken.message_uuid) if _UUID.fullmatch(taken.message_uuid) else Unknown("no message id")
        if answer.status >= 500:
            return Unknown(f"status {answer.status}")
        if answer.status == 401 and self._token is not None:
            self._token.forget()
        return self._refusal(answer)

    def _refusal(self, answer: GatewayAnswer) -> Outcome:
        """Read why it was refused: by its code, or by the status alone where no table knows the code."""
        by_status, told = f"http-{answer.status}", _problem_in(answer)
        code = self._code_of(told, "send")
        row = self._map.row("send", code) if code is not None else None
        if row is not None and answer.status == HTTPStatus.TOO_MANY_REQUESTS and row.outcome != "retry":
            row = None  # their own documents say 1010 in it, which elsewhere is a missing field
        detail = f"status {answer.status}" + (f", {code}" if code else "") + self._skew(answer)
        outcome = self._map.outcome(by_status if row is None else code, detail=detail, after_s=answer.retry_after_s)
        if isinstance(outcome, Rejected) and outcome.kind is RejectionKind.MISCONFIGURED and _blames_number(told):
            return Rejected(RejectionKind.INVALID_NUMBER, detail)
        return unmapped(outcome) if row is None and code is not None else outcome

    def _code_of(self, told: _Problem, table: str) -> str | None:
        """Return the code that a table knows, else the first that looks like one."""
        kind = told.type.rpartition("#")[2] if isinstance(told.type, str) and "#" in told.type else None
        found = [str(code) for code in (kind, told.code, told.title) if _SLUG.fullmatch(str(code))]
        known = [code for code in found if self._map.row(table, code) is not None]
        return next(iter(known + found), None)

    def _skew(self, answer: GatewayAnswer) -> str:
        """Say how wrong our clock looks to them: a token out of its time is refused like one that is forged."""
        if answer.status != 401 or self._token is None:
            return ""
        try:
            theirs = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return ""
        skew_s = round(theirs - self.context.clock.time())
        return f", their clock is {skew_s:+d} s from ours" if abs(skew_s) >= NOTABLE_SKEW_S else ""

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the webhook's token, or the one in the path, then read one status."""
        if (refusal := self._refuse(request)) is not None:
            return refusal
        try:
            told = msgspec.json.decode(request.body, type=_Status)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ReceiptRefusal(RefusalKind.MALFORMED)
        if not _UUID.fullmatch(told.message_uuid):
            return ReceiptRefusal(RefusalKind.MALFORMED)
        # A message from a phone comes to the same address where people set it so: it has an id, and no status.
        return Receipts((self._receipt(told, told.status),) if told.status is not None else ())

    def _refuse(self, request: ReceiptRequest) -> ReceiptRefusal | None:
        settings = self.settings
        if not self._has_receipts:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED)
        if len(request.body) > MAX_BODY_BYTES:
            return ReceiptRefusal(RefusalKind.MALFORMED)
        if settings.signature_secret is not None and settings.api_key is not None:
            is_genuine = is_webhook_signed(
                request,
                settings.signature_secret,
                settings.api_key,
                now=self.context.clock.time(),
                tolerance_s=settings.tolerance_s,
            )
        else:
            is_genuine = has_token(request, settings.receipt_token)
        return None if is_genuine else ReceiptRefusal(RefusalKind.UNAUTHENTIC)

    def _receipt(self, told: _Status, word: str) -> Receipt:
        status, kind, code, is_unmapped = self._map.status(word), None, None, False
        if told.error is not None:
            code = self._code_of(told.error, "failure")
        if self._map.row("state", code) is not None and status is ReceiptStatus.FAILED:
            # A validity that ended is told as a rejection, with a code of its own.
            status = self._map.status(code)
        if status is ReceiptStatus.FAILED:
            kind = RejectionKind.UNDELIVERABLE if code is None else self._map.kind(code)
            is_unmapped = code is not None and self._map.row("failure", code) is None
        return Receipt(
            status=status,
            message_id=told.client_ref if _CLIENT_REF.fullmatch(told.client_ref or "") else None,
            provider_id=told.message_uuid,
            happened_at=seconds_of(told.timestamp),
            kind=kind,
            detail=f"code {code}" if code else "",
            is_unmapped=is_unmapped,
        )


def _problem_in(answer: GatewayAnswer) -> _Problem:
    try:
        return msgspec.json.decode(answer.body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Problem()


def _blames_number(told: _Problem) -> bool:
    """Say whether of all fields the number alone is wrong: then it is the number, and no fault of the settings."""
    named = told.invalid_parameters
    return isinstance(named, list) and bool(named) and all(fields(one).get("name") == "to" for one in named)
