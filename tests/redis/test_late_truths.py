"""What comes to light late: a failure of one where another may have the message, and news of one nobody knew about.

Every story is lived twice, by the scripts and by the queue in memory, and ends alike.
"""

from collections.abc import AsyncIterator

import pytest

from otpsvc.messages.model import MessageStatus, ReceiptFact, Tried
from tests.otp.house import House, open_house
from tests.redis.lived import WAIT_S, TwiceLived

ACCEPTED, SENT, DELIVERED = (ReceiptFact(status=status) for status in ("accepted", "sent", "delivered"))
FAILED = ReceiptFact(status="failed", kind="undeliverable")
BLOCKED = ReceiptFact(status="failed", kind="blocked", next_may_try=False)
HOUR_S = 3600


@pytest.fixture
async def lived(redis_url: str) -> AsyncIterator[TwiceLived]:
    async with open_house(redis_url) as house:
        lived = TwiceLived(house)
        await lived.send()
        yield lived


async def called(lived: TwiceLived, sender: str, *tried: Tried) -> None:
    await lived.claim()
    await lived.begin(sender, tried, may_duplicate=bool(tried), stale=0)


async def passed(lived: TwiceLived, first_took_it: bool = True) -> None:
    """The message is in the hands of `b`; `a`, which had taken it or never answered, was silent too long."""
    await called(lived, "a")
    if first_took_it:
        await lived.sent("a", (), receipt_in_s=WAIT_S, stale=0)
    else:
        await lived.release("a", (), due_in_s=WAIT_S, stale=0)
    await lived.pass_time()
    await called(lived, "b", Tried("a", "silent"))


async def unknown(lived: TwiceLived, sender: str = "a") -> None:
    """It ended, and nobody knows whether that sender has sent it."""
    await called(lived, sender)
    await lived.finish(MessageStatus.FAILED, "unknown_outcome", [Tried(sender, "silent")], stale=0)


async def end(lived: TwiceLived) -> tuple[str, str, str]:
    await lived.look()
    stored = await lived.house.message(lived.id)
    return stored["status"], stored.get("reason", ""), stored.get("sender", "")


async def names(lived: TwiceLived) -> list[str]:
    return [event.name for event in await lived.house.all_events() if event.name.startswith("message.")]


# -- the failure of one where another may have it


@pytest.mark.parametrize("failure", [FAILED, BLOCKED])
async def test_a_failure_is_no_end_while_an_earlier_sender_may_have_it(lived: TwiceLived, failure: ReceiptFact) -> None:
    await passed(lived)
    await lived.sent("b", (), receipt_in_s=None, stale=0)
    await lived.receipt("b", failure)
    assert await end(lived) == ("sent", "", "b")
    await lived.receipt("a", DELIVERED)
    assert await end(lived) == ("delivered", "", "a")
    assert (await names(lived))[-1] == "message.delivered"


@pytest.mark.parametrize("word", [None, ACCEPTED])
async def test_when_the_last_one_has_failed_it_has_failed(lived: TwiceLived, word: ReceiptFact | None) -> None:
    await passed(lived)
    await lived.sent("b", (), receipt_in_s=None, stale=0)
    if word is not None:
        await lived.receipt("a", word)
    await lived.receipt("b", BLOCKED)
    assert await end(lived) == ("sent", "", "b")
    await lived.receipt("a", FAILED)
    assert (await end(lived))[:2] == ("failed", "undeliverable")
    assert (await names(lived)).count("message.failed") == 1
    await lived.receipt("a", DELIVERED)
    assert (await end(lived))[0] == "failed"


async def test_a_failure_while_it_is_awaited_that_nobody_else_could_mend(lived: TwiceLived) -> None:
    await passed(lived)
    await lived.sent("b", (), receipt_in_s=WAIT_S, stale=0)
    await lived.receipt("b", BLOCKED)
    assert await end(lived) == ("sent", "", "b")
    assert await lived.house.waiting() == []
    await lived.receipt("a", SENT)
    await lived.receipt("a", DELIVERED)
    assert await end(lived) == ("delivered", "", "a")


