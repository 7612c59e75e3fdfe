"""The sender `notificore`: SMS through the REST API 1.0 of Notificore, and of BSG, which is the same system.

A message is named by a reference made from our message id, and the gateway takes each reference once. That makes a
repeat harmless: code 23 says that it has this very message. Callbacks carry no proof at all, so they are believed only
under an address that nobody can guess. Never send `destination: otp`: it would hand the code back in the answer.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import (
    MAX_RECEIPT_BYTES,
    MAX_RECEIPT_ITEMS,
    Failure,
    decoded,
    failure_of,
    fields,
    gateway_id,
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
    Secret,
    Sender,
    SenderContext,
    SentMessage,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.questions import ask_each
from otpsvc.senders.receipt_tokens import check_token, has_token, with_token

_VALIDITY_H = 1  # the shortest there is, and still longer than any code lives
_MOST_FIELDS = 50
_REFERENCE = re.compile(r"msg([0-9a-z]{26})([1-9]?)")
_UNWELCOME = frozenset({401, 403, 429, 503})  # no more questions now: too many, or not from us

_ORIGINATOR = {"description": "up to 11 letters, digits, spaces and .&_-, or a number of 3 to 14 digits"}


class NotificoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table of a `notificore` sender; docs/gateways/notificore.md explains it."""

    api_key: Secret
    originator: Annotated[
        str, Meta(pattern=r"^(?:[0-9]{3,14}|[A-Za-z0-9][A-Za-z0-9 .&_-]{0,10})\Z", extra_json_schema=_ORIGINATOR)
    ]
    tariff: Annotated[int, Meta(ge=0, le=9)] = 0
    receipt_token: Secret | None = None
    url: str = "https://api.notificore.ru/rest"
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 8.0
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Refuse a key that no header takes or that sends nothing, and an address that could be guessed."""
        check_api_key(self.api_key)
        if self.api_key.reveal().startswith("test_"):
            raise ValueError("api_key is a test key: it sends nothing and is answered with invented data")
        check_token(self.receipt_token)


class NotificoreSender(Sender[NotificoreSettings]):
    """One account at Notificore or BSG."""

    Settings = NotificoreSettings
    capabilities = Capabilities(
        channels=frozenset({Channel.SMS}),
        max_lifetime_s=_VALIDITY_H * 3600,
        is_idempotent=True,
        has_receipts=True,
        polls_every_s=20.0,
    )

    def __init__(self, name: str, settings: NotificoreSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self._url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        self._headers = {"X-API-KEY": settings.api_key.reveal()}
        # Senders may share an account, each with its tariff: one must not take another's message for its own.
        self._mark = str(settings.tariff) if settings.tariff else ""
        self._codes = GatewayMap.load("notificore")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)

    @property
    def receipt_url(self) -> str | None:
        """The address of callbacks, with its secret end; None if there is no `receipt_token`."""
        return with_token(super().receipt_url, self.settings.receipt_token) if self.settings.receipt_token else None

    async def open(self) -> None:
        """Make the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Create one SMS under a reference of ours."""
        reference = self._reference(message.message_id)
        body: dict[str, object] = {
            "destination": "phone",
            "originator": self.settings.originator,
            "body": message.text,
            "msisdn": message.to.removeprefix("+"),
            "reference": reference,
            "validity": _VALIDITY_H,
            "tariff": self.settings.tariff,
        }
        if self.receipt_url is not None:
            body["callback_url"] = self.receipt_url
        try:
            answer = await self._client.request("POST", f"{self._url}/sms/create", headers=self._headers, json=body)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        said = _one(answer.json())
        code = said.get("error")
        outcome = outcome_of_answer(self._codes, code, answer)
        if not isinstance(outcome, Accepted):
            return outcome
        if str(code).strip() == "0" and not answer.is_success:
            return outcome_of_answer(self._codes, None, answer)
        return Accepted(gateway_id(said.get("id")) or reference)

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask for each message by its reference; stop at one that gets no answer, or that we ask too much."""
        return await ask_each(messages, self._ask)

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Read a callback, a status object or several, if it came to the address that only the gateway was told."""
        if self.settings.receipt_token is None:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "no receipt_token is set")
        if not has_token(request, self.settings.receipt_token):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "wrong address")
        if len(request.body) > MAX_RECEIPT_BYTES:
            return ReceiptRefusal(RefusalKind.MALFORMED, "too large")
        items = _items(request.body)
        receipts = [receipt for item in items if (receipt := self._receipt(item)) is not None]
        if not receipts or len(items) > MAX_RECEIPT_ITEMS:
            return ReceiptRefusal(RefusalKind.MALFORMED, "no status in it")
        return Receipts(tuple(receipts))

    async def health(self) -> Health:
        """Ask for the balance: that needs a key that is taken."""
        try:
            answer = await self._client.request("GET", f"{self._url}/common/balance", headers=self._headers)
        except (NotSent, NoAnswer) as error:
            return Health(is_ready=False, detail=error.reason)
        said = fields(answer.json())
        if answer.is_success and str(said.get("error", 0)).strip() == "0" and "amount" in said:
            return Health(is_ready=True)
        outcome = outcome_of_answer(self._codes, said.get("error"), answer)
        return Health(is_ready=False, detail=getattr(outcome, "detail", "") or f"status {answer.status}")

    async def _ask(self, message: SentMessage) -> Receipt | None:
        url = f"{self._url}/sms/reference/{self._reference(message.message_id)}"
        answer = await self._client.request("GET", url, headers=self._headers)
        if answer.status in _UNWELCOME:
            raise NotSent("not to be asked now")
        receipt = self._receipt(_one(answer.json())) if answer.is_success else None
        return receipt if receipt is not None and receipt.message_id == message.message_id else None

    def _receipt(self, said: Mapping[str, Any]) -> Receipt | None:
        """Read a status object. Its times have no offset, so they are left out."""
        message_id, provider_id = self._message_id(said.get("reference")), gateway_id(said.get("id"))
        word = said.get("status")
        if not isinstance(word, str) or (message_id is None and provider_id is None):
            return None
        status = self._codes.status(word)
        failure = failure_of(self._codes, word) if status is ReceiptStatus.FAILED else Failure()
        return Receipt(
            status=status,
            message_id=message_id,
            provider_id=provider_id,
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )

    def _reference(self, message_id: str) -> str:
        """Return the gateway's name for a message: 29 or 30 letters and digits, from which the id can be read back."""
        return message_id.replace("_", "") + self._mark

    def _message_id(self, reference: object) -> str | None:
        found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        return our_id(f"msg_{found[1]}") if found is not None and found[2] == self._mark else None


def _one(said: object) -> Mapping[str, Any]:
    """Return the object that speaks of the one message, in both shapes of answers: bare, or inside `result`."""
    inner = fields(said).get("result", said)
    return fields(inner[0] if isinstance(inner, list) and len(inner) == 1 else inner)


def _items(body: bytes) -> list[Mapping[str, Any]]:
    """Return the status objects of a callback: JSON, one or a list, or a form."""
    said = decoded(body)
    if said is None:
        pairs = parse_qsl(body.decode("latin-1")) if body.count(b"&") < _MOST_FIELDS else []
        return [dict(pairs)]
    return [_one(item) for item in said] if isinstance(said, list) else [_one(said)]
