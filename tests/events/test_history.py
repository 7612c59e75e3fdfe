"""What an OTP's events add up to, in any order."""

from hypothesis import given
from hypothesis import strategies as st

from otpsvc.events.history import OtpHistory, history_of
from otpsvc.events.model import Event, stand_in
from otpsvc.messages.model import MessageView
from tests.events.samples import CLIENT, NOON, TO, event, life, of_message, of_otp, sent, without_personal

LATER = NOON + 10_000_000


def view_of(begun: Event, status: str = "sent", reason: str | None = None) -> MessageView:
    return MessageView(
        message_id=begun.message_id,
        otp_id=begun.otp_id,
        status=status,
        channel="sms",
        parts=1,
        to=TO,
        text="",
        reason=reason,
        sender="main",
        tries=1,
        created_at=begun.occurred_at,
        sent_at=None,
        delivered_at=None,
        ended_at=None,
        expires_at=None,
        metadata='{"order":7}',
    )


def told(events: list[Event], message: MessageView | None = None, now: int = LATER) -> OtpHistory:
    history = history_of([without_personal(one) for one in events], message, now=now)
    assert history is not None
    return history


def test_a_life_from_accepted_to_verified() -> None:
    events = life()
    history = told(events, view_of(events[0]))
    assert [(step.name, step.at) for step in history.steps] == [(one.name, one.occurred_at) for one in events]
    assert [step.attempt for step in history.steps] == [None, None, None, 1, 2]
    assert [step.reason for step in history.steps] == [None, "retry_later", None, None, None]
    assert [step.sender for step in history.steps] == [None, None, "main", None, None]
    assert {step.message_id for step in history.steps} == {events[0].message_id}
    assert history == OtpHistory(
        otp_id=events[0].otp_id,
        status="verified",
        message_id=events[0].message_id,
        message_status="sent",
        message_reason=None,
        message_parts=1,
        to=TO,
        purpose="login",
        channel="sms",
        code_length=6,
        attempts_remaining=1,
        resends=0,
        created_at=NOON,
        expires_at=NOON + 300_000,
        resend_at=NOON + 30_000,
        ended_at=NOON + 9000,
        metadata='{"order":7}',
        steps=history.steps,
    )


def test_a_step_that_was_tried_says_with_whom_and_how_it_ended() -> None:
    begun = sent()
    tried = of_message("message.tried", begun, 100, sender="acme", outcome="silent", may_duplicate="1")
    history = told([begun, tried, of_message("message.delivered", begun, 200, sender="main")])
    assert [(step.name, step.sender, step.reason) for step in history.steps[1:]] == [
        ("message.tried", "acme", "silent"),
        ("message.delivered", "main", None),
    ]


def test_a_resend_brings_its_own_life_and_message() -> None:
    begun = sent()
    again = sent(NOON + 60_000, name="otp.resent", otp_id=begun.otp_id, channel="voice", parts="2")
    history = told([begun, of_otp("otp.rejected", begun, 100, attempt="1"), again], view_of(again, "queued"))
    assert (history.message_id, history.message_status, history.channel) == (again.message_id, "queued", "voice")
    assert (history.created_at, history.expires_at) == (NOON, NOON + 360_000)
    assert history.resend_at == NOON + 90_000
    assert (history.resends, history.attempts_remaining, history.message_parts) == (1, 2, 2)


def test_locked_leaves_no_attempt() -> None:
    begun = sent()
    guesses = [of_otp("otp.rejected", begun, n, attempt=str(n)) for n in (1, 2, 3)]
    history = told([begun, *guesses, of_otp("otp.locked", begun, 3)])
    assert (history.status, history.attempts_remaining, history.ended_at) == ("locked", 0, NOON + 3)
    assert [step.name for step in history.steps][-2:] == ["otp.rejected", "otp.locked"]


def test_the_time_that_is_over_counts_whoever_wrote_it_down() -> None:
    begun = sent()
    assert told([begun], now=NOON + 299_999).status == "pending"
    unread = told([begun], now=NOON + 300_000)
    assert (unread.status, unread.ended_at) == ("expired", None)
    swept = told([begun, of_otp("otp.expired", begun, 330_000)])
    assert (swept.status, swept.ended_at) == ("expired", NOON + 330_000)


def test_the_first_end_holds() -> None:
    begun = sent()
    history = told([begun, of_otp("otp.verified", begun, 100, attempt="1"), of_otp("otp.expired", begun, 300_001)])
    assert (history.status, history.ended_at) == ("verified", NOON + 100)


def test_a_reason_is_shown() -> None:
    begun = sent()
    failed = of_message("message.failed", begun, 10, reason="no_sender")
    cancelled = of_otp("otp.cancelled", begun, 20, reason="forgotten")
    history = told([begun, failed, cancelled], view_of(begun, "failed", "no_sender"))
    assert [step.reason for step in history.steps] == [None, "no_sender", "forgotten"]
    assert (history.message_status, history.message_reason, history.status) == ("failed", "no_sender", "cancelled")


def test_without_its_message_it_has_no_number() -> None:
    history = told(life())
    assert (history.to, history.metadata, history.message_status, history.message_reason) == ("", "", None, None)
    assert history.message_parts == 1


def test_what_has_no_beginning_has_no_history() -> None:
    events = life()
    assert history_of([], None, now=NOON) is None
    assert history_of(events[1:], view_of(events[0]), now=NOON) is None
    resent = sent(name="otp.resent", otp_id=events[0].otp_id)
    assert history_of([resent, *events[1:]], None, now=NOON) is None
    assert history_of([stand_in(events[0]), *events[1:]], None, now=NOON) is None


def test_one_unreadable_event_does_not_spoil_the_rest() -> None:
    events = life()
    history = told([*events, stand_in(event("otp.rejected", NOON + 1, otp_id=events[0].otp_id, client_id=CLIENT))])
    assert (history.status, history.attempts_remaining) == ("verified", 1)
    assert history.steps[1].attempt is None


@given(st.permutations([*life(), sent(NOON + 2000, name="otp.resent")]))
def test_order_does_not_matter(events: list[Event]) -> None:
    assert told(events) == told(sorted(events, key=lambda one: one.event_id))


def test_what_falls_into_one_millisecond_is_told_in_its_order() -> None:
    begun = sent()
    same = [
        of_otp("otp.locked", begun, 0),
        of_otp("otp.rejected", begun, 0, attempt="3"),
        of_message("message.cancelled", begun, 0, reason="code_ended"),
        begun,
    ]
    names = [step.name for step in told(same).steps]
    assert (names[0], names[-1]) == ("otp.sent", "otp.locked")