async def test_a_failure_after_which_nobody_is_left(lived: TwiceLived) -> None:
    """The worker that was to ask the next finds none, or finds the code used."""
    await passed(lived)
    await lived.sent("b", (), receipt_in_s=WAIT_S, stale=0)
    await lived.receipt("b", FAILED)
    await lived.claim()
    await lived.finish(MessageStatus.FAILED, "unknown_outcome", (), stale=0)
    assert (await end(lived))[0] == "sent"
    await lived.receipt("a", DELIVERED)
    assert (await end(lived))[0] == "delivered"


async def test_a_code_that_ends_while_the_next_is_looked_for(lived: TwiceLived) -> None:
    await passed(lived)
    await lived.sent("b", (), receipt_in_s=WAIT_S, stale=0)
    await lived.receipt("b", FAILED)
    await lived.verify()
    await lived.claim()
    assert (await end(lived))[0] == "sent"
    assert await lived.house.waiting() == []


@pytest.mark.parametrize("failure", [FAILED, BLOCKED])
async def test_one_that_never_answered_is_no_reason_to_call_it_sent(lived: TwiceLived, failure: ReceiptFact) -> None:
    await passed(lived, first_took_it=False)
    await lived.sent("b", (), receipt_in_s=None, stale=0)
    await lived.receipt("b", failure)
    assert await end(lived) == ("failed", "unknown_outcome", "a")
    await lived.receipt("a", DELIVERED)
    assert await end(lived) == ("delivered", "", "a")


async def test_a_dead_workers_call_that_failed_where_another_may_have_it(lived: TwiceLived) -> None:
    await passed(lived)
    await lived.receipt("b", BLOCKED)
    await lived.pass_time()
    await lived.claim()
    assert await end(lived) == ("sent", "", "a")
    assert await lived.house.waiting() == []
    await lived.receipt("a", DELIVERED)
    assert await end(lived) == ("delivered", "", "a")


# -- a failure that comes while the next one is called


@pytest.mark.parametrize("way", ["kept", "given up", "died", "nobody"])
async def test_a_failure_during_the_next_call_is_not_forgotten(lived: TwiceLived, way: str) -> None:
    await passed(lived)
    await lived.receipt("a", FAILED)
    match way:
        case "kept":
            await lived.keep([Tried("b", "silent")], stale=0)
        case "given up":
            await lived.finish(MessageStatus.FAILED, "unknown_outcome", [Tried("b", "silent")], stale=0)
        case "died":
            await lived.verify()
            await lived.pass_time()
            await lived.claim()
        case _:
            await lived.keep([Tried("b", "no_credit")], stale=0)
    expected = ("failed", "undeliverable", "a") if way == "nobody" else ("failed", "unknown_outcome", "b")
    assert await end(lived) == expected
    assert (await names(lived)).count("message.failed") == 1


# -- an end of which nobody knew


@pytest.mark.parametrize(
    "words", [[DELIVERED], [SENT, DELIVERED], [SENT, SENT, DELIVERED, SENT], [FAILED, DELIVERED, FAILED]]
)
async def test_good_news_after_the_end_is_heard_once(lived: TwiceLived, words: list[ReceiptFact]) -> None:
    await unknown(lived)
    assert await end(lived) == ("failed", "unknown_outcome", "a")
    for word in words:
        await lived.receipt("a", word)
        await lived.look()
    assert await end(lived) == ("delivered", "", "a")
    told = ["message.tried", "message.failed"] + ["message.sent"] * (SENT in words) + ["message.delivered"]
    assert await names(lived) == told
    assert await lived.house.waiting() == []


async def test_what_left_after_the_end_has_no_end_yet(lived: TwiceLived) -> None:
    await unknown(lived)
    await lived.receipt("a", SENT)
    stored = await lived.house.message(lived.id)
    assert (stored["status"], stored["reason"], "ended_at" in stored, "sent_at" in stored) == ("sent", "", False, True)
    await lived.receipt("a", FAILED)
    assert await end(lived) == ("failed", "undeliverable", "a")
    await lived.receipt("a", DELIVERED)
    assert (await end(lived))[0] == "failed"


@pytest.mark.parametrize("word", [ACCEPTED, FAILED, BLOCKED])
async def test_what_is_no_good_news_leaves_the_end(lived: TwiceLived, word: ReceiptFact) -> None:
    await unknown(lived)
    before = await lived.house.snapshot()
    await lived.receipt("a", word)
    assert await lived.house.snapshot() == before
    assert await end(lived) == ("failed", "unknown_outcome", "a")


