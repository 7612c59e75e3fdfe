"""`/docs`: the API to read and to try, from files that come with the service; and `/docs/errors`, the catalogue.

Nothing is loaded from elsewhere: the page works offline, and no other host learns who reads it.
"""

from html import escape
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from litestar import Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath

from otpsvc.errors import CATALOGUE
from otpsvc.pages.html import HTML, SECURITY_HEADERS, html

_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_START = b"""window.addEventListener("load", () => {
  SwaggerUIBundle({ url: "/docs/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
});
"""
_STYLE = (
    "<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border-bottom:1px solid #ccc;padding:.4rem .8rem;text-align:left}</style>"
)


class ApiPage(OpenAPIRenderPlugin):
    """The page at `/docs` itself."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002 - the page fetches it
        """Give the page; it loads the description from beside it."""
        body = (
            '<div id="api"></div><script src="/docs/assets/swagger-ui-bundle.js"></script>'
            '<script src="/docs/assets/start.js"></script>'
        )
        return html("otpsvc API", body, head='<link rel="stylesheet" href="/docs/assets/swagger-ui.css">').encode()


def docs_router() -> Router:
    """Make the rest of what lies under `/docs`."""
    assets = _assets()

    @get("/assets/{name:str}", include_in_schema=False, sync_to_thread=False)
    def asset(name: FromPath[str]) -> Response[bytes]:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _TYPES:
            raise NotFoundException
        return Response((assets / name).read_bytes(), media_type=_TYPES[name])

    @get("/errors", include_in_schema=False, sync_to_thread=False)
    def errors() -> Response[str]:
        rows = "".join(
            f'<tr id="{kind.code}"><td><code>{kind.code}</code></td><td>{kind.status}</td>'
            f"<td>{'yes' if kind.retryable else 'no'}</td><td>{escape(kind.message['en'])}</td></tr>"
            for kind in CATALOGUE.values()
        )
        table = f"<table><tr><th>code</th><th>status</th><th>retry</th><th>meaning</th></tr>{rows}</table>"
        return Response(html("otpsvc errors", f"<h1>Errors</h1>{table}", head=_STYLE), media_type=HTML)

    return Router(
        "/docs",
        route_handlers=[asset, errors],
        response_headers=SECURITY_HEADERS,
        after_request=_refuse_unknown,
        include_in_schema=False,
    )


def _refuse_unknown(response: Response[Any]) -> Response[Any]:
    # The library puts a page of its own at every other address under this one.
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundException
    return response


def _assets() -> Traversable:
    vendor = files("swagger_ui_bundle") / "vendor"
    return next(folder for folder in vendor.iterdir() if folder.name.startswith("swagger-ui-"))
