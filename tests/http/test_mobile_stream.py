"""`/mobile/v1/events`: who is woken, through whichever process; what ends a stream, and what must not."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from otpsvc import serving as server
from otpsvc.app import House
from otpsvc.devices.model import Gone
from otpsvc.http import connections
from otpsvc.http.connections import PEER_ENDED
from otpsvc.http.mobile.stream import EventStream
from tests.http.cable import Cable
from tests.http.conftest import logged
from tests.http.mobile_doubles import DEVICE, Doubles, Flood
from tests.http.mobile_phone import KEEP_ALIVE, Phone, basic
from tests.http.mobile_service import (
    act,
    inside,
    new_caller,
    new_phone,
    paired,
    pairing,
    phone_settings,
    serving,
    shown,
)
from tests.http.service import PATIENCE_S, Caller, Service


@pytest.fixture(scope="module")
def service(own_stores: tuple[str, str]) -> Iterator[Service]:
    with serving(phone_settings(*own_stores)) as started:
        yield started


@pytest.fixture
def caller(service: Service) -> Caller:
    return new_caller(service)


def send(service: Service, caller: Caller) -> str:
    answer = service.send(caller=caller)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["message_id"])


async def comes_true(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.05)


def presence(service: Service, phone: Phone, caller: Caller) -> tuple[bool, str | None]:
    device = shown(service, phone, caller=caller)
    return device["is_online"], device["disconnect_reason"]


async def call(service: Service, phone: Phone, what: str) -> None:
    """Say a word to whoever holds the phone's streams."""
    await asyncio.to_thread(inside, service, lambda house: house.phones.calls.call(phone.id, what))


# -- what is told