async def test_only_who_may_have_it_is_heard_after_the_end(lived: TwiceLived) -> None:
    await lived.claim()
    await lived.begin("a", [Tried("b", "no_credit")], may_duplicate=False, stale=0)
    await lived.finish(MessageStatus.FAILED, "unknown_outcome", [Tried("a", "silent")], stale=0)
    for sender in ("b", "c"):
        for word in (SENT, DELIVERED):
            await lived.receipt(sender, word)
    assert await end(lived) == ("failed", "unknown_outcome", "a")


@pytest.mark.parametrize(("status", "reason"), [("failed", "no_credit"), ("expired", "x"), ("cancelled", "x")])
async def test_an_end_that_is_known_stays(lived: TwiceLived, status: str, reason: str) -> None:
    await called(lived, "a")
    words = {"expired": "code_expired", "cancelled": "verified"}
    await lived.finish(MessageStatus(status), words.get(status, reason), (), stale=0)
    await lived.receipt("a", DELIVERED)
    assert (await end(lived))[0] == status


async def test_who_was_passed_and_may_have_it_gives_the_end_its_name(lived: TwiceLived) -> None:
    """Its late receipt is looked up by that name, once the record is gone."""
    await passed(lived, first_took_it=False)
    await lived.finish(MessageStatus.FAILED, "unknown_outcome", [Tried("b", "no_credit")], stale=0)
    assert await end(lived) == ("failed", "unknown_outcome", "a")
    failed = [event for event in await lived.house.all_events() if event.name == "message.failed"]
    assert [event.data["sender"] for event in failed] == ["a"]


async def test_a_dead_workers_call_of_a_code_that_ended_is_heard_of_late(lived: TwiceLived) -> None:
    await called(lived, "a")
    await lived.verify()
    await lived.pass_time()
    await lived.claim()
    assert await end(lived) == ("failed", "unknown_outcome", "a")
    await lived.receipt("a", DELIVERED)
    assert await end(lived) == ("delivered", "", "a")


@pytest.mark.parametrize(("reason", "hours"), [("unknown_outcome", 1.0), ("no_credit", 0.25)])
async def test_a_record_that_may_yet_change_stays_for_its_receipts(house: House, reason: str, hours: float) -> None:
    await house.send()
    (message,) = await house.claim()
    await house.queue.begin(message.message_id, message.token, sender="a")
    await house.queue.record_final(message.message_id, message.token, MessageStatus.FAILED, reason=reason)
    await house.age(hours * HOUR_S - 60)
    assert await house.message(message.message_id)
    await house.age(120)
    assert not await house.message(message.message_id)


# -- what is told of one that waits


async def test_what_may_come_again_at_every_lease_is_told_a_bounded_number_of_times(lived: TwiceLived) -> None:
    for _ in range(12):
        await lived.claim()
        await lived.release("", [Tried("a", "held_rate"), Tried("b", "retry_later")], due_in_s=0.0, stale=0)
        await lived.look()
    told = await names(lived)
    assert (told.count("message.tried"), told.count("message.postponed")) == (5 + 10, 5)


# -- when a call began


async def test_one_that_is_asked_again_is_waited_for_since_the_first_time(lived: TwiceLived) -> None:
    house, memory = lived.house, lived.memory

    async def begun_ms_ago() -> int:
        """Both sides say the same, but for the time that this test takes."""
        (ours,) = await house.claim(lease_s=1)
        (theirs,) = (await memory.claim(limit=1, lease_s=1)).messages
        lived.tokens.append((ours.token, theirs.token))
        assert theirs.begun_ms_ago <= ours.begun_ms_ago < theirs.begun_ms_ago + 20_000
        return theirs.begun_ms_ago

    await begun_ms_ago()
    await lived.begin("a", (), may_duplicate=False, stale=0)
    for n in range(1, 4):
        await lived.pass_time()
        assert await begun_ms_ago() == n * 25_000
        await lived.begin("a", (), may_duplicate=False, stale=0)
    await lived.begin("b", [Tried("a", "silent")], may_duplicate=True, stale=0)
    await lived.pass_time()
    assert await begun_ms_ago() == 25_000
