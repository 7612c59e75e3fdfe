"""The dispatcher: one end for every message, never a second send by mistake."""

import asyncio
import logging
import math
from typing import Any

import msgspec
import pytest

from otpsvc.crypto import Keyring
from otpsvc.errors import ConfigurationError, problem
from otpsvc.messages.model import MessageStatus
from otpsvc.senders.contract import (
    RULES,
    Accepted,
    Capabilities,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Unknown,
)
from otpsvc.testing import MemoryQueue, RecordingSender
from tests.messages.house import CODE, LEASE_S, NUMBER, House

SMS = frozenset({Channel.SMS})


class Mirror(RecordingSender):
    is_dev_only = True


async def test_an_accepted_message_is_recorded_with_its_sender_and_provider_id(house: House) -> None:
    sender = RecordingSender("acme", [Accepted("p-1")])
    await house.deliver(house.dispatcher(sender))
    assert house.end == (MessageStatus.SENT, "acme")
    assert house.record.provider_id == "p-1"
    (sent,) = sender.sent
    assert (sent.to, sent.text, sent.message_id) == (NUMBER, f"{CODE} is your code", house.id)
    assert (sent.try_number, sent.life_s, sent.mode) == (1, 300.0, "live")


@pytest.mark.parametrize("kind", list(RejectionKind))
async def test_a_rejection_goes_on_or_ends_by_its_rule(kind: RejectionKind, house: House) -> None:
    first, second = RecordingSender("a", [Rejected(kind)]), RecordingSender("b")
    await house.deliver(house.dispatcher(first, second))
    assert len(second.sent) == RULES[kind].next_may_try
    expected = (MessageStatus.SENT, "b") if RULES[kind].next_may_try else (MessageStatus.FAILED, kind.value)
    assert house.end == expected


async def test_when_all_reject_it_fails_with_the_last_reason(house: House) -> None:
    senders = [
        RecordingSender("a", [Rejected(RejectionKind.NO_CREDIT)]),
        RecordingSender("b", [Rejected(RejectionKind.UNAVAILABLE)]),
    ]
    await house.deliver(house.dispatcher(*senders))
    assert house.end == (MessageStatus.FAILED, "unavailable")


async def test_what_needs_an_operator_is_logged_as_an_error(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [Rejected(RejectionKind.NO_CREDIT)])))
    told = [(r.levelno, "failed" in r.message) for r in caplog.records if "no_credit" in r.message]
    assert told == [(logging.ERROR, False), (logging.WARNING, True)]


async def test_without_a_sender_for_the_channel_it_fails(house: House) -> None:
    voice = RecordingSender("v", capabilities=Capabilities(channels=frozenset({Channel.VOICE})))
    await house.deliver(house.dispatcher(voice))
    assert house.end == (MessageStatus.FAILED, "no_sender")
    assert voice.sent == []


async def test_no_senders_at_all(house: House) -> None:
    await house.deliver(house.dispatcher())
    assert house.end == (MessageStatus.FAILED, "no_sender")


async def test_a_text_too_long_for_one_sender_goes_to_the_next(house: House) -> None:
    short = RecordingSender("a", capabilities=Capabilities(channels=SMS, longest_text=5))
    await house.deliver(house.dispatcher(short, RecordingSender("b")))
    assert house.end == (MessageStatus.SENT, "b")
    assert short.sent == []


# -- later


async def test_retry_later_gives_it_back_for_as_long_as_asked(house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [RetryLater(7.5)])))
    assert house.end == (MessageStatus.QUEUED, "retry_later")
    assert house.record.due_at == house.clock.time() + 7.5


async def test_retry_later_lets_the_next_sender_try_at_once(house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [RetryLater(7.5)]), RecordingSender("b")))
    assert house.end == (MessageStatus.SENT, "b")


async def test_the_soonest_of_several_is_kept(house: House) -> None:
    senders = [
        RecordingSender("a", [RetryLater(20)]),
        RecordingSender("b", [RetryLater(3)]),
        RecordingSender("c", [Rejected(RejectionKind.UNAVAILABLE)]),
    ]
    await house.deliver(house.dispatcher(*senders))
    assert house.record.due_at == house.clock.time() + 3


@pytest.mark.parametrize("after_s", [271, 1e12, math.inf])
async def test_later_than_the_codes_end_is_failure(after_s: float, house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [RetryLater(after_s)])))
    assert house.end == (MessageStatus.FAILED, "no_time_left")


@pytest.mark.parametrize("after_s", [0, -5, -math.inf, math.nan, "soon", None])
async def test_a_senseless_pause_becomes_a_short_one(after_s: Any, house: House) -> None:
    await house.deliver(house.dispatcher(RecordingSender("a", [RetryLater(after_s)])))
    assert house.end == (MessageStatus.QUEUED, "retry_later")
    assert 0 < house.record.due_at - house.clock.time() < 1


# -- life and lease


