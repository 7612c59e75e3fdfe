"""The developer's inbox: shows what was sent, to the developer alone, and only under `dev`."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from tests.http.service import Service, error_of, new_number, running, settings_for


def test_messages_come_newest_first_and_by_number(service: Service) -> None:
    one, other = new_number(), new_number()
    sent = [service.send(one, purpose="login"), service.send(other), service.send(one)]
    ids = [answer.json()["message_id"] for answer in sent]
    for message_id in ids:
        service.message(message_id)
    answer = service.http.get("/dev/inbox.json")
    assert answer.headers["content-type"] == "application/json"
    assert [entry["message_id"] for entry in answer.json()[:3]] == ids[::-1]
    mine = service.http.get("/dev/inbox.json", params={"to": one}).json()
    assert [entry["message_id"] for entry in mine] == [ids[2], ids[0]]
    for entry in mine:
        assert entry.keys() == {"message_id", "to", "text", "sent_at"}
        assert entry["to"] == one
        assert datetime.fromisoformat(entry["sent_at"]).tzinfo == UTC


@pytest.mark.parametrize(
    "spelling",
    ["%2B{0}", "+{0}", "{0}", "00{0}", "%20{0}%20", "%2B33%20(0)6%2011%2022%2033%2044", "tel:%2B{0}", "%EF%BC%8B{0}"],
)
def test_a_number_may_be_spelt_in_any_way(service: Service, spelling: str) -> None:
    digits = "33611223344"
    if not service.http.get("/dev/inbox.json", params={"to": f"+{digits}"}).json():
        service.message(service.send(f"+{digits}").json()["message_id"])
    found = service.http.get(f"/dev/inbox.json?to={spelling.format(digits)}")
    assert [entry["to"] for entry in found.json()] == [f"+{digits}"], found.text


@pytest.mark.parametrize("to", ["", "nobody", "%00", "%FF", "0612345678", "<script>", "+1", "x" * 5000, "33&to=44"])
@pytest.mark.parametrize("path", ["/dev/inbox.json", "/dev/inbox"])
def test_what_is_no_number_is_said_to_be_none(service: Service, path: str, to: str) -> None:
    answer = service.http.get(f"{path}?to={to}")
    error_of(answer, 400, "INVALID_PHONE_NUMBER")
    assert "<script>" not in answer.text


def test_a_number_without_messages_has_none(service: Service) -> None:
    assert service.http.get("/dev/inbox.json", params={"to": new_number()}).json() == []
    page = service.http.get("/dev/inbox", params={"to": new_number()})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Nothing yet" in page.text


def test_a_text_cannot_become_part_of_the_page(service: Service) -> None:
    template = "</p><script>alert(document.domain)</script><img src=x onerror=alert(1)> & {{code}} \"'"
    sent = service.send(template=template)
    code = service.code(sent)
    page = service.http.get("/dev/inbox").text
    assert "<script" not in page
    assert "<img" not in page
    assert f"&lt;script&gt;alert(document.domain)&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; &amp; {code}" in page


def test_its_page_may_run_nothing_at_all_and_be_framed_by_nobody(service: Service) -> None:
    policy = service.http.get("/dev/inbox").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in re.findall(r"script-src[^;]*", policy)[0]


FOREIGN = [
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil.example",
    "localhost.", "0x7f.1", "2130706433", "[::1", "[evil]", "", "127.0.0.1,evil.example",
]  # fmt: skip
OWN = ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8080", "10.1.2.3", "192.168.0.7:8080"]


@pytest.mark.parametrize("path", ["/dev/inbox", "/dev/inbox.json"])
def test_it_answers_to_no_name_that_a_stranger_could_point_here(service: Service, path: str) -> None:
    for host in FOREIGN:
        error_of(service.http.get(path, headers={"Host": host}), 404, "NOT_FOUND")
    assert service.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 404 ")
    for host in OWN:
        assert service.http.get(path, headers={"Host": host}).status_code == 200, host


def test_no_other_site_may_read_it(service: Service) -> None:
    for method in ("GET", "OPTIONS"):
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        answer = service.http.request(method, "/dev/inbox.json", headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_it_is_kept_by_no_cache(service: Service) -> None:
    for path in ("/dev/inbox", "/dev/inbox.json"):
        assert service.http.get(path).headers["cache-control"] == "no-store"


@pytest.fixture(scope="module")
def served(own_stores: tuple[str, str]) -> Iterator[Service]:
    with running(settings_for(*own_stores), has_inbox=False) as started:
        yield started


@pytest.mark.parametrize(
    "path", ["/dev", "/dev/", "/dev/inbox", "/dev/inbox.json", "/dev/inbox.json?to=%2B33612345678"]
)
def test_without_dev_there_is_no_inbox(served: Service, path: str) -> None:
    answer: httpx.Response = served.http.get(path)
    error_of(answer, 404, "NOT_FOUND")
