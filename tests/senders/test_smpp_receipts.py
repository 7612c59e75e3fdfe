"""Receipts over the link of `smpp`: which are believed, what they say, and none is acknowledged before it is kept."""

import asyncio

import pytest

from otpsvc.senders import smpp_wire as wire
from otpsvc.senders.contract import Accepted, Receipt, ReceiptStatus, RejectionKind, Unknown
from otpsvc.senders.smpp import SmppSender
from otpsvc.testing import outbound_message
from tests.senders.smpp_days import Day, House, bound, until

LONG = "583920 " + "x" * 300
MESSAGE_ID = outbound_message().message_id
ID = "0000a1b2"  # what the double calls the first message


async def told(day: Day, house: House, *args: object, **given: object) -> Receipt:
    """Bring one receipt, and give what the house was told."""
    n_before = len(house.kept)
    assert await day.smsc.report(*args, **given) == wire.OK  # type: ignore[arg-type]  # as `report` takes them
    (receipt,) = house.kept[n_before:]
    return receipt


async def test_a_receipt_of_text_is_read() -> None:
    house = House()
    async with bound(house, receipt_utc_offset_h=2) as day:
        assert await day.send() == Accepted(ID, parts=1)
        receipt = await told(day, house, ID)
        assert receipt == Receipt(
            status=ReceiptStatus.DELIVERED,
            message_id=MESSAGE_ID,
            provider_id=ID,
            happened_at=1_767_360_660.0,
        )


async def test_without_an_offset_a_date_says_nothing() -> None:
    house = House()
    async with bound(house) as day:
        await day.send()
        assert (await told(day, house, ID)).happened_at is None


@pytest.mark.parametrize(
    ("stat", "status", "kind"),
    [
        ("ENROUTE", ReceiptStatus.DISPATCHED, None),
        ("ACCEPTD", ReceiptStatus.ACCEPTED, None),
        ("DELIVRD", ReceiptStatus.DELIVERED, None),
        ("delivrd", ReceiptStatus.DELIVERED, None),
        ("EXPIRED", ReceiptStatus.EXPIRED, RejectionKind.UNDELIVERABLE),
        ("DELETED", ReceiptStatus.CANCELLED, RejectionKind.UNDELIVERABLE),
        ("UNDELIV", ReceiptStatus.FAILED, RejectionKind.UNDELIVERABLE),
        ("REJECTD", ReceiptStatus.FAILED, RejectionKind.GATEWAY_ERROR),
        ("UNKNOWN", ReceiptStatus.UNKNOWN, None),
        ("WONDERS", ReceiptStatus.UNKNOWN, None),
    ],
)
async def test_what_each_word_says(stat: str, status: ReceiptStatus, kind: RejectionKind | None) -> None:
    house = House()
    async with bound(house) as day:
        await day.send()
        receipt = await told(day, house, ID, stat)
        assert (receipt.status, receipt.kind) == (status, kind)
        assert "583920" not in repr(receipt)


async def test_a_receipt_of_parameters_alone_is_read_and_they_go_before_the_text() -> None:
    house = House()
    async with bound(house) as day:
        await day.send()
        assert (await told(day, house, None, state=2, parameter_id=ID, esm_class=0)).status is ReceiptStatus.DELIVERED
        both = await told(day, house, "9", "DELIVRD", state=5, parameter_id=ID)
        assert (both.provider_id, both.status) == (ID, ReceiptStatus.FAILED)
        odd = await told(day, house, ID, "DELIVRD", state=77)
        assert odd.status is ReceiptStatus.DELIVERED
        assert (await told(day, house, None, state=77, parameter_id=ID)).status is ReceiptStatus.UNKNOWN


async def test_why_it_failed_is_told_where_the_code_is_certain_or_set() -> None:
    house = House()
    async with bound(house, error_kinds={"011": RejectionKind.BLOCKED}) as day:
        await day.send()
        vague = await told(day, house, ID, "UNDELIV", err="001")
        assert (vague.kind, vague.detail) == (RejectionKind.UNDELIVERABLE, "state UNDELIV err 001")
        own = await told(day, house, ID, "UNDELIV", err="11")
        assert own.kind is RejectionKind.BLOCKED
        certain = await told(day, house, ID, "UNDELIV", err="001", network_error=b"\x03\x00\x01")
        assert certain.kind is RejectionKind.INVALID_NUMBER
        foreign = await told(day, house, ID, "UNDELIV", err="999", network_error=b"\x01\x00\x01")
        assert foreign.kind is RejectionKind.UNDELIVERABLE