async def test_under_thirty_seconds_of_life_nothing_is_sent(house: House) -> None:
    sender = RecordingSender("a")
    house.clock.advance(269.9)
    lease_ends_at = house.clock.monotonic() + LEASE_S
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    house.clock.advance(0.2)
    await house.dispatcher(sender).deliver(claimed, queue=house.queue, lease_ends_at=lease_ends_at)
    assert house.end == (MessageStatus.EXPIRED, "no_time_left")
    assert sender.sent == []


async def test_a_worker_whose_clock_is_wrong_sends_all_the_same(house: House) -> None:
    sender = RecordingSender("a")
    lease_ends_at = house.clock.monotonic() + LEASE_S
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    shifted = msgspec.structs.replace(claimed, expires_at_ms=claimed.expires_at_ms - 600_000)
    await house.dispatcher(sender).deliver(shifted, queue=house.queue, lease_ends_at=lease_ends_at)
    assert house.end == (MessageStatus.SENT, "a")


async def test_life_is_looked_at_before_each_sender(house: House) -> None:
    def slow(message: OutboundMessage) -> Outcome:
        house.clock.advance(5)
        return Rejected(RejectionKind.UNAVAILABLE)

    house.clock.advance(267)
    second = RecordingSender("b")
    await house.deliver(house.dispatcher(RecordingSender("a", [slow]), second))
    assert house.end == (MessageStatus.EXPIRED, "no_time_left")
    assert second.sent == []


async def test_no_call_begins_that_could_outlive_the_lease(house: House) -> None:
    sender = RecordingSender("a")
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    await house.dispatcher(sender).deliver(claimed, queue=house.queue, lease_ends_at=house.clock.monotonic() + 10)
    assert sender.sent == []
    assert house.end == (MessageStatus.QUEUED, "lease_too_short")


@pytest.mark.parametrize(("n_senders", "step_timeout_s"), [(1, 60), (1, 58.5), (3, 60), (1, 0), (1, -1)])
def test_a_lease_must_outlast_the_longest_call(n_senders: int, step_timeout_s: float, house: House) -> None:
    with pytest.raises(ConfigurationError, match="lease"):
        house.dispatcher(*[RecordingSender() for _ in range(n_senders)], step_timeout_s=step_timeout_s)


