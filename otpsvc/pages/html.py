"""What every page shares: its frame, its files, and a policy that lets a browser run nothing but our own files."""

from functools import cache
from html import escape
from importlib.resources import files

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

HTML = "text/html"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
# For pages whose style lies in files too.
STRICT_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ASSET_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def html(title: str, body: str, *, head: str = "") -> str:
    """Write a page; `body` and `head` are HTML already, `title` is text."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{head}</head><body>{body}</body></html>"
    )


def asset_handler() -> HTTPRouteHandler:
    """Make the handler of `assets/{name}`: our scripts, styles and pictures, and nothing else that lies beside them."""

    @get("/assets/{name:str}", include_in_schema=False, sync_to_thread=False)
    def asset(name: FromPath[str]) -> Response[bytes]:
        served = _assets()
        if name not in served:
            raise NotFoundException
        data, media_type = served[name]
        return Response(data, media_type=media_type)

    return asset


@cache
def page_part(name: str) -> str:
    """Read a piece of HTML that comes with the service."""
    return (files("otpsvc.pages") / "assets" / name).read_text("utf-8")


@cache
def _assets() -> dict[str, tuple[bytes, str]]:
    found = {}
    for path in (files("otpsvc.pages") / "assets").iterdir():
        _, dot, suffix = path.name.rpartition(".")
        if media_type := _ASSET_TYPES.get(dot + suffix):
            found[path.name] = (path.read_bytes(), media_type)
    return found
