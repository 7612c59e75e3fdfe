"""A team's phones behind a whole service: chosen, switched off in the middle, pinned, passed for the next sender."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from otpsvc.handset.air import Air
from otpsvc.handset.pace import Pace
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import GOOD_TEMPER, Temper
from otpsvc.ids import new_device_id
from tests.delivery.conftest import Open
from tests.delivery.stand import Gateway, Stand, until

PHONES = """
[senders.phones]
pull_within_s = 3
report_within_s = 5
wait_s = 4
"""
ALONE = f'[devices]\nconfirms_by_itself = true\n[delivery]\nsenders = ["phones"]\n{PHONES}'
NUMBER = "+33612345678"
_PACE = Pace(scale=0.05)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway("second") as second:
        yield second


def before(gateway: Gateway) -> str:
    """Phones first, then a gateway."""
    return '[devices]\nconfirms_by_itself = true\n[routes.sms]\n"*" = ["phones", "second"]\n' + PHONES + gateway.table()


@contextlib.asynccontextmanager
async def phone(
    service: Stand, name: str, air: Air, *, temper: Temper = GOOD_TEMPER, headers: Any = None
) -> AsyncIterator[SimulatedPhone]:
    """A paired phone that is connected."""
    answer = await service.http.post("/v1/devices/pairings", headers=headers or service.headers)
    assert answer.status_code == 201, answer.text
    opened = answer.json()
    one = SimulatedPhone(
        service.address,
        login=opened["login"],
        password=opened["password"],
        name=name,
        air=air,
        temper=temper,
        pace=_PACE,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(one.run(stop))
    try:
        async with asyncio.timeout(20):
            await one.connected()
            await is_online(service, one, headers=headers)
        yield one
    finally:
        stop.set()
        await asyncio.wait({running}, timeout=5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def state(service: Stand, one: SimulatedPhone, *, headers: Any = None) -> dict[str, Any]:
    answer = await service.http.get(f"/v1/devices/{one.device_id}", headers=headers or service.headers)
    found: dict[str, Any] = answer.json()
    return found


async def is_online(service: Stand, one: SimulatedPhone, *, headers: Any = None, is_so: bool = True) -> None:
    give_up_at = time.monotonic() + 20
    while (await state(service, one, headers=headers))["is_online"] is not is_so:
        assert time.monotonic() < give_up_at, f"its presence is never {is_so}"
        await asyncio.sleep(0.05)


def sent_by(air: Air, sent: dict[str, Any]) -> list[str]:
    return [sms.device_id for sms in air.list() if sms.message_id == sent["message_id"]]


async def refused(service: Stand, code: str, **headers: str) -> httpx.Response:
    answer = await service.http.post("/v1/otp", json={"to": NUMBER}, headers={**service.headers, **headers})
    assert answer.json()["error"]["code"] == code, answer.text
    return answer


async def test_a_code_goes_out_through_a_phone(opened: Open) -> None:
    air = Air()
    async with opened(ALONE) as service, phone(service, "one", air) as one:
        sent = await service.send(NUMBER)
        await service.comes_to(sent, "delivered")
        (sms,) = air.list(NUMBER)
        code = next(word for word in sms.text.replace(".", " ").split() if word.isdigit() and len(word) == 6)
        assert (await service.verify(sent["otp_id"], code)).json()["valid"] is True
        history = await service.history(sent, "otp.verified")
        way = [(entry["event"], entry.get("device_id")) for entry in history if entry["event"].startswith("message.")]
        names = {"message.offered", "message.pulled", "message.sent", "message.delivered"}
        assert len(way) == len(names)
        assert {name for name, _ in way} == names
        assert {device for name, device in way if name in {"message.offered", "message.pulled"}} == {one.device_id}
        used = await state(service, one)
        assert used["sims"][0]["messages_used"] == 1
        assert await service.count("otpsvc_devices_online") == 1
        assert await service.count("otpsvc_phone_sent_seconds_count", sender="phones") == 1


async def test_a_phone_that_goes_off_in_the_middle_loses_what_it_had_not_pulled(opened: Open) -> None:
    """It is cut off, so that it never hears of its messages: each goes through the other phone, once."""
    air = Air()
    async with opened(ALONE) as service, phone(service, "one", air) as one:
        async with phone(service, "two", air) as two:
            one.lose_network()
            sends = [await service.send() for _ in range(6)]
            for sent in sends:
                await service.comes_to(sent, "delivered")
            assert [sent_by(air, sent) for sent in sends] == [[two.device_id]] * 6
        assert await service.count("otpsvc_takeovers_total", may_duplicate="yes") == 0


async def test_one_that_pulled_and_died_is_passed_and_told_as_a_possible_duplicate(opened: Open) -> None:
    air = Air()
    async with opened(ALONE) as service, phone(service, "one", air) as one:
        one.dies_at_next_pull = True
        sent = await service.send(NUMBER)
        await until(lambda: not one.is_on, "the phone to die")
        async with phone(service, "two", air) as two:
            await service.comes_to(sent, "delivered")
            assert two.device_id in sent_by(air, sent)
            history = await service.history(sent, "message.delivered")
            (passed,) = [entry for entry in history if entry["event"] == "message.taken_over"]
            assert (passed["device_id"], passed["reason"]) == (one.device_id, "silent")
            assert await service.count("otpsvc_takeovers_total", why="silent", may_duplicate="yes") == 1


async def test_without_a_phone_the_caller_hears_it_and_nothing_is_counted(opened: Open) -> None:
    air = Air()
    async with opened(ALONE) as service:
        for _ in range(11):
            await refused(service, "NO_DEVICE_AVAILABLE")
        answer = await refused(service, "NO_DEVICE_AVAILABLE")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        async with phone(service, "one", air):
            await asyncio.sleep(1.1)  # what is known of a client's phones is known for a second
            await service.comes_to(await service.send(NUMBER), "delivered")


async def test_without_a_phone_the_next_sender_of_the_route_gets_it_at_once(opened: Open, gateway: Gateway) -> None:
    async with opened(before(gateway)) as service:
        sent = await service.send(NUMBER)
        assert (await service.comes_to(sent, "sent"))["sender"] == "second"
        assert gateway.copies(sent["message_id"]) == 1


async def test_when_the_last_phone_goes_the_next_sender_gets_what_it_had_not_pulled(
    opened: Open, gateway: Gateway
) -> None:
    air = Air()
    async with opened(before(gateway)) as service, phone(service, "one", air) as one:
        # It hears of nothing any more, and the service does not know yet.
        one.switch_off()
        sent = await service.send(NUMBER)
        await until(lambda: gateway.copies(sent["message_id"]) == 1, "the gateway to get it")
        assert sent_by(air, sent) == []
        assert await service.count("otpsvc_possible_duplicates_total", sender="phones") == 0


async def test_a_message_goes_by_the_phone_it_is_for_or_not_at_all(opened: Open, gateway: Gateway) -> None:
    air = Air()
    async with (
        opened(before(gateway)) as service,
        phone(service, "one", air) as one,
        phone(service, "two", air),
    ):
        pin = {"X-Device-ID": one.device_id}
        pinned: list[dict[str, Any]] = []
        for _ in range(3):
            answer = await service.http.post("/v1/otp", json={"to": NUMBER}, headers={**service.headers, **pin})
            pinned.append(answer.json())
            await service.comes_to(pinned[-1], "delivered")
        assert [sent_by(air, sent) for sent in pinned] == [[one.device_id]] * 3
        resent = await service.http.post(f"/v1/otp/{pinned[-1]['otp_id']}/resend", headers=service.headers)
        await service.comes_to(resent.json(), "delivered")
        assert sent_by(air, resent.json()) == [one.device_id]
        key = {"Idempotency-Key": "once"}
        first = await service.http.post("/v1/otp", json={"to": NUMBER}, headers={**service.headers, **pin, **key})
        await service.comes_to(first.json(), "delivered")
        one.switch_off()
        await is_online(service, one, is_so=False)
        again = await service.http.post("/v1/otp", json={"to": NUMBER}, headers={**service.headers, **pin, **key})
        assert (again.status_code, again.json()["otp_id"]) == (200, first.json()["otp_id"])
        assert (await refused(service, "DEVICE_OFFLINE", **pin)).status_code == 503
        for device_id in (new_device_id(), "dev_", "device_1", one.device_id.upper()):
            assert (await refused(service, "INVALID_DEVICE_ID", **{"X-Device-ID": device_id})).status_code == 404
        assert gateway.taken == []


async def test_what_a_phone_cannot_send_another_does(opened: Open) -> None:
    air = Air()
    broke = Temper(credit=0)
    async with opened(ALONE) as service, phone(service, "broke", air, temper=broke) as poor:
        sent = await service.send(NUMBER)
        failed = await service.comes_to(sent, "failed")
        assert failed["error"]["code"] == "NO_CREDIT"
        assert (await state(service, poor))["last_error"] is not None
        async with phone(service, "rich", air) as rich:
            sent = await service.send()
            await service.comes_to(sent, "delivered")
            assert sent_by(air, sent) == [rich.device_id]


async def test_a_disabled_phone_gives_up_what_it_has_and_stays_out(opened: Open) -> None:
    air = Air()
    async with opened(ALONE) as service, phone(service, "one", air) as one, phone(service, "two", air) as two:
        answer = await service.http.post(f"/v1/devices/{one.device_id}/disable", headers=service.headers)
        assert answer.json()["status"] == "disabled"
        sends = [await service.send() for _ in range(4)]
        for sent in sends:
            await service.comes_to(sent, "delivered")
            assert sent_by(air, sent) == [two.device_id]
        await until(lambda: not one.is_connected, "its stream to end")


async def test_nobody_elses_phone_is_used(opened: Open) -> None:
    air = Air()
    async with opened(ALONE) as service, phone(service, "one", air) as one:
        other = await service.house.clients.create_client("other", {"cooldown_s": 0})
        key = await service.house.clients.create_key(other.id, mode="live")
        test_key = await service.house.clients.create_key(service.headers["X-Client-ID"], mode="test")
        strangers = {"X-API-Key": key.text, "X-Client-ID": other.id}
        own_test_mode = {**service.headers, "X-API-Key": test_key.text}
        for headers in (strangers, own_test_mode):
            await refused(service, "NO_DEVICE_AVAILABLE", **headers)
            await refused(service, "INVALID_DEVICE_ID", **headers, **{"X-Device-ID": one.device_id})
            assert (await service.http.get("/v1/devices", headers=headers)).json()["devices"] == []
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/disable"), ("POST", "/rotate-token")):
                found = await service.http.request(method, f"/v1/devices/{one.device_id}{path}", headers=headers)
                assert found.status_code == 404
        assert (await state(service, one))["status"] == "active"