async def test_a_stale_token_changes_nothing_and_is_reported(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def overtaken(message: OutboundMessage) -> Outcome:
        house.record.token = "another worker's"
        return Accepted("p-1")

    await house.deliver(house.dispatcher(RecordingSender("a", [overtaken])))
    assert house.record.events == []
    assert "lease was lost" in caplog.text


# -- what cannot be opened


@pytest.mark.parametrize("change", ["sealed", "client_id", "mode", "message_id", "channel", "empty"])
async def test_a_message_that_cannot_be_opened_fails(change: str, house: House) -> None:
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    changes: dict[str, Any] = {
        "sealed": {"sealed": claimed.sealed[:-1] + bytes([claimed.sealed[-1] ^ 1])},
        "client_id": {"client_id": "client_200000000002"},
        "mode": {"mode": "test"},
        "message_id": {"message_id": house.queue.add()},
        "channel": {"channel": "voice"},
        "empty": {"sealed": b""},
    }
    forged = msgspec.structs.replace(claimed, **changes[change])
    house.queue.messages[forged.message_id].token = forged.token
    everything = Capabilities(channels=frozenset(Channel))
    sender = RecordingSender("a", capabilities=everything)
    await house.dispatcher(sender).deliver(forged, queue=house.queue, lease_ends_at=house.clock.monotonic() + LEASE_S)
    assert house.queue.messages[forged.message_id].events == [(MessageStatus.FAILED, "unreadable")]
    assert sender.sent == []


async def test_a_master_that_is_not_here_yet_leaves_the_message_to_others(house: House) -> None:
    """In the middle of a rotation a worker meets text sealed under a master that it will get with its restart."""
    sender = RecordingSender("a")
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    newer = Keyring.from_masters({"newer": bytes(32)})
    forged = msgspec.structs.replace(claimed, sealed=newer.seal(b"x", record_id="r", count=0, bound_to=()))
    lease_ends_at = house.clock.monotonic() + LEASE_S
    await house.dispatcher(sender).deliver(forged, queue=house.queue, lease_ends_at=lease_ends_at)
    assert house.end == (MessageStatus.QUEUED, "unreadable")
    assert sender.sent == []


async def test_a_code_that_ended_meanwhile_goes_to_no_second_sender(house: House) -> None:
    def slow(message: OutboundMessage) -> Outcome:
        house.queue.unwanted.add(message.message_id)
        return Rejected(RejectionKind.UNAVAILABLE)

    second = RecordingSender("b")
    await house.deliver(house.dispatcher(RecordingSender("a", [slow]), second))
    assert house.end == (MessageStatus.CANCELLED, "code_ended")
    assert second.sent == []


async def test_sealed_nonsense_fails(house: House) -> None:
    (claimed,) = (await house.queue.claim(limit=1, lease_s=LEASE_S)).messages
    sealed = house.keyring.seal(
        msgspec.msgpack.encode({"to": NUMBER, "txt": CODE}),
        record_id=claimed.message_id,
        count=0,
        bound_to=(claimed.client_id, claimed.mode, claimed.message_id, claimed.channel),
    )
    await house.dispatcher(RecordingSender("a")).deliver(
        msgspec.structs.replace(claimed, sealed=sealed),
        queue=house.queue,
        lease_ends_at=house.clock.monotonic() + LEASE_S,
    )
    assert house.end == (MessageStatus.FAILED, "unreadable")


# -- the store goes away


async def test_what_was_sent_is_recorded_when_the_store_comes_back(house: House) -> None:
    def store_goes(message: OutboundMessage) -> Outcome:
        house.queue.fails_with = problem("SERVICE_UNAVAILABLE")
        return Accepted("p-1")

    async def store_returns() -> None:
        await asyncio.sleep(0.02)
        house.queue.fails_with = None

    sender = RecordingSender("a", [store_goes])
    await asyncio.gather(house.deliver(house.dispatcher(sender)), store_returns())
    assert house.end == (MessageStatus.SENT, "a")
    assert len(sender.sent) == 1


async def test_what_cannot_be_recorded_is_not_sent_again(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def store_goes(message: OutboundMessage) -> Outcome:
        house.queue.fails_with = problem("SERVICE_UNAVAILABLE")
        house.clock.advance(LEASE_S)
        return Accepted("p-1")

    sender = RecordingSender("a", [store_goes])
    dispatcher = house.dispatcher(sender)
    await house.deliver(dispatcher)
    assert "not recorded" in caplog.text
    house.queue.fails_with = None
    await house.deliver(dispatcher)
    assert house.end == (MessageStatus.FAILED, "unknown_outcome")
    assert len(sender.sent) == 1


# -- cancelled in the middle


@pytest.mark.parametrize("is_idempotent", [False, True])
async def test_cancelled_during_a_send_it_is_given_back_with_the_senders_name(
    is_idempotent: bool, house: House
) -> None:
    sender = RecordingSender("a", capabilities=Capabilities(channels=SMS, is_idempotent=is_idempotent))
    dispatcher = house.dispatcher(sender)
    sender.gate.clear()
    task = asyncio.create_task(house.deliver(dispatcher))
    await sender.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.record.events == [(MessageStatus.QUEUED, "worker_stopping")]
    assert house.record.claimed.begun_by == "a"
    sender.gate.set()
    await house.deliver(dispatcher)
    assert house.end == ((MessageStatus.SENT, "a") if is_idempotent else (MessageStatus.FAILED, "unknown_outcome"))


async def test_cancelled_while_the_store_is_away_it_keeps_nobody_waiting(house: House) -> None:
    class Hanging(MemoryQueue):
        async def release(self, message_id: str, token: str, **told: Any) -> bool:
            await asyncio.Event().wait()
            raise AssertionError

    house.queue.__class__ = Hanging
    sender = RecordingSender("a")
    sender.gate.clear()
    task = asyncio.create_task(house.deliver(house.dispatcher(sender)))
    await sender.began.wait()
    task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({task})
    assert task.cancelled()
    assert house.record.status is MessageStatus.PROCESSING


async def test_cancelled_while_it_records_the_end_it_records_it_once_more(house: House) -> None:
    """What was learned from a sender is not lost with its worker."""

    def store_goes(message: OutboundMessage) -> Outcome:
        house.queue.fails_with = problem("SERVICE_UNAVAILABLE")
        return Accepted("p-1")

    task = asyncio.create_task(house.deliver(house.dispatcher(RecordingSender("a", [store_goes]))))
    while house.queue.fails_with is None:  # noqa: ASYNC110 - the sender has no event to set
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    house.queue.fails_with = None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.end == (MessageStatus.SENT, "a")


# -- mirrors


async def test_mirrors_see_what_was_accepted_and_change_nothing(house: House) -> None:
    mirrors = [Mirror("m1", [ValueError(CODE)]), Mirror("m2", [Rejected(RejectionKind.UNAVAILABLE)]), Mirror("m3")]
    await house.deliver(house.dispatcher(RecordingSender("a"), mirrors=mirrors))
    assert house.record.events == [(MessageStatus.SENT, "a")]
    assert [len(mirror.sent) for mirror in mirrors] == [1, 1, 1]


async def test_mirrors_do_not_see_what_was_not_accepted(house: House) -> None:
    mirror = Mirror("m")
    await house.deliver(house.dispatcher(RecordingSender("a", [Unknown()]), mirrors=[mirror]))
    assert mirror.sent == []


def test_only_a_dev_sender_may_mirror(house: House) -> None:
    with pytest.raises(ConfigurationError, match="dev-only"):
        house.dispatcher(RecordingSender("a"), mirrors=[RecordingSender("b")])
