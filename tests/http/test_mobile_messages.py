"""`/mobile/v1/message`: what a phone pulls, exactly, and what it says about it in whatever order and however often."""

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from otpsvc.ids import new_message_id
from tests.http.mobile_phone import Phone
from tests.http.mobile_service import new_caller, new_key, phone_settings, present, serving, shown
from tests.http.service import PATIENCE_S, Caller, Service, new_number

pytestmark = pytest.mark.usefixtures("unimpressed")

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")
FIELDS = {
    "id", "message", "textMessage", "phoneNumbers", "withDeliveryReport", "isEncrypted", "validUntil", "priority",
    "state", "createdAt",
}  # fmt: skip


@pytest.fixture(scope="module")
def service(own_stores: tuple[str, str]) -> Iterator[Service]:
    with serving(phone_settings(*own_stores, OTPSVC_HTTP_MAX_BODY_BYTES=262_144)) as started:
        yield started


@pytest.fixture
def caller(service: Service) -> Caller:
    return new_caller(service)


def send(service: Service, caller: Caller, **body: Any) -> str:
    answer = service.send(caller=caller, **body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["message_id"])


async def pulled(phone: Phone, *message_ids: str, query: str = "") -> list[dict[str, Any]]:
    """Pull until all these are there; give them in the order in which they came."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await phone.pull(query)
            if {each["id"] for each in found} >= set(message_ids):
                return found
            await asyncio.sleep(0.05)


def wait_for_waiting(service: Service, phone: Phone, caller: Caller, n_messages: int) -> None:
    """Wait until so many messages lie in the phone's inbox."""
    give_up_at = time.monotonic() + PATIENCE_S
    while shown(service, phone, caller=caller)["waiting"] != n_messages:
        assert time.monotonic() < give_up_at, f"never {n_messages} messages"
        time.sleep(0.02)


