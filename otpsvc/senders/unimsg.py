"""The sender `unimsg`: SMS through UniMsg, an aggregator that passes them on to other gateways.

It takes neither a validity nor a name of ours, so a call without an answer is never repeated. Webhooks are proven by an
HMAC over their time and body, and are good for fifteen minutes.
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
    outcome_of_answer,
)
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
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.proofs import hmac_sha256_hex, is_fresh, matches
from otpsvc.senders.questions import ask_each, gateway_time
from otpsvc.senders.tokens import NoToken, Token, TokenCache, as_no_token

_SEND_SCOPE = "sms:send"
_LONGEST_TEXT = 1600
_LEAST_TOKEN_LIFE_S = 300.0
_LONGEST_PAUSE_S = 3600.0
_TOO_NARROW = "INSUFFICIENT_SCOPE"  # a scope that was granted meanwhile is in new tokens only


class UniMsgSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table of a `unimsg` sender; docs/gateways/unimsg.md explains it."""

    client_id: Annotated[str, Meta(pattern=r"^[!-~]{1,200}\Z")]
    client_secret: Secret
    sender: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{1,11}\Z")] | None = None
    scope: Annotated[str, Meta(pattern=r"^[a-z]+:[a-z]+(?: [a-z]+:[a-z]+)*\Z")] = "sms:send sms:read"
    webhook_secret: Secret | None = None
    url: str = "https://api.unimsg.app"
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 6.0  # a token may take 3 more
    allow_private: bool = False


