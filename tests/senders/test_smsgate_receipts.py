"""Receipts that SMSGate's phones post: believed only from a phone that is known, at its time, and never twice."""

import hmac

import pytest

from otpsvc.senders.contract import (
    Receipt,
    ReceiptRefusal,
    ReceiptRequest,
    Receipts,
    ReceiptStatus,
    RefusalKind,
    RejectionKind,
    Secret,
)
from otpsvc.senders.smsgate import SmsGateSender
from otpsvc.senders.smsgate_settings import DeviceKeys, SmsGateSettings
from otpsvc.settings_values import Given
from otpsvc.testing import ManualClock, sender_context
from tests.gateways.smsgate import KEY, OTHER_KEY, OTHER_PHONE, PASSWORD, PHONE, USER, Held, SmsGateDouble

MESSAGE_ID = "msg_00000000000000000000000000"


def reader(clock: ManualClock, keys: dict[str, str]) -> SmsGateSender:
    settings = SmsGateSettings(
        username=USER,
        password=Secret(PASSWORD),
        signing_keys=DeviceKeys({device: Secret(key) for device, key in keys.items()}),
    )
    return SmsGateSender("phones", settings, sender_context(clock=clock))


def held(device_id: str = PHONE) -> Held:
    return Held(MESSAGE_ID, device_id, {"phoneNumbers": ["+33612345678"]}, None)


async def refusal_of(sender: SmsGateSender, request: ReceiptRequest) -> RefusalKind:
    said = await sender.parse_receipt(request)
    assert isinstance(said, ReceiptRefusal)
    return said.kind


async def only(sender: SmsGateSender, request: ReceiptRequest) -> Receipt:
    said = await sender.parse_receipt(request)
    assert isinstance(said, Receipts)
    (receipt,) = said.items
    return receipt


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def double(clock: ManualClock) -> SmsGateDouble:
    return SmsGateDouble(clock)


@pytest.fixture
def sender(clock: ManualClock) -> SmsGateSender:
    return reader(clock, {PHONE: KEY, OTHER_PHONE: OTHER_KEY})


async def test_what_a_receipt_says(sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock) -> None:
    body = double.event(held(), "sms:delivered", event_id="evt-1", deliveredAt="2026-08-01T12:00:00.000+02:00")
    assert await only(sender, double.posted(body)) == Receipt(
        status=ReceiptStatus.DELIVERED,
        message_id=MESSAGE_ID,
        provider_id=MESSAGE_ID,
        receipt_id="evt-1",
        happened_at=1_785_578_400.0,
    )
    failed = await only(sender, double.posted(double.event(held(), "sms:failed", reason="TTL expired")))
    assert (failed.status, failed.detail) == (ReceiptStatus.EXPIRED, "TTL expired")
    reason = "Send result: RESULT_ERROR_RADIO_OFF"
    failed = await only(sender, double.posted(double.event(held(), "sms:failed", reason=reason)))
    assert (failed.status, failed.kind) == (ReceiptStatus.FAILED, RejectionKind.UNAVAILABLE)
    cancelled = await only(sender, double.posted(double.event(held(), "sms:cancelled")))
    assert cancelled.status is ReceiptStatus.CANCELLED


async def test_each_phone_has_its_own_key(sender: SmsGateSender, double: SmsGateDouble) -> None:
    other = double.event(held(OTHER_PHONE), "sms:sent")
    assert (await only(sender, double.posted(other, key=OTHER_KEY))).status is ReceiptStatus.SENT
    assert await refusal_of(sender, double.posted(other, key=KEY)) is RefusalKind.UNAUTHENTIC
    stranger = double.event(held("phone-ccccccccccccccc"), "sms:sent")
    assert await refusal_of(sender, double.posted(stranger, key=KEY)) is RefusalKind.UNAUTHENTIC


async def test_another_phone_of_the_account_says_nothing_about_the_message_this_one_had(
    double: SmsGateDouble, clock: ManualClock
) -> None:
    keys = DeviceKeys({PHONE: Secret(KEY), OTHER_PHONE: Secret(OTHER_KEY)})
    settings = SmsGateSettings(username=USER, password=Secret(PASSWORD), device_id=PHONE, signing_keys=keys)
    sender = SmsGateSender("first", settings, sender_context(clock=clock))
    # The next sender of the route has the other phone and hands it the same message under the same id.
    other = double.posted(double.event(held(OTHER_PHONE), "sms:failed"), key=OTHER_KEY)
    assert await sender.parse_receipt(other) == Receipts(())
    assert (await only(sender, double.posted(double.event(held(), "sms:sent")))).status is ReceiptStatus.SENT


async def test_a_phone_without_a_key_and_a_sender_without_one_are_refused(
    sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock
) -> None:
    body = double.event(held(), "sms:sent")
    assert await refusal_of(sender, double.posted(body, key=None)) is RefusalKind.UNAUTHENTIC
    assert await refusal_of(reader(clock, {}), double.posted(body)) is RefusalKind.UNSUPPORTED


