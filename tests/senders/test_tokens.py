"""A token is asked for once however many wait, renewed in time, and a gateway that gives none is left alone."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from otpsvc.senders.contract import Accepted, Rejected, RejectionKind, RetryLater, Unknown
from otpsvc.senders.http_client import GatewayAnswer
from otpsvc.senders.tokens import NoToken, Token, TokenCache, as_no_token
from otpsvc.testing import ManualClock

REFUSED = Rejected(RejectionKind.UNAUTHORISED, "code INVALID_CLIENT")


class Office:
    """Gives tokens t1, t2, … of 3600 s, or what `answers` holds; waits for `door` before it answers."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.answers: list[Token | NoToken | Exception] = []
        self.door = asyncio.Event()
        self.door.set()

    async def fetch(self) -> Token | NoToken:
        self.n_asked += 1
        number = self.n_asked
        await self.door.wait()
        answer = self.answers.pop(0) if self.answers else Token(f"t{number}", 3600.0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
async def tokens(office: Office, clock: ManualClock) -> AsyncIterator[TokenCache]:
    cache = TokenCache(office.fetch, clock)
    yield cache
    await cache.close()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_who_wait_cost_one_request(tokens: TokenCache, office: Office) -> None:
    office.door.clear()
    waiting = [asyncio.create_task(tokens.current()) for _ in range(50)]
    await settled()
    office.door.set()
    assert await asyncio.gather(*waiting) == ["t1"] * 50
    assert await tokens.current() == "t1"
    assert office.n_asked == 1


async def test_one_who_gives_up_takes_nothing_from_the_others(tokens: TokenCache, office: Office) -> None:
    office.door.clear()
    first, second = asyncio.create_task(tokens.current()), asyncio.create_task(tokens.current())
    await settled()
    first.cancel()
    await settled()
    assert first.cancelled()
    office.door.set()
    assert await second == "t1"
    assert office.n_asked == 1


async def test_a_token_is_renewed_while_it_is_still_used(
    tokens: TokenCache, office: Office, clock: ManualClock
) -> None:
    assert await tokens.current() == "t1"
    clock.advance(3299)
    assert await tokens.current() == "t1"
    await settled()
    assert office.n_asked == 1
    clock.advance(2)
    office.door.clear()
    assert [await tokens.current() for _ in range(20)] == ["t1"] * 20
    office.door.set()
    await settled()
    assert await tokens.current() == "t2"
    assert office.n_asked == 2


async def test_an_ended_token_is_not_used(tokens: TokenCache, office: Office, clock: ManualClock) -> None:
    assert await tokens.current() == "t1"
    clock.advance(3600)
    assert await tokens.current() == "t2"


async def test_a_renewal_that_fails_leaves_the_old_token_until_its_end(
    tokens: TokenCache, office: Office, clock: ManualClock
) -> None:
    await tokens.current()
    office.answers = [RetryLater(1.0, "time-out")] * 9
    clock.advance(3400)
    assert await tokens.current() == "t1"
    await settled()
    assert [await tokens.current() for _ in range(20)] == ["t1"] * 20
    await settled()
    assert office.n_asked == 2
    clock.advance(250)
    assert isinstance(await tokens.current(), RetryLater)


async def test_a_failure_does_not_hammer(tokens: TokenCache, office: Office, clock: ManualClock) -> None:
    office.answers = [RetryLater(0.5, "time-out")] * 100
    times = []
    for _ in range(1000):
        n_before = office.n_asked
        assert isinstance(await tokens.current(), RetryLater)
        if office.n_asked > n_before:
            times.append(clock.monotonic())
        clock.advance(0.25)
    gaps = [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
    assert gaps[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(gaps[6:]) == {30.0}


async def test_a_pause_that_the_gateway_names_is_kept(tokens: TokenCache, office: Office, clock: ManualClock) -> None:
    office.answers = [RetryLater(120.0, "status 429")]
    await tokens.current()
    clock.advance(100)
    assert await tokens.current() == RetryLater(20.0, "token: waiting after a failure")
    clock.advance(21)
    assert await tokens.current() == "t2"


async def test_a_refusal_is_told_to_all_without_asking_again(
    tokens: TokenCache, office: Office, clock: ManualClock
) -> None:
    office.answers = [REFUSED]
    assert [await tokens.current() for _ in range(10)] == [REFUSED] * 10
    assert office.n_asked == 1
    clock.advance(30)
    assert await tokens.current() == "t2"


async def test_a_success_ends_the_growth_of_pauses(tokens: TokenCache, office: Office, clock: ManualClock) -> None:
    failed = RetryLater(0.5, "")
    office.answers = [failed, failed, Token("short", 60.0), failed]
    for pause_s in (1.0, 2.0):
        await tokens.current()
        clock.advance(pause_s)
    assert await tokens.current() == "short"
    clock.advance(60)
    await tokens.current()
    clock.advance(1.0)
    assert await tokens.current() == "t5"


async def test_a_token_without_a_life_is_not_asked_for_at_every_call(tokens: TokenCache, office: Office) -> None:
    office.answers = [Token("t", 0.0)]
    assert [await tokens.current() for _ in range(5)] == ["t"] * 5
    assert office.n_asked == 1


async def test_what_breaks_inside_is_a_pause_and_repeats_no_words(
    tokens: TokenCache, office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    office.answers = [ValueError("hush")]
    said = await tokens.current()
    assert said == RetryLater(1.0, "token: ValueError", is_fault=True)
    assert "hush" not in caplog.text


async def test_a_dropped_token_is_replaced_once(tokens: TokenCache, office: Office) -> None:
    stale = {"t1"}

    async def request(token: str) -> GatewayAnswer:
        await asyncio.sleep(0)
        return GatewayAnswer(401 if token in stale else 200, {}, b"")

    calls = [tokens.call(request, lambda answer: answer.status == 401) for _ in range(30)]
    answers = await asyncio.gather(*calls)
    assert {answer.status for answer in answers if isinstance(answer, GatewayAnswer)} == {200}
    assert len(answers) == 30
    assert office.n_asked == 2


async def test_a_new_token_that_is_refused_too_is_the_end(tokens: TokenCache, office: Office) -> None:
    used: list[str] = []

    async def request(token: str) -> GatewayAnswer:
        used.append(token)
        return GatewayAnswer(401, {}, b"")

    answer = await tokens.call(request, lambda answer: answer.status == 401)
    assert isinstance(answer, GatewayAnswer)
    assert used == ["t1", "t2"]


async def test_tokens_that_are_all_refused_are_not_asked_for_at_every_call(
    tokens: TokenCache, office: Office, clock: ManualClock
) -> None:
    async def request(_token: str) -> GatewayAnswer:
        return GatewayAnswer(401, {}, b"")

    for _ in range(20):
        await tokens.call(request, lambda answer: answer.status == 401)
    assert office.n_asked == 2
    clock.advance(31)
    await tokens.call(request, lambda answer: answer.status == 401)
    assert office.n_asked == 3


async def test_nobody_waits_long_for_a_slow_token_and_it_comes_all_the_same(
    tokens: TokenCache, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otpsvc.senders.tokens._LONGEST_WAIT_S", 0.02)
    office.door.clear()
    slow = RetryLater(1.0, "token: still asked for", is_fault=True)
    assert await asyncio.wait_for(asyncio.gather(*(tokens.current() for _ in range(5))), 5) == [slow] * 5
    assert await tokens.current() == slow
    office.door.set()
    await settled()
    assert await tokens.current() == "t1"
    assert office.n_asked == 1


async def test_a_renewal_that_never_ends_is_cut_off(
    tokens: TokenCache, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otpsvc.senders.tokens._LONGEST_FETCH_S", 0.02)
    office.door.clear()
    said = await asyncio.wait_for(asyncio.gather(*(tokens.current() for _ in range(5))), 5)
    assert said == [RetryLater(1.0, "token: time-out", is_fault=True)] * 5
    assert office.n_asked == 1


async def test_a_renewal_does_not_print_its_token(tokens: TokenCache, office: Office) -> None:
    office.door.clear()
    waiting = asyncio.create_task(tokens.current())
    await settled()
    (renewal,) = (task for task in asyncio.all_tasks() if "coro=<TokenCache._renew" in repr(task))
    office.door.set()
    assert await waiting == "t1"
    assert "t1" not in repr(renewal)


async def test_dropping_an_older_token_leaves_the_newer(tokens: TokenCache, office: Office) -> None:
    await tokens.current()
    tokens.drop("t0")
    assert await tokens.current() == "t1"


async def test_closing_ends_a_renewal_and_those_who_wait_for_it(tokens: TokenCache, office: Office) -> None:
    office.door.clear()
    waiting = asyncio.create_task(tokens.current())
    await settled()
    await tokens.close()
    await tokens.close()
    assert await waiting == RetryLater(1.0, "token: closing")


def test_without_a_token_no_message_has_left() -> None:
    assert as_no_token(REFUSED) is REFUSED
    assert as_no_token(RetryLater(7.0, "status 429")) == RetryLater(7.0, "status 429")
    assert as_no_token(Unknown("time-out")) == RetryLater(1.0, "token: time-out", is_fault=True)
    assert as_no_token(Accepted()) == RetryLater(1.0, "token: no token in the answer", is_fault=True)


def test_a_token_does_not_print() -> None:
    assert repr(Token("hush", 60.0)) == "Token(life_s=60)"
