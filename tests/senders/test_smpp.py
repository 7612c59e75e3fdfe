"""The sender `smpp` against the library's own server: what leaves, and what each answer comes to."""

import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.contract import (
    Accepted,
    Channel,
    OutboundMessage,
    Outcome,
    Rejected,
    RejectionKind,
    RetryLater,
    Secret,
    Unknown,
)
from otpsvc.senders.smpp_settings import SmppSettings
from otpsvc.testing.conformance import Fault, Scene, SenderConformance
from tests.gateways.smsc import PASSWORD, SYSTEM_ID
from tests.senders.smpp_days import Day, House, bound, fallen, make, ready

THROTTLED, QUEUE_FULL, SYSTEM_FAULT = 0x58, 0x14, 0x08
LONG = "583920 " + "x" * 300


class TestConformance(SenderConformance):
    """The suite. An SMSC knows no HTTP, so its faults are those that a stream of frames can show; one that says how
    long to wait (TOO_MANY) there is not, nor a redirect or a page of HTML."""

    faults: ClassVar[Sequence[Fault]] = (
        Fault.HANG,
        Fault.CLOSE_MID_BODY,
        Fault.SLOW_DRIP,
        Fault.HUGE,
        Fault.NOT_JSON,
        Fault.REFUSE,
    )
    receipts_come_otherwise = True

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[Scene]:
        async with bound(House(), window=32) as day:
            day.smsc.until_ready = lambda: ready(day.sender)
            yield day

    async def send(self, scene: Scene, message: OutboundMessage) -> Outcome:
        """Where nobody listens any more (REFUSE) a link that stood has fallen, which takes a moment to notice."""
        assert isinstance(scene, Day)
        if not scene.smsc.is_listening:
            await fallen(scene.sender)
        return await super().send(scene, message)

    async def accepted_texts(self, scene: Scene) -> list[str]:
        assert isinstance(scene, Day)
        return scene.smsc.texts()

    async def refuse_next(self, scene: Scene) -> bool:
        assert isinstance(scene, Day)
        scene.smsc.refusals.append(0x45)
        return True

    def told_fields(self, scene: Scene, message: OutboundMessage, n_before: int) -> set[str]:
        assert isinstance(scene, Day)
        period = scene.smsc.submits[n_before].validity_period
        told_s = int(period[6:8]) * 3600 + int(period[8:10]) * 60 + int(period[10:12])
        return {"validity_period"} if message.life_s / 2 <= told_s <= message.life_s else set()


async def test_what_leaves_field_by_field() -> None:
    async with bound(House(), service_type="OTP", system_type="web") as day:
        outcome = await day.send("583920 is your @ {code}.", to="+33612345678", life_s=299.9)
        assert outcome == Accepted("0000a1b2", parts=1)
        (pdu,) = day.smsc.submits
        assert (pdu.source_addr, pdu.source_addr_ton, pdu.source_addr_npi) == ("OTP", 5, 0)
        assert (pdu.destination_addr, pdu.dest_addr_ton, pdu.dest_addr_npi) == ("33612345678", 1, 1)
        assert pdu.short_message == b"583920 is your \x00 \x1b\x28code\x1b\x29."
        assert (pdu.data_coding, pdu.esm_class, pdu.protocol_id, pdu.priority_flag) == (0, 0, 0, 0)
        assert pdu.validity_period == "000000000459000R"
        assert (pdu.schedule_delivery_time, pdu.replace_if_present_flag, pdu.sm_default_msg_id) == ("", 0, 0)
        assert (pdu.registered_delivery, pdu.service_type, pdu.tlvs) == (1, "OTP", [])
        assert day.smsc.binds == [("transceiver", SYSTEM_ID, PASSWORD, "web")]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", ("", 0, 0)),
        ("12345", ("12345", 3, 0)),
        ("+33700000000", ("33700000000", 1, 1)),
        ("33700000000", ("33700000000", 1, 1)),
        ("My Shop", ("My Shop", 5, 0)),
    ],
)
async def test_the_source_has_its_type(source: str, told: tuple[str, int, int]) -> None:
    async with bound(source=source) as day:
        await day.send()
        (pdu,) = day.smsc.submits
        assert (pdu.source_addr, pdu.source_addr_ton, pdu.source_addr_npi) == told


async def test_types_can_be_set_and_the_validity_left_out() -> None:
    given: dict[str, Any] = {
        "source_ton": 2,
        "source_npi": 8,
        "dest_ton": 0,
        "dest_npi": 0,
        "validity": "none",
        "bind": "transmitter",
    }
    async with bound(**given) as day:
        await day.send()
        (pdu,) = day.smsc.submits
        assert (pdu.source_addr_ton, pdu.source_addr_npi, pdu.dest_addr_ton, pdu.dest_addr_npi) == (2, 8, 0, 0)
        assert (pdu.validity_period, pdu.registered_delivery) == ("", 0)
        assert not day.sender.capabilities.honours_expiry
        assert not day.sender.capabilities.has_receipts


@pytest.mark.parametrize("text", [LONG, "Ваш код: 583920. " * 10, "€" * 81])
async def test_a_long_text_goes_in_parts_of_one_reference(text: str) -> None:
    async with bound() as day:
        outcome = await day.send(text)
        assert isinstance(outcome, Accepted)
        assert outcome.parts == len(day.smsc.submits) > 1
        assert outcome.provider_id == day.smsc.taken[-1].message_id + "+"
        assert all(pdu.esm_class == 0x40 for pdu in day.smsc.submits)
        assert day.smsc.texts() == [text]
        await day.send(text)
        first, second = (day.smsc.submits[place].short_message[3] for place in (0, -1))
        assert first != second