@pytest.mark.usefixtures("unimpressed")
async def test_a_stream_begins_at_once_and_asks_proxies_to_let_it_through(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    async with phone.listen() as line:
        assert line.status == 200
        assert line.headers["content-type"] == "text/event-stream"
        assert line.headers["x-accel-buffering"] == "no"
        assert {"no-transform", "no-store"} <= set(line.headers["cache-control"].split(", "))
        assert "content-length" not in line.headers
        assert await line.heard() == KEEP_ALIVE
        # And again, by itself.
        assert [await line.heard() for _ in range(2)] == [KEEP_ALIVE] * 2
        assert presence(service, phone, caller) == (True, None)


async def test_a_phone_is_woken_for_each_message(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        for _ in range(2):
            message_id = send(service, caller)
            assert await line.event("MessageEnqueued") is None
            found = [each["id"] for each in await phone.pull()]
            assert found == [message_id]
            assert (await phone.report(message_id, "Sent")).status == 204


async def test_what_waits_is_told_at_once(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    await phone.pull()
    send(service, caller)
    await comes_true(lambda: shown(service, phone, caller=caller)["waiting"] == 1)
    async with phone.listen() as line:
        assert await line.heard() == ("MessageEnqueued", None)


async def test_every_word_that_is_called_becomes_its_event(service: Service, caller: Caller) -> None:
    phone, other = await paired(service, caller=caller), await paired(service, caller=caller)
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        await call(service, other, "settings")
        for word in ("nonsense", "gone", "cancelled msg_\n\ndata: x", "settings"):
            await call(service, phone, word)
        assert await line.event("MessageCancelled") == {"messageId": "msg_\n\ndata: x"}
        assert await line.event("SettingsUpdated") is None
        # `gone` was not so: the stream goes on.
        await call(service, phone, "enqueued")
        assert await line.event("MessageEnqueued") is None


async def test_a_message_offered_in_one_process_wakes_the_phone_in_another(own_stores: tuple[str, str]) -> None:
    settings = phone_settings(*own_stores)
    with serving(settings, delivers=False) as holder, serving(settings) as deliverer:
        caller = new_caller(holder)
        phone = await paired(holder, caller=caller)
        async with phone.listen() as line:
            assert await line.heard() == KEEP_ALIVE
            message_id = send(deliverer, caller)
            await line.event("MessageEnqueued")
            assert [each["id"] for each in await phone.pull()] == [message_id]


# -- what ends it


async def test_nobody_else_listens(service: Service) -> None:
    for authorization in ("", "Bearer x", "Bearer dt_" + "0" * 60):
        async with Phone(service.port, authorization).listen() as line:
            assert line.status == 401


@pytest.fixture(scope="module")
def silent(own_stores: tuple[str, str]) -> Iterator[tuple[Service, Service]]:
    """Two processes that would say nothing on an open stream, and look at nothing, for as long as any test waits."""
    settings = phone_settings(*own_stores, OTPSVC_DEVICES_KEEP_ALIVE_S=300, OTPSVC_DEVICES_ONLINE_S=600)
    with serving(settings, delivers=False) as holder, serving(settings, delivers=False) as other:
        yield holder, other


@pytest.mark.parametrize("word", ["disable", "delete", "rotate-token"])
async def test_a_device_that_is_out_is_told_nothing_more(silent: tuple[Service, Service], word: str) -> None:
    holder, other = silent
    caller = new_caller(other)
    phone = await paired(holder, caller=caller)
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        act(other, phone, word, caller=caller)
        await line.ended()


async def test_a_phone_that_registers_again_loses_its_old_stream(service: Service, caller: Caller) -> None:
    opened, phone = pairing(service, caller=caller), new_phone(service)
    await phone.register(f"Code {opened['code']}")
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        before = phone.authorization
        answer = await phone.register(basic(phone.registered["login"], phone.registered["password"]))
        assert (answer.status, phone.authorization == before) == (201, False)
        await line.ended()
    async with phone.listen() as line:
        assert line.status == 200


async def test_the_oldest_of_too_many_streams_goes(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    async with contextlib.AsyncExitStack() as stack:
        lines = []
        for _ in range(4):
            lines.append(await stack.enter_async_context(phone.listen()))
            assert await lines[-1].heard() == KEEP_ALIVE
        await lines[0].ended()
        await call(service, phone, "settings")
        for line in lines[1:]:
            await line.event("SettingsUpdated")
        assert presence(service, phone, caller) == (True, None)


async def test_a_stream_that_breaks_is_a_lost_connection(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        await line.break_off()
        await comes_true(lambda: presence(service, phone, caller) == (False, "CONNECTION_LOST"))


async def test_a_stream_that_the_phone_ends_leaves_it_offline(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        await line.hang_up()
        await comes_true(lambda: presence(service, phone, caller) == (False, "APP_CLOSED"))


@pytest.mark.parametrize(("has_said_goodbye", "why"), [(True, Gone.APP_CLOSED), (False, Gone.CONNECTION_LOST)])
async def test_a_connection_tells_a_goodbye_from_a_loss(has_said_goodbye: bool, why: Gone) -> None:
    house, sent = Doubles(), []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def put(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", PEER_ENDED: True} if has_said_goodbye else {"type": "http"}
    async with asyncio.timeout(PATIENCE_S):
        await EventStream(house.streams(), DEVICE, "Bearer x")(scope, receive, put)
    assert [why for _, _, why in house.left_streams] == [why]
    assert house.counted == ["closed" if has_said_goodbye else "broken"]


@pytest.mark.parametrize("n_turns", range(6))
async def test_a_word_that_comes_as_a_stream_ends_does_not_keep_it(n_turns: int) -> None:
    """What tells the store that the line is open must end with it, wherever the two meet."""
    house, sent = Doubles(), []

    async def receive() -> Any:
        await is_gone.wait()
        return {"type": "http.disconnect"}

    async def put(message: Any) -> None:
        sent.append(message)

    is_gone = asyncio.Event()
    stream = EventStream(house.streams(), DEVICE, "Bearer x")
    scope: Any = {"type": "http"}
    line = asyncio.create_task(stream(scope, receive, put))
    async with asyncio.timeout(PATIENCE_S):
        while len(sent) < 2:  # noqa: ASYNC110 - what is waited for is what a double was told
            await asyncio.sleep(0)
        is_gone.set()
        for _ in range(n_turns):
            await asyncio.sleep(0)
        stream._is_due.set()
        await line
    assert house.counted == ["broken"]


async def test_one_of_two_streams_may_end(service: Service, caller: Caller) -> None:
    phone = await paired(service, caller=caller)
    async with phone.listen() as first, phone.listen() as second:
        assert [await line.heard() for line in (first, second)] == [KEEP_ALIVE] * 2
        await first.break_off()
        assert [await second.heard() for _ in range(2)] == [KEEP_ALIVE] * 2
        assert presence(service, phone, caller) == (True, None)


async def test_streams_do_not_hold_up_the_end_of_a_service(
    own_stores: tuple[str, str], watched_log: pytest.LogCaptureFixture
) -> None:
    settings = phone_settings(*own_stores)
    with serving(settings) as other:
        with serving(settings, delivers=False) as service:
            caller = new_caller(service)
            phones = [await paired(service, caller=caller) for _ in range(3)]
            lines = [phone.listen() for phone in phones]
            for line in lines:
                await line.__aenter__()
                assert await line.heard() == KEEP_ALIVE
        # Each ended in good order, and none of the phones is said to be lost: they come back.
        for line in lines:
            await line.ended()
            await line.hang_up()
        assert [presence(other, phone, caller) for phone in phones] == [(True, None)] * 3
    assert [record.getMessage() for record in logged(watched_log, logging.WARNING)] == []


# -- what must not end it


async def test_a_store_that_is_away_for_a_moment_ends_nothing(own_stores: tuple[str, str], redis_cable: Cable) -> None:
    socket = f"unix://{quote(str(redis_cable.directory))}/{urlsplit(own_stores[0]).path.rpartition('/')[2]}?db=0"
    settings = phone_settings(socket, own_stores[1], OTPSVC_REDIS_TIMEOUT_S=0.5)
    with serving(settings, delivers=False, drains=False) as service:
        caller = new_caller(service)
        phone = await paired(service, caller=caller)
        async with phone.listen() as line:
            assert await line.heard() == KEEP_ALIVE
            redis_cable.cut()
            refused = await new_phone(service).call("GET", "/message", authorization=phone.authorization)
            assert (refused.status, refused.code) == (503, "SERVICE_UNAVAILABLE")
            # The line is kept meanwhile.
            assert [await line.heard() for _ in range(3)] == [KEEP_ALIVE] * 3
            redis_cable.plug_in()
            # Whoever was away is told to look.
            await line.event("MessageEnqueued")
            await call(service, phone, "settings")
            assert await line.event("SettingsUpdated") is None


# -- who does not read


async def test_a_phone_that_does_not_read_is_left(own_stores: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(server, "_LOOK_AT_CONNECTIONS_EVERY_S", 0.05)
    flood = Flood()

    def flooded(house: House) -> House:
        calls: Any = flood
        return dataclasses.replace(house, phones=dataclasses.replace(house.phones, calls=calls))

    with serving(phone_settings(*own_stores), delivers=False, change=flooded) as service:
        caller = new_caller(service)
        phone = await paired(service, caller=caller)
        async with phone.listen() as line:
            assert line.status == 200
            await comes_true(lambda: not presence(service, phone, caller)[0])
        said = flood.said
        # What had been said for it fits into the buffers of a connection; and nothing goes on.
        assert said < 1000
        await asyncio.sleep(0.2)
        assert flood.said == said


async def test_a_stream_is_counted_once_when_it_ends(service: Service, caller: Caller) -> None:
    def counted() -> dict[str, float]:
        lines = service.http.get("/metrics").text.splitlines()
        found = [line.rpartition(" ") for line in lines if 'call="mobile_stream"' in line and "calls_total" in line]
        return {name: float(value) for name, _, value in found}

    before = counted()
    phone = await paired(service, caller=caller)
    async with phone.listen() as line:
        assert await line.heard() == KEEP_ALIVE
        assert counted() == before
        await line.break_off()
        await comes_true(lambda: sum(counted().values()) == sum(before.values()) + 1)
