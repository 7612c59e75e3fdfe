"""How a time goes over the wire: UTC, to the millisecond, with its zone."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec

Time = Annotated[datetime, msgspec.Meta(tz=True)]


def utc(at_ms: int) -> datetime:
    """Write ms since 1970."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def utc_or_none(at_ms: int | None) -> datetime | None:
    """Write ms since 1970, where there are any."""
    return utc(at_ms) if at_ms is not None else None
