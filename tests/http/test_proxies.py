"""Who calls through a proxy: a proxy that is trusted is believed, nobody else, and no more than it has seen."""

from typing import Any

import pytest

from otpsvc.http.proxies import TrustedProxies
from tests.http.mobile_phone import basic
from tests.http.mobile_service import phone_settings, serving
from tests.http.service import running, settings_for

TRUSTED = ["10.0.0.5", "172.16.0.0/12", "2001:db8:1::/48"]
FOR, PROTO = b"x-forwarded-for", b"x-forwarded-proto"


async def seen(peer: str | None, *headers: tuple[bytes, bytes], trusted: list[str] = TRUSTED) -> tuple[Any, str]:
    """Address and scheme of a call as the application behind sees them."""
    scope: Any = {
        "type": "http",
        "client": None if peer is None else (peer, 4711),
        "scheme": "http",
        "headers": list(headers),
    }
    served: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope)

    await TrustedProxies(app, trusted)(scope, None, None)  # type: ignore[arg-type]  # nothing is received or sent
    assert served == [scope]
    assert served[0] is scope  # others write into it
    return scope["client"] and scope["client"][0], scope["scheme"]


@pytest.mark.parametrize("peer", ["10.0.0.6", "192.0.2.1", "2001:db8:2::1", "", "unix", None])
async def test_who_is_not_trusted_is_not_believed(peer: str | None) -> None:
    assert await seen(peer, (FOR, b"203.0.113.9"), (PROTO, b"https")) == (peer, "http")


@pytest.mark.parametrize("peer", ["10.0.0.5", "172.20.0.1", "::ffff:10.0.0.5", "2001:db8:1:2::3"])
async def test_a_trusted_proxy_is_believed(peer: str) -> None:
    assert await seen(peer, (FOR, b"203.0.113.9"), (PROTO, b"https")) == ("203.0.113.9", "https")


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        (["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # what the caller wrote stands before what the proxy saw
        (["10.0.0.5, 203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        (["203.0.113.9, 172.16.3.4"], "203.0.113.9"),  # through two proxies
        (["1.2.3.4, 203.0.113.9, 172.16.3.4, 172.16.3.5"], "203.0.113.9"),
        (["172.16.3.4, 172.16.3.5"], "172.16.3.4"),
        (["203.0.113.9:5060"], "203.0.113.9"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (["fe80::1%eth0"], "fe80::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        ([], "10.0.0.5"),
        (["", " , "], "10.0.0.5"),
        (["unknown"], "10.0.0.5"),
        (["203.0.113.9, _hidden"], "10.0.0.5"),
        (["203.0.113.9, unknown, 172.16.3.4"], "172.16.3.4"),
        (["\xff" * 20_000], "10.0.0.5"),
        (["1.2.3.4, " * 5000 + "203.0.113.9"], "203.0.113.9"),
    ],
)
async def test_the_last_address_that_is_not_trusted_is_the_callers(forwarded: list[str], caller: str) -> None:
    headers = [(FOR, value.encode("latin-1")) for value in forwarded]
    assert (await seen("10.0.0.5", *headers))[0] == caller


@pytest.mark.parametrize(
    ("given", "scheme"),
    [([b"HTTPS"], "https"), ([b"http", b"https"], "https"), ([b"wss"], "http"), ([b"ftp"], "http"), ([b""], "http")],
)
async def test_a_scheme_is_one_of_two(given: list[bytes], scheme: str) -> None:
    assert (await seen("10.0.0.5", *((PROTO, value) for value in given)))[1] == scheme


def call(service: Any, code: str, address: str) -> int:
    headers = {"Authorization": f"Code {code}", "X-Forwarded-For": address}
    body = {"name": "Pixel"}
    status: int = service.http.post("/mobile/v1/device", json=body, headers=headers).status_code
    return status


def test_behind_a_trusted_proxy_a_stranger_uses_up_his_own_tries_only(own_stores: tuple[str, str]) -> None:
    settings = phone_settings(*own_stores, OTPSVC_HTTP_TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8")
    with serving(settings) as service:
        forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        assert service.http.get("/mobile/v1/device", headers=forwarded).json()["externalIp"] == "203.0.113.9"
        opened = service.post("/v1/devices/pairings", {}, headers=forwarded).json()
        assert opened["server_url"] == f"https://127.0.0.1:{service.port}"
        wrong = f"{(int(opened['code']) + 1) % 1_000_000:06d}"
        # He puts a new address before his own at each try.
        tries = [call(service, wrong, f"198.51.100.{n}, 203.0.113.66") for n in range(12)]
        assert tries == [401] * 10 + [429] * 2
        headers = {"Authorization": basic(opened["login"], opened["password"]), **forwarded}
        answer = service.http.post("/mobile/v1/device", json={"name": "Pixel"}, headers=headers)
        assert answer.status_code == 201, answer.text


def test_without_the_setting_nobody_is_believed(own_stores: tuple[str, str]) -> None:
    with running(settings_for(*own_stores)) as service:
        forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        assert service.http.get("/mobile/v1/device", headers=forwarded).json()["externalIp"] == "127.0.0.1"
        opened = service.post("/v1/devices/pairings", {}, headers=forwarded).json()
        assert opened["server_url"].startswith("http://")