async def ends_as(service: Service, caller: Caller, message_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a message has one of these statuses."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        message: dict[str, Any] = service.get(f"/v1/messages/{message_id}", caller=caller).json()
        if message["status"] in statuses:
            return message
        assert time.monotonic() < give_up_at, message
        await asyncio.sleep(0.05)


# -- pulling


async def test_a_message_as_the_app_reads_it(service: Service, caller: Caller) -> None:
    phone, number = await present(service, caller=caller, simCards=[{"slotIndex": 0, "simNumber": 1}]), new_number()
    answer = service.send(number, caller=caller, ttl_s=120)
    (message,) = await pulled(phone, answer.json()["message_id"])
    assert message.keys() - {"simNumber"} == FIELDS
    assert message["id"] == answer.json()["message_id"]
    assert message["textMessage"] == {"text": message["message"]}
    assert message["phoneNumbers"] == [number]
    assert message.get("simNumber", 1) == 1
    flags = [message[name] for name in ("withDeliveryReport", "isEncrypted", "priority", "state")]
    assert flags == [True, False, 100, "Pending"]
    assert DATE.fullmatch(message["createdAt"])
    assert DATE.fullmatch(message["validUntil"])
    until, ends = datetime.fromisoformat(message["validUntil"]), datetime.fromisoformat(answer.json()["expires_at"])
    assert abs((until - ends).total_seconds()) < 0.01
    code = re.search(r"\d{6}", message["message"])
    assert code is not None
    assert service.verify(answer.json()["otp_id"], code[0], caller=caller).json()["valid"] is True


async def test_a_message_is_listed_until_the_phone_has_spoken_of_it(service: Service, caller: Caller) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    first = await pulled(phone, message_id)
    # Its first word is on its way; where none comes, the answer may have been lost.
    assert await phone.pull() == []
    assert await pulled(phone, message_id) == first
    assert (await phone.report(message_id, "Processed")).status == 204
    assert await phone.pull() == []


@pytest.mark.parametrize("query", ["", "?order=fifo", "?order=lifo", "?order=LIFO", "?order=x&other=1"])
async def test_the_order_is_the_phones_to_choose(service: Service, caller: Caller, query: str) -> None:
    phone = await present(service, caller=caller)
    message_ids = []
    for n_sent in range(3):
        message_ids.append(send(service, caller))
        wait_for_waiting(service, phone, caller, n_sent + 1)
    found = [each["id"] for each in await phone.pull(query)]
    assert found == (message_ids[::-1] if query == "?order=lifo" else message_ids)


async def test_both_spellings_of_the_address_are_the_same(service: Service, caller: Caller) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    wait_for_waiting(service, phone, caller, 1)
    assert [each["id"] for each in (await phone.call("GET", "/messages")).json()] == [message_id]
    report = [{"id": message_id, "state": "Processed", "recipients": [], "states": {}}]
    assert (await phone.call("PATCH", "/messages", report)).status == 204
    assert await phone.pull() == []


async def test_no_other_phone_sees_it(service: Service, caller: Caller) -> None:
    phone, stranger = await present(service, caller=caller), await present(service, caller=new_caller(service))
    live = await present(service, caller=new_key(service, caller.client_id, "live"))
    message_id = send(service, caller)
    await pulled(phone, message_id)
    second = await present(service, caller=caller)
    for other in (stranger, live, second):
        assert await other.pull() == []


# -- reporting


async def test_what_the_phone_says_becomes_of_the_message(service: Service, caller: Caller) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    await pulled(phone, message_id)
    for state in ("Processed", "Sent", "Delivered"):
        answer = await phone.report(message_id, state)
        assert (answer.status, answer.body) == (204, b"")
    assert (await ends_as(service, caller, message_id, "delivered"))["sender"] == "phones"


async def test_reports_come_late_twice_and_out_of_order(service: Service, caller: Caller) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    await pulled(phone, message_id)
    for state in ("Sent", "Sent", "Processed", "Delivered", "Processed", "Sent", "Delivered", "Failed", "Pending"):
        assert (await phone.report(message_id, state)).status == 204
    await ends_as(service, caller, message_id, "delivered")
    assert await phone.pull() == []


async def test_reports_on_what_is_not_the_phones_change_nothing(service: Service, caller: Caller) -> None:
    phone, other = await present(service, caller=caller), await present(service, caller=new_caller(service))
    message_id = send(service, caller)
    await pulled(phone, message_id)
    for unknown in (message_id, new_message_id(partition=0).text, "msg_x", "", "x" * 5000, "\x00", "dev_1\r\nGET /"):
        for state in ("Sent", "Delivered", "Failed"):
            assert (await other.report(unknown, state)).status == 204
    assert shown(service, phone, caller=caller)["waiting"] == 1
    assert (await phone.report(message_id, "Delivered")).status == 204
    await ends_as(service, caller, message_id, "delivered")


async def test_a_failure_is_told_in_our_words(service: Service, caller: Caller) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    await pulled(phone, message_id)
    assert (await phone.report(message_id, "Failed", "RESULT_ERROR_NO_SERVICE to +33612345678")).status == 204
    message = await ends_as(service, caller, message_id, "failed")
    assert "33612345678" not in str(message)
    device = shown(service, phone, caller=caller)
    assert device["last_error"]
    assert "33612345678" not in str(device)


ODD: dict[str, dict[str, Any]] = {
    "no more than a state": {},
    "nulls": {"recipients": None, "states": None},
    "more than we know": {"recipients": [{"x": 1}], "states": {"Sent": 5, "x": []}, "hash": {"a": None}},
    "no date": {"states": {"Sent": "yesterday"}},
    "a date without a zone": {"states": {"Sent": "2026-01-02T03:04:05.678"}},
    "the end of time": {"states": {"Sent": "9999-12-31T23:59:59.999-23:59"}},
    "the beginning of time": {"states": {"Sent": "0001-01-01T00:00:00.000+23:59"}},
    "a date that goes on": {"states": {"Sent": "2" * 5000}},
    "many recipients": {"recipients": [{"phoneNumber": "+33612345678", "state": "Sent", "error": "x" * 500}] * 50},
}


@pytest.mark.parametrize("kind", ODD)
async def test_an_odd_report_is_believed_as_far_as_it_goes(service: Service, caller: Caller, kind: str) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    await pulled(phone, message_id)
    answer = await phone.call("PATCH", "/message", [{"id": message_id, "state": "Sent", **ODD[kind]}])
    assert answer.status == 204, answer.body
    await ends_as(service, caller, message_id, "sent", "delivered")


@pytest.mark.parametrize(
    "reports",
    [
        {"id": "msg_x", "state": "Sent"},
        [{"id": "msg_x"}],
        [{"state": "Sent"}],
        [{"id": 5, "state": "Sent"}],
        [{"id": "msg_x", "state": None}],
        [{"id": "msg_x", "state": "Sent", "recipients": {}}],
        [{"id": "msg_x", "state": "Sent", "recipients": [{"error": 5}]}],
        [{"id": "msg_x", "state": "Sent", "states": []}],
        [None],
    ],
)
async def test_what_is_no_report_is_told_so(service: Service, caller: Caller, reports: Any) -> None:
    phone = await present(service, caller=caller)
    answer = await phone.call("PATCH", "/message", reports)
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")


async def test_many_reports_at_once(service: Service, caller: Caller) -> None:
    phone = await present(service, caller=caller)
    message_id = send(service, caller)
    await pulled(phone, message_id)
    unknown = [{"id": "x", "state": "Sent"}] * 1500
    answer = await phone.call("PATCH", "/message", [*unknown, {"id": message_id, "state": "Delivered"}])
    assert answer.status == 204
    await ends_as(service, caller, message_id, "delivered")
