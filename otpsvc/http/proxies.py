"""Who calls through a proxy: the address and the scheme that the caller used, where a proxy that is trusted tells them.

Anybody can write these headers, so they are read only while whoever has written the last of them is trusted, from the
last entry backwards: nothing that stands before an address that is not trusted is ever looked at. Without trusted
proxies nothing is read at all.
"""

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """Wraps an ASGI application. `trusted`: addresses or networks, well-formed."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._networks = [ipaddress.ip_network(one) for one in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == ScopeType.HTTP and (client := scope["client"]) is not None:
            peer = _address_in(client[0])
            if peer is not None and self._trusts(peer):
                # In place: others hold this very scope and write into it what becomes of the connection.
                scope["client"] = (str(self._caller(peer, _values(scope, b"x-forwarded-for"))), 0)
                schemes = _values(scope, b"x-forwarded-proto")
                if schemes and schemes[-1].lower() in ("http", "https"):
                    scope["scheme"] = schemes[-1].lower()
        await self._app(scope, receive, send)

    def _caller(self, peer: _Address, hops: list[str]) -> _Address:
        """Go back from hop to hop for as long as the last one is trusted to say who came before it."""
        caller = peer
        for hop in reversed(hops):
            before = _address_in(hop)
            if before is None or not self._trusts(caller):
                break
            caller = before
        return caller

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _values(scope: Scope, wanted: bytes) -> list[str]:
    """Return the entries of a header that is a list, in their order."""
    values = b",".join(value for name, value in scope["headers"] if name == wanted).decode("latin-1")
    return [entry for entry in (part.strip() for part in values.split(",")) if entry]


def _address_in(text: str) -> _Address | None:
    """Read an address, with a port or without; None for what is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket for both families names an IPv4 caller so.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
