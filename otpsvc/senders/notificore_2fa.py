"""The sender `notificore-2fa`: verifications by the API 2.0 of Notificore, where the gateway makes the code.

The code is theirs: they make it, put it into a text that they approved, and compare guesses with it. Our own code never
leaves, and every guess goes to `check` once. The calls take no name of ours, so a start whose answer was lost is never
repeated here: a second one would be a second SMS with another code.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from otpsvc.senders.addresses import check_url
from otpsvc.senders.answers import fields, gateway_id, outcome_of_answer
from otpsvc.senders.contract import (
    Accepted,
    Capabilities,
    Channel,
    CheckOutcome,
    Health,
    OutboundMessage,
    Outcome,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    Secret,
    Sender,
    SenderContext,
    SentMessage,
    Unknown,
)
from otpsvc.senders.error_maps import GatewayMap
from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent, outcome_of
from otpsvc.senders.tokens import NoToken, Token, TokenCache, as_no_token

# How long a token lives is not written anywhere; it is renewed a tenth before this.
_TOKEN_LIFE_S = 55 * 60.0
_CODE_LIFE_S = (30, 300)
_CODE_DIGITS = range(3, 10)
_NUMBER_DIGITS = range(9, 16)
_USUAL_DIGITS, _USUAL_TRIES = 6, 3
_SESSIONS = "/2fa/authentications"
_UNLISTED = "unlisted_message"

_NAME = r"(?:[A-Za-z0-9]{3,11}|[0-9]{3,15})"


class NotificoreTwoFactorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table of a `notificore-2fa` sender; docs/gateways/notificore.md explains it."""

    api_key: Secret
    sender: Annotated[str, Meta(pattern=rf"^{_NAME}\Z")]
    template_id: Annotated[int, Meta(ge=1, le=999_999_999)]
    channel: Literal["sms", "viber"] = "sms"
    sender_alt: Annotated[str, Meta(pattern=rf"^{_NAME}\Z")] | None = None
    url: str = "https://one-api.notificore.ru/api"
    timeout_s: Annotated[float, Meta(ge=1, le=60)] = 6.0  # a token may take 3 more
    allow_private: bool = False


