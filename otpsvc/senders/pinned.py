"""Connections to gateways: every name is resolved here, judged, and connected to by the very address that was judged.

Between judging and connecting nobody asks the resolver again, so an answer that changes in between changes nothing.
The name itself stays where it belongs, in the Host header and in the certificate check: pools and TLS see names only.
"""

import asyncio
import socket
from collections.abc import Iterable

import httpcore2

from otpsvc.senders.addresses import NotSent, Resolver, allowed_addresses

# A name with a dead address among its first must not cost the whole time-out, nor one with a hundred.
_MOST_ADDRESSES = 3
_CONNECT_S = 3.0


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """The network as our pools see it: names that lead to allowed addresses."""

    def __init__(self, resolver: Resolver, *, allow_private: bool) -> None:
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
        chosen = addresses[:_MOST_ADDRESSES]
        share_s = None if timeout is None else timeout / len(chosen)
        for address in chosen[:-1]:
            try:
                return await self._network.connect_tcp(address, port, share_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._network.connect_tcp(chosen[-1], port, share_s, local_address, socket_options)


async def connected_socket(host: str, port: int, resolver: Resolver, *, allow_private: bool) -> socket.socket:
    """Connect to one of the addresses behind `host`, for protocols other than HTTP; the caller bounds and closes it.

    Raises NotSent, or AddressRefused if any of the addresses is not allowed.
    """
    loop = asyncio.get_running_loop()
    for address in (await allowed_addresses(host, port, resolver, allow_private=allow_private))[:_MOST_ADDRESSES]:
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
