"""The link of the sender `smpp` on bad days: nothing waits for it, nothing unsure is told as sure, it comes back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders import smpp_wire as wire
from otpsvc.senders.contract import (
    Accepted,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    Unknown,
)
from otpsvc.senders.smpp import SmppSender
from otpsvc.senders.smpp_session import Session
from otpsvc.testing import outbound_message
from otpsvc.testing.conformance import Fault
from tests.gateways.certificates import certificate_for
from tests.gateways.smsc import Smsc
from tests.senders.smpp_days import Day, House, bound, fallen, make, ready, until

THROTTLED, WRONG_PASSWORD, NOT_BOUND, ALREADY_BOUND, NO_REASON = 0x58, 0x0E, 0x04, 0x05, 0x0D


def session_of(day: Day) -> Session:
    assert isinstance(day.sender, SmppSender)
    session = day.sender._links[0].live_session
    assert session is not None
    return session


async def test_a_throttled_link_sends_nothing_for_a_while() -> None:
    async with bound() as day:
        day.smsc.refusals = [THROTTLED]
        await day.send()
        held = await day.send()
        assert isinstance(held, RetryLater)
        assert held.detail == "throttled a moment ago"
        assert 0 < held.after_s <= 1
        assert len(day.smsc.submits) == 1


async def test_a_full_window_turns_away_at_once_and_opens_again() -> None:
    async with bound(window=2, timeout_s=10.0) as day:
        day.smsc.answering.clear()
        under_way = [asyncio.ensure_future(day.send()) for _ in range(2)]
        await until(lambda: len(day.smsc.taken) >= 2)
        assert await day.send() == RetryLater(0.5, "window full")
        day.smsc.answering.set()
        assert all(isinstance(outcome, Accepted) for outcome in await asyncio.gather(*under_way))
        assert isinstance(await day.send(), Accepted)


async def test_a_link_that_is_cut_with_messages_under_way_leaves_them_unknown_and_comes_back() -> None:
    async with bound(timeout_s=10.0) as day:
        day.smsc.answering.clear()
        under_way = [asyncio.ensure_future(day.send()) for _ in range(3)]
        await until(lambda: len(day.smsc.taken) >= 3)
        day.smsc.cut_idle()
        assert await asyncio.gather(*under_way) == [Unknown("connection cut")] * 3
        day.smsc.answering.set()
        await ready(day.sender)
        assert isinstance(await day.send(), Accepted)
        assert len(day.smsc.taken) == 4


async def test_while_the_link_is_down_nothing_waits_and_the_breaker_is_told() -> None:
    async with bound(timeout_s=30.0) as day:
        day.smsc.misbehave(Fault.REFUSE)
        await fallen(day.sender)
        outcome = await asyncio.wait_for(day.send(), 5)
        assert isinstance(outcome, RetryLater)
        assert outcome.is_fault
        assert not day.smsc.submits


@pytest.mark.parametrize("tls", [True, False])
async def test_a_peer_that_says_nothing_holds_up_neither_open_nor_send(tls: bool) -> None:
    smsc = Smsc()
    smsc.answers_binds = False
    async with bound(smsc=smsc, tls=tls, timeout_s=30.0) as day:
        assert await asyncio.wait_for(day.send(), 5) == RetryLater(1.0, "link not up yet")
        assert (await day.sender.health()).detail == "connecting"


async def test_a_refused_bind_is_told_and_not_tried_in_haste() -> None:
    smsc = Smsc()
    smsc.bind_status = WRONG_PASSWORD
    async with bound(smsc=smsc) as day:
        assert await day.send() == Rejected(RejectionKind.UNAUTHORISED, "bind refused with 0x0000000E")
        health = await day.sender.health()
        assert (health.is_ready, health.detail) == (False, "bind refused with 0x0000000E")
        assert len(smsc.binds) == 1
        assert not smsc.submits


@pytest.mark.parametrize(("status", "least_s"), [(ALREADY_BOUND, 3), (NO_REASON, 10)])
async def test_a_bind_refused_for_the_moment_is_not_tried_in_haste_either(status: int, least_s: float) -> None:
    smsc = Smsc()
    smsc.bind_status = status
    async with bound(smsc=smsc) as day:
        outcome = await day.send()
        assert isinstance(outcome, RetryLater)
        assert outcome.is_fault
        assert outcome.after_s > least_s
        assert len(smsc.binds) == 1


async def test_a_link_that_takes_nothing_any_more_is_ended_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bound(enquire_link_s=600.0) as day:
        monkeypatch.setattr("otpsvc.senders.smpp_session._MOST_UNSENT_BYTES", -1)
        assert await day.send() == RetryLater(2.0, "link stalled", is_fault=True)
        session_of(day).is_doubtful.set()
        await fallen(day.sender)
        assert (await day.sender.health()).detail == "link stalled"


async def test_numbers_of_frames_begin_again_after_the_last_one() -> None:
    async with bound() as day:
        session_of(day)._number = 0x7FFF_FFFE
        assert isinstance(await day.send(), Accepted)
        assert isinstance(await day.send(), Accepted)
        assert [submit.sequence_number for submit in day.smsc.submits] == [0x7FFF_FFFF, 1]


async def test_a_link_that_answers_no_enquiry_is_given_up() -> None:
    async with bound(enquire_link_s=1.0) as day:
        day.smsc.answers_enquiries = False
        await until(lambda: len(day.smsc.binds) >= 2)
        day.smsc.answers_enquiries = True
        await ready(day.sender)
        assert isinstance(await day.send(), Accepted)


async def test_an_answer_that_stays_away_makes_the_link_prove_itself_at_once() -> None:
    async with bound(enquire_link_s=600.0) as day:
        day.smsc.misbehave(Fault.HANG)
        assert await day.send() == Unknown("no answer in time")
        await until(lambda: day.smsc.n_enquiries > 0)
        assert isinstance(await day.send(), Accepted)
        assert len(day.smsc.binds) == 1


async def test_an_answer_that_comes_late_is_told_all_the_same() -> None:
    house = House()
    async with bound(house) as day:
        day.smsc.answering.clear()
        assert await day.send() == Unknown("no answer in time")
        day.smsc.answering.set()
        (told,) = await house.has(1)
        message_id = outbound_message().message_id
        assert told == Receipt(
            status=ReceiptStatus.ACCEPTED,
            message_id=message_id,
            provider_id="0000a1b2",
            detail="answered late with status 0x00000000",
        )
        assert await day.smsc.report("0000a1b2") == wire.OK
        assert (house.kept[1].status, house.kept[1].message_id) == (ReceiptStatus.DELIVERED, message_id)


async def test_a_refusal_that_comes_late_lets_the_next_sender_go() -> None:
    house = House()
    async with bound(house) as day:
        day.smsc.answering.clear()
        day.smsc.refusals = [0x45]
        assert await day.send() == Unknown("no answer in time")
        day.smsc.answering.set()
        (told,) = await house.has(1)
        assert (told.status, told.kind) == (ReceiptStatus.FAILED, RejectionKind.GATEWAY_ERROR)


async def test_an_smsc_that_holds_us_for_unbound_is_bound_to_again() -> None:
    async with bound() as day:
        day.smsc.refusals = [NOT_BOUND]
        assert await day.send() == RetryLater(2.0, "status 0x00000004")
        await until(lambda: len(day.smsc.binds) == 2)
        await ready(day.sender)
        assert isinstance(await day.send(), Accepted)


@pytest.mark.parametrize("is_answered", [True, False])
async def test_closing_unbinds_and_does_not_wait_for_ever(is_answered: bool) -> None:
    async with bound(timeout_s=60.0) as day:
        await day.send()
        day.smsc.answers_unbinds = is_answered
        await asyncio.wait_for(day.sender.close(), 4)
        assert day.smsc.n_unbinds == 1
        assert await day.send() == RetryLater(1.0, "sender not open")


async def test_closing_ends_what_is_under_way_as_unknown() -> None:
    async with bound(timeout_s=60.0) as day:
        day.smsc.misbehave(Fault.HANG)
        sending = asyncio.ensure_future(day.send())
        await until(lambda: len(day.smsc.taken) == 1)
        await day.sender.close()
        assert isinstance(await sending, Unknown)


async def test_two_binds_one_to_send_and_one_to_hear() -> None:
    house = House()
    async with bound(house, bind="transmitter+receiver") as day:
        await ready(day.sender)
        assert sorted(seen.kind for seen in day.smsc.binds) == ["receiver", "transmitter"]
        assert isinstance(await day.send(), Accepted)
        assert await day.smsc.report("0000a1b2") == wire.OK
        assert house.kept[0].status is ReceiptStatus.DELIVERED


async def test_tls_with_a_certificate_that_is_trusted_and_one_that_is_not(tmp_path: Path) -> None:
    server, _ = certificate_for("localhost", tmp_path)
    smsc = Smsc(tls=server)
    async with bound(smsc=smsc, tls=True, host="localhost", ca_file=str(tmp_path / "both.pem")) as day:
        assert isinstance(await day.send(), Accepted)
        stranger = make(smsc.port, tls=True, host="localhost")
        await stranger.open()
        try:
            assert (await stranger.health()).detail == "certificate not valid"
        finally:
            await stranger.close()


async def test_a_certificate_file_that_is_none_is_named(tmp_path: Path) -> None:
    sender = make(tls=True, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigurationError, match=r"^senders\.carrier\.ca_file "):
        await sender.open()
    await sender.close()


class LeadingInside:
    """A resolver that names an address of ours for whatever it is asked."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        return ["192.0.2.1", "127.0.0.1"]

    def close(self) -> None:
        pass


async def test_a_host_that_leads_inside_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpsvc.senders.smpp.SystemResolver", LeadingInside)
    async with Smsc() as smsc:
        sender = make(smsc.port, host="smsc.example", allow_private=False)
        await sender.open()
        try:
            outcome = await sender.send(outbound_message())
        finally:
            await sender.close()
        assert outcome == Rejected(RejectionKind.MISCONFIGURED, "address not allowed")
        assert not smsc.binds