@pytest.mark.parametrize(
    ("stat", "given", "is_unmapped"),
    [
        ("UNDELIV", {"err": "000"}, False),
        ("UNDELIV", {"err": "001"}, False),
        ("UNDELIV", {"err": "011"}, False),  # set in `error_kinds`
        ("UNDELIV", {"err": "999"}, True),
        ("FAILED", {"err": "999"}, True),
        ("UNDELIV", {"err": "999", "network_error": b"\x03\x00\x01"}, False),
        ("UNDELIV", {"err": "000", "network_error": b"\x03\x03\xe7"}, True),
        ("EXPIRED", {"err": "999"}, False),
        ("DELIVRD", {"err": "999"}, False),
    ],
)
async def test_a_failure_under_a_code_that_nobody_knows_is_marked(
    stat: str, given: dict[str, object], is_unmapped: bool
) -> None:
    house = House()
    async with bound(house, error_kinds={"011": RejectionKind.BLOCKED}) as day:
        await day.send()
        assert (await told(day, house, ID, stat, **given)).is_unmapped is is_unmapped


async def test_what_a_person_writes_is_no_receipt() -> None:
    house = House()
    async with bound(house) as day:
        assert await day.smsc.report(ID, esm_class=0) == wire.OK
        assert await day.smsc.report(ID, esm_class=0, parameter_id=ID) == wire.OK
        assert not house.kept


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00\x80" * 60,
        b"id: sub: stat: err: text:",
        b"text:id:0000a1b2 stat:DELIVRD",
        b"id:+33612345600 stat:DELIVRD",
        b"id:" + b"9" * 200 + b" stat:DELIVRD",
    ],
)
async def test_a_receipt_without_an_id_is_acknowledged_and_says_nothing(text: bytes) -> None:
    house = House()
    async with bound(house) as day:
        assert await day.smsc.report(None, text=text) == wire.OK
        assert not house.kept


async def test_what_is_not_kept_is_not_acknowledged() -> None:
    house = House()
    async with bound(house) as day:
        await day.send()
        house.is_able = False
        assert await day.smsc.report(ID) == wire.TEMPORARY
        house.is_able = True
        assert await day.smsc.report(ID) == wire.OK
        assert len(house.kept) == 1


async def test_a_delivery_that_cannot_be_read_is_refused_for_good() -> None:
    async with bound(House()) as day:
        assert isinstance(day.sender, SmppSender)
        raw = wire.frame(wire.Command.DELIVER_SM, 7, body=b"\0")
        assert await day.sender._receive(wire.Frame(wire.Command.DELIVER_SM, 0, 7, raw)) == wire.PERMANENT


