"""Messages on their routes while gateways have bad days: nothing lost, nothing twice but by the route's own rule."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from otpsvc.testing import Fault, Reply
from tests.delivery.conftest import Open
from tests.delivery.stand import Gateway, until


@pytest.fixture
async def gateways() -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with Gateway("first") as first, Gateway("second") as second:
        yield first, second


def both(first: Gateway, second: Gateway, route: str = "", **settings: object) -> str:
    return (
        '[delivery]\nlease_s = 6\nstep_timeout_s = 2\n[routes.sms]\n"*" = ["first", "second"]\n'
        + route
        + first.table(**settings)
        + second.table(**settings)
    )


def steps(history: list[dict[str, Any]]) -> list[tuple[str, str | None, str | None]]:
    return [
        (entry["event"], entry.get("sender"), entry.get("reason"))
        for entry in history
        if entry["event"].startswith("message.")
    ]


async def test_a_refusal_goes_to_the_next_sender_at_once(opened: Open, gateways: tuple[Gateway, Gateway]) -> None:
    first, second = gateways
    first.answers = [Reply(400, {"error": "unsupported"})]
    async with opened(both(*gateways)) as service:
        sent = await service.send()
        found = await service.comes_to(sent, "sent")
        assert (found["sender"], found["error"]) == ("second", None)
        assert (first.taken, second.copies(sent["message_id"])) == ([], 1)
        history = await service.history(sent, "message.sent")
        assert steps(history) == [("message.tried", "first", "unsupported"), ("message.sent", "second", None)]
        assert await service.count("otpsvc_possible_duplicates_total") == 0


async def test_a_number_that_does_not_exist_is_tried_nowhere_else(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, second = gateways
    first.answers = [Reply(400, {"error": "invalid_number"})]
    async with opened(both(*gateways)) as service:
        sent = await service.send()
        found = await service.comes_to(sent, "failed")
        assert (found["reason"], found["error"]["code"]) == ("invalid_number", "INVALID_PHONE_NUMBER")
        assert second.requests == []


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.CLOSE_MID_BODY, Fault.HTML_500_AFTER, Fault.NOT_JSON])
async def test_who_may_have_it_keeps_it_until_the_deadline_then_the_next_one_gets_it(
    opened: Open, gateways: tuple[Gateway, Gateway], fault: Fault
) -> None:
    first, second = gateways
    first.misbehave(fault)
    async with opened(both(*gateways, route="receipt_timeout_s = 2\n")) as service:
        began_at = time.monotonic()
        sent = await service.send()
        found = await service.comes_to(sent, "sent")
        if found["sender"] == "first":
            # What this fault leaves readable may well say that it was taken.
            assert fault is Fault.NOT_JSON
            return
        assert found["sender"] == "second"
        assert time.monotonic() - began_at >= 2
        assert (first.copies(sent["message_id"]), second.copies(sent["message_id"])) == (1, 1)
        history = await service.history(sent, "message.sent")
        assert ("message.tried", "first", "silent") in steps(history)
        assert await service.count("otpsvc_possible_duplicates_total", sender="first") == 1


async def test_a_route_that_stops_sends_no_second_copy(opened: Open, gateways: tuple[Gateway, Gateway]) -> None:
    first, second = gateways
    first.misbehave(Fault.HANG)
    async with opened(both(*gateways, route='on_unknown = "stop"\n')) as service:
        sent = await service.send()
        found = await service.comes_to(sent, "failed")
        assert (found["reason"], found["error"]["code"]) == ("unknown_outcome", "SMS_SEND_TIMEOUT")
        await asyncio.sleep(1)
        assert second.requests == []


async def test_a_receipt_settles_the_question_before_the_deadline(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, second = gateways
    first.misbehave(Fault.HANG)
    async with opened(both(*gateways, route="receipt_timeout_s = 4\n")) as service:
        sent = await service.send()
        await until(lambda: first.taken, "the message")
        assert await service.receipt(first, id=sent["message_id"], status="delivered") == 200
        found = await service.comes_to(sent, "delivered")
        assert (found["sender"], bool(found["delivered_at"])) == ("first", True)
        await asyncio.sleep(5)
        assert second.requests == []
        assert (await service.message(sent))["status"] == "delivered"


async def test_a_missing_receipt_sends_the_message_on(opened: Open, gateways: tuple[Gateway, Gateway]) -> None:
    first, second = gateways
    async with opened(both(*gateways, receipt_within_s=2)) as service:
        sent = await service.send()
        await service.comes_to(sent, "sent")
        await until(lambda: second.taken, "the message")
        assert (first.copies(sent["message_id"]), second.copies(sent["message_id"])) == (1, 1)
        assert await service.receipt(second, id=sent["message_id"], status="delivered") == 200
        found = await service.comes_to(sent, "delivered")
        assert found["sender"] == "second"
        # The first one's word comes late and changes nothing.
        assert await service.receipt(first, id=sent["message_id"], status="failed", error="undeliverable") == 200
        assert (await service.message(sent))["status"] == "delivered"
        assert await service.count("otpsvc_possible_duplicates_total", sender="first") == 1


async def test_a_receipt_of_failure_sends_the_message_on_at_once_and_is_no_duplicate(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, second = gateways
    async with opened(both(*gateways, receipt_within_s=600)) as service:
        sent = await service.send()
        await service.comes_to(sent, "sent")
        assert await service.receipt(first, id=sent["message_id"], status="failed", error="undeliverable") == 200
        await until(lambda: second.taken, "the message")
        history = await service.history(sent, "message.sent")
        assert ("message.tried", "first", "undeliverable") in steps(history)
        assert await service.count("otpsvc_possible_duplicates_total") == 0


async def test_receipts_before_the_gateways_own_answer_are_not_lost(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, _ = gateways
    async with opened(both(*gateways)) as service:

        async def tell(message_id: str, provider_id: str) -> None:
            # Under the gateway's own id, which nobody knows yet.
            assert await service.receipt(first, message_id=provider_id, status="delivered") == 200

        first.on_taken = tell
        for _ in range(20):
            sent = await service.send()
            assert (await service.comes_to(sent, "delivered"))["sender"] == "first"


async def test_forged_repeated_and_foreign_receipts_change_nothing(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, second = gateways
    async with opened(both(*gateways)) as service:
        sent = await service.send()
        await service.comes_to(sent, "sent")
        about = {"id": sent["message_id"], "status": "delivered"}
        assert await service.receipt(first, is_forged=True, **about) == 401
        assert await service.receipt(first, skew_s=-3600, **about) == 401
        # Signed well, but by a gateway that never had this message.
        assert await service.receipt(second, **about) == 200
        assert await service.receipt(first, id="msg_" + "0" * 26, status="delivered") == 200
        assert await service.receipt(first, id="not an id", status="delivered") in {200, 400}
        assert (await service.message(sent))["status"] == "sent"
        assert await service.count("otpsvc_receipts_total", sender="second", outcome="foreign") == 1
        # Ten minutes off is no forgery.
        assert await service.receipt(first, skew_s=600, **about) == 200
        assert await service.receipt(first, **about) == 200
        await service.comes_to(sent, "delivered")
        history = await service.history(sent, "message.delivered")
        assert [step for step, _, _ in steps(history)].count("message.delivered") == 1


async def test_a_breaker_opens_for_all_workers_and_heals(opened: Open, gateways: tuple[Gateway, Gateway]) -> None:
    first, second = gateways
    first.misbehave(Fault.REFUSE)
    tables = both(first, second).replace(
        "[senders.first]", "[senders.first]\nbreaker_failures = 3\nbreaker_pause_s = 1"
    )
    async with opened(tables, n_workers=2) as service:
        for _ in range(8):
            await service.comes_to(await service.send(), "sent")
        assert len(second.taken) == 8
        assert await service.count("otpsvc_sender_state", sender="first") > 0
        assert await service.count("otpsvc_sender_holds_total", sender="first", why="open") > 0
        assert await service.count("otpsvc_handovers_total", sender="first") <= 6
        await first.restore()
        give_up_at = time.monotonic() + 60
        while not first.taken:
            assert time.monotonic() < give_up_at, "the breaker never healed"
            await service.comes_to(await service.send(), "sent")
            await asyncio.sleep(0.1)
        assert await service.count("otpsvc_sender_state", sender="first") == 0


async def test_a_gateway_that_takes_everything_and_delivers_nothing_is_asked_last_until_it_does(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, second = gateways
    bounds = "missed_receipts = 2\nmissed_for_s = 1\ndemoted_probe_s = 1800\n"
    tables = both(first, second, receipt_within_s=1).replace("[senders.first]\n", "[senders.first]\n" + bounds)
    async with opened(tables) as service:
        lost: list[dict[str, Any]] = []
        give_up_at = time.monotonic() + 60
        while not (await service.outlets.gates.states())["first"].is_demoted:
            assert time.monotonic() < give_up_at, "nobody held it against the gateway"
            lost.append(await service.send())
            await asyncio.sleep(0.2)
        assert await service.count("otpsvc_sender_state", sender="first") == 0, "its breaker knows nothing of it"
        # The last of them may have come when it was demoted already.
        await service.comes_to(lost[-1], "sent")
        n_taken = len(first.taken)
        n_held = await service.count("otpsvc_sender_holds_total", sender="first", why="demoted")
        for _ in range(3):
            sent = await service.send()
            assert (await service.comes_to(sent, "sent"))["sender"] == "second"
            assert ("message.tried", "first", "held_demoted") in steps(await service.history(sent, "message.sent"))
        assert len(first.taken) == n_taken
        assert await service.count("otpsvc_sender_holds_total", sender="first", why="demoted") == n_held + 3
        assert await service.receipt(first, id=lost[0]["message_id"], status="delivered") == 200
        assert (await service.comes_to(await service.send(), "sent"))["sender"] == "first"


async def test_a_gateway_that_hangs_slows_no_other(opened: Open, gateways: tuple[Gateway, Gateway]) -> None:
    slow, quick = gateways
    slow.delay_s = 30
    tables = (
        "[delivery]\nlease_s = 8\nstep_timeout_s = 5\nconcurrency = 8\n"
        '[routes.sms]\non_unknown = "stop"\n"+3361" = ["first"]\n"*" = ["second"]\n'
        + slow.table(timeout_s=4)
        + quick.table()
    )
    async with opened(tables) as service:
        for _ in range(20):
            await service.send()
        await until(lambda: len(slow.requests) >= 4, "the calls")
        for n in range(30):
            await service.comes_to(await service.send(to=f"+3362{n:07}"), "sent")
        assert len(quick.taken) == 30
        assert len(slow.requests) == 4, "half of the worker's slots, and no more"


async def test_a_storm_of_throttling_loses_nothing_and_is_obeyed(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    only, _ = gateways
    only.answers = [Reply(429, {}, {"retry-after": "1"}) for _ in range(3)]
    # A machine that is busy must not look like a gateway that is away: its breaker would open for half a minute.
    tables = '[delivery]\nsenders = ["first"]\n' + only.table(concurrency=2, timeout_s=8)
    async with opened(tables) as service:
        sent = [await service.send() for _ in range(12)]
        for one in sent:
            await service.comes_to(one, "sent")
        assert sorted(message_id for message_id, _ in only.taken) == sorted(one["message_id"] for one in sent)
        assert len(only.requests) == 12 + 3, "each answer was one call, and no message went out again"
        assert await service.count("otpsvc_sender_holds_total", sender="first", why="rate") > 0


async def test_a_code_that_went_out_through_any_of_them_verifies(
    opened: Open, gateways: tuple[Gateway, Gateway]
) -> None:
    first, second = gateways
    first.misbehave(Fault.HANG)
    async with opened(both(*gateways, route="receipt_timeout_s = 1\n")) as service:
        sent = await service.send()
        await service.comes_to(sent, "sent")
        (_, first_text), (_, second_text) = first.taken[0], second.taken[0]
        assert first_text == second_text, "the same code, not another one"
        answer = await service.verify(sent["otp_id"], second_text.split()[0])
        assert answer.json()["valid"] is True


async def test_no_sender_is_called_once_the_code_was_used(opened: Open, gateways: tuple[Gateway, Gateway]) -> None:
    first, second = gateways
    async with opened(both(*gateways, receipt_within_s=2)) as service:
        sent = await service.send()
        await service.comes_to(sent, "sent")
        code = first.taken[0][1].split()[0]
        assert (await service.verify(sent["otp_id"], code)).json()["valid"] is True
        await asyncio.sleep(3)
        assert second.requests == []
        assert (await service.message(sent))["status"] == "sent"
        assert await service.receipt(first, id=sent["message_id"], status="delivered") == 200
        assert (await service.comes_to(sent, "delivered"))["sender"] == "first"
