"""The pool as a sender sees it: what an offer means, what is told to a message and in which order, and what never."""

import logging
from typing import Any

import msgspec
import pytest

from otpsvc.crypto import UnsealError
from otpsvc.devices.model import Offer, Tenant, Told
from otpsvc.devices.operators import operator_word
from otpsvc.devices.pool import opened_content, sealed_content
from otpsvc.errors import ApiError, problem
from otpsvc.messages.model import Content
from otpsvc.phone import operator_of
from otpsvc.senders.contract import (
    Accepted,
    Channel,
    Outcome,
    Receipt,
    ReceiptStatus,
    Rejected,
    RejectionKind,
    RetryLater,
    SentMessage,
    Unknown,
)
from otpsvc.testing import outbound_message
from tests.devices.pool_doubles import AWAY, KEYRING, TENANT, Ledger, ToldOffers, pool_of

NO_DEVICE, OFFLINE = RejectionKind.NO_DEVICE, RejectionKind.DEVICE_OFFLINE
MESSAGE = outbound_message()
SENT = SentMessage(
    message_id=MESSAGE.message_id,
    provider_id=None,
    channel=Channel.SMS,
    sent_at=1_800_000_000.0,
    client_id=TENANT.client_id,
    mode=TENANT.mode,
)


async def outcome_of(offer: Offer | Exception, *, wait_s: float = 30.0) -> Outcome:
    offers = ToldOffers()
    offers.answers["offer"].append(offer)
    pool = pool_of(offers, Ledger())
    return await pool.offer("phones", MESSAGE, pull_within_s=10.0, report_within_s=30.0, wait_s=wait_s)


# -- offering


async def test_a_message_is_offered_with_its_times_and_nothing_in_clear() -> None:
    offers, ledger = ToldOffers(), Ledger()
    message = outbound_message(to="+33612345678", text="583920 is your code")
    outcome = await pool_of(offers, ledger).offer("phones", message, pull_within_s=9.5, report_within_s=30, wait_s=27)
    assert outcome == Accepted()
    (given,) = offers.named("offer")
    sealed = given.pop("sealed")
    assert given == {
        "message_id": message.message_id,
        "tenant": TENANT,
        "sender": "phones",
        "recipient": KEYRING.index("number", "+33612345678").hex(),
        "operator": operator_word(operator_of("+33612345678")),
        "expires_at_ms": 1_800_000_300_000,
        "pull_within_ms": 9500,
        "report_within_ms": 30_000,
        "give_up_ms": 27_000,
        "pinned": "",
    }
    assert b"583920" not in sealed
    assert b"612345678" not in sealed
    assert opened_content(KEYRING, TENANT, message.message_id, sealed) == Content(message.to, message.text)
    assert ledger.offers == [("phones", "offered")]


async def test_the_phone_that_it_is_for_is_named() -> None:
    offers = ToldOffers()
    pinned = msgspec.structs.replace(MESSAGE, device_id="d")
    await pool_of(offers, Ledger()).offer("phones", pinned, pull_within_s=10, report_within_s=30, wait_s=30)
    assert offers.named("offer")[0]["pinned"] == "d"


@pytest.mark.parametrize(("outcome", "kind"), [("none", NO_DEVICE), ("budget", NO_DEVICE), ("offline", OFFLINE)])
async def test_where_no_phone_is_there_it_waits_for_one_and_then_says_so(outcome: str, kind: RejectionKind) -> None:
    waited = 0.0
    pauses = []
    while isinstance(answer := await outcome_of(Offer(outcome, age_ms=int(waited * 1000))), RetryLater):
        assert answer.after_s > 0
        assert not answer.is_fault
        pauses.append(answer.after_s)
        waited += answer.after_s
        assert len(pauses) < 15
    assert isinstance(answer, Rejected)
    assert answer.kind is kind
    assert waited == 30
    assert pauses[0] == 1
    assert max(pauses) == 5


@pytest.mark.parametrize("outcome", ["none", "empty", "budget", "offline"])
async def test_who_waits_for_no_phone_hears_it_at_once(outcome: str) -> None:
    assert isinstance(await outcome_of(Offer(outcome), wait_s=0), Rejected)


async def test_a_phone_that_is_no_more_is_not_waited_for() -> None:
    answer = await outcome_of(Offer("foreign"))
    assert isinstance(answer, Rejected)
    assert answer.kind is OFFLINE


async def test_a_code_that_has_ended_is_left_to_the_next_claim() -> None:
    assert isinstance(await outcome_of(Offer("unwanted")), RetryLater)


@pytest.mark.parametrize("answer", [AWAY, problem("RATE_LIMIT_EXCEEDED"), Offer("a word of tomorrow")])
async def test_what_nobody_can_tell_is_unknown(answer: Offer | Exception) -> None:
    assert isinstance(await outcome_of(answer), Unknown)


async def test_only_answers_are_counted() -> None:
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["offer"].extend([AWAY, Offer("none"), Offer("budget")])
    pool = pool_of(offers, ledger)
    for _ in range(3):
        await pool.offer("phones", MESSAGE, pull_within_s=10, report_within_s=30, wait_s=30)
    assert ledger.offers == [("phones", "none"), ("phones", "budget")]


# -- sealing