async def test_the_end_can_be_told_as_a_date() -> None:
    async with bound(validity="absolute") as day:
        await day.send(life_s=299.9, now=1_800_000_000.0)
        (pdu,) = day.smsc.submits
        assert pdu.validity_period == "270115080459000+"
        assert day.sender.capabilities.honours_expiry


async def test_parts_can_be_told_in_parameters_and_not_in_the_text() -> None:
    async with bound(long_messages="sar") as day:
        assert isinstance(await day.send(LONG), Accepted)
        parts = day.smsc.submits
        told = [{tlv.tag: tlv.value for tlv in part.tlvs} for part in parts]
        assert [one[0x020E] + one[0x020F] for one in told] == [b"\x03\x01", b"\x03\x02", b"\x03\x03"]
        assert len({one[0x020C] for one in told}) == 1
        assert {part.esm_class for part in parts} == {0}
        assert day.smsc.texts() == [LONG]
        assert await day.send() == Accepted(day.smsc.taken[-1].message_id, parts=1)
        assert day.smsc.submits[-1].tlvs == []


async def test_a_long_text_goes_whole_where_the_payload_takes_it() -> None:
    async with bound(long_messages="payload") as day:
        assert await day.send(LONG) == Accepted("0000a1b2", parts=3)
        (pdu,) = day.smsc.submits
        assert (pdu.short_message, pdu.esm_class) == (b"", 0)
        assert day.smsc.texts() == [LONG]


async def test_of_a_long_text_a_part_that_is_refused_later_leaves_the_rest_unknown() -> None:
    async with bound() as day:
        day.smsc.refusals = [THROTTLED]
        assert isinstance(await day.send(LONG), RetryLater)
        assert not day.smsc.taken

    async with bound() as day:

        async def refuse_another(_: str) -> None:
            day.smsc.refusals = [SYSTEM_FAULT]

        day.smsc.before_accept = refuse_another
        assert await day.send(LONG) == Unknown("only 1 of 3 parts were taken for sure")
        assert len(day.smsc.submits) == 2


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0B, Rejected(RejectionKind.INVALID_NUMBER, "status 0x0000000B")),
        (0x0A, Rejected(RejectionKind.SENDER_REFUSED, "status 0x0000000A")),
        (0x01, Rejected(RejectionKind.TOO_LONG, "status 0x00000001")),
        (0x62, Rejected(RejectionKind.MISCONFIGURED, "status 0x00000062")),
        (0x45, Rejected(RejectionKind.GATEWAY_ERROR, "status 0x00000045")),
        (SYSTEM_FAULT, RetryLater(5.0, "status 0x00000008")),
        (THROTTLED, RetryLater(1.0, "status 0x00000058")),
        (QUEUE_FULL, RetryLater(2.0, "status 0x00000014")),
        (0x400, Rejected(RejectionKind.GATEWAY_ERROR, "unmapped status 0x00000400", is_unmapped=True)),
    ],
)
async def test_what_a_status_comes_to(status: int, outcome: Outcome) -> None:
    async with bound() as day:
        day.smsc.refusals = [status]
        assert await day.send() == outcome
        assert not day.smsc.taken


@pytest.mark.parametrize("to", ["someone@example.org", "+", "+٣٣٦١٢٣٤٥٦٧٨", "+" + "3" * 16])
async def test_what_is_no_number_never_leaves(to: str) -> None:
    async with bound() as day:
        assert await day.send(to=to) == Rejected(RejectionKind.INVALID_NUMBER, "not a number")
        assert not day.smsc.submits


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", "smsc.example:2775"),
        ("host", "127.0.0.1"),
        ("host", "localhost"),
        ("system_id", "x" * 16),
        ("system_id", "a\0b"),
        ("password", Secret("")),
        ("system_type", "x" * 13),
        ("service_type", "é"),
        ("source", "a name that is too long"),
        ("source", "ünder"),
        ("ca_file", "ca.pem"),
    ],
)
def test_settings_that_cannot_work_are_named(key: str, value: object) -> None:
    given: dict[str, Any] = {"host": "smsc.example", "allow_private": False} | {key: value}
    with pytest.raises(ConfigurationError, match=rf"^senders\.carrier\.{key} ") as raised:
        make(**given)
    assert value not in str(raised.value) if isinstance(value, str) and len(value) > 4 else True


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smpp34", None)
    with pytest.raises(ConfigurationError, match=r"pip install otpsvc\[smpp\]"):
        make()


def test_it_carries_sms_only_and_promises_no_more_than_an_smsc_does() -> None:
    able = make().capabilities
    assert able.channels == {Channel.SMS}
    assert able.honours_expiry
    assert able.has_receipts
    assert not able.is_idempotent
    assert not able.can_cancel
    assert able.receipt_within_s is None


def test_every_setting_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateways" / "smpp.md").read_text("utf-8")
    keys = {
        key for row in page.splitlines() if row.startswith("| `") for key in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert keys == {field.name for field in msgspec.structs.fields(SmppSettings)}