class UniMsgSender(Sender[UniMsgSettings]):
    """One OAuth client at UniMsg. Where webhooks cannot come it asks for states."""

    Settings = UniMsgSettings

    def __init__(self, name: str, settings: UniMsgSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self.capabilities = Capabilities(
            channels=frozenset({Channel.SMS}),
            has_receipts=True,
            longest_text=_LONGEST_TEXT,
            polls_every_s=None if settings.webhook_secret and self.receipt_url else 30.0,
        )
        self._url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        self._codes = GatewayMap.load("unimsg")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._tokens = TokenCache(self._new_token, context.clock)
        self._granted: frozenset[str] | None = None

    async def open(self) -> None:
        """Make the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """End a renewal of the token that is under way, close the connections."""
        await self._tokens.close()
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Hand over one SMS; with a token that is not taken it was surely not, and is again with a new one."""
        body = {"to": message.to, "message": message.text}
        if self.settings.sender is not None:
            body["sender"] = self.settings.sender
        if self.settings.webhook_secret is not None and self.receipt_url is not None:
            body["callback_url"] = self.receipt_url
        try:
            answer = await self._call("POST", "/v1/sms/send", body)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        if not isinstance(answer, GatewayAnswer):
            return answer
        said = fields(answer.json())
        data = fields(said.get("data"))
        provider_id = gateway_id(data.get("message_id"))
        if answer.is_success and said.get("success") is True and provider_id is not None:
            parts = data.get("segments")
            return Accepted(provider_id, parts if isinstance(parts, int) and 0 < parts < 100 else None)
        code = _code(answer)
        if answer.is_success and said.get("success") is not False and self._codes.row("send", code) is None:
            code = None  # whatever stands there in a success, it is no refusal
        return outcome_of_answer(self._codes, code, answer, pause_s=self._until_reset(answer))

    async def poll(self, messages: Sequence[SentMessage]) -> Sequence[Receipt]:
        """Ask for each message; stop at one that gets no answer, or that we ask too much."""
        return await ask_each(messages, self._ask)

    async def parse_receipt(self, request: ReceiptRequest) -> Receipts | ReceiptRefusal:
        """Check signature and age, then read one event. Events that are not about messages tell nothing."""
        secret = self.settings.webhook_secret
        if secret is None:
            return ReceiptRefusal(RefusalKind.UNSUPPORTED, "no webhook_secret is set")
        if len(request.body) > MAX_RECEIPT_BYTES:
            return ReceiptRefusal(RefusalKind.MALFORMED, "too large")
        timestamp = request.headers.get("x-unimsg-timestamp", "")
        signed = timestamp.encode("utf-8", "replace") + b"." + request.body
        if not matches(request.headers.get("x-unimsg-signature"), hmac_sha256_hex(secret.reveal(), signed)):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "wrong signature")
        if not is_fresh(timestamp, self.context.clock.time()):
            return ReceiptRefusal(RefusalKind.UNAUTHENTIC, "outdated")
        event = fields(decoded(request.body))
        name, data = event.get("event"), fields(event.get("data"))
        if not isinstance(name, str):
            return ReceiptRefusal(RefusalKind.MALFORMED, "no event in it")
        if not name.startswith("message.") or str(data.get("channel", Channel.SMS)).lower() != Channel.SMS:
            return Receipts(())
        receipt = self._receipt(data, name.removeprefix("message."), event)
        return Receipts((receipt,)) if receipt else ReceiptRefusal(RefusalKind.MALFORMED, "no message in it")

    async def health(self) -> Health:
        """Say whether we get a token, and one that may send."""
        token = await self._tokens.current()
        if not isinstance(token, str):
            return Health(is_ready=False, detail=token.detail)
        if self._granted is not None and _SEND_SCOPE not in self._granted:
            return Health(is_ready=False, detail=f"the token lacks the scope {_SEND_SCOPE}")
        return Health(is_ready=True)

    async def _ask(self, message: SentMessage) -> Receipt | None:
        provider_id = gateway_id(message.provider_id)
        if provider_id is None:
            return None
        answer = await self._call("GET", f"/v1/sms/{provider_id}", None)
        if not isinstance(answer, GatewayAnswer) or answer.status in NO_MORE_QUESTIONS:
            raise NotSent("not to be asked now")
        data = fields(fields(answer.json()).get("data"))
        receipt = self._receipt(data, str(data.get("status")), None) if answer.is_success else None
        return receipt if receipt is not None and receipt.provider_id == provider_id else None

    def _receipt(self, data: Mapping[str, Any], word: str, event: Mapping[str, Any] | None) -> Receipt | None:
        """Read what is said about a message; `word` is the state by the event's name, or by the answer to a poll."""
        provider_id = gateway_id(data.get("message_id"))
        if provider_id is None:
            return None
        status = self._codes.status(word)
        failure = failure_of(self._codes, data.get("error_code")) if status is ReceiptStatus.FAILED else Failure()
        times = (data.get(f"{word}_at"), event.get("created_at") if event else None)
        return Receipt(
            status=status,
            provider_id=provider_id,
            receipt_id=gateway_id(event.get("id")) if event else None,
            happened_at=next((at for at in map(moment, times) if at is not None), None),
            kind=failure.kind,
            detail=failure.detail,
            is_unmapped=failure.is_unmapped,
        )

    async def _call(self, method: str, path: str, body: object) -> GatewayAnswer | NoToken:
        def is_refused(answer: GatewayAnswer) -> bool:
            # Whatever they call it. What may be asked only costs no new token at every poll.
            return answer.status == 401 or (method == "POST" and _code(answer) == _TOO_NARROW)

        return await self._tokens.call(
            lambda token: self._client.request(method, f"{self._url}{path}", json=body, bearer=token), is_refused
        )

    async def _new_token(self) -> Token | NoToken:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.settings.client_id,
            "client_secret": self.settings.client_secret.reveal(),
            "scope": self.settings.scope,
        }
        try:
            answer = await self._client.request("POST", f"{self._url}/oauth/token", form=form)
        except (NotSent, NoAnswer) as error:
            return as_no_token(outcome_of(error))
        said = fields(answer.json())
        text, life_s, scope = said.get("access_token"), said.get("expires_in"), said.get("scope")
        if not answer.is_success or not isinstance(text, str) or not text:
            return as_no_token(outcome_of_answer(self._codes, _code(answer), answer))
        self._granted = frozenset(scope.split()) if isinstance(scope, str) else None
        return Token(text, float(life_s) if isinstance(life_s, int | float) else _LEAST_TOKEN_LIFE_S)

    def _until_reset(self, answer: GatewayAnswer) -> float | None:
        """Return how long until the gateway counts anew; None where we did not ask too much, or it says it oddly."""
        reset = answer.headers.get("x-ratelimit-reset", "") if answer.status == 429 else ""
        now = gateway_time(answer, self.context.clock.time())
        after_s = float(reset) - now if reset.isdecimal() and len(reset) < 13 else 0.0
        return min(after_s, _LONGEST_PAUSE_S) if after_s > 0 else None


def _code(answer: GatewayAnswer) -> object:
    """Return the error's code in both shapes: theirs, and the one of OAuth."""
    error = fields(answer.json()).get("error")
    return fields(error).get("code") if isinstance(error, dict) else error
