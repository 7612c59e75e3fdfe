"""The phone against the service itself: pairing, delivery, and what a retired token or a passphrase comes to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from otpsvc.handset.pace import Pace
from otpsvc.handset.simulated import SimulatedPhone
from otpsvc.handset.temper import Temper
from tests.handset.phones import PATIENCE_S, living, until
from tests.http.mobile_service import new_caller, phone_settings, serving
from tests.http.service import Caller, Service, new_number

BRISK = Pace(scale=0.1)


@pytest.fixture
def service(redis_url: str, database_url: str) -> Iterator[Service]:
    with serving(phone_settings(redis_url, database_url)) as running:
        yield running


class Desk:
    """A client with one phone, seen from its API; every call is made off the loop that the phone lives in."""

    def __init__(self, service: Service, caller: Caller, phone: SimulatedPhone, heard: list[str]) -> None:
        self._service = service
        self._caller = caller
        self.phone = phone
        self.heard = heard

    async def send(self) -> dict[str, Any]:
        answer = await asyncio.to_thread(self._service.send, new_number(), caller=self._caller)
        assert answer.status_code == 200, answer.text
        sent: dict[str, Any] = answer.json()
        return sent

    async def status(self, sent: dict[str, Any]) -> str:
        answer = await asyncio.to_thread(self._service.get, f"/v1/messages/{sent['message_id']}", caller=self._caller)
        status: str = answer.json()["status"]
        return status

    async def reaches(self, sent: dict[str, Any], status: str) -> None:
        for _ in range(200):
            if await self.status(sent) == status:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never {status}: {await self.status(sent)}")

    async def encrypts(self, passphrase: str) -> None:
        """Set the passphrase, and let the service learn of it at once: it knows a phone anew that registers anew."""
        await self.tell("PATCH", passphrase=passphrase)
        await self.registers_anew()

    async def registers_anew(self) -> None:
        n_before = len(self.registrations)
        await self.tell("rotate-token")
        await until(lambda: len(self.registrations) > n_before, "another registration")
        await asyncio.wait_for(self.phone.connected(), PATIENCE_S)

    @property
    def registrations(self) -> list[str]:
        return [line for line in self.heard if "registered" in line]

    async def tell(self, what: str, **body: object) -> None:
        """Do something to the phone through the API."""
        path = f"/v1/devices/{self.phone.device_id}"
        headers = self._caller.headers
        if what in {"PATCH", "DELETE"}:
            answer = await asyncio.to_thread(self._service.http.request, what, path, json=body or None, headers=headers)
        else:
            answer = await asyncio.to_thread(self._service.post, f"{path}/{what}", {}, caller=self._caller)
        assert answer.is_success, answer.text


@contextlib.asynccontextmanager
async def desk(service: Service, **given: Any) -> AsyncIterator[Desk]:
    caller = new_caller(service)
    answer = await asyncio.to_thread(service.post, "/v1/devices/pairings", {}, caller=caller)
    pairing = answer.json()
    heard: list[str] = []
    phone = SimulatedPhone(
        f"http://127.0.0.1:{service.port}",
        **({"code": pairing["code"], "pace": BRISK, "news": heard.append} | given),
    )
    async with living(phone):
        await asyncio.wait_for(phone.connected(), PATIENCE_S)
        yield Desk(service, caller, phone, heard)


async def test_a_code_goes_out_through_a_phone(service: Service) -> None:
    async with desk(service) as here:
        sent = await here.send()
        await here.reaches(sent, "delivered")
        [sms] = here.phone.air.list()
        assert sms.message_id == sent["message_id"]
        assert sms.device_id == here.phone.device_id


async def test_with_a_passphrase_the_phone_reads_what_the_service_wrote(service: Service) -> None:
    async with desk(service, passphrase="correct horse") as here:
        await here.encrypts("correct horse")
        sent = await here.send()
        await here.reaches(sent, "delivered")
        [sms] = here.phone.air.list()
        assert sms.to.startswith("+336")
        assert any(letter.isdigit() for letter in sms.text)


async def test_with_another_passphrase_nothing_is_sent(service: Service) -> None:
    async with desk(service, passphrase="another") as here:
        await here.encrypts("correct horse")
        await here.reaches(await here.send(), "failed")
        assert here.phone.air.list() == []


async def test_a_rotated_token_costs_nothing_but_a_moment(service: Service) -> None:
    async with desk(service) as here:
        first = here.phone.device_id
        await here.registers_anew()
        assert here.phone.device_id == first
        await here.reaches(await here.send(), "delivered")


@pytest.mark.parametrize("how", ["DELETE", "disable"])
async def test_a_phone_that_was_put_out_stays_out(service: Service, how: str) -> None:
    async with desk(service) as here:
        await here.tell(how)
        await until(lambda: sum("answered 401" in line for line in here.heard) >= 3)
        assert not here.phone.is_connected
        assert len(here.registrations) == 1


async def test_reports_that_are_lost_doubled_and_late_still_come_to_an_end(service: Service) -> None:
    temper = Temper(seed=3, doubles=0.5, delays=0.5, late_s=0.3)
    async with desk(service, temper=temper) as here:
        sent = [await here.send() for _ in range(8)]
        for one in sent:
            await here.reaches(one, "delivered")
        assert len(here.phone.air.list()) == 8
