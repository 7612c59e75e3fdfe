"""The sender `twilio`: Twilio's Messages resource, from a number or through a messaging service.

Our message id travels in the query of the callback's address, which they sign, and so comes back in every receipt. What
they have of a message can also be asked for. Never log an answer: it repeats number and text.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import msgspec

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import NO_MORE_QUESTIONS, unmapped
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
    SentMessage,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.questions import ask_each
from otpsvc.senders.receipt_fields import query_fields, read_fields, seconds_of
from otpsvc.senders.receipt_tokens import has_token, with_token
from otpsvc.senders.twilio_settings import TwilioSettings
from otpsvc.senders.twilio_signing import is_signed

LONGEST_VALIDITY_S = 14_400  # 36 000 by their newer documents; no code lives that long
LONGEST_TEXT = 1600
POLL_EVERY_S = 15.0
SENT_WITHIN_S = 45.0

_SID = re.compile(r"(?:SM|MM)[0-9a-f]{32}")
_OUR_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_CODE = re.compile(r"[0-9]{5}")
_COUNT = re.compile(r"[1-9][0-9]{0,2}")
_NO_DAY = "1970-01-01"  # nobody sent anything then, so a list of that day holds no text of anybody's

StructT = TypeVar("StructT", bound=msgspec.Struct)


class _Resource(msgspec.Struct, frozen=True):
    """A message as they keep it. Its text stands in the same answer and is not read.

    What is not needed to know that they have it may be of any kind, so that it cannot make a message unknown.
    """

    sid: str
    status: Any = ""
    num_segments: Any = None
    error_code: Any = None
    date_updated: Any = None


class _Problem(msgspec.Struct, frozen=True):
    code: int | None = None


class TwilioSender(Sender[TwilioSettings]):
    """One Twilio account, and a number or a messaging service of it."""

    Settings: ClassVar[type[msgspec.Struct]] = TwilioSettings
    capabilities = Capabilities(
        channels=frozenset({Channel.SMS}),
        honours_expiry=True,
        max_lifetime_s=LONGEST_VALIDITY_S,
        has_receipts=True,
        longest_text=LONGEST_TEXT,
        receipt_within_s=SENT_WITHIN_S,
        polls_every_s=POLL_EVERY_S,
    )

    def __init__(self, name: str, settings: TwilioSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        base = check_url(settings.base_url, allow_private=settings.allow_private, key=f"senders.{name}.base_url")
        self._messages_url = f"{base}/2010-04-01/Accounts/{settings.account_sid}/Messages"
        self._map = GatewayMap.load("twilio")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)

    @property
    def receipt_url(self) -> str | None:
        """Where Twilio brings receipts; None if nothing could prove them, or the house has no public address."""
        settings = self.settings
        if settings.auth_token is not None:
            return super().receipt_url
        return with_token(super().receipt_url, settings.receipt_token) if settings.receipt_token is not None else None

    async def open(self) -> None:
        """Open the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand the message over in one call."""
        try:
            answer = await self._client.request(
                "POST", f"{self._messages_url}.json", form=self._form(message), basic=self._basic()
            )
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        return self._outcome(answer)

    async def health(self) -> Health:
        """Say whether the credentials are taken, by asking for the messages of a day without any."""
        url = f"{self._messages_url}.json?PageSize=1&DateSent={_NO_DAY}"
        try:
            answer = await self._client.request("GET", url, basic=self._basic())
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        said = self._outcome(answer) if not answer.is_success else None
        return Health(is_ready=said is None, detail=getattr(said, "detail", ""))

    def _basic(self) -> tuple[str, str]:
        settings = self.settings
        if settings.api_key_sid is not None and settings.api_key_secret is not None:
            return settings.api_key_sid, settings.api_key_secret.reveal()
        return settings.account_sid, settings.auth_token.reveal() if settings.auth_token is not None else ""

    def _form(self, message: OutboundMessage) -> dict[str, str]:
        settings = self.settings
        form = {
            "To": message.to,
            "Body": message.text,
            "ValidityPeriod": str(min(max(int(message.life_s), 1), LONGEST_VALIDITY_S)),
        }
        if settings.messaging_service_sid is not None:
            form["MessagingServiceSid"] = settings.messaging_service_sid
        if settings.origin is not None:
            form["From"] = settings.origin
        if self.receipt_url is not None:
            form["StatusCallback"] = f"{self.receipt_url}?ref={message.message_id}"
        return form

    def _outcome(self, answer: GatewayAnswer) -> Outcome:
        if answer.status >= 500:
            return Unknown(f"status {answer.status}")
        if not answer.is_success:
            return self._refusal(answer)
        told = _decoded(answer.body, _Resource)
        if told is None or not _SID.fullmatch(told.sid):
            return Unknown("answer cannot be read")
        code = str(told.error_code)
        if _CODE.fullmatch(code) and self._map.status(told.status) is ReceiptStatus.FAILED:
            return Rejected(self._map.kind(code), f"code {code}", self._map.row("failure", code) is None)
        parts = str(told.num_segments)
        return Accepted(told.sid, int(parts) if _COUNT.fullmatch(parts) else None)

    def _refusal(self, answer: GatewayAnswer) -> Outcome:
        """Read why it was refused: by its code, or by the status alone where no table knows the code."""
        told = _decoded(answer.body, _Problem)
        code = str(told.code) if told is not None and _CODE.fullmatch(str(told.code)) else None
        is_known = code is not None and self._map.row("send", code) is not None
        detail = f"status {answer.status}" + (f", code {code}" if code else "")
        by_status = f"http-{answer.status}"
        outcome = self._map.outcome(code if is_known else by_status, detail=detail, after_s=answer.retry_after_s)
        return unmapped(outcome) if code is not None and not is_known else outcome

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check the signature, or the token in the path, then read one status."""
        settings = self.settings
        if settings.auth_token is None and settings.receipt_token is None:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED)
        fields, query = read_fields(request), query_fields(request.url)
        if settings.auth_token is None:
            is_genuine = has_token(request, settings.receipt_token)
        else:
            signed = {} if request.method == "GET" else fields
            is_genuine = signed is not None and is_signed(
                request.headers.get("x-twilio-signature"), request.url, signed, settings.auth_token
            )
        if not is_genuine:
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC)
        if fields is None or query is None or not _SID.fullmatch(fields.get("MessageSid", "")):
            return ReceiptRefusal(RefusalKind.MALFORMED)
        if fields.get("AccountSid", settings.account_sid) != settings.account_sid:
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "account")
        ref = query.get("ref", "")
        receipt = self._receipt(
            fields.get("MessageStatus", ""),
            fields.get("ErrorCode"),
            provider_id=fields["MessageSid"],
            message_id=ref if _OUR_ID.fullmatch(ref) else None,
        )
        return Receipts((receipt,))

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask about each message, a few at a time; stop at the first call that finds nobody there."""
        return await ask_each(messages, self._ask)

    async def _ask(self, message: SentMessage) -> Receipt | None:
        if message.provider_id is None or not _SID.fullmatch(message.provider_id):
            return None
        url = f"{self._messages_url}/{message.provider_id}.json"
        answer = await self._client.request("GET", url, basic=self._basic())
        if answer.status in NO_MORE_QUESTIONS:
            raise NotSent("not to be asked now")
        told = _decoded(answer.body, _Resource) if answer.is_success else None
        if told is None or told.sid != message.provider_id:
            return None
        receipt = self._receipt(
            str(told.status),
            str(told.error_code),
            provider_id=told.sid,
            message_id=message.message_id,
            happened_at=seconds_of(told.date_updated),
        )
        return None if receipt.status is ReceiptStatus.UNKNOWN else receipt

    def _receipt(
        self,
        word: str,
        code: str | None,
        *,
        provider_id: str,
        message_id: str | None,
        happened_at: float | None = None,
    ) -> Receipt:
        status, kind, is_unmapped = self._map.status(word), None, False
        code = code if code is not None and _CODE.fullmatch(code) else None
        if status is ReceiptStatus.FAILED and self._map.row("state", code) is not None:
            # A validity that ended is told as a failure, with a code of its own.
            status = self._map.status(code)
        if status is ReceiptStatus.FAILED:
            kind = self._map.kind(code) if code is not None else RejectionKind.UNDELIVERABLE
            is_unmapped = code is not None and self._map.row("failure", code) is None
        return Receipt(
            status=status,
            message_id=message_id,
            provider_id=provider_id,
            happened_at=happened_at,
            kind=kind,
            detail=f"code {code}" if code else "",
            is_unmapped=is_unmapped,
        )


def _decoded(body: bytes, kind: type[StructT]) -> StructT | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
