"""Who may open the pages that show codes: the developer in front of this machine, and no web page but our own.

These pages need no login. What keeps the internet out of them is that a browser says where a request comes from: a name
of a stranger's own that points at this machine (DNS rebinding) stands in `Host`, a stranger's page in `Origin` and
`Sec-Fetch-Site`. Whoever comes from there finds nothing, as if the page did not exist. These guards hold nobody off who
can reach the port by other means: only `dev` has such pages.
"""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler

_Connection = ASGIConnection[Any, Any, Any, Any]

_OWN_SITE = frozenset({"same-origin", "none"})


def refuse_foreign_names(connection: _Connection, _: BaseRouteHandler) -> None:
    """Answer to addresses and `localhost` only; raises NotFoundException."""
    try:
        host_of(connection)
    except ValueError:
        raise NotFoundException from None


def refuse_foreign_pages(connection: _Connection, _: BaseRouteHandler) -> None:
    """Answer no request that a page of another origin makes; raises NotFoundException.

    Programs send neither header and pass.
    """
    headers = connection.headers
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{connection.url.scheme}://{headers.get('host', '')}".lower():
        raise NotFoundException
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        raise NotFoundException


def host_of(connection: _Connection) -> str:
    """Give the address, or `localhost`, under which the caller reached us; ValueError if it is any other name."""
    name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    if name != "localhost":
        ipaddress.ip_address(name)
    return name
