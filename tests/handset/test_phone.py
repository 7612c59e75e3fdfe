"""The phone against an exact server: registering, messages, states, and the ways back after trouble."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from otpsvc.handset.membership import TurnedAwayError
from otpsvc.handset.pace import Pace
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import Temper
from otpsvc.phone_encryption import encrypted
from otpsvc.testing.gateways import Fault
from tests.handset.phones import FAST, living, running, until
from tests.handset.server import MobileServer

PAUSED = Temper(pause_s=0.05)


def at(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat(timespec="milliseconds")


async def test_a_message_goes_out_and_its_states_are_told() -> None:
    async with MobileServer() as server, running(server) as phone:
        device = server.device()
        assert device.name == "Simulated phone"
        assert device.sims == [{"slotIndex": 0, "simNumber": 1}]
        message_id = server.enqueue(device, text="Your code is 4711")
        states = await server.heard(device, message_id, "Delivered")
        assert states == ["Processed", "Sent", "Delivered"]
        [sms] = phone.air.list()
        assert (sms.message_id, sms.to) == (message_id, "+33612345678")
        assert (sms.text, sms.device_id) == ("Your code is 4711", device.id)
        last = device.reports[-1]
        assert last["recipients"] == [{"phoneNumber": "+33612345678", "state": "Delivered"}]
        assert list(last["states"]) == ["Pending", "Processed", "Sent", "Delivered"]
        assert all(datetime.fromisoformat(each).tzinfo for each in last["states"].values())


async def test_a_code_is_enough_to_register_and_the_answer_brings_the_login() -> None:
    async with MobileServer() as server:
        server.account("phone-xyz", "its password")
        server.codes["123456"] = "phone-xyz"
        async with running(server, code="123456") as phone:
            first = phone.device_id
            server.device().token = "another one now"
            server.end_streams(server.device())
            await until(lambda: server.asked("POST", "/device") == 2 and phone.is_connected)
            assert phone.device_id == first
            assert server.requests[-1].headers["authorization"].startswith("Bearer")


@pytest.mark.parametrize("given", [{"login": "phone-0", "password": "wrong"}, {"code": "000000"}])
async def test_who_is_not_let_in_ends(given: dict[str, Any]) -> None:
    async with MobileServer() as server:
        server.account("phone-0")
        with pytest.raises(TurnedAwayError) as refusal:
            await SimulatedPhone(server.url, pace=FAST, **given).run(asyncio.Event())
        assert refusal.value.status == 401


async def test_a_server_that_is_away_at_first_is_asked_again() -> None:
    async with MobileServer() as server:
        server.account()
        server.misbehave(Fault.HTML_500, Fault.TOO_MANY, Fault.NOT_JSON, Fault.REDIRECT, Fault.HUGE)
        with pytest.raises(TurnedAwayError):  # a redirect is no passing trouble, and nobody follows it
            await SimulatedPhone(server.url, login="phone-abcdef", password="a password", pace=FAST).run(
                asyncio.Event()
            )
        assert (len(server.requests), server.n_strayed) == (4, 0)
        await server.restore()
        server.misbehave(Fault.HTML_500, Fault.CLOSE_MID_BODY)
        async with running(server, login="phone-abcdef", password="a password"):
            pass


async def test_a_token_that_died_is_replaced_once_the_server_says_so() -> None:
    async with MobileServer() as server, running(server) as phone:
        device, first = server.device(), phone.device_id
        device.token = "rotated"
        server.end_streams(device)
        await until(lambda: server.asked("POST", "/device") == 2 and phone.is_connected)
        assert server.asked("PATCH", "/device") == 1
        assert phone.device_id == first
        message_id = server.enqueue(server.device())
        await server.heard(server.device(), message_id, "Sent")


async def test_a_phone_that_is_out_stays_out_and_goes_on_asking() -> None:
    async with MobileServer() as server, running(server) as phone:
        server.accounts["phone-0"].is_out = True
        server.device().token = "worthless"
        message_id = server.enqueue(server.device())
        server.end_streams(server.device())
        await until(lambda: server.asked("POST", "/device") >= 4)
        assert not phone.is_connected
        assert server.device().states(message_id) == []


async def test_other_refusals_do_not_cost_a_phone_its_token() -> None:
    async with MobileServer() as server, running(server) as phone:
        server.trouble = {"PATCH /device": [403, 500], "GET /message": [503, 401]}
        server.enqueue(server.device())
        await until(lambda: len(phone.air.list()) == 1)
        server.end_streams(server.device())
        await until(lambda: server.asked("PATCH", "/device") == 3 and phone.is_connected)
        assert server.asked("POST", "/device") == 1


async def test_the_same_id_is_never_sent_twice() -> None:
    async with MobileServer() as server, running(server) as phone:
        server.is_deaf = True
        message_id = server.enqueue(server.device())
        await server.heard(server.device(), message_id, "Delivered")
        n_told = len(server.device().reports)
        server.call(server.device(), "MessageEnqueued")
        await until(lambda: len(server.device().reports) > n_told)
        assert server.device().states(message_id)[n_told:] == ["Delivered"]
        assert len(phone.air.list()) == 1


async def test_a_report_is_told_until_it_is_taken() -> None:
    async with MobileServer() as server, running(server):
        server.trouble = {"PATCH /message": [500] * 9}
        message_id = server.enqueue(server.device())
        states = await server.heard(server.device(), message_id, "Processed")
        assert set(await server.heard(server.device(), message_id, "Sent")) >= set(states)


async def test_after_ten_tries_a_report_is_given_up() -> None:
    async with MobileServer() as server, running(server, pace=Pace(scale=0.0005, pull_every_s=1e6)) as phone:
        await until(lambda: server.asked("GET", "/webhooks") == 1)
        server.trouble = {"PATCH /message": [500] * 30}
        message_id = server.enqueue(server.device())
        await until(lambda: server.trouble["PATCH /message"] == [])
        await asyncio.sleep(0.05)
        assert server.device().states(message_id) == []
        server.call(server.device(), "MessageEnqueued")  # listed still: told again
        await server.heard(server.device(), message_id, "Delivered")
        assert server.asked("PATCH", "/message") == 31
        assert len(phone.air.list()) == 1


@pytest.mark.parametrize("is_clean", [True, False])
async def test_a_stream_that_ends_is_opened_again_and_what_came_meanwhile_is_pulled(is_clean: bool) -> None:
    async with MobileServer() as server, running(server):
        device = server.device()
        server.end_streams(device, is_clean=is_clean)
        message_id = server.enqueue(device)
        await server.heard(device, message_id, "Sent")
        await until(lambda: bool(server.streams.get(device.id)))


async def test_without_a_call_it_pulls_now_and_then() -> None:
    async with MobileServer() as server, running(server, pace=Pace(scale=0.01, pull_every_s=5)):
        server.is_silent = True
        message_id = server.enqueue(server.device())
        await server.heard(server.device(), message_id, "Sent")


async def test_what_ended_is_not_sent() -> None:
    async with MobileServer() as server, running(server) as phone:
        late = server.enqueue(server.device(), validUntil=at(seconds=-1))
        good = server.enqueue(server.device(), validUntil=at(seconds=60))
        assert await server.heard(server.device(), late, "Failed") == ["Failed"]
        await server.heard(server.device(), good, "Sent")
        assert server.device().reports[0]["recipients"][0]["error"] == "TTL expired"
        assert [sms.message_id for sms in phone.air.list()] == [good]


async def test_expedited_messages_skip_queue_and_pauses() -> None:
    async with MobileServer() as server, running(server, temper=Temper(pause_s=3600)) as phone:
        device = server.device()
        server.is_silent = True
        ordinary = [server.enqueue(device, priority=99) for _ in range(3)]
        codes = [server.enqueue(device, priority=100), server.enqueue(device, priority=127)]
        server.call(device, "MessageEnqueued")
        await until(lambda: len(phone.air.list()) == 3)
        assert [sms.message_id for sms in reversed(phone.air.list())] == [*codes, ordinary[0]]
        assert await server.heard(device, codes[1], "Sent")


async def test_what_waits_can_be_cancelled_and_what_has_left_cannot() -> None:
    async with MobileServer() as server, running(server, temper=Temper(pause_s=3600)) as phone:
        device = server.device()
        gone = server.enqueue(device, priority=0)
        await server.heard(device, gone, "Delivered")
        by_event, by_list = server.enqueue(device, priority=0), server.enqueue(device, priority=0)
        await until(lambda: server.asked("GET", "/message") >= 3)
        server.call(device, "MessageCancelled", {"messageId": by_event})
        assert await server.heard(device, by_event, "Cancelled")
        device.messages[by_list]["state"] = "Cancelling"
        device.messages[gone] = {"id": gone, "state": "Cancelling", "phoneNumbers": ["+33612345678"]}
        device.messages["msg_new"] = {"id": "msg_new", "state": "Cancelling", "phoneNumbers": ["+33612345678"]}
        n_told = len(device.states(gone))
        server.call(device, "MessageCancelled", {"messageId": by_list + "?"})
        assert (await server.heard(device, by_list, "Cancelled"))[-1] == "Cancelled"
        assert await server.heard(device, "msg_new", "Cancelled") == ["Cancelled"]
        await until(lambda: len(device.states(gone)) > n_told)
        assert set(device.states(gone)[n_told:]) == {"Delivered"}
        assert [sms.message_id for sms in phone.air.list()] == [gone]


async def test_what_is_scheduled_waits() -> None:
    async with MobileServer() as server, running(server) as phone:
        later = server.enqueue(server.device(), scheduleAt=at(seconds=0.4))
        never = server.enqueue(server.device(), scheduleAt=at(days=1))
        now = server.enqueue(server.device())
        await server.heard(server.device(), later, "Sent")
        assert [sms.message_id for sms in reversed(phone.air.list())] == [now, later]
        assert set(server.device().states(never)) <= {"Pending"}


async def test_encrypted_fields_are_read_with_the_passphrase_that_was_typed_in() -> None:
    async with MobileServer() as server, running(server, passphrase="correct horse") as phone:
        number, text = encrypted("+33698765432", "correct horse"), encrypted("Code 9", "correct horse")
        message_id = server.enqueue(server.device(), to=number, text=text, isEncrypted=True)
        await server.heard(server.device(), message_id, "Sent")
        [sms] = phone.air.list()
        assert (sms.to, sms.text) == ("+33698765432", "Code 9")
        assert server.device().reports[-1]["recipients"][0]["phoneNumber"] == number
        other = server.enqueue(server.device(), to=number, text="$no$such$thing", isEncrypted=True)
        assert await server.heard(server.device(), other, "Failed") == ["Failed"]
        assert len(phone.air.list()) == 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"simNumber": 2}, "SIM 2 not found"), ({"phoneNumbers": []}, None)],
)
async def test_what_cannot_be_sent_fails(fields: dict[str, Any], error: str | None) -> None:
    async with MobileServer() as server, running(server) as phone:
        message_id = server.enqueue(server.device(), **fields)
        await server.heard(server.device(), message_id, "Failed")
        assert [one.get("error") for one in server.device().reports[-1]["recipients"]] == ([error] if error else [])
        assert phone.air.list() == []


async def test_several_numbers_are_told_together_by_the_one_that_is_least_far() -> None:
    numbers = ["+33612345678", "+33612345679"]
    async with MobileServer() as server, running(server) as phone:
        phone.air.switch_off(numbers[1])
        message_id = server.enqueue(server.device(), phoneNumbers=numbers)
        await server.heard(server.device(), message_id, "Sent")
        await until(lambda: server.device().reports[-1]["recipients"][0]["state"] == "Delivered")
        assert server.device().reports[-1]["state"] == "Sent"
        assert server.device().reports[-1]["recipients"][1]["state"] == "Sent"


async def test_without_delivery_report_it_is_sent_and_no_more() -> None:
    async with MobileServer() as server, running(server) as phone:
        quiet = server.enqueue(server.device(), withDeliveryReport=False)
        loud = server.enqueue(server.device())
        await server.heard(server.device(), loud, "Delivered")
        assert server.device().way(quiet) == ["Processed", "Sent"]
        assert len(phone.air.list()) == 2


async def test_settings_and_webhooks_are_read_at_first_and_when_they_change() -> None:
    async with MobileServer() as server, running(server):
        await until(lambda: server.asked("GET", "/webhooks") == 1)
        server.call(server.device(), "SettingsUpdated")
        await until(lambda: server.asked("GET", "/settings") == 2)
        server.call(server.device(), "WebhooksUpdated")
        await until(lambda: server.asked("GET", "/webhooks") == 2)
        server.call(server.device(), "MessagesExportRequested", {"anything": 1})
        server.call(server.device(), "MessageEnqueued")
        await until(lambda: server.asked("GET", "/message") >= 4)
        assert server.asked("GET", "/settings") == 2


async def test_a_message_that_cannot_be_read_does_not_keep_the_others() -> None:
    async with MobileServer() as server, running(server):
        device = server.device()
        device.messages["odd"] = {"id": 7, "phoneNumbers": "x"}
        message_id = server.enqueue(device, validUntil="2999-01-01T00:00:00.000Z", newField={"a": [1]})
        assert "Sent" in await server.heard(device, message_id, "Sent")


@pytest.mark.parametrize("trouble", [Fault.NOT_JSON, Fault.HTML_500, Fault.CLOSE_MID_BODY, Fault.HUGE, Fault.REDIRECT])
async def test_a_pull_that_fails_is_made_again(trouble: Fault) -> None:
    async with MobileServer() as server, running(server) as phone:
        await until(lambda: server.asked("GET", "/webhooks") == 1)
        server.misbehave(trouble)
        server.enqueue(server.device())
        await until(lambda: len(phone.air.list()) == 1)
        assert server.n_strayed == 0


async def test_stopped_it_ends_what_it_has_begun() -> None:
    async with MobileServer() as server:
        account = server.account()
        phone = SimulatedPhone(server.url, login=account.login, password=account.password, temper=Temper(slow_s=0.3))
        async with living(phone):
            await phone.connected()
            first, second = server.enqueue(server.device()), server.enqueue(server.device())
            await server.heard(server.device(), first, "Processed")
        assert server.device().way(first)[:2] == ["Processed", "Sent"]
        assert set(server.device().states(second)) <= {"Pending"}
        assert server.farewells == ["closed"]


async def test_the_plan_of_reconnecting() -> None:
    pauses = [Pace().reconnect_s(failed) for failed in range(1, 13)]
    assert pauses == [5.0] * 5 + [30.0] * 5 + [60.0] * 2
    heard: list[str] = []
    async with MobileServer() as server, running(server, news=heard.append, pace=Pace(scale=0.001)):
        server.trouble = {}
        server.device().token = "worthless"
        server.accounts["phone-0"].is_out = True
        server.end_streams(server.device())
        await until(lambda: sum("next try" in line for line in heard) >= 12)
    tries = [line.rpartition("in ")[2] for line in heard if "next try" in line][:12]
    assert tries == ["0.005 s"] * 5 + ["0.03 s"] * 5 + ["0.06 s"] * 2


def test_a_try_again_waits_twice_as_long_each_time() -> None:
    retry: Callable[[int], float] = Pace().retry_s
    assert [retry(tries) for tries in (1, 2, 3, 9, 10)] == [1, 2, 4, 256, 300]
