"""Looking at one OTP, whichever of the living store and the history can tell of it."""

import pytest

from otpsvc.clients.model import Principal
from otpsvc.errors import ApiError, problem
from otpsvc.events.lookup import PAUSE_S, OtpLookup
from otpsvc.events.model import Event
from otpsvc.ids import new_otp_id
from otpsvc.messages.model import MessageView
from otpsvc.otp.model import OtpView
from otpsvc.otp.policy import Policy
from otpsvc.testing.clocks import ManualClock

CALLER = Principal("client_1", "test", "key", Policy(max_resends=2))
OTP_ID = new_otp_id(partition=0, slot=b"\x00\x00", profile=1).text
BEGUN = {
    "purpose": "login", "code_length": "6", "max_attempts": "3", "channel": "sms", "parts": "1", "expires_at": "301000",
    "resend_at": "31000",
}  # fmt: skip


class Living:
    """One OTP or none; or nobody to ask."""

    def __init__(self, answer: OtpView | ApiError) -> None:
        self.answer = answer

    async def get(self, caller: Principal, otp_id: str) -> OtpView:
        assert (caller, otp_id.isascii()) == (CALLER, True)
        if isinstance(self.answer, ApiError):
            raise self.answer
        return self.answer


class Past:
    """A history that counts how often it is asked, and that can be away."""

    def __init__(self, events: list[Event], message: MessageView | None = None) -> None:
        self.events = events
        self.message = message
        self.is_away = False
        self.n_asked = 0

    async def of_otp(self, client_id: str, mode: str, otp_id: str, *, since_ms: int | None = None) -> list[Event]:
        self._ask(client_id, mode, otp_id)
        return self.events

    async def newest_of_otp(self, client_id: str, mode: str, otp_id: str) -> MessageView | None:
        self._ask(client_id, mode, otp_id)
        return self.message

    def _ask(self, *whose: str) -> None:
        assert whose == (CALLER.client_id, CALLER.mode, OTP_ID)
        self.n_asked += 1
        if self.is_away:
            raise problem("SERVICE_UNAVAILABLE")


def event(name: str, at: int, **data: str) -> Event:
    return Event(
        event_id=f"evt_{at}", name=name, client_id=CALLER.client_id, mode=CALLER.mode, otp_id=OTP_ID,
        message_id="msg_1", occurred_at=at, data=data,
    )  # fmt: skip


VIEW = OtpView(
    otp_id=OTP_ID, message_id="msg_1", message_status="sent", message_parts=1, message_reason=None, to="+336****5678",
    purpose="login", status="pending", channel="sms", code_length=6, attempts_remaining=3, resends_remaining=2,
    created_at=1000, expires_at=301_000, resend_at=31_000, ended_at=None, metadata=None,
)  # fmt: skip
GONE = problem("OTP_NOT_FOUND")


def lookup(living: Living, past: Past, clock: ManualClock | None = None) -> OtpLookup:
    return OtpLookup(living, past, past, clock or ManualClock())


async def test_the_record_gives_the_facts_and_the_history_its_steps() -> None:
    past = Past([event("otp.sent", 1000, **BEGUN), event("otp.verified", 2000, attempt="1")])
    looked = await lookup(Living(VIEW), past).look(CALLER, OTP_ID)
    assert looked.view == VIEW
    assert [step.name for step in looked.steps or ()] == ["otp.sent", "otp.verified"]


async def test_a_history_that_knows_nothing_yet_is_empty_and_not_missing() -> None:
    assert (await lookup(Living(VIEW), Past([])).look(CALLER, OTP_ID)).steps == []


async def test_a_history_that_is_away_is_left_alone_for_a_moment() -> None:
    clock, past = ManualClock(), Past([event("otp.sent", 1000, **BEGUN)])
    looking = lookup(Living(VIEW), past, clock)
    past.is_away = True
    for _ in range(3):
        assert (await looking.look(CALLER, OTP_ID)).steps is None
    assert past.n_asked == 1
    past.is_away = False
    clock.advance(PAUSE_S / 2)
    assert (await looking.look(CALLER, OTP_ID)).steps is None
    clock.advance(PAUSE_S)
    assert (await looking.look(CALLER, OTP_ID)).steps is not None


async def test_without_a_record_the_history_is_asked_even_in_that_moment() -> None:
    living, past = Living(VIEW), Past([event("otp.sent", 1000, **BEGUN)])
    looking = lookup(living, past)
    past.is_away = True
    await looking.look(CALLER, OTP_ID)
    living.answer, past.is_away = GONE, False
    looked = await looking.look(CALLER, OTP_ID)
    assert (looked.view.status, looked.view.to, looked.view.metadata) == ("expired", "", None)
    past.is_away = True
    with pytest.raises(ApiError) as caught:
        await looking.look(CALLER, OTP_ID)
    assert caught.value.code == "SERVICE_UNAVAILABLE"


async def test_resends_left_are_counted_by_the_policy_of_today() -> None:
    events = [event("otp.sent", 1000, **BEGUN), *(event("otp.resent", 2000 + n, **BEGUN) for n in range(3))]
    assert (await lookup(Living(GONE), Past(events)).look(CALLER, OTP_ID)).view.resends_remaining == 0
    assert (await lookup(Living(GONE), Past(events[:2])).look(CALLER, OTP_ID)).view.resends_remaining == 1


@pytest.mark.parametrize("events", [[], [event("otp.expired", 301_000)]], ids=["none", "no beginning"])
async def test_what_the_history_cannot_tell_is_unknown(events: list[Event]) -> None:
    with pytest.raises(ApiError) as caught:
        await lookup(Living(GONE), Past(events)).look(CALLER, OTP_ID)
    assert caught.value.code == "OTP_NOT_FOUND"


async def test_what_is_no_id_never_reaches_the_history() -> None:
    past = Past([event("otp.sent", 1000, **BEGUN)])
    for text in ("", "otp_", OTP_ID.upper(), OTP_ID + "0", "x" * 3000):
        with pytest.raises(ApiError) as caught:
            await lookup(Living(GONE), past).look(CALLER, text)
        assert caught.value.code == "OTP_NOT_FOUND"
    assert past.n_asked == 0


async def test_a_living_store_that_is_away_is_not_replaced_by_the_history() -> None:
    past = Past([event("otp.sent", 1000, **BEGUN)])
    with pytest.raises(ApiError) as caught:
        await lookup(Living(problem("SERVICE_UNAVAILABLE")), past).look(CALLER, OTP_ID)
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    assert past.n_asked == 0
