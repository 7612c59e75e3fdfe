"""Which addresses a sender may call: the guard between a URL that somebody typed and the network we stand in.

A name says nothing about where it leads, so the addresses behind it are judged, all of them, at every connection
(`pinned.py`); what is said about a URL here at start-up only spares people a surprise later. Never judge a spelling.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol
from urllib.parse import urlsplit

from otpsvc.errors import ConfigurationError

# Public by their number and of a special use all the same, also where an older Python does not know it: addresses of
# protocols (a cloud keeps its metadata there), the way into 6to4 tunnels, and one that leads to another cloud's host.
_SPECIAL_V4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Tunnels: what they lead to is written inside, and nobody's gateway lives there.
_TUNNELS = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))


class NotSent(Exception):
    """Surely nothing left this machine. `reason` is a fixed phrase of ours, without any address."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AddressRefused(NotSent):
    """The URL leads to an address that was not allowed."""


class Resolver(Protocol):
    """Turns a host into addresses; raises OSError where there is none."""

    async def __call__(self, host: str, port: int, /) -> Sequence[str]:
        """Return the addresses as text, best first."""
        ...


class SystemResolver:
    """The machine's own resolver, on threads of its own so that one gateway's slow names hold up nobody else's."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return what the system says, also for the odd spellings of numbers that it takes for addresses."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Take no more questions; a thread that still waits for an answer ends with it."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def allowed_addresses(host: str, port: int, resolver: Resolver, *, allow_private: bool) -> Sequence[str]:
    """Return the addresses of a host, at least one, to connect to without asking again.

    Raises NotSent if there is none and AddressRefused if any of them is not allowed. A resolver that hangs is the
    caller's to give up.
    """
    literal = literal_address(host)
    try:
        addresses = [literal] if literal else await resolver(host, port)
    except OSError:
        raise NotSent("name not found") from None
    if not addresses:
        raise NotSent("name not found")
    # One forbidden address among allowed ones is how a name is made to lead inside at the second look.
    if not allow_private and not all(map(is_public, addresses)):
        raise AddressRefused("address not allowed")
    return addresses


def is_public(address: str) -> bool:
    """Say whether an address, as a resolver gives it, is one of the open internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is None:
            return ip in _UNICAST_V6 and ip.is_global and not any(ip in tunnel for tunnel in _TUNNELS)
        ip = inner
    return ip.is_global and not ip.is_multicast and not any(ip in special for special in _SPECIAL_V4)


def literal_address(host: str) -> str | None:
    """Return the address that a host already is, in its usual spelling; None for a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        # What the system's resolver would read as an address: 127.1, 2130706433, 0177.0.0.1, 0x7f000001.
        return socket.inet_ntoa(socket.inet_aton(host)) if host[:1].isdigit() else None
    except (OSError, ValueError):
        return None


def check_url(url: str, *, allow_private: bool, key: str = "url") -> str:
    """Check a base URL of the settings and return it without the slash at its end.

    Raises ConfigurationError that begins with `key` (for example `senders.phones.url`) and never repeats the URL.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{key} is not a URL") from None
    if parts.scheme not in {"https", "http"} or not host or port == 0:
        raise ConfigurationError(f"{key} must be a URL that begins with https://")
    if parts.scheme == "http" and not allow_private:
        raise ConfigurationError(f"{key} must begin with https:// (http:// is for private networks: allow_private)")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{key} must not hold a user name or password; there are settings for them")
    if "#" in url:
        raise ConfigurationError(f"{key} must not hold a # part")
    if any(character.isspace() or not character.isprintable() for character in url.strip()):
        raise ConfigurationError(f"{key} must not hold spaces or control characters")
    address = literal_address(host)
    if not allow_private and (host == "localhost" or (address is not None and not is_public(address))):
        raise ConfigurationError(f"{key} leads into a private network; set allow_private = true if that is meant")
    return url.strip().rstrip("/")


def _look_up(host: str, port: int) -> list[str]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("not a name") from None
    return [str(answer[4][0]) for answer in answers]