async def test_a_receipt_that_breaks_us_is_answered_and_stays_with_the_smsc(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise KeyError("583920")

    monkeypatch.setattr("otpsvc.senders.smpp.read_receipt", breaks)
    async with bound(House()) as day:
        assert await day.smsc.report(ID) == wire.TEMPORARY
        assert "KeyError at " in caplog.text
        assert "583920" not in caplog.text


async def test_more_receipts_at_once_than_can_be_held_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    house, may_go = House(), asyncio.Event()
    keep = house.take

    async def slowly(*args: object) -> None:
        await may_go.wait()
        await keep(*args)  # type: ignore[arg-type]  # as the house takes them

    monkeypatch.setattr(house, "take", slowly)
    monkeypatch.setattr("otpsvc.senders.smpp_session._MOST_DELIVERIES", 2)
    async with bound(house) as day:
        held = [asyncio.ensure_future(day.smsc.report(ID)) for _ in range(2)]
        await until(lambda: day.smsc.n_reports == 2)
        assert await day.smsc.report(ID) == wire.QUEUE_FULL
        may_go.set()
        assert await asyncio.gather(*held) == [wire.OK] * 2


async def test_where_nobody_takes_receipts_none_is_acknowledged() -> None:
    async with bound() as day:
        assert await day.smsc.report(ID) == wire.TEMPORARY


async def test_the_answer_waits_until_the_house_has_kept_it(monkeypatch: pytest.MonkeyPatch) -> None:
    house, may_go = House(), asyncio.Event()
    keep = house.take

    async def slowly(*args: object) -> None:
        await may_go.wait()
        await keep(*args)  # type: ignore[arg-type]  # as the house takes them

    monkeypatch.setattr(house, "take", slowly)
    async with bound(house) as day:
        report = asyncio.ensure_future(day.smsc.report(ID))
        # Meanwhile the link carries messages: a slow store holds up no code.
        assert isinstance(await day.send(), Accepted)
        assert not report.done()
        may_go.set()
        assert await report == wire.OK


async def test_a_house_that_hangs_leaves_the_receipt_with_the_smsc(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(house, "take", never)
    monkeypatch.setattr("otpsvc.senders.smpp._KEEP_S", 0.05)
    async with bound(house) as day:
        assert await day.smsc.report(ID) == wire.TEMPORARY


async def test_a_receipt_before_the_answer_twice_and_out_of_order_is_handed_on_as_it_came() -> None:
    house = House()
    async with bound(house) as day:

        async def at_once(message_id: str) -> None:
            assert await day.smsc.report(message_id) == wire.OK

        day.smsc.before_accept = at_once
        assert await day.send() == Accepted(ID, parts=1)
        await day.smsc.report(ID)
        await day.smsc.report(ID, "ENROUTE")
        assert [receipt.status.value for receipt in house.kept] == ["delivered", "delivered", "dispatched"]
        assert {receipt.provider_id for receipt in house.kept} == {ID}


async def test_ids_in_another_base_come_back_in_the_form_of_the_answer() -> None:
    house = House()
    async with bound(house) as day:
        await day.send()
        assert (await told(day, house, str(0xA1B2))).provider_id == ID
        # One that another process sent, in the form that was just learnt.
        assert (await told(day, house, str(0xBEEF))).provider_id == "0000beef"


async def test_a_long_message_is_delivered_when_all_its_parts_are() -> None:
    house = House()
    async with bound(house) as day:
        outcome = await day.send(LONG)
        assert isinstance(outcome, Accepted)
        first, second, third = (taken.message_id for taken in day.smsc.taken)
        assert outcome.provider_id == third + "+"
        for part in (third, first, first):
            assert await day.smsc.report(part) == wire.OK
        assert not house.kept
        house.is_able = False
        assert await day.smsc.report(second) == wire.TEMPORARY
        house.is_able = True
        receipt = await told(day, house, second)
        assert (receipt.status, receipt.message_id) == (ReceiptStatus.DELIVERED, MESSAGE_ID)
        assert receipt.provider_id == outcome.provider_id


async def test_a_long_message_failed_when_one_of_its_parts_did() -> None:
    house = House()
    async with bound(house) as day:
        await day.send(LONG)
        first = day.smsc.taken[0].message_id
        receipt = await told(day, house, first, "UNDELIV")
        assert (receipt.status, receipt.message_id) == (ReceiptStatus.FAILED, MESSAGE_ID)


async def test_a_process_that_did_not_send_a_long_message_never_calls_it_delivered() -> None:
    sending, hearing = House(), House()
    async with bound(sending) as day, bound(hearing) as other:
        outcome = await day.send(LONG)
        assert isinstance(outcome, Accepted)
        last = day.smsc.taken[-1].message_id
        assert await other.smsc.report(last) == wire.OK
        assert [receipt.provider_id for receipt in hearing.kept] == [last]
        assert await other.smsc.report(last, "UNDELIV") == wire.OK
        assert [receipt.provider_id for receipt in hearing.kept[1:]] == [last, outcome.provider_id]


async def test_receipts_of_parts_that_outrun_their_answers_count() -> None:
    house = House()
    async with bound(house) as day:

        async def at_once(message_id: str) -> None:
            assert await day.smsc.report(message_id) == wire.OK

        day.smsc.before_accept = at_once
        await day.send(LONG)
        # Three under ids that nobody knew yet, and the one that counts.
        kept = await house.has(4)
        assert [receipt.message_id for receipt in kept] == [None, None, None, MESSAGE_ID]


async def test_a_failure_of_a_part_is_told_also_of_a_message_that_ended_unknown() -> None:
    house = House()
    async with bound(house) as day:

        async def refuse_another(_: str) -> None:
            day.smsc.refusals = [0x08]

        day.smsc.before_accept = refuse_another
        assert isinstance(await day.send(LONG), Unknown)
        receipt = await told(day, house, day.smsc.taken[0].message_id, "UNDELIV")
        assert (receipt.message_id, receipt.provider_id) == (MESSAGE_ID, None)
