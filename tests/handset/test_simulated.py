"""What a simulated phone does wrong when its temper says so, and its battery and network."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from otpsvc.handset.air import Air
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import Lots, Temper
from otpsvc.handset.wire import SimCard
from otpsvc.testing import ManualClock
from tests.handset.phones import FAST, PATIENCE_S, living, running, until
from tests.handset.server import MobileServer


async def last_error(temper: Temper, *, good: int = 0, has_service: bool = True) -> str | None:
    """What the phone says of the message after so many good ones."""
    async with MobileServer() as server, running(server, temper=temper) as phone:
        phone.radio.has_service = has_service
        for _ in range(good):
            await server.heard(server.device(), server.enqueue(server.device()), "Sent")
        message_id = server.enqueue(server.device())
        assert await server.heard(server.device(), message_id, "Failed") == ["Processed", "Failed"]
        assert len(phone.air.list()) == good
        error: str | None = server.device().reports[-1]["recipients"][0]["error"]
        return error


async def test_failures_are_told_in_the_words_of_phones() -> None:
    assert await last_error(Temper(), has_service=False) == "Send result: RESULT_ERROR_NO_SERVICE"
    assert await last_error(Temper(limit=2), good=2) == "Send result: RESULT_ERROR_LIMIT_EXCEEDED"
    assert await last_error(Temper(credit=1), good=1) == "not enough credit for this SMS"
    assert await last_error(Temper(fails=1, failures=("TTL expired",))) == "TTL expired"


async def test_the_own_limit_is_one_of_a_window() -> None:
    clock = ManualClock()
    async with MobileServer() as server, running(server, temper=Temper(limit=1), clock=clock) as phone:
        await server.heard(server.device(), server.enqueue(server.device()), "Sent")
        await server.heard(server.device(), server.enqueue(server.device()), "Failed")
        clock.advance(1801)
        await server.heard(server.device(), server.enqueue(server.device()), "Sent")
        assert len(phone.air.list()) == 2


async def test_a_number_that_is_switched_off_gets_nothing_and_nobody_says_so() -> None:
    async with MobileServer() as server, running(server) as phone:
        phone.air.switch_off("+33612345678")
        message_id = server.enqueue(server.device())
        await server.heard(server.device(), message_id, "Sent")
        phone.air.switch_on("+33612345678")
        other = server.enqueue(server.device())
        await server.heard(server.device(), other, "Delivered")
        assert server.device().way(message_id) == ["Processed", "Sent"]
        assert [sms.message_id for sms in phone.air.list()] == [other]


async def test_some_sms_never_arrive() -> None:
    async with MobileServer() as server, running(server, temper=Temper(undelivered=1)) as phone:
        assert await server.heard(server.device(), server.enqueue(server.device()), "Sent") == ["Processed", "Sent"]
        assert phone.air.list() == []


async def test_lost_doubled_and_late_reports() -> None:
    async with MobileServer() as server, running(server, temper=Temper(loses=1)) as phone:
        lost = server.enqueue(server.device())
        await until(lambda: len(phone.air.list()) == 1)
    assert server.device().states(lost) == []

    async with MobileServer() as server, running(server, temper=Temper(doubles=1, late_s=0.05)):
        twice = server.enqueue(server.device())
        await until(lambda: min(map(server.device().states(twice).count, ["Processed", "Sent", "Delivered"])) == 2)

    async with MobileServer() as server, running(server, temper=Temper(delays=1, late_s=0.3, delivery_s=0.01)):
        ids = [server.enqueue(server.device()) for _ in range(20)]
        for one in ids:
            await server.heard(server.device(), one, "Processed")
        assert any(server.device().states(one)[0] != "Processed" for one in ids)


def test_the_same_seed_is_the_same_phone() -> None:
    temper = Temper(seed=7, loses=0.2, doubles=0.2, delays=0.2, fails=0.1)

    def lots(name: str, temper: Temper = temper) -> Sequence[object]:
        drawn = Lots(temper, name)
        return [(drawn.report_fate(), drawn.is_so(temper.fails), drawn.about(1), drawn.failure()) for _ in range(50)]

    assert lots("a") == lots("a")
    assert lots("a") != lots("b")
    assert lots("a") != lots("a", Temper(seed=8, loses=0.2, doubles=0.2, delays=0.2, fails=0.1))


async def test_shares_are_shares() -> None:
    drawn = Lots(Temper(loses=0.25, doubles=0.5), "x")
    fates = [len(drawn.report_fate()) for _ in range(4000)]
    assert 800 < fates.count(0) < 1200
    assert 1300 < fates.count(2) < 1700


async def test_a_phone_without_battery_says_nothing_and_goes_on_where_it_stood() -> None:
    async with MobileServer() as server, running(server) as phone:
        device = server.device()
        phone.dies_at_next_pull = True
        message_id = server.enqueue(device)
        await until(lambda: not phone.is_on and not server.streams[device.id])
        assert server.farewells == ["broken"]
        assert (device.states(message_id), phone.air.list(), phone.is_connected) == ([], [], False)
        phone.switch_on()
        assert "Sent" in await server.heard(device, message_id, "Sent")
        assert len(phone.air.list()) == 1
        assert server.asked("POST", "/device") == 1


async def test_by_its_temper_a_phone_dies_and_comes_back() -> None:
    async with MobileServer() as server, running(server, temper=Temper(dies=0.5, away_s=0.02)) as phone:
        ids = [server.enqueue(server.device()) for _ in range(10)]
        for message_id in ids:
            await server.heard(server.device(), message_id, "Sent")
        assert sorted(sms.message_id for sms in phone.air.list()) == sorted(ids)
        assert "broken" in server.farewells


async def test_a_battery_that_is_taken_out_cuts_off_the_radio() -> None:
    async with MobileServer() as server, running(server, temper=Temper(slow_s=0.2)) as phone:
        message_id = server.enqueue(server.device())
        await server.heard(server.device(), message_id, "Processed")
        phone.switch_off()
        phone.switch_off()
        await asyncio.sleep(0.4)
        assert phone.air.list() == []
        phone.switch_on()
        await asyncio.wait_for(phone.connected(), PATIENCE_S)
        server.device().messages[message_id] = {"id": message_id, "phoneNumbers": ["+33612345678"], "message": "x"}
        server.call(server.device(), "MessageEnqueued")
        n_told = len(server.device().states(message_id))
        await until(lambda: len(server.device().states(message_id)) > n_told)
        assert server.device().way(message_id) == ["Processed"]
        assert phone.air.list() == []


async def test_without_network_the_radio_goes_on_and_what_is_to_be_told_waits() -> None:
    async with MobileServer() as server, running(server, temper=Temper(slow_s=0.1)) as phone:
        device = server.device()
        message_id = server.enqueue(device)
        await server.heard(device, message_id, "Processed")
        phone.lose_network()
        await until(lambda: len(phone.air.list()) == 1 and not phone.is_connected)
        await asyncio.sleep(0.2)
        assert device.states(message_id) == ["Processed"]
        assert server.farewells == ["broken"]
        phone.find_network()
        await server.heard(device, message_id, "Delivered")
        await asyncio.wait_for(phone.connected(), PATIENCE_S)


async def test_spells_without_network_come_and_go() -> None:
    temper = Temper(offline_every_s=0.05, offline_for_s=0.02)
    async with MobileServer() as server, running(server, temper=temper) as phone:
        await until(lambda: len(server.farewells) >= 3)
        ids = [server.enqueue(server.device()) for _ in range(5)]
        for message_id in ids:
            await server.heard(server.device(), message_id, "Sent")
        assert len(phone.air.list()) == 5


async def test_a_phone_can_be_cancelled_at_any_time_and_run_again() -> None:
    async with MobileServer() as server:
        account = server.account()
        phone = SimulatedPhone(server.url, login=account.login, password=account.password, pace=FAST)
        for turns in range(30):
            life = asyncio.create_task(phone.run(asyncio.Event()))
            await asyncio.sleep(turns / 1000)
            life.cancel()
            await asyncio.wait({life})
        async with living(phone):
            message_id = await asyncio.wait_for(_sent_by(phone, server), PATIENCE_S)
            assert [sms.message_id for sms in phone.air.list()] == [message_id]


async def _sent_by(phone: SimulatedPhone, server: MobileServer) -> str:
    await phone.connected()
    message_id = server.enqueue(server.device())
    await server.heard(server.device(), message_id, "Sent")
    return message_id


async def test_a_hundred_phones_share_the_air() -> None:
    air = Air()
    async with MobileServer() as server, contextlib.AsyncExitStack() as stack:
        phones = []
        for place in range(100):
            account = server.account(f"phone-{place}")
            phone = SimulatedPhone(
                server.url, login=account.login, password=account.password, name=f"Phone {place}", air=air, pace=FAST
            )
            await stack.enter_async_context(living(phone))
            phones.append(phone)
        await until(lambda: all(phone.is_connected for phone in phones))
        for device in server.devices.values():
            for _ in range(3):
                server.enqueue(device)
        await until(lambda: len(air.list()) == 300)
        await until(lambda: all(len(device.reports) >= 9 for device in server.devices.values()))
        assert {sms.device_id for sms in air.list()} == set(server.devices)


async def test_sims_are_told_and_asked_for() -> None:
    sims = (SimCard(slot_index=0, sim_number=1, carrier_name="One"), SimCard(slot_index=1, sim_number=2))
    async with MobileServer() as server, running(server, sims=sims, name="Two SIMs"):
        assert server.device().sims == [
            {"slotIndex": 0, "simNumber": 1, "carrierName": "One"},
            {"slotIndex": 1, "simNumber": 2},
        ]
        assert server.device().name == "Two SIMs"
        await server.heard(server.device(), server.enqueue(server.device(), simNumber=2), "Sent")


@pytest.mark.parametrize("kept", [3])
async def test_the_air_keeps_the_last_and_lets_watch(kept: int) -> None:
    air = Air(kept=kept)
    async with MobileServer() as server, running(server, air=air):
        with air.subscribe() as all_of_it, air.subscribe("+33612345670") as one_number:
            for digit in range(5):
                message_id = server.enqueue(server.device(), to=f"+3361234567{digit}", text=f"Code {digit}")
                await server.heard(server.device(), message_id, "Sent")
            assert [(await anext(all_of_it)).text for _ in range(5)] == [f"Code {digit}" for digit in range(5)]
            assert (await anext(one_number)).text == "Code 0"
        assert [sms.text for sms in air.list()] == ["Code 4", "Code 3", "Code 2"]
        assert [sms.text for sms in air.list("+33612345673")] == ["Code 3"]
        assert "Code" not in repr(air.list())
        assert "+336" not in repr(air.list())
