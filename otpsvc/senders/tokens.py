"""Bearer tokens that a gateway lends for a while: asked for once however many wait, and renewed before they end.

Everything here happens before a message leaves, so its failures are certain: a token that could not be had is a
rejection or a pause, never an unknown end. A token is never shown, and a gateway that gives none is not asked by every
message anew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from otpsvc.clock import Clock
from otpsvc.senders.contract import Outcome, Rejected, RetryLater, Unknown
from otpsvc.senders.http_client import GatewayAnswer

NoToken = Rejected | RetryLater

_SHORTEST_LIFE_S = 10.0
_LONGEST_LEAD_S = 300.0
_LONGEST_WAIT_S = 3.0  # a message waits for it, and its own call must still fit into the time of its step
_LONGEST_FETCH_S = 60.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0

_log = logging.getLogger(__name__)


class Token(msgspec.Struct, frozen=True):
    """A token, and how many seconds it is good for from the moment it was asked for."""

    text: str
    life_s: float

    def __repr__(self) -> str:
        """Hide the token."""
        return f"Token(life_s={self.life_s:g})"


def as_no_token(outcome: Outcome) -> NoToken:
    """Turn what the call for a token came to into what the waiting message came to: it has surely not left."""
    if isinstance(outcome, Rejected | RetryLater):
        return outcome
    detail = outcome.detail if isinstance(outcome, Unknown) else "no token in the answer"
    return RetryLater(_FIRST_PAUSE_S, f"token: {detail}", is_fault=True)


class TokenCache:
    """One token for all calls of a sender. `fetch` asks the gateway for a new one and never raises on purpose.

    Messages wait for it until it has been asked for 3 s; it comes for those after them, as late as its client's own
    time-out. From a tenth of its life before its end, at most five minutes, a token is renewed while it
    is still used. After a failure the gateway is left alone for a second, then twice as long each time up to 30 s; a
    gateway that names a longer pause gets it, and a refusal counts as 30 s at once. Where a new token is refused like
    the one before it, the token is not at fault, and for 30 s no refused one is replaced.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Token | NoToken]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._token: str | None = None
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._failure: NoToken | None = None
        self._paused_until = 0.0
        self._n_failed = 0
        self._kept_until = 0.0
        self._renewal: asyncio.Task[Token | NoToken] | None = None
        self._waited_for_until = 0.0

    async def current(self) -> str | NoToken:
        """Return a token that is good now, or what kept us from having one. May be cancelled; others wait on."""
        now = self._clock.monotonic()
        is_good = self._token is not None and now < self._ends_at
        if self._token is not None and is_good and now < self._renew_at:
            return self._token
        if self._renewal is None and (self._failure is None or now >= self._paused_until):
            self._renewal = asyncio.create_task(self._renew())
            self._waited_for_until = asyncio.get_running_loop().time() + _LONGEST_WAIT_S
        if self._token is not None and is_good:
            return self._token
        renewal = self._renewal
        if renewal is not None:
            left_s = self._waited_for_until - asyncio.get_running_loop().time()
            await asyncio.wait({renewal}, timeout=max(left_s, 0.0))
            if not renewal.done():
                return RetryLater(_FIRST_PAUSE_S, "token: still asked for", is_fault=True)
            if renewal.cancelled():
                return RetryLater(_FIRST_PAUSE_S, "token: closing")
            answer = renewal.result()
            return answer.text if isinstance(answer, Token) else answer
        if isinstance(self._failure, Rejected):
            return self._failure
        return RetryLater(max(self._paused_until - now, 0.1), "token: waiting after a failure")

    async def call(
        self,
        request: Callable[[str], Awaitable[GatewayAnswer]],
        is_refused: Callable[[GatewayAnswer], bool],
    ) -> GatewayAnswer | NoToken:
        """Make a request with a token, and once more with a new one if `is_refused` says that the token was at fault.

        The second request is safe because the first was surely not carried out. Raises what `request` raises.
        """
        token = await self.current()
        if not isinstance(token, str):
            return token
        answer = await request(token)
        if not is_refused(answer) or self._clock.monotonic() < self._kept_until:
            return answer
        self.drop(token)
        token = await self.current()
        if not isinstance(token, str):
            return token
        answer = await request(token)
        if is_refused(answer):
            self._kept_until = self._clock.monotonic() + _LONGEST_PAUSE_S
        return answer

    def drop(self, token: str) -> None:
        """Forget a token that the gateway no longer takes; one that replaced it meanwhile stays."""
        if token == self._token:
            self._token = None

    async def close(self) -> None:
        """End a renewal that is under way; may be called again."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _renew(self) -> Token | NoToken:
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(_LONGEST_FETCH_S):
                answer = await self._fetch()
        except TimeoutError:
            answer = RetryLater(_FIRST_PAUSE_S, "token: time-out", is_fault=True)
        except Exception as error:  # noqa: BLE001 - nobody may wait for it any more; its words may repeat a secret
            _log.warning("a token could not be asked for: %s", type(error).__name__)
            answer = RetryLater(_FIRST_PAUSE_S, f"token: {type(error).__name__}", is_fault=True)
        finally:
            self._renewal = None
        if not isinstance(answer, Token):
            self._fail(answer)
            return answer
        life_s = max(answer.life_s, _SHORTEST_LIFE_S)
        self._token = answer.text
        self._ends_at = asked_at + life_s
        self._renew_at = self._ends_at - min(life_s / 10, _LONGEST_LEAD_S)
        self._failure, self._n_failed = None, 0
        return answer

    def _fail(self, failure: NoToken) -> None:
        pause_s = _LONGEST_PAUSE_S
        if isinstance(failure, RetryLater):
            pause_s = max(min(_FIRST_PAUSE_S * 2**self._n_failed, _LONGEST_PAUSE_S), failure.after_s)
        self._n_failed = min(self._n_failed + 1, 10)
        self._failure = failure
        self._paused_until = self._clock.monotonic() + pause_s
