"""What a person is shown of a pairing that was just opened: the facts in the app's own words, and as a QR code.

The code says nothing that the words do not. Whoever reads either can register one phone: it is for the eyes of the one
who asked, never for a log or a file.
"""

import io
from urllib.parse import urlsplit

import segno

from otpsvc.devices.model import Pairing

MOBILE_PATH = "/mobile/v1"

_NEEDS_HTTPS = (
    "this address is not https: a real phone's app refuses it, only a simulated phone can use it. Give "
    "http.public_url the https address under which phones reach this service"
)


def api_url(pairing: Pairing) -> str:
    """Return what is typed into the app as its API URL: the address with the path of the phones' own calls."""
    return f"{pairing.server_url}{MOBILE_PATH}"


def facts(pairing: Pairing) -> tuple[tuple[str, str], ...]:
    """Return what has to be typed into the phone, each under the name that the app gives it."""
    return (
        ("API URL", api_url(pairing)),
        ("Code", pairing.code),
        ("Username", pairing.login),
        ("Password", pairing.password),
    )


def warning(server_url: str) -> str | None:
    """Say in a line why no real phone could use this address; None where nothing speaks against it."""
    return None if urlsplit(server_url).scheme == "https" else _NEEDS_HTTPS


def svg(pairing: Pairing) -> str:
    """Draw the facts as an SVG document, dark on light with its quiet zone, that fits whatever it is put into."""
    out = io.BytesIO()
    _code_of(pairing).save(
        out,
        kind="svg",
        xmldecl=False,
        nl=False,
        omitsize=True,
        svgclass=None,
        lineclass=None,
        title="QR code that pairs a phone",
        dark="#000",
        light="#fff",
    )
    return out.getvalue().decode()


def text(pairing: Pairing) -> str:
    """Draw the facts in half blocks, two rows of the code to a line: light letters that want a dark background."""
    out = io.StringIO()
    _code_of(pairing).terminal(out, compact=True)
    return out.getvalue()


def _code_of(pairing: Pairing) -> segno.QRCode:
    # A screen loses no corner: the smallest code that holds the facts is the easiest to scan.
    return segno.make_qr("\n".join(f"{name}: {value}" for name, value in facts(pairing)), error="l")
