"""What the pages of `dev` need from the outside: what arrived on the phones, their switches, and how a body is read."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec
from litestar import Request

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

Phones = Callable[[], Sequence[tuple[str, bool]]]
"""Gives the name of each simulated phone, and whether it is on."""

Switch = Callable[[str, bool], Awaitable[bool]]
"""Switches the phone of that name on or off; answers False if there is none of that name."""


class ScreenEntry(Protocol):
    """One SMS as it arrived. Its text holds a plain code: for the screen and nothing else."""

    @property
    def message_id(self) -> str:
        """Our id of the message."""
        ...

    @property
    def to(self) -> str:
        """The number, E.164."""
        ...

    @property
    def text(self) -> str:
        """The words, with the code in them."""
        ...

    @property
    def device_id(self) -> str:
        """The phone that sent it."""
        ...

    @property
    def sent_at(self) -> datetime:
        """When it arrived, UTC."""
        ...


class Screen(Protocol):
    """What there is to see: the SMS that arrived, and each as it comes."""

    def list(self, to: str | None = None) -> Sequence[ScreenEntry]:
        """Return what arrived, newest first; `to` (E.164) keeps one number's only."""
        ...

    def subscribe(self) -> AbstractContextManager[AsyncIterator[ScreenEntry]]:
        """Follow what arrives from now on, for the body of a `with`."""
        ...


class Bodies(Protocol):
    """Reads a request's body, bounded in size and time; raises ApiError for one that is not to be had."""

    async def read(self, request: Request[Any, Any, Any], decoder: msgspec.json.Decoder[_Struct]) -> _Struct:
        """Give the body as a struct."""
        ...
