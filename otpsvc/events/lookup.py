"""Looking at one OTP: what its living record says, and what the history has kept of it.

While there is a record the facts are the record's, and the history is an extra, which may lag behind or be away. Once
the record is purged the history alone answers, with the same facts. Nothing may ever be decided on what is read here.
"""

from typing import Any, NamedTuple, Protocol

import msgspec

from otpsvc.clients.model import Principal
from otpsvc.clock import Clock
from otpsvc.errors import ApiError, problem
from otpsvc.events.history import OtpHistory, Step, history_of
from otpsvc.events.model import END_OF_TIME_MS, Event
from otpsvc.ids import MalformedId, parse_otp_id
from otpsvc.messages.model import MessageView
from otpsvc.otp.model import OtpStatus, OtpView

# After a failure the extra is left out for so long, instead of making every caller wait for it.
PAUSE_S = 1.0


class LivingOtps(Protocol):
    """The OTPs that have a record."""

    async def get(self, caller: Principal, otp_id: str) -> OtpView:
        """Give one of the caller's; raises ApiError OTP_NOT_FOUND, SERVICE_UNAVAILABLE."""
        ...


class PastEvents(Protocol):
    """What happened; raises ApiError SERVICE_UNAVAILABLE."""

    async def of_otp(self, client_id: str, mode: str, otp_id: str, *, since_ms: int | None = None) -> list[Event]:
        """Give an OTP's events from when it was made; none for an unknown one and for another owner's."""
        ...


class PastMessages(Protocol):
    """What was sent; raises ApiError SERVICE_UNAVAILABLE."""

    async def newest_of_otp(self, client_id: str, mode: str, otp_id: str) -> MessageView | None:
        """Give the newest message of an OTP; None for an unknown one and for another owner's."""
        ...


class LookedOtp(NamedTuple):
    """One OTP, and what happened to it, oldest first; None while that cannot be read."""

    view: OtpView
    steps: list[Step] | None


class OtpLookup:
    """Looks among the living first, then in the history."""

    def __init__(self, living: LivingOtps, events: PastEvents, messages: PastMessages, clock: Clock) -> None:
        self._living = living
        self._events = events
        self._messages = messages
        self._clock = clock
        self._paused_until = 0.0

    async def look(self, caller: Principal, otp_id: str) -> LookedOtp:
        """Give one of the caller's OTPs.

        Raises ApiError: OTP_NOT_FOUND for one that neither knows, another client's, of the other mode, or no id at all;
        SERVICE_UNAVAILABLE where the living cannot be asked, or where there is no record and the history cannot.
        """
        try:
            view = await self._living.get(caller, otp_id)
        except ApiError as error:
            if error.code != "OTP_NOT_FOUND" or not _is_id(otp_id):
                raise
            return await self._past(caller, otp_id)
        return LookedOtp(view, await self._steps(caller, view))

    async def _steps(self, caller: Principal, view: OtpView) -> list[Step] | None:
        if self._clock.monotonic() < self._paused_until:
            return None
        try:
            events = await self._events.of_otp(caller.client_id, caller.mode, view.otp_id, since_ms=view.created_at)
        except ApiError:
            self._paused_until = self._clock.monotonic() + PAUSE_S
            return None
        history = history_of(events, None, now=0)
        return history.steps if history is not None else []

    async def _past(self, caller: Principal, otp_id: str) -> LookedOtp:
        events = await self._events.of_otp(caller.client_id, caller.mode, otp_id)
        if not events:
            raise problem("OTP_NOT_FOUND")
        message = await self._messages.newest_of_otp(caller.client_id, caller.mode, otp_id)
        # Without a record its code verifies no more, whatever the time: one that nothing else has ended is expired.
        history = history_of(events, message, now=END_OF_TIME_MS)
        if history is None:
            raise problem("OTP_NOT_FOUND")
        return LookedOtp(_view(history, max_resends=caller.policy.max_resends), history.steps)


def _is_id(text: str) -> bool:
    try:
        parse_otp_id(text)
    except MalformedId:
        return False
    return True


def _view(history: OtpHistory, *, max_resends: int) -> OtpView:
    metadata: dict[str, Any] | None = msgspec.json.decode(history.metadata) if history.metadata else None
    return OtpView(
        otp_id=history.otp_id,
        message_id=history.message_id,
        message_status=history.message_status,
        message_parts=history.message_parts,
        message_reason=history.message_reason,
        to=history.to,
        purpose=history.purpose,
        status=OtpStatus(history.status),
        channel=history.channel,
        code_length=history.code_length,
        attempts_remaining=history.attempts_remaining,
        resends_remaining=max(0, max_resends - history.resends),
        created_at=history.created_at,
        expires_at=history.expires_at,
        resend_at=history.resend_at,
        ended_at=history.ended_at,
        metadata=metadata,
    )