def test_the_pools_sealing_is_bound_to_all_that_may_not_change() -> None:
    content = Content("+33612345678", "583920")
    sealed = sealed_content(KEYRING, TENANT, MESSAGE.message_id, content)
    assert sealed == sealed_content(KEYRING, TENANT, MESSAGE.message_id, Content("+33612345678", "583920", "dev_1"))
    assert sealed != sealed_content(KEYRING, TENANT, MESSAGE.message_id[:-1] + "1", content)
    others = [
        (Tenant("client_2", TENANT.mode), MESSAGE.message_id),
        (Tenant(TENANT.client_id, "test"), MESSAGE.message_id),
        (TENANT, MESSAGE.message_id[:-1] + "1"),
    ]
    for tenant, message_id in others:
        with pytest.raises(UnsealError):
            opened_content(KEYRING, tenant, message_id, sealed)


def test_the_messages_own_sealing_does_not_open_here_nor_the_pools_there() -> None:
    bound_to = (*TENANT, MESSAGE.message_id, "sms")
    own = KEYRING.seal(b'["a","b"]', record_id=MESSAGE.message_id, count=0, bound_to=bound_to)
    with pytest.raises(UnsealError):
        opened_content(KEYRING, TENANT, MESSAGE.message_id, own)
    sealed = sealed_content(KEYRING, TENANT, MESSAGE.message_id, Content("a", "b"))
    with pytest.raises(UnsealError):
        KEYRING.unseal(sealed, record_id=MESSAGE.message_id, count=0, bound_to=bound_to)


@pytest.mark.parametrize("plain", [b"", b"{}", b'["a"]', b'["a", 1]', b"[" * 1000])
def test_what_is_sealed_and_no_message_says_nothing_of_itself(plain: bytes) -> None:
    bound_to = (*TENANT, MESSAGE.message_id, "pool")
    sealed = KEYRING.seal(plain, record_id=MESSAGE.message_id, count=1_000_000, bound_to=bound_to)
    with pytest.raises(UnsealError, match="no message") as caught:
        opened_content(KEYRING, TENANT, MESSAGE.message_id, sealed)
    assert caught.value.__suppress_context__


# -- telling


async def test_a_receipt_is_told_before_it_is_marked_as_told() -> None:
    offers, ledger = ToldOffers(), Ledger()
    told = Told("told", *TENANT[:1], MESSAGE.message_id, "phones", "failed", "no_device")
    ledger.fault = AWAY
    pool = pool_of(offers, ledger)
    with pytest.raises(ApiError):
        await pool.settle(told, MESSAGE.message_id)
    assert offers.calls == []
    ledger.fault = None
    await pool.settle(told, MESSAGE.message_id, happened_at=7.0)
    receipt = Receipt(status=ReceiptStatus.FAILED, message_id=MESSAGE.message_id, kind=NO_DEVICE, happened_at=7.0)
    assert ledger.receipts == [("phones", receipt)]
    assert offers.calls == [("done", (TENANT.client_id, MESSAGE.message_id, "failed"))]


@pytest.mark.parametrize("outcome", ["ignored", "waiting", "retired"])
async def test_what_has_nothing_to_tell_tells_nothing(outcome: str) -> None:
    offers, ledger = ToldOffers(), Ledger()
    await pool_of(offers, ledger).settle(Told(outcome), MESSAGE.message_id)
    assert (offers.calls, ledger.receipts, ledger.takeovers) == ([], [], [])


@pytest.mark.parametrize("may_duplicate", [True, False])
async def test_a_takeover_is_counted_and_what_it_owes_is_told(may_duplicate: bool) -> None:
    offers, ledger = ToldOffers(), Ledger()
    pool = pool_of(offers, ledger)
    moved: dict[str, Any] = {"sender": "phones", "why": "silent", "may_duplicate": may_duplicate}
    await pool.settle(Told("moved", TENANT.client_id, MESSAGE.message_id, **moved), MESSAGE.message_id)
    assert (ledger.receipts, offers.calls) == ([], [])
    await pool.settle(Told("moved", TENANT.client_id, MESSAGE.message_id, status="sent", **moved), MESSAGE.message_id)
    assert ledger.takeovers == [("phones", "silent", may_duplicate)] * 2
    assert [(sender, one.status) for sender, one in ledger.receipts] == [("phones", ReceiptStatus.SENT)]
    assert offers.named("done") == [(TENANT.client_id, MESSAGE.message_id, "sent")]


# -- cancelling, and whether it could work


async def test_a_message_is_taken_back_whichever_process_has_offered_it() -> None:
    offers = ToldOffers()
    offers.answers["withdraw"].extend([True, False, AWAY])
    assert [await pool_of(offers, Ledger()).cancel(SENT) for _ in range(3)] == [True, False, False]
    assert offers.named("withdraw") == [(TENANT, MESSAGE.message_id)] * 3


async def test_a_message_of_nobody_is_not_taken_back() -> None:
    offers = ToldOffers()
    assert not await pool_of(offers, Ledger()).cancel(msgspec.structs.replace(SENT, client_id="", mode=""))
    assert offers.named("withdraw") == []


async def test_it_is_ready_while_its_store_answers() -> None:
    offers = ToldOffers()
    offers.answers["reach"].extend(["", "empty", AWAY])
    pool = pool_of(offers, Ledger())
    assert [await pool.is_ready() for _ in range(3)] == [True, True, False]


async def test_nothing_is_said_of_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    message = outbound_message(to="+33612345678", text="583920 is your code")
    offers = ToldOffers()
    words = ["offered", "none", "budget", "empty", "offline", "foreign", "unwanted", "tomorrow"]
    offers.answers["offer"].extend([*map(Offer, words), AWAY])
    pool = pool_of(offers, Ledger())
    said = [await pool.offer("phones", message, pull_within_s=10, report_within_s=30, wait_s=30) for _ in range(9)]
    for shown in (repr(said), str(said), repr(pool), caplog.text):
        assert "583920" not in shown
        assert "612345678" not in shown