@pytest.mark.parametrize(("skew_s", "is_believed"), [(600, True), (-890, True), (910, False), (-1200, False)])
async def test_fifteen_minutes_either_way(
    sender: SmsGateSender, double: SmsGateDouble, skew_s: float, is_believed: bool
) -> None:
    request = double.posted(double.event(held(), "sms:sent"), skew_s=skew_s)
    assert isinstance(await sender.parse_receipt(request), Receipts) is is_believed


@pytest.mark.parametrize("time", ["", "nan", "inf", "soon", "1e400", "１８００００００００x"])
async def test_a_time_that_is_none(sender: SmsGateSender, double: SmsGateDouble, time: str) -> None:
    request = double.posted(double.event(held(), "sms:sent"), time=time)
    assert await refusal_of(sender, request) is RefusalKind.UNAUTHENTIC


async def test_a_recorded_receipt_is_worth_nothing_later(
    sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock
) -> None:
    request = double.posted(double.event(held(), "sms:delivered"))
    assert isinstance(await sender.parse_receipt(request), Receipts)
    clock.advance(901)
    assert await refusal_of(sender, request) is RefusalKind.UNAUTHENTIC


async def test_a_body_of_somebody_else_under_a_good_signature(sender: SmsGateSender, double: SmsGateDouble) -> None:
    genuine = double.posted(double.event(held(), "sms:sent"))
    changed = ReceiptRequest(
        method="POST",
        url=genuine.url,
        headers=genuine.headers,
        body=genuine.body.replace(b"sms:sent", b"sms:delivered"),
    )
    assert await refusal_of(sender, changed) is RefusalKind.UNAUTHENTIC


async def test_two_parts_new_event_ids_and_the_wrong_order_say_the_same_of_the_message(
    sender: SmsGateSender, double: SmsGateDouble
) -> None:
    kinds = ["sms:delivered", "sms:delivered", "sms:sent", "sms:sent"]
    receipts = [await only(sender, double.posted(double.event(held(), kind))) for kind in kinds]
    assert {receipt.message_id for receipt in receipts} == {MESSAGE_ID}
    assert len({receipt.receipt_id for receipt in receipts}) == 4
    assert [receipt.status for receipt in receipts] == [ReceiptStatus.DELIVERED] * 2 + [ReceiptStatus.SENT] * 2


async def test_a_repeated_try_bears_a_fresh_time(
    sender: SmsGateSender, double: SmsGateDouble, clock: ManualClock
) -> None:
    seen: list[Receipts | ReceiptRefusal] = []

    async def down_for_an_hour(request: ReceiptRequest) -> bool:
        clock.advance(1200)
        if len(seen) < 3:
            seen.append(await sender.parse_receipt(request))
            return False
        clock.advance(-1200)
        seen.append(await sender.parse_receipt(request))
        return True

    assert await double.bring(double.event(held(), "sms:sent"), KEY, down_for_an_hour) == 4
    assert isinstance(seen[-1], Receipts)
    assert all(isinstance(said, ReceiptRefusal) for said in seen[:3])


@pytest.mark.parametrize("kind", ["sms:received", "system:ping", "app:started", "sms:of-the-future"])
async def test_events_about_other_things_are_taken_and_say_nothing(
    sender: SmsGateSender, double: SmsGateDouble, kind: str
) -> None:
    assert await sender.parse_receipt(double.posted(double.event(held(), kind))) == Receipts(())


async def test_only_one_spelling_narrows_a_webhook_down_to_a_phone(double: SmsGateDouble) -> None:
    """Why the documentation says `deviceId`: the other spelling is taken and forgotten."""
    double.hooks += [
        {"url": "https://a.example", "event": "sms:sent", "deviceId": PHONE},
        {"url": "https://b.example", "event": "sms:sent", "device_id": PHONE},
    ]
    assert [hook["url"] for hook in double.hooks_for("sms:sent", OTHER_PHONE)] == ["https://b.example"]
    assert len(double.hooks_for("sms:sent", PHONE)) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "1 to 100"),
        (7, "1 to 100"),
        ("a=1,a=2", "twice"),
        ({"a b": "key"}, "device id"),
        ({"a": ""}, "empty"),
        ("a", "empty"),
    ],
)
def test_keys_that_cannot_be_read(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeviceKeys.read_setting(Given(value, "otpsvc.toml"))


def test_keys_as_text_and_as_a_table_are_the_same() -> None:
    given = {"phone-1": "key=with=signs", "phone-2": "k2"}
    table = DeviceKeys.read_setting(Given(given, "otpsvc.toml"))
    text = DeviceKeys.read_setting(Given("phone-1=key=with=signs,\nphone-2=k2", "OTPSVC", is_text=True))
    for keys in (table, text):
        assert repr(keys) == "DeviceKeys(2)"
        assert keys.signers("", b"x") == frozenset()
    body = b"body"
    signature = hmac.new(b"key=with=signs", body, "sha256").hexdigest()
    assert table.signers(signature, body) == text.signers(signature, body) == {"phone-1"}


def test_exposed_files_may_not_hold_keys() -> None:
    with pytest.raises(ValueError, match="chmod 600"):
        DeviceKeys.read_setting(Given({"phone-1": "key"}, "otpsvc.toml", is_exposed=True))
