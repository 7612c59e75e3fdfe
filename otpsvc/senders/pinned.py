"""Connections to gateways: every name is resolved here, judged, and connected to by the very address that was judged.

Between judging and connecting nobody asks the resolver again, so an answer that changes in between changes nothing.
The name itself stays where it belongs, in the Host header and in the certificate check: pools and TLS see names only.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore2

from otpsvc.senders.addresses import NotSent, Resolver, allowed_addresses

# A name with a dead address among its first must not cost the whole time-out, nor one with a hundred.
_MOST_ADDRESSES = 3
_CONNECT_S = 3.0


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """The network as our pools see it: names that lead to allowed addresses."""

    def __init__(self, resolver: Resolver, *, allow_private: bool, most_bytes: int = 1_048_576) -> None:
        """Bound what may be heard as one answer to `most_bytes`, its head and framing included."""
        self._most_bytes = most_bytes
        self._resolver = resolver
        self._allow_private = allow_private
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to one of the addresses behind `host`; raise AddressRefused if any of them is not allowed."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await allowed_addresses(host, port, self._resolver, allow_private=self._allow_private)
        except TimeoutError:
            raise httpcore2.ConnectTimeout("resolver") from None
        chosen = _worth_trying(addresses)
        share_s = None if timeout is None else timeout / len(chosen)
        for address in chosen[:-1]:
            try:
                return await self._connect(address, port, share_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._connect(chosen[-1], port, share_s, local_address, socket_options)

    async def _connect(
        self,
        address: str,
        port: int,
        timeout_s: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> "HeardStream":
        stream = await self._network.connect_tcp(address, port, timeout_s, local_address, socket_options)
        return HeardStream(stream, self._most_bytes)


class HeardStream(httpcore2.AsyncNetworkStream):
    """A connection that knows how much was heard on it since we spoke last.

    A gateway that answers twice, or more than it announced, leaves words behind that would be read as the answer to the
    next question, and that one's answer as the next but one's: every message would be told another's end. One that says
    "continue" for ever would keep the whole process reading.
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream, most_bytes: int) -> None:
        self._inner = inner
        self._most_bytes = most_bytes
        self._n_heard = 0

    @property
    def has_heard(self) -> bool:
        """Whether anything came since the last write."""
        return self._n_heard > 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the library's own signature
        """Read, and count it; raise ReadError where it is more than any answer of ours takes."""
        data = await self._inner.read(max_bytes, timeout)
        self._n_heard += len(data)
        if self._n_heard > self._most_bytes:
            raise httpcore2.ReadError("too much")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the library's own signature
        """Write; what was heard before cannot be the answer."""
        self._n_heard = 0
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
    ) -> "HeardStream":
        """Go on over TLS, with the certificate of `server_hostname`."""
        return HeardStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._most_bytes)

    def get_extra_info(self, info: str) -> Any:
        """Tell what the connection beneath tells."""
        return self._inner.get_extra_info(info)


def _worth_trying(addresses: Sequence[str]) -> Sequence[str]:
    """Return the first few, of both families where there are two: one of them may lead nowhere from here."""
    first, *rest = addresses
    others = [address for address in rest if (":" in address) != (":" in first)][:1]
    return [first, *others, *(address for address in rest if address not in others)][:_MOST_ADDRESSES]


async def connected_socket(host: str, port: int, resolver: Resolver, *, allow_private: bool) -> socket.socket:
    """Connect to one of the addresses behind `host`, for protocols other than HTTP; the caller bounds and closes it.

    Raises NotSent, or AddressRefused if any of the addresses is not allowed.
    """
    loop = asyncio.get_running_loop()
    for address in _worth_trying(await allowed_addresses(host, port, resolver, allow_private=allow_private)):
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await loop.sock_connect(connection, (address, port))
        except OSError:
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise NotSent("connection refused")
