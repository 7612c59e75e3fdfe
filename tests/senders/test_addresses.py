"""Where a sender may connect to: what resolvers, spellings and certificates are tried with to lead it elsewhere."""

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from otpsvc.errors import ConfigurationError
from otpsvc.senders.addresses import check_url, is_public
from otpsvc.senders.http_client import AddressRefused, GatewayClient, NotSent
from otpsvc.senders.pinned import PinnedBackend, connected_socket
from otpsvc.testing import GatewayDouble
from tests.gateways.certificates import certificate_for

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104 - an address to refuse
    "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%lo",
    "fc00::1", "fd12::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0.0.0.0",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1", "",
    "name", "192.0.0.192", "192.0.0.9", "192.88.99.1", "168.63.129.16", "::ffff:192.0.0.192", "64:ff9b::c000:c0",
]  # fmt: skip
PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


class Names:
    """A resolver that answers from a list per name, one list after another, the last one from then on."""

    def __init__(self, **answers: list[Sequence[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        lists = self.answers.get(host.partition(".")[0])
        if not lists:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return lists.pop(0) if len(lists) > 1 else lists[0]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_of_the_open_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [address for address in PRIVATE if address])
async def test_names_that_lead_inside_are_refused(address: str) -> None:
    for addresses in ([address], ["93.184.215.14", address], [address, "93.184.215.14"]):
        calls = GatewayClient(resolver=Names(inside=[addresses]))
        await calls.open()
        with pytest.raises(AddressRefused, match="address not allowed"):
            await calls.request("POST", "https://inside.example/", json={})
        await calls.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::ffff:127.0.0.1]", "localhost"],
)
async def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    async with GatewayDouble() as gateway:
        calls = GatewayClient()
        await calls.open()
        with pytest.raises(AddressRefused):
            await calls.request("POST", f"https://{host}:{gateway.url.rsplit(':', 1)[1]}/", json={})
        await calls.close()
        assert gateway.requests == []


@pytest.mark.parametrize(
    "url", ["http://gateway.example/", "ftp://gateway.example/", "file:///etc/passwd", "", "https:///x"]
)
async def test_only_https_leaves_without_leave(url: str) -> None:
    calls = GatewayClient(resolver=Names(gateway=[["93.184.215.14"]]))
    await calls.open()
    with pytest.raises(AddressRefused):
        await calls.request("POST", url, json={})
    await calls.close()


async def test_a_user_name_in_the_url_is_refused() -> None:
    calls = GatewayClient()
    await calls.open()
    with pytest.raises(AddressRefused):
        await calls.request("POST", "https://gateway.example@127.0.0.1/", json={})
    await calls.close()


