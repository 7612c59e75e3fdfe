"""Any order of send, guess, resend, cancel, delivery and waiting, on the real store, against the rules in plain Python.

The store's clock is the real one, so the model reads it too and time jumps by moving what is stored. A jump never ends
just before a moment at which an answer changes, so that the few milliseconds of each call cannot matter.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from otpsvc.errors import ApiError
from otpsvc.otp.model import SentOtp, VerifiedOtp, WrongGuess
from tests.otp import rules
from tests.otp.house import CLIENT, OTHER_CLIENT, House, open_house, wrong
from tests.otp.rules import CODES_AN_HOUR, HOUR_S, Otp, Rules, Text

SLACK_S = 8  # an example may take so long between two jumps; no known boundary is shorter than 30 s
CLIENTS = st.sampled_from([CLIENT] * 5 + [OTHER_CLIENT])
WHO = st.sampled_from(["owner", "owner", "owner", OTHER_CLIENT])
PURPOSES = st.sampled_from(["login"] * 4 + ["transaction"])
SESSIONS = st.sampled_from([None, None, None, "a", "b", "c", "d"])
JUMPS = st.sampled_from([10, 31, 31, 65, 65, 95, 95, 125, 910, 1900, 3605])
PICKS = st.integers(0, 3)
PATIENCE = st.sampled_from([0, rules.COOLDOWN_S + 1, rules.COOLDOWN_S + 1])
has_made_one = precondition(lambda self: bool(self.ids))
is_one_living = precondition(lambda self: bool(self.living()))


class TheProduct(RuleBasedStateMachine):
    """The service and the model side by side."""

    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.resources = AsyncExitStack()
        self.house: House = self.run(self.resources.enter_async_context(open_house(self.redis_url)))
        self.run(self.house.raw.flushall())
        self.model = Rules()
        self.ids: dict[Otp, str] = {}
        self.texts: dict[str, Text] = {}
        self.jumped = 0.0

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.resources.aclose())
        self.runner.close()

    def ask(self, call: Any) -> Any:
        """Make a call; give its answer, or the code of its refusal."""
        self.model.now = self.now()
        try:
            return self.run(call)
        except ApiError as error:
            return error.code

    def now(self) -> float:
        return time.time() + self.jumped

    def caller(self, client: str) -> Any:
        return self.house.caller(client, cooldown_s=rules.COOLDOWN_S, grace_s=rules.GRACE_S, ttl_s=rules.TTL_S)

    def living(self) -> list[Otp]:
        """The OTPs that can still be verified, the one resent most often first."""
        return sorted((otp for otp in self.ids if otp.is_living(self.now())), key=lambda otp: -otp.resends)

    @rule(client=CLIENTS, purpose=PURPOSES, session=SESSIONS, patience_s=PATIENCE)
    def send(self, client: str, purpose: str, session: str | None, patience_s: float) -> None:
        self.jump(patience_s)
        answer = self.ask(self.house.send(self.caller(client), purpose=purpose, session=session))
        expected = self.model.send(client, purpose, session)
        if not isinstance(answer, SentOtp):
            assert answer == expected
            return
        assert expected == "sent"
        expires_at = answer.expires_at / 1000 + self.jumped
        assert abs(expires_at - (self.model.now + rules.TTL_S)) < SLACK_S
        text = self.texts[answer.message_id] = Text()
        otp = Otp(client, purpose, session, [self.house.codes[-1]], expires_at, text)
        self.model.add(otp)
        self.ids[otp] = answer.otp_id

    @is_one_living
    @rule(pick=PICKS)
    def guess_right(self, pick: int) -> None:
        otp = self.living()[pick % len(self.living())]
        self.guess(otp, otp.codes[-1])

    @is_one_living
    @rule(pick=PICKS)
    def guess_wrong(self, pick: int) -> None:
        otp = self.living()[pick % len(self.living())]
        self.guess(otp, wrong(*otp.codes))

    @is_one_living
    @rule(before=st.sampled_from([1, 1, 1, 2]), patience_s=st.sampled_from([0, 65, 65, 95, 95]))
    def guess_an_earlier_code(self, before: int, patience_s: float) -> None:
        self.jump(patience_s)
        otp = (self.living() or list(self.ids))[0]
        self.guess(otp, otp.codes[-1 - before :][0])

    @has_made_one
    @rule(pick=st.integers(0, 99), who=WHO)
    def guess_at_any(self, pick: int, who: str) -> None:
        otp = list(self.ids)[pick % len(self.ids)]
        self.guess(otp, otp.codes[-1], who)

    def guess(self, otp: Otp, code: str, who: str = "owner") -> None:
        client = otp.client if who == "owner" else who
        answer = self.ask(self.house.verify(self.ids[otp], code, self.caller(client)))
        expected = self.model.verify(client, otp, code)
        match answer:
            case VerifiedOtp():
                assert expected == "right"
            case WrongGuess():
                assert answer.attempts_remaining == expected
            case _:
                assert answer == expected

    @is_one_living
    @rule()
    def resend_patiently(self) -> None:
        otp = self.living()[0]
        self.jump(rules.COOLDOWN_S + 1)
        self.try_resend(otp)

    @is_one_living
    @rule()
    def resend_at_the_end(self) -> None:
        otp = self.living()[0]
        self.jump(max(0, otp.expires_at - self.now() - 2 * SLACK_S))
        self.try_resend(otp)

    @has_made_one
    @rule(pick=st.integers(0, 99), who=WHO)
    def resend_any(self, pick: int, who: str) -> None:
        self.try_resend(list(self.ids)[pick % len(self.ids)], who)

    def try_resend(self, otp: Otp, who: str = "owner") -> None:
        client = otp.client if who == "owner" else who
        answer = self.ask(self.house.resend(self.ids[otp], self.caller(client)))
        expected = self.model.resend(client, otp)
        if not isinstance(answer, SentOtp):
            assert answer == expected
            return
        assert expected == "sent"
        assert answer.otp_id == self.ids[otp]
        assert answer.attempts_remaining == rules.ATTEMPTS - otp.attempts
        text = self.texts[answer.message_id] = Text()
        self.model.replace(otp, self.house.codes[-1], text)

    @has_made_one
    @rule(pick=st.integers(0, 99), who=WHO)
    def cancel(self, pick: int, who: str) -> None:
        otp = list(self.ids)[pick % len(self.ids)]
        client = otp.client if who == "owner" else who
        answer = self.ask(self.house.cancel(self.ids[otp], self.caller(client)))
        expected = self.model.cancel(client, otp)
        assert (answer if isinstance(answer, str) else answer.status) == expected

    @rule()
    def deliver(self) -> None:
        self.model.now = self.now()
        expected = self.model.deliverable()
        messages = self.run(self.house.claim(limit=1000))
        assert {self.texts[message.message_id] for message in messages} == expected
        for message in messages:
            done = self.house.queue.record_sent(message.message_id, message.token, sender="x", provider_id=None)
            assert self.run(done)
            self.texts[message.message_id].status = "sent"
        for text in self.texts.values():
            text.status = "sent" if text.status == "sent" else "ended"
        assert self.run(self.house.waiting()) == []

    @rule(seconds=JUMPS)
    def wait(self, seconds: float) -> None:
        self.jump(seconds)

    def jump(self, seconds: float) -> None:
        if not seconds:
            return
        while any(-2 <= moment - self.now() - seconds <= SLACK_S for moment in self.model.boundaries()):
            seconds += SLACK_S + 1
        self.run(self.house.age(seconds))
        self.jumped += seconds

    @rule()
    def look(self) -> None:
        for otp in list(self.ids)[-6:]:
            self.look_at(otp)

    def look_at(self, otp: Otp) -> None:
        view = self.ask(self.house.get(self.ids[otp], self.caller(otp.client)))
        if otp.is_gone(self.model.now):
            assert view == "OTP_NOT_FOUND"
            return
        assert view.status == self.model.status(otp)
        assert view.attempts_remaining == rules.ATTEMPTS - otp.attempts
        assert view.resends_remaining == rules.RESENDS - otp.resends

    @invariant()
    def the_promises_hold(self) -> None:
        assert all(otp.compared <= rules.ATTEMPTS for otp in self.ids)
        for client in (CLIENT, OTHER_CLIENT):
            times = [at for at, who in self.model.sends if who == client]
            assert all(sum(at <= later < at + HOUR_S for later in times) <= CODES_AN_HOUR for at in times)


def test_the_service_keeps_the_rules(redis_url: str) -> None:
    TheProduct.redis_url = redis_url
    run_state_machine_as_test(
        TheProduct,
        settings=settings(
            max_examples=90,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
