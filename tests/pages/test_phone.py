"""The phone's screen over plain HTTP: its live events, their end, its switch, its files, and who may see them."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from otpsvc.pages.phone import MOST_STREAMS, SHOWN_MESSAGES
from tests.http.service import error_of
from tests.pages.stand import Stand
from tests.pages.test_demo import FOREIGN_PAGES
from tests.programs import wait_until

EVENTS = "/dev/phone/events"


@pytest.fixture
def http(stand: Stand) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stand.url, timeout=20) as client:
        yield client


def told(lines: Iterator[str]) -> tuple[str, Any]:
    """The next event of a stream."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream has ended")


def refused(http: httpx.Client, headers: dict[str, str] | None = None) -> httpx.Response:
    """The answer to who asks for the events and must not have them: they would never end."""
    with http.stream("GET", EVENTS, headers=headers) as answer:
        assert answer.status_code != 200
        answer.read()
    return answer


def nobody_listens(stand: Stand) -> None:
    wait_until(lambda: stand.play.streams == 0, "the streams to end")


def test_a_stream_begins_with_all_and_tells_what_changes(http: httpx.Client, stand: Stand) -> None:
    stand.arrive("one 111111", message_id="msg_1")
    stand.arrive("two 222222", message_id="msg_2")
    wait_until(lambda: len(stand.air.list()) == 2)
    with http.stream("GET", EVENTS) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        lines = answer.iter_lines()
        name, shown = told(lines)
        assert (name, [sms["message_id"] for sms in shown]) == ("screen", ["msg_1", "msg_2"])
        assert shown[0].keys() == {"message_id", "to", "text", "device_id", "sent_at"}
        assert told(lines) == ("phones", [{"name": "Pixel", "is_online": True}])
        stand.arrive("three\n\ndata: 333333", message_id="msg_3")
        name, sms = told(lines)
        assert (name, sms["message_id"], sms["text"]) == ("sms", "msg_3", "three\n\ndata: 333333")
        stand.play.phones = {"Pixel": False}
        assert told(lines) == ("phones", [{"name": "Pixel", "is_online": False}])
    nobody_listens(stand)


def test_it_shows_the_newest_of_many(http: httpx.Client, stand: Stand) -> None:
    for number in range(SHOWN_MESSAGES + 5):
        stand.arrive(f"text {number}", message_id=f"msg_{number}")
    wait_until(lambda: len(stand.air.list()) == SHOWN_MESSAGES + 5)
    with http.stream("GET", EVENTS) as answer:
        _, shown = told(answer.iter_lines())
    assert [sms["text"] for sms in shown] == [f"text {number}" for number in range(5, SHOWN_MESSAGES + 5)]
    page = http.get("/dev/phone").text
    assert page.count('<li class="sms"><p class="sms-meta">To <bdi>+') == SHOWN_MESSAGES


def test_streams_end_when_the_service_does(http: httpx.Client, stand: Stand) -> None:
    with http.stream("GET", EVENTS) as answer:
        lines = answer.iter_lines()
        told(lines)
        stand.close()
        assert [line for line in lines if line.startswith("event: sms")] == []
    stand.reopen()
    nobody_listens(stand)


def test_no_more_streams_than_so_many(http: httpx.Client, stand: Stand) -> None:
    with httpx.Client(base_url=stand.url, limits=httpx.Limits(max_connections=None), timeout=20) as many:
        with ExitStack() as stack:
            read = [stack.enter_context(many.stream("GET", EVENTS)).iter_lines() for _ in range(MOST_STREAMS)]
            assert {told(lines)[0] for lines in read} == {"screen"}
            error_of(refused(http), 503, "SERVICE_UNAVAILABLE")
        nobody_listens(stand)
        with many.stream("GET", EVENTS) as answer:
            assert answer.status_code == 200
    nobody_listens(stand)


async def test_no_more_streams_than_so_many_where_all_come_at_once(stand: Stand) -> None:
    async def first_line() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
        writers.append(writer)
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: 127.0.0.1:{stand.port}\r\n\r\n".encode())
        return (await asyncio.wait_for(reader.readline(), 20)).decode().split()[1]

    writers: list[asyncio.StreamWriter] = []
    try:
        statuses = await asyncio.gather(*(first_line() for _ in range(MOST_STREAMS + 20)))
    finally:
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    assert sorted(statuses) == ["200"] * MOST_STREAMS + ["503"] * 20
    await asyncio.to_thread(nobody_listens, stand)


def test_a_phone_is_switched_by_its_name(http: httpx.Client, stand: Stand) -> None:
    stand.play.phones = {"Pixel": True, "Old one": False}
    switched = http.post("/dev/phone/switch", json={"name": "Old one", "on": True})
    assert switched.json() == [{"name": "Pixel", "is_online": True}, {"name": "Old one", "is_online": True}]
    for name in ("", "pixel", "Nobody's", "\u0000"):
        error_of(http.post("/dev/phone/switch", json={"name": name, "on": True}), 404, "RESOURCE_NOT_FOUND")
    error_of(http.post("/dev/phone/switch", json={"name": "x" * 65, "on": True}), 400, "VALIDATION_ERROR")
    assert stand.play.phones == {"Pixel": True, "Old one": True}


def test_no_stranger_sees_it(http: httpx.Client, stand: Stand) -> None:
    for headers in (*FOREIGN_PAGES, {"Host": "evil.example"}, {"Host": ""}):
        error_of(refused(http, headers), 404, "NOT_FOUND")
    for path in ("/dev/phone", "/dev/assets/phone.js"):
        error_of(http.get(path, headers={"Host": "evil.example"}), 404, "NOT_FOUND")
    for method in ("GET", "OPTIONS"):
        answer = http.request(method, "/dev/phone", headers={"Origin": "https://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert stand.play.streams == 0


def test_its_files_and_no_others(http: httpx.Client) -> None:
    types = {"look.css": "text/css", "demo.js": "text/javascript", "icon.svg": "image/svg+xml"}
    for name, media_type in types.items():
        answer = http.get(f"/dev/assets/{name}")
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, media_type)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in (
        "demo.html",
        "screen.html",
        "..%2Fdemo.py",
        "../phone.py",
        "%2e%2e/phone.py",
        "",
        "demo.js%00",
        "x" * 999,
    ):
        error_of(http.get(f"/dev/assets/{name}"), 404, "NOT_FOUND")
