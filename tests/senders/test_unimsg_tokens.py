"""`unimsg`: a token is asked for once, renewed in time, and replaced where it is not taken."""

import asyncio

import pytest

from otpsvc.senders.contract import (
    Accepted,
    Health,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
)
from otpsvc.testing import Fault, ManualClock, Reply, outbound_message
from tests.gateways.unimsg import UniMsgGateway
from tests.senders.test_unimsg import Answering, accepted, on_stage, sent


async def test_many_at_once_share_one_token() -> None:
    async with on_stage() as (sender, gateway):
        await asyncio.gather(*(sender.send(outbound_message()) for _ in range(30)))
        assert (gateway.n_tokens, len(gateway.taken)) == (1, 30)


async def test_a_token_is_renewed_before_its_end_while_messages_go_on() -> None:
    clock = ManualClock()
    async with on_stage(clock=clock) as (sender, gateway):
        await accepted(sender)
        clock.advance(3300)
        outcomes = await asyncio.gather(*(sender.send(outbound_message()) for _ in range(9)))
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        assert gateway.n_tokens == 2
        assert {request.path for request in gateway.requests[2:]} == {"/oauth/token", "/v1/sms/send"}


async def test_a_token_that_ended_early_is_renewed_once_and_the_calls_repeated() -> None:
    async with on_stage() as (sender, gateway):
        await accepted(sender)
        gateway.end_token()
        outcomes = await asyncio.gather(*(sender.send(outbound_message()) for _ in range(20)))
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        assert (gateway.n_tokens, len(gateway.taken)) == (2, 21)


@pytest.mark.parametrize(
    "revocation",
    [
        Reply(401, b""),
        Reply(401, b"<html>", {"www-authenticate": 'Bearer error="invalid_token"'}),
        Reply(401, {"success": False, "error": {"code": "UNAUTHORIZED"}}),
        Reply(401, {"success": False, "error": {"code": "A_NEW_CODE"}}),
    ],
)
async def test_a_revoked_token_is_replaced_whatever_they_call_it(revocation: Reply) -> None:
    async with on_stage() as (sender, gateway):
        await accepted(sender)
        gateway.revocation = revocation
        gateway.revoked.add(gateway.token)
        outcomes = await asyncio.gather(*(sender.send(outbound_message()) for _ in range(20)))
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        assert (gateway.n_tokens, len(gateway.taken)) == (2, 21)


async def test_a_scope_that_is_granted_later_comes_with_the_next_token() -> None:
    gateway = UniMsgGateway()
    gateway.scopes = {"sms:read"}
    clock = ManualClock()
    async with on_stage(gateway, clock) as (sender, _):
        refused = Rejected(RejectionKind.UNAUTHORISED, "code INSUFFICIENT_SCOPE")
        assert [await sender.send(outbound_message()) for _ in range(9)] == [refused] * 9
        assert gateway.n_tokens == 2
        gateway.scopes = {"sms:send"}
        clock.advance(31)
        await accepted(sender)


async def test_polls_without_their_scope_cost_no_tokens() -> None:
    async with on_stage() as (sender, gateway):
        provider_id = await accepted(sender)
        gateway.refuses_questions = True
        for _ in range(3):
            assert await sender.poll([sent(provider_id)] * 9) == []
        assert gateway.n_tokens == 1
        assert len(gateway.requests) == 2 + 3 * 4


async def test_tokens_that_never_work_end_after_one_repeat() -> None:
    gateway = Answering()
    gateway.reply = Reply(401, {"success": False, "error": {"code": "TOKEN_EXPIRED"}})
    async with on_stage(gateway) as (sender, _):
        assert await sender.send(outbound_message()) == Rejected(RejectionKind.UNAUTHORISED, "code TOKEN_EXPIRED")
        paths = [request.path for request in gateway.requests]
        assert paths == ["/oauth/token", "/v1/sms/send"] * 2


async def test_a_refused_client_is_told_and_not_tried_at_every_message() -> None:
    async with on_stage(client_secret=Secret("wrong")) as (sender, gateway):
        refused = Rejected(RejectionKind.UNAUTHORISED, "code INVALID_CLIENT")
        assert [await sender.send(outbound_message()) for _ in range(5)] == [refused] * 5
        assert len(gateway.requests) == 1
        assert await sender.health() == Health(is_ready=False, detail="code INVALID_CLIENT")


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_token_that_does_not_come_means_that_nothing_left(fault: Fault) -> None:
    async with on_stage() as (sender, gateway):
        gateway.misbehave(fault)
        outcomes = [await sender.send(outbound_message()) for _ in range(3)]
        assert all(isinstance(outcome, RetryLater | Rejected) for outcome in outcomes)
        assert gateway.taken == {}
        assert len(gateway.requests) <= 1


@pytest.mark.parametrize("life_s", [None, "3600", -1, 0])
async def test_a_token_of_an_odd_life_is_used_all_the_same(life_s: object) -> None:
    gateway = UniMsgGateway()
    gateway.life_s = life_s
    async with on_stage(gateway) as (sender, _):
        for _ in range(3):
            await accepted(sender)
        assert gateway.n_tokens == 1


async def test_a_scope_that_was_not_granted_is_told() -> None:
    gateway = UniMsgGateway()
    gateway.scopes = {"sms:read"}
    async with on_stage(gateway) as (sender, _):
        assert await sender.health() == Health(is_ready=False, detail="the token lacks the scope sms:send")
        assert await sender.send(outbound_message()) == Rejected(RejectionKind.UNAUTHORISED, "code INSUFFICIENT_SCOPE")
