"""What a phone pulls and reports: texts opened for it alone, its passphrase kept to, its words never repeated."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from otpsvc.devices.inbox import MOST_MESSAGES, MOST_REPORTS, STATES, DeviceInbox, PhoneMessage, StateReport
from otpsvc.devices.model import FailureWords, OfferStatus, PhoneReport, Pulled, Told
from otpsvc.devices.pool import sealed_content
from otpsvc.errors import ApiError, problem
from otpsvc.ids import new_message_id
from otpsvc.messages.model import Content
from otpsvc.phone_encryption import decrypted
from otpsvc.senders.contract import ReceiptStatus
from otpsvc.senders.error_maps import GatewayMap
from tests.devices.pool_doubles import AWAY, DEVICE_ID, KEYRING, TENANT, Ledger, ToldOffers, device, pool_of

NUMBER, TEXT = "+33612345678", "583920 is your code — naïve £"
PASSPHRASE = "correct horse"
IDS = [new_message_id(partition=0).text for _ in range(4)]


def failure_of(text: str) -> FailureWords:
    if "credit" in text:
        return FailureWords("no_credit", next_may_try=True, error="credit")
    return FailureWords("blocked", next_may_try=False, error="blocked", is_unmapped="odd" in text)


@contextmanager
def inbox_of(offers: ToldOffers, ledger: Ledger | None = None) -> Iterator[DeviceInbox]:
    ledger = ledger or Ledger()
    pool = pool_of(offers, ledger)
    inbox = DeviceInbox(offers=offers, pool=pool, keyring=KEYRING, failure_of=failure_of, observer=ledger)
    try:
        yield inbox
    finally:
        inbox.close()


def pulled(message_id: str = IDS[0], *, text: str = TEXT, **changes: Any) -> Pulled:
    facts: dict[str, Any] = {
        "message_id": message_id,
        "sealed": sealed_content(KEYRING, TENANT, message_id, Content(NUMBER, text)),
        "sim_number": 2,
        "created_at": 1000,
        "expires_at": 2000,
    }
    return Pulled(**(facts | changes))


def with_passphrase(passphrase: str = PASSPHRASE, **changes: Any) -> Any:
    sealed = KEYRING.seal(passphrase.encode(), record_id=DEVICE_ID, count=7, bound_to=(*TENANT, "passphrase"))
    return device(passphrase_sealed=sealed, passphrase_count=7, **changes)


# -- pulling


async def test_a_phone_gets_number_and_text_in_clear() -> None:
    offers = ToldOffers()
    offers.answers["pull"].append([pulled(), pulled(IDS[1], text="other", sim_number=None)])
    with inbox_of(offers) as inbox:
        messages = await inbox.pull(device())
    assert messages == [
        PhoneMessage(message_id=IDS[0], to=NUMBER, text=TEXT, sim_number=2, created_at=1000, expires_at=2000),
        PhoneMessage(message_id=IDS[1], to=NUMBER, text="other", sim_number=None, created_at=1000, expires_at=2000),
    ]
    assert offers.calls == [("pull", (DEVICE_ID, MOST_MESSAGES))]


async def test_a_retired_phone_gets_nothing_and_is_told_apart() -> None:
    offers = ToldOffers()
    offers.answers["pull"].extend([None, [], None, []])
    with inbox_of(offers) as inbox:
        assert [await inbox.pull(one) for one in (device(), device(), with_passphrase(), with_passphrase())] == [
            None, [], None, [],
        ]  # fmt: skip


async def test_one_to_be_cancelled_says_nothing_of_its_text() -> None:
    offers = ToldOffers()
    offers.answers["pull"].extend([[pulled(sealed=b"", is_cancelling=True)], [pulled(is_cancelling=True)]] * 2)
    with inbox_of(offers) as inbox:
        for one in (device(), device(), with_passphrase(), with_passphrase()):
            (message,) = await inbox.pull(one) or []
            assert (message.to, message.text) == ("", "")
            assert (message.is_cancelling, message.is_encrypted) == (True, False)


@pytest.mark.parametrize(
    "sealed",
    [b"", b"short", sealed_content(KEYRING, TENANT, IDS[1], Content(NUMBER, TEXT)), b"\x00\x00" + b"x" * 60],
    ids=["nothing", "short", "another message's", "another master's"],
)
async def test_one_that_cannot_be_opened_keeps_no_other_back(sealed: bytes, caplog: pytest.LogCaptureFixture) -> None:
    offers = ToldOffers()
    offers.answers["pull"].append([pulled(sealed=sealed), pulled(IDS[2])])
    with inbox_of(offers) as inbox:
        messages = await inbox.pull(device())
    assert [one.message_id for one in messages or []] == [IDS[2]]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert IDS[0] in record.getMessage()


async def test_another_clients_sealing_does_not_open() -> None:
    offers = ToldOffers()
    offers.answers["pull"].extend([[pulled()]] * 2)
    with inbox_of(offers) as inbox:
        assert await inbox.pull(device(client_id="client_200000000002")) == []
        assert await inbox.pull(device(mode="test")) == []


# -- the passphrase


async def test_a_phone_with_a_passphrase_gets_nothing_in_clear() -> None:
    offers = ToldOffers()
    offers.answers["pull"].append([pulled(), pulled(IDS[1], text="other")])
    with inbox_of(offers) as inbox:
        messages = await inbox.pull(with_passphrase())
    assert messages is not None
    assert [(one.message_id, one.is_encrypted) for one in messages] == [(IDS[0], True), (IDS[1], True)]
    fields = [field for one in messages for field in (one.to, one.text)]
    assert [decrypted(field, PASSPHRASE) for field in fields] == [NUMBER, TEXT, NUMBER, "other"]
    assert len(set(fields)) == 4, "each under a salt of its own"
    assert not any(word in field for field in fields for word in (NUMBER[1:], "583920", "other"))


async def test_while_it_encrypts_others_are_served() -> None:
    offers = ToldOffers()
    offers.answers["pull"].append([pulled() for _ in range(20)])
    with inbox_of(offers) as inbox:
        slow = asyncio.create_task(inbox.pull(with_passphrase()))
        n_turns = 0
        while not slow.done():
            await asyncio.sleep(0.001)
            n_turns += 1
        assert n_turns > 20, "the loop stood still"
        assert len(await slow or []) == 20


@pytest.mark.parametrize("broken", ["tag", "count", "device", "tenant", "no text"])
async def test_without_its_passphrase_nothing_is_even_marked_as_pulled(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = with_passphrase()
    changes: dict[str, Any] = {
        "tag": {"passphrase_sealed": whole.passphrase_sealed[:-1] + bytes([whole.passphrase_sealed[-1] ^ 1])},
        "count": {"passphrase_count": 8},
        "device": {"id": "dev_00000000000000000000000004"},
        "tenant": {"mode": "test"},
        "no text": {
            "passphrase_sealed": KEYRING.seal(
                b"\xff\xfe", record_id=DEVICE_ID, count=7, bound_to=(*TENANT, "passphrase")
            )
        },
    }[broken]
    facts = {"passphrase_sealed": whole.passphrase_sealed, "passphrase_count": 7} | changes
    offers = ToldOffers()
    offers.answers["pull"].append([pulled()])
    with inbox_of(offers) as inbox:
        assert await inbox.pull(device(**facts)) == []
    assert offers.calls == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert PASSPHRASE not in record.getMessage()


async def test_too_many_encrypting_pulls_are_refused_before_anything_is_marked() -> None:
    class Stalled(ToldOffers):
        may_go = asyncio.Event()

        async def pull(self, *given: Any, **options: Any) -> Any:
            found = await super().pull(*given, **options)
            await self.may_go.wait()
            return found

    offers = Stalled()
    with inbox_of(offers) as inbox:
        pulls = [asyncio.create_task(inbox.pull(with_passphrase())) for _ in range(25)]
        done, waiting = await asyncio.wait(pulls, timeout=0.05)
        assert (len(done), len(waiting), len(offers.calls)) == (5, 20, 20)
        for one in done:
            with pytest.raises(ApiError) as refused:
                await one
            assert refused.value.code == "SERVICE_UNAVAILABLE"
        waiting_for_good = waiting.pop()
        waiting_for_good.cancel()
        await asyncio.wait({waiting_for_good})
        Stalled.may_go.set()
        assert [await one for one in waiting] == [[]] * 19
        assert await inbox.pull(with_passphrase()) == [], "all places are free again"
        assert inbox._n_encrypting == 0


async def test_a_store_that_is_away_says_so_on_a_pull() -> None:
    offers = ToldOffers()
    offers.is_away = True
    with inbox_of(offers) as inbox:
        for one in (device(), with_passphrase()):
            with pytest.raises(ApiError):
                await inbox.pull(one)
        assert inbox._n_encrypting == 0


# -- reports


def test_the_words_are_those_of_the_map() -> None:
    """The receipts' own words for the phone's states, and what the store is told, go together."""
    rows = {code: row.outcome for (table, code), row in GatewayMap.load("phones").rows.items() if table == "state"}
    assert rows.keys() == STATES.keys() | {"pending", "cancelling"}
    for word, status in STATES.items():
        expected = "dispatched" if status is OfferStatus.PROCESSED else status.value
        assert ReceiptStatus(rows[word]).value == expected


async def test_each_word_of_the_protocol_reaches_the_store() -> None:
    offers = ToldOffers()
    said = [StateReport(message_id=IDS[0], state=word) for word in ("Processed", "Sent", "DELIVERED", "Cancelled")]
    said.append(StateReport(message_id=IDS[1], state="Failed", error="no credit left"))
    said.append(StateReport(message_id=IDS[2], state="Failed", error="whatever"))
    with inbox_of(offers) as inbox:
        assert await inbox.report(device(), said) is True
    assert offers.named("report") == [
        *(
            PhoneReport(message_id=IDS[0], status=status)
            for status in (OfferStatus.PROCESSED, OfferStatus.SENT, OfferStatus.DELIVERED, OfferStatus.CANCELLED)
        ),
        PhoneReport(message_id=IDS[1], status=OfferStatus.FAILED, kind="no_credit", error="credit"),
        PhoneReport(message_id=IDS[2], status=OfferStatus.FAILED, kind="blocked", next_may_try=False, error="blocked"),
    ]


FOREIGN = ["", "msg_", "1", "otp_00000000000000000000000000", IDS[0].upper(), IDS[0] + "\n", f" {IDS[0]}", "m" * 9999]
FOREIGN += ["\ud800", "msg_0000000000000000000000000u", "{c:client_100000000001}:offer:x", "x y", IDS[0][:-1]]


@pytest.mark.parametrize("message_id", FOREIGN, ids=range(len(FOREIGN)))
async def test_an_id_that_we_never_made_is_passed_over(message_id: str) -> None:
    offers = ToldOffers()
    said = [StateReport(message_id=message_id, state="Sent"), StateReport(message_id=IDS[3], state="Sent")]
    with inbox_of(offers) as inbox:
        assert await inbox.report(device(), said) is True
    assert [one.message_id for one in offers.named("report")] == [IDS[3]]


@pytest.mark.parametrize("state", ["", "Pending", "Cancelling", "sent ", "\ud800", "S" * 9999, "offered", "silent"])
async def test_a_state_that_is_no_news_is_passed_over(state: str) -> None:
    offers = ToldOffers()
    with inbox_of(offers) as inbox:
        assert await inbox.report(device(), [StateReport(message_id=IDS[0], state=state)]) is True
    assert offers.calls == []


async def test_a_thousand_reports_are_taken_and_no_more() -> None:
    offers = ToldOffers()
    with inbox_of(offers) as inbox:
        await inbox.report(device(), [StateReport(message_id=IDS[0], state="Sent")] * (MOST_REPORTS + 5))
        await inbox.report(device(), [])
    assert len(offers.calls) == MOST_REPORTS == 1000


async def test_what_a_report_comes_to_is_told_and_counted() -> None:
    offers, ledger = ToldOffers(), Ledger()
    facts: dict[str, Any] = {"client_id": TENANT.client_id, "message_id": IDS[0], "sender": "phones", "seconds": 2.5}
    offers.answers["report"].extend(
        [
            Told("waiting", **facts),
            Told("told", status="sent", **facts),
            Told("ignored"),
            Told("told", status="delivered", **facts),
            Told("moved", why="failed", **facts),
            Told("moved", why="failed", **facts),
        ]
    )
    said = [
        *(StateReport(message_id=IDS[0], state=one, sent_at=9.0) for one in ("Processed", "Sent", "Sent", "Delivered")),
        StateReport(message_id=IDS[0], state="Failed", error="no credit left"),
        StateReport(message_id=IDS[0], state="Failed", error="something odd"),
    ]
    with inbox_of(offers, ledger) as inbox:
        await inbox.report(device(), said)
    assert [(one.status.value, one.happened_at) for _, one in ledger.receipts] == [("sent", 9.0), ("delivered", 9.0)]
    assert offers.named("done") == [(TENANT.client_id, IDS[0], "sent"), (TENANT.client_id, IDS[0], "delivered")]
    assert ledger.reports == [
        ("phones", "processed", None),
        ("phones", "sent", 2.5),
        ("phones", "delivered", None),
        ("phones", "failed", None),
        ("phones", "unmapped", None),
    ]
    assert ledger.takeovers == [("phones", "failed", False)] * 2


async def test_a_retired_phone_is_not_heard_any_further() -> None:
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["report"].extend([Told("ignored"), Told("retired")])
    with inbox_of(offers, ledger) as inbox:
        assert await inbox.report(device(), [StateReport(message_id=one, state="Sent") for one in IDS]) is False
    assert len(offers.calls) == 2
    assert ledger.reports == []


async def test_what_the_store_kept_and_could_not_be_told_is_no_fault_of_the_phone() -> None:
    """It is owed, and the minder tells it: so the phone need not say it again, and the next one is taken."""
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["report"].extend([Told("told", TENANT.client_id, one, "phones", "sent") for one in IDS])
    ledger.fault = AWAY
    with inbox_of(offers, ledger) as inbox:
        assert await inbox.report(device(), [StateReport(message_id=one, state="Sent") for one in IDS]) is True
    assert len(offers.named("report")) == 4
    assert offers.named("done") == []


async def test_a_word_that_was_not_kept_is_to_be_said_again() -> None:
    offers = ToldOffers()
    offers.answers["report"].extend([Told("ignored"), problem("SERVICE_UNAVAILABLE")])
    with inbox_of(offers) as inbox, pytest.raises(ApiError):
        await inbox.report(device(), [StateReport(message_id=one, state="Sent") for one in IDS])
    assert len(offers.calls) == 2


# -- discretion


async def test_nothing_of_a_message_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    offers, ledger = ToldOffers(), Ledger()
    offers.answers["pull"].append([pulled()])
    error = f"could not send 583920 to {NUMBER}"
    offers.answers["report"].append(Told("told", TENANT.client_id, IDS[0], "phones", "failed", "blocked"))
    ledger.fault = AWAY
    with inbox_of(offers, ledger) as inbox:
        messages = await inbox.pull(device())
        said = StateReport(message_id=NUMBER, state="Failed " + NUMBER, error=error)
        await inbox.report(device(), [said, StateReport(message_id=IDS[0], state="Failed", error=error)])
        shown = [repr(messages), str(messages), repr(said), str(said), f"{said}", repr(inbox), caplog.text]
    for one in shown:
        assert "583920" not in one
        assert NUMBER[1:] not in one
    assert IDS[0] in repr(messages)
