"""How an SMSGate server is called: with the password each time, or with tokens that are taken for it.

A token is taken with the password, and the next one with the refresh token that came along, which works once.
"""

from typing import Literal

from otpsvc.clock import Clock
from otpsvc.senders.answers import fields, moment
from otpsvc.senders.contract import Rejected, RejectionKind, RetryLater
from otpsvc.senders.http_client import AddressRefused, GatewayAnswer, GatewayClient, NoAnswer, NotSent
from otpsvc.senders.phone_answers import PhoneMap
from otpsvc.senders.questions import gateway_time
from otpsvc.senders.tokens import NoToken, Token, TokenCache, as_no_token

SCOPES = ("messages:send", "messages:read", "messages:cancel", "devices:list")
ASKED_TTL_S = 3600
_PAUSE_S = 2.0


class Access:
    """Calls of one account. `account` is the user name and the password."""

    def __init__(
        self,
        client: GatewayClient,
        url: str,
        account: tuple[str, str],
        auth: Literal["basic", "jwt"],
        clock: Clock,
    ) -> None:
        self._client = client
        self._url = url
        self._account = account
        self._clock = clock
        self._map = PhoneMap("smsgate")
        self._refresh_token = ""
        self._tokens = TokenCache(self._fetch, clock) if auth == "jwt" else None

    async def call(self, method: str, path: str, body: object = None) -> GatewayAnswer | NoToken:
        """Make one call; what kept it from having a token is returned, then surely nothing was sent.

        Raises NotSent and NoAnswer as the client does.
        """
        if self._tokens is None:
            return await self._client.request(method, self._url + path, json=body, basic=self._account)

        async def request(token: str) -> GatewayAnswer:
            return await self._client.request(method, self._url + path, json=body, bearer=token)

        return await self._tokens.call(request, lambda answer: answer.status == 401)

    async def close(self) -> None:
        """End what is under way for a token."""
        if self._tokens is not None:
            await self._tokens.close()

    async def _fetch(self) -> Token | NoToken:
        try:
            # A lost answer may have used the refresh token up, so it is forgotten before it is shown.
            refresh_token, self._refresh_token = self._refresh_token, ""
            answer = await self._refreshed(refresh_token) if refresh_token else None
            if answer is None or not answer.is_success:
                answer = await self._logged_in()
        except AddressRefused as error:
            return Rejected(RejectionKind.MISCONFIGURED, error.reason)
        except (NotSent, NoAnswer) as error:
            return RetryLater(_PAUSE_S, f"token: {error.reason}", is_fault=True)
        return self._token_in(answer)

    async def _refreshed(self, refresh_token: str) -> GatewayAnswer:
        return await self._client.request("POST", f"{self._url}/auth/token/refresh", bearer=refresh_token)

    async def _logged_in(self) -> GatewayAnswer:
        wanted = {"ttl": ASKED_TTL_S, "scopes": SCOPES}
        return await self._client.request("POST", f"{self._url}/auth/token", json=wanted, basic=self._account)

    def _token_in(self, answer: GatewayAnswer) -> Token | NoToken:
        if not answer.is_success:
            return as_no_token(self._map.refusal(answer))
        found = fields(answer.json())
        text, refresh_token = found.get("access_token"), found.get("refresh_token")
        if not isinstance(text, str) or not text:
            return Rejected(RejectionKind.MISCONFIGURED, "no token in the answer")
        self._refresh_token = refresh_token if isinstance(refresh_token, str) else ""
        # Its end is by the server's clock, and so is the age of the answer: a wrong clock here does no harm.
        ends_at = moment(found.get("expires_at"))
        life_s = ASKED_TTL_S if ends_at is None else ends_at - gateway_time(answer, self._clock.time())
        return Token(text, min(life_s, ASKED_TTL_S))