class NotificoreTwoFactorSender(Sender[NotificoreTwoFactorSettings]):
    """One account with 2FA; the provider's id of a message is the id of its verification there."""

    Settings = NotificoreTwoFactorSettings
    capabilities = Capabilities(channels=frozenset({Channel.SMS}), can_cancel=True, owns_code=True)

    def __init__(self, name: str, settings: NotificoreTwoFactorSettings, context: SenderContext) -> None:
        super().__init__(name, settings, context)
        self._url = check_url(settings.url, allow_private=settings.allow_private, key=f"senders.{name}.url")
        self._codes = GatewayMap.load("notificore-2fa")
        self._client = GatewayClient(timeout_s=settings.timeout_s, allow_private=settings.allow_private)
        self._tokens = TokenCache(self._log_in, context.clock)

    async def open(self) -> None:
        """Make the connections' pool."""
        await self._client.open()

    async def close(self) -> None:
        """End a log-in that is under way, close the connections."""
        await self._tokens.close()
        await self._client.close()

    async def send(self, message: OutboundMessage) -> Outcome:
        """Start a verification of the number; our text stays here."""
        digits = message.code_length or _USUAL_DIGITS
        if digits not in _CODE_DIGITS:
            return Rejected(RejectionKind.UNSUPPORTED, "codes there have 3 to 9 digits")
        recipient = message.to.removeprefix("+")
        if len(recipient) not in _NUMBER_DIGITS:
            # They would call such a number malformed; it is a good one, and the next sender may reach it.
            return Rejected(RejectionKind.UNSUPPORTED, "numbers there have 9 to 15 digits")
        shortest_s, longest_s = _CODE_LIFE_S
        body: dict[str, object] = {
            "channel": self.settings.channel,
            "sender": self.settings.sender,
            "recipient": recipient,
            "template_id": self.settings.template_id,
            "code_digits": digits,
            "code_lifetime": min(max(int(message.life_s), shortest_s), longest_s),
            "code_max_tries": message.max_attempts or _USUAL_TRIES,
        }
        if self.settings.sender_alt is not None:
            body["sender_alt"] = self.settings.sender_alt
        try:
            answer = await self._call("POST", f"{_SESSIONS}/otp", body)
        except (NotSent, NoAnswer) as error:
            return outcome_of(error)
        if not isinstance(answer, GatewayAnswer):
            return answer
        session = _data(answer)
        provider_id = gateway_id(session.get("id"))
        slug = _slug(answer, self._codes)
        if answer.is_success and provider_id is not None and slug == _UNLISTED:
            return Unknown("a verification, and words of an error that are not listed")
        if not answer.is_success or slug is not None or provider_id is None:
            return outcome_of_answer(self._codes, slug, answer)
        if self._codes.status(session.get("status")) is not ReceiptStatus.ACCEPTED:
            return Unknown("a new verification that does not wait for its code")
        return Accepted(provider_id)

    async def check(self, message: SentMessage, code: str) -> CheckOutcome:
        """Let the gateway compare a guess. What its words leave open, the state of the verification tells."""
        session_id = gateway_id(message.provider_id)
        if session_id is None:
            return CheckOutcome.UNKNOWN
        try:
            answer = await self._call("POST", f"{_SESSIONS}/otp/{session_id}/verify", {"access_code": code})
            if not isinstance(answer, GatewayAnswer):
                return CheckOutcome.UNKNOWN
            said = _data(answer)
            status = self._codes.status(said.get("status"))
            if answer.is_success and status is ReceiptStatus.DELIVERED:
                # With an error beside it, or another's id, it may tell of a guess before this one, or of another's.
                is_plain = _message(answer) is None and gateway_id(said.get("id")) in (session_id, None)
                return CheckOutcome.RIGHT if is_plain else CheckOutcome.UNKNOWN
            if answer.status == 404:
                return CheckOutcome.ENDED
            if status is not ReceiptStatus.UNKNOWN and answer.is_success:
                return _not_right(status)
            if _message(answer) is None or answer.status >= 500 or answer.status in {401, 403, 408, 429}:
                return CheckOutcome.UNKNOWN
            looked = await self._call("GET", f"{_SESSIONS}/{session_id}", None)
        except (NotSent, NoAnswer):
            return CheckOutcome.UNKNOWN
        if not isinstance(looked, GatewayAnswer) or not looked.is_success:
            return CheckOutcome.UNKNOWN
        return _not_right(self._codes.status(_data(looked).get("status")))

    async def cancel(self, message: SentMessage) -> bool:
        """End a verification that waits for its code: that code is then good for nothing, even if its SMS arrives."""
        session_id = gateway_id(message.provider_id)
        if session_id is None:
            return False
        try:
            answer = await self._call("POST", f"{_SESSIONS}/{session_id}/cancel", {})
        except (NotSent, NoAnswer):
            return False
        if not isinstance(answer, GatewayAnswer) or not answer.is_success:
            return False
        return self._codes.status(_data(answer).get("status")) is ReceiptStatus.CANCELLED

    async def health(self) -> Health:
        """Say whether the key gets a token."""
        token = await self._tokens.current()
        return Health(is_ready=True) if isinstance(token, str) else Health(is_ready=False, detail=token.detail)

    async def _call(self, method: str, path: str, body: object) -> GatewayAnswer | NoToken:
        return await self._tokens.call(
            lambda token: self._client.request(method, f"{self._url}{path}", json=body, bearer=token),
            lambda answer: answer.status == 401,
        )

    async def _log_in(self) -> Token | NoToken:
        key = {"api_key": self.settings.api_key.reveal()}
        try:
            answer = await self._client.request("POST", f"{self._url}/auth/login", json=key)
        except (NotSent, NoAnswer) as error:
            return as_no_token(outcome_of(error))
        bearer = fields(answer.json()).get("bearer")
        if answer.is_success and isinstance(bearer, str) and bearer:
            return Token(bearer, _TOKEN_LIFE_S)
        return as_no_token(outcome_of_answer(self._codes, _slug(answer, self._codes), answer))


def _data(answer: GatewayAnswer) -> Mapping[str, Any]:
    return fields(fields(answer.json()).get("data"))


def _message(answer: GatewayAnswer) -> str | None:
    errors = fields(answer.json()).get("errors")
    first = fields(errors[0]).get("message") if isinstance(errors, list) and errors else None
    return first if isinstance(first, str) else None


def _slug(answer: GatewayAnswer, codes: GatewayMap) -> str | None:
    """Return the error's message as a code of the map. The text of one that is not there is not repeated."""
    message = _message(answer)
    if message is None:
        return None
    slug = re.sub(r"[^a-z0-9]+", "_", re.sub(r"['’`]", "", message.lower())).strip("_")
    return slug if codes.row("send", slug) is not None else _UNLISTED


def _not_right(status: ReceiptStatus) -> CheckOutcome:
    match status:
        case ReceiptStatus.ACCEPTED:
            return CheckOutcome.WRONG
        case ReceiptStatus.UNKNOWN:
            return CheckOutcome.UNKNOWN
    return CheckOutcome.ENDED