async def test_a_name_is_resolved_once_for_a_connection_and_connected_to_what_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resolver would lead inside at the second question: nobody asks it, neither we nor the system behind us."""
    names = Names(gateway=[["93.184.215.14"], ["127.0.0.1"]])
    backend = PinnedBackend(names, allow_private=False)
    connected: list[tuple[str, int]] = []

    async def connect(host: str, port: int, *_: object) -> None:
        connected.append((host, port))

    monkeypatch.setattr(backend._network, "connect_tcp", connect)
    await backend.connect_tcp("gateway.example", 443, 1.0)
    assert (names.asked, connected) == (["gateway.example"], [("93.184.215.14", 443)])
    with pytest.raises(AddressRefused):
        await backend.connect_tcp("gateway.example", 443, 1.0)
    assert len(connected) == 1


async def test_the_next_address_is_tried_where_one_refuses() -> None:
    async with GatewayDouble() as gateway:
        port = gateway.url.rsplit(":", 1)[1]
        calls = GatewayClient(allow_private=True, resolver=Names(gateway=[["127.0.0.2", "127.0.0.1"]]))
        await calls.open()
        assert (await calls.request("POST", f"http://gateway.example:{port}/", json={})).status == 200
        await calls.close()
        assert gateway.requests[0].headers["host"] == f"gateway.example:{port}"


async def test_a_family_that_leads_nowhere_does_not_hide_the_other() -> None:
    async with GatewayDouble() as gateway, AsyncExitStack() as ends:
        port = int(gateway.url.rsplit(":", 1)[1])
        names = Names(gateway=[["::1", "fd00::1", "fd00::2", "127.0.0.1"]])
        calls = GatewayClient(allow_private=True, resolver=names)
        ends.push_async_callback(calls.close)
        await calls.open()
        assert (await calls.request("POST", f"http://gateway.example:{port}/", json={})).status == 200
        with await connected_socket("gateway.example", port, names, allow_private=True) as connection:
            assert connection.getpeername()[0] == "127.0.0.1"


@pytest.mark.parametrize("answer", [None, []])
async def test_a_name_that_is_not_found(answer: Sequence[str] | None) -> None:
    calls = GatewayClient(resolver=Names(**({} if answer is None else {"gateway": [answer]})))
    await calls.open()
    with pytest.raises(NotSent, match="name not found") as caught:
        await calls.request("POST", "https://gateway.example/", json={})
    assert type(caught.value) is NotSent
    await calls.close()


async def test_the_systems_resolver_asks_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **_: object) -> list[object]:
        assert host == "gateway.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    calls = GatewayClient()
    await calls.open()
    with pytest.raises(AddressRefused):
        await calls.request("POST", "https://gateway.example/", json={})
    await calls.close()


async def test_the_certificate_must_be_the_names_not_the_addresses(tmp_path: Path) -> None:
    server, trusting = certificate_for("gateway.example", tmp_path)
    async with GatewayDouble(tls=server) as gateway:
        port = gateway.url.rsplit(":", 1)[1]
        names = Names(gateway=[["127.0.0.1"]], other=[["127.0.0.1"]])
        calls = GatewayClient(allow_private=True, tls=trusting, resolver=names)
        await calls.open()
        assert (await calls.request("POST", f"https://gateway.example:{port}/", json={})).status == 200
        # A connection that is open to the same address under the right name must not serve the wrong one.
        with pytest.raises(NotSent):
            await calls.request("POST", f"https://other.example:{port}/", json={})
        await calls.close()
        strangers = GatewayClient(allow_private=True, resolver=names)
        await strangers.open()
        with pytest.raises(NotSent):
            await strangers.request("POST", f"https://gateway.example:{port}/", json={})
        await strangers.close()
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("address", [str(ipaddress.IPv4Address("127.0.0.1"))])
async def test_a_certificate_of_a_name_does_not_serve_for_an_address(address: str, tmp_path: Path) -> None:
    server, trusting = certificate_for("gateway.example", tmp_path)
    async with GatewayDouble(tls=server) as gateway:
        calls = GatewayClient(allow_private=True, tls=trusting)
        await calls.open()
        with pytest.raises(NotSent):
            await calls.request("POST", f"https://{address}:{gateway.url.rsplit(':', 1)[1]}/", json={})
        await calls.close()
        assert gateway.requests == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "https://"),
        ("gateway.example", "https://"),
        ("ftp://gateway.example", "https://"),
        ("https://", "https://"),
        ("https://gateway.example:99999", "not a URL"),
        ("https://[::1", "not a URL"),
        ("http://gateway.example", "allow_private"),
        ("https://me:secret@gateway.example", "user name or password"),
        ("https://gateway.example/#x", "# part"),
        ("https://gateway.example/a b", "spaces"),
        ("https://127.0.0.1/", "private network"),
        ("https://127.1/", "private network"),
        ("https://2130706433/", "private network"),
        ("https://[::ffff:10.0.0.1]/", "private network"),
        ("https://localhost:8080", "private network"),
        ("https://169.254.169.254/latest", "private network"),
    ],
)
def test_addresses_that_cannot_work_are_told_at_start(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        check_url(url, allow_private=False, key="senders.x.url")
    assert str(caught.value).startswith("senders.x.url")
    assert "secret" not in str(caught.value)


def test_addresses_that_can() -> None:
    assert check_url(" https://gateway.example/v1/ ", allow_private=False) == "https://gateway.example/v1"
    assert check_url("http://192.168.1.20:8080", allow_private=True) == "http://192.168.1.20:8080"
    assert check_url("https://3cx.example", allow_private=False) == "https://3cx.example"
