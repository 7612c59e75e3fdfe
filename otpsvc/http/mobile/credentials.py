"""How a phone that has no token yet says who it is: `Basic login:password`, or `Code 123456`.

Whatever is wrong with it looks the same to the caller. Never put any of it into an exception or a log.
"""

import base64
import binascii
from typing import NamedTuple

from otpsvc.errors import ApiError, problem

LONGEST = 256


class Login(NamedTuple):
    """The account of a pairing, as typed into the phone."""

    login: str
    password: str

    def __repr__(self) -> str:
        """Say nothing of the password."""
        return f"Login({self.login!r})"


class Code(NamedTuple):
    """A one-time enrolment code."""

    text: str

    def __repr__(self) -> str:
        """Say nothing of it."""
        return "Code()"


def credentials_of(authorization: str | None) -> Login | Code:
    """Read the header of a phone that registers; raises ApiError PAIRING_REFUSED for any other."""
    scheme, _, given = (authorization or "").strip().partition(" ")
    given = given.strip()
    if scheme.lower() == "code" and 0 < len(given) <= LONGEST:
        return Code(given)
    return login_of(authorization)


def login_of(authorization: str | None) -> Login:
    """Read `Basic login:password`; raises ApiError PAIRING_REFUSED for anything else."""
    scheme, _, given = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        raise _refused()
    try:
        login, separator, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise _refused() from None
    is_login = 0 < len(login) <= LONGEST and login.isascii() and login.isprintable()
    if not separator or not is_login or len(password) > LONGEST:
        raise _refused()
    return Login(login, password)


def _refused() -> ApiError:
    return problem("PAIRING_REFUSED")
